"""Messages that another process changes while they are read give a value or a DecodeError.

The other process copies whole messages over each other, valid and spoilt ones, so that between two looks of
the decoder any byte may become any other.
"""

import collections
import enum
import mmap
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle_codec import alike

from fastcomm import Codec, DecodeError, StringTable, Struct
from fastcomm.errors import CorruptSegmentError
from fastcomm.structs import Array, Char, f8, u2

ROUNDS = 1500
FEW = 50


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


Point = collections.namedtuple("Point", "x y")


class Leg(Struct, type_id=0x1E6):
    name: str
    urgent: bool


class Quote(Struct, type_id=0x90073):
    symbol: str
    price: f8
    code: Annotated[str, Char(7)]
    grid: Annotated[NDArray[np.int16], Array("i2", (2, 3))]
    payload: bytes
    colour: Colour
    note: str | None
    count: u2 | None
    leg: Leg | None


TYPES = [Colour, Point]
QUOTE = Quote("größe", 1.5, "abc", np.ones((2, 3), "i2"), b"x" * 40, Colour.RED, "größe", 7, Leg("leg", True))
VALUE = [
    {"id": 7, "names": ["größe", "x" * 40, b"bytes", "ключ" * 3], "big": 2**90, "set": {1, 2.5, None}},
    {
        "id": -300,
        "names": ["καλημέρα", "a text of more than thirty-one bytes, é"],
        "big": -1,
        "set": {"a", "b"},
    },
    [Point(Colour.RED, 1), Point((), {"x": {"y": {"z": 0}}}), np.arange(20.0), np.float32(1), QUOTE],
] * 3


def spoilt(message: bytes, noise: random.Random) -> bytes:
    out = bytearray(message)
    for _ in range(noise.choice((1, 2, 10))):
        out[noise.randrange(len(out))] = noise.choice((0, 0x7F, 0xFF, noise.randrange(256)))
    return bytes(out)


@contextmanager
def changing(messages: list[bytes]) -> Iterator[mmap.mmap]:
    """Memory that holds, in turn and torn, the messages and spoilt ones of them."""
    noise = random.Random(1)
    size = max(map(len, messages))
    forms = [message.ljust(size, b"\0") for message in messages]
    forms += [spoilt(form, noise) for form in forms for _ in range(20)]
    forms += [form[8:] + form[:8] for form in forms[: len(messages)]]  # the same tags in other places
    memory = mmap.mmap(-1, size)
    memory[:] = forms[0]
    parent = os.getpid()
    child = os.fork()
    if not child:
        while os.getppid() == parent:
            for form in forms:
                memory[:] = form
                memory[:] = forms[0]
        os._exit(0)
    try:
        yield memory
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with suppress(BufferError):  # when a test failed, its traceback keeps hold of it
            memory.close()


def read_often(read: Callable[[Any], Any], memory: mmap.mmap) -> None:
    """Read until there were values and refusals enough; nothing else may come of it."""
    values = 0
    offsets: list[int] = []
    while min(values, len(offsets)) < FEW or values + len(offsets) < ROUNDS:
        try:
            read(memory)
            values += 1
        except DecodeError as error:
            offsets.append(error.offset)
    assert min(offsets) >= 0
    assert max(offsets) <= len(memory)


def test_a_value_that_was_copied_is_sound() -> None:
    codec = Codec(types=TYPES)

    def read(memory: mmap.mmap) -> None:
        value = codec.decode(memory)
        assert alike(codec.decode(codec.encode(value)), value)

    with changing([codec.encode(VALUE)]) as memory:
        read_often(read, memory)


@pytest.mark.parametrize("interning", [True, False])
def test_texts_are_checked_in_the_copy_that_they_are_made_of(interning: bool) -> None:
    """One that is ASCII at the first look and is not at the second would not be what Python takes it for."""
    codec = Codec(interning=interning)
    texts = ["größe und mehr", "éabcdefghijklmnopqrstuvw", "\x7fabcdefg" * 9, "日本語のテキスト" * 9]
    plain = ["a" * len(text.encode()) for text in texts]

    def read(memory: mmap.mmap) -> None:
        for text in codec.decode(memory):
            assert text.encode().decode() == text
            assert text.isascii() == all(ord(letter) < 0x80 for letter in text)

    with changing([codec.encode(texts), codec.encode(plain)]) as memory:
        read_often(read, memory)


def test_a_value_of_views_can_be_read_to_its_end() -> None:
    codec = Codec(types=TYPES)
    with changing([codec.encode(VALUE)]) as memory:
        read_often(lambda memory: codec.encode(codec.decode(memory, copy=False)), memory)


def read_fields(memory: mmap.mmap) -> None:
    with Quote.view(memory) as view:
        for name in Quote.__match_args__:
            repr(getattr(view, name))


@pytest.mark.parametrize(
    "read",
    [lambda memory: Quote.unpack(memory).pack(), read_fields, lambda memory: repr(Quote.array([memory]))],
    ids=["unpack", "view", "array"],
)
def test_a_struct(read: Callable[[Any], Any]) -> None:
    other = Quote("s" * 30, 0.5, "é", np.ones((2, 3), "i2"), b"", Colour.GREEN, None, None, None)
    with changing([QUOTE.pack(), other.pack()]) as memory:
        read_often(read, memory)


@pytest.mark.parametrize(("kind", "package"), [("lz4", "lz4"), ("zstd", "zstandard")])
def test_a_compressed_message(kind: str, package: str) -> None:
    pytest.importorskip(package)
    codec = Codec(types=TYPES, compression=kind, threshold=1)
    message = codec.encode(VALUE)
    assert len(message) < len(Codec(types=TYPES).encode(VALUE))
    with changing([message]) as memory:
        read_often(codec.decode, memory)


def test_a_message_that_names_entries_of_a_string_table() -> None:
    codec = Codec(strings=StringTable())
    rows = [{f"key number {i}": i for i in range(40)}]
    codec.encode(rows)
    message = codec.encode(rows)
    assert message[1] == 0x81
    with changing([message]) as memory:
        read_often(codec.decode, memory)


def test_a_string_table_whose_memory_is_scribbled_on() -> None:
    """The table is refused, or its strings are wrong; nothing outside of it is read or written."""
    size = StringTable.nbytes(50, 500)
    whole = bytearray(size)
    learner = StringTable(50, 500, memory=whole)
    for number in range(30):
        learner.learn(f"größe {number}")
    fewer = bytearray(whole)
    fewer[64:68] = (5).to_bytes(4, "little")

    def read(memory: mmap.mmap) -> None:
        try:
            table = StringTable(50, 500, memory=memory)
            table.learn("new")
        except CorruptSegmentError:
            raise DecodeError("the table", offset=0) from None
        assert all(text.encode().decode() == text for text in table.texts)

    with changing([bytes(whole), bytes(fewer)]) as memory:
        read_often(read, memory)
