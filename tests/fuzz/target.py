"""What libFuzzer calls with each input: read it in every way there is, and check what comes of it.

`run.py` starts this under libFuzzer and AddressSanitizer. An input is a message of any kind. It is read where
libFuzzer put it, in memory of exactly its size, so that AddressSanitizer sees a byte read beyond it.
"""

import ctypes
import os
import signal
import sys
import traceback
import zlib
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from fuzz.limits import CONSTANT, PER_BYTE, limit_of
from fuzz.samples import MAX_DECOMPRESSED, NAMED, OPTIONS, TABLE, Leg, Quote, write_messages
from oracle_codec import alike, oracle_decode

from fastcomm import Codec, DecodeError
from fastcomm._core.compression import decompress
from fastcomm.structs import registry, unpack

STRUCT, LZ4, ZSTD = 0x10, 0x20, 0x40  # flags of the header
ORACLE_SHARE = 8  # of the messages of values one in so many is read by the oracle as well
STRUCT_CONSTANT = 64 << 10
ZSTD_CONSTANT = 512 << 10  # what zstd needs to decompress anything
REFUSED = object()

CODEC = Codec(**OPTIONS)
FORGETFUL = Codec(**OPTIONS, interning=False)


# ---- the checks


class Heap:
    """The memory that is held, of heap.c."""

    is_warm = False  # once all that is imported and cached once is there

    def __init__(self) -> None:
        library = ctypes.PyDLL(None)
        self.watch, self.peak = library.heap_watch, library.heap_peak
        self.peak.restype = ctypes.c_long
        if not library.heap_install():
            raise SystemExit("AddressSanitizer calls no hooks of malloc: is it loaded?")


def outcome(read: Any, memory: Any, limit: Any) -> Any:
    """A value, or REFUSED by a DecodeError with a place within the message.

    `limit(message)`: bytes of memory at most; not asked when it was so little that nothing can be wrong. What
    takes more does so twice: once, it may be that the interpreter's table of interned strings was made anew.
    """
    value, peak = measured(read, memory)
    size = len(memory)
    if peak > CONSTANT + PER_BYTE * size and HEAP.is_warm and peak > (most := limit(bytes(memory))):
        value, peak = measured(read, memory)
        assert peak <= most, f"{peak} bytes of memory for {size}, where at most {most} were expected"
    return value


def measured(read: Any, memory: Any) -> tuple[Any, int]:
    """What it comes to, and the most memory that was held meanwhile."""
    HEAP.watch()
    try:
        value = read(memory)
    except DecodeError as error:
        offset = error.offset
        value = REFUSED
    else:
        offset = 0
    peak = HEAP.peak()
    assert 0 <= offset <= len(memory), f"offset {offset} of {len(memory)} bytes"
    return value, peak


def check(memory: Any) -> None:
    check_values(memory)
    if len(memory) > 1 and memory[1] & STRUCT:
        check_struct(memory)


def check_values(memory: Any) -> None:
    copied = outcome(CODEC.decode, memory, limit_of_copies)
    viewed = outcome(decode_views, memory, limit_of_views)
    assert (copied is REFUSED) == (viewed is REFUSED), (
        "a message with copy=True and none without, or vice versa"
    )
    if copied is REFUSED:
        return
    again = CODEC.decode(CODEC.encode(copied))
    assert alike(again, copied), f"{copied!r} became {again!r}"
    assert alike(FORGETFUL.decode(FORGETFUL.encode(viewed)), copied), f"{copied!r} is another by views"
    message = bytes(memory)
    if not message[1] & (STRUCT | LZ4 | ZSTD) and zlib.crc32(message) % ORACLE_SHARE == 0:
        expected = oracle_decode(message, NAMED, TABLE.texts)
        assert alike(copied, expected), f"{copied!r}, and to the oracle {expected!r}"


def decode_views(memory: Any) -> object:
    return FORGETFUL.decode(memory, copy=False)


def limit_of_copies(message: bytes) -> int:
    return limit_for(message, views=False)


def limit_of_views(message: bytes) -> int:
    return limit_for(message, views=True)


def limit_of_struct(message: bytes) -> int:
    return STRUCT_CONSTANT + PER_BYTE * len(message)


def limit_for(message: bytes, *, views: bool) -> int:
    """Of a compressed message: the plain one twice, while it changes hands, and its values."""
    bound = limit_of(message, views=views)
    if len(message) < 3 or not message[1] & (LZ4 | ZSTD):
        return min(bound, (1 << 20) + 16 * len(message))  # the second holds for messages as short as these
    size = shift = 0
    for at in range(2, len(message)):
        size |= (message[at] & 0x7F) << shift
        shift += 7
        if message[at] < 0x80:
            break
    bound += ZSTD_CONSTANT
    if size > MAX_DECOMPRESSED:
        return bound
    try:
        values = limit_of(decompress(message[1] & (LZ4 | ZSTD), message[at + 1 :], size), views=views)
    except ValueError:
        values = 0
    return bound + 2 * size + values


def check_struct(memory: Any) -> None:
    cls = registry.get(int.from_bytes(memory[4:8], "little"), Quote)
    value = outcome(cls.unpack, memory, limit_of_struct)
    if cls is not Quote or value is not REFUSED:
        assert (outcome(unpack, memory, limit_of_struct) is REFUSED) == (value is REFUSED)
    fields = outcome(lambda buffer: view_of(cls, buffer), memory, limit_of_struct)
    rows = outcome(lambda buffer: cls.array([buffer]), memory, limit_of_struct)
    if value is REFUSED:
        return
    message = value.pack()
    assert cls.unpack(message).pack() == message, f"{value!r} does not come back"
    assert alike(fields, fields_of(value)), f"{fields} in a view of {value!r}"
    assert cls.unpack(cls.pack_many(rows)[0]).pack() == message, f"{rows} as rows of {value!r}"


def view_of(cls: Any, buffer: Any) -> dict[str, object]:
    """All fields of a view, read one by one."""
    with cls.view(buffer) as view:
        return {name: plain(getattr(view, name)) for name in cls.__match_args__}


def fields_of(value: Any) -> dict[str, object]:
    return {name: plain(getattr(value, name)) for name in value.__match_args__}


def plain(value: Any) -> object:
    """Of a field, without what keeps the buffer: a nested view or Struct becomes a dict, an array a copy."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if hasattr(value, "urgent"):
        return {name: getattr(value, name) for name in Leg.__match_args__}
    return value


# ---- libFuzzer


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
def fuzz_one(address: int | None, size: int) -> int:
    """Any exception ends the process, and libFuzzer keeps the input."""
    try:
        check((ctypes.c_ubyte * size).from_address(address or 0))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os.abort()
    return 0


def warm_up(folder: Path) -> None:
    for path in folder.iterdir():
        message = path.read_bytes()
        check((ctypes.c_ubyte * len(message)).from_buffer_copy(message))
    HEAP.is_warm = True


def main() -> None:
    """The arguments are libFuzzer's; the last is a folder for the messages to begin with."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # so that libFuzzer ends at Ctrl-C
    sys.setrecursionlimit(20_000)
    write_messages(Path(sys.argv[-1]))
    warm_up(Path(sys.argv[-1]))
    count = ctypes.c_int(len(sys.argv))
    words = (ctypes.c_char_p * (count.value + 1))(*map(os.fsencode, sys.argv), None)
    arguments = ctypes.pointer(ctypes.cast(words, ctypes.POINTER(ctypes.c_char_p)))
    ctypes.CDLL(None).LLVMFuzzerRunDriver(ctypes.byref(count), arguments, fuzz_one)


if __name__ == "__main__":
    HEAP = Heap()
    main()
