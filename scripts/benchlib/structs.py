"""Messages of one class of eight numbers beside other typed ways to bytes: nanoseconds, in one thread.

A contender packs what its users hold: msgspec and ctypes their objects, struct.Struct a tuple of values,
numpy a row of a structured array. Unpacking ends with all eight as Python objects, with names where the
contender has names. The numbers differ from message to message: a Struct remembers nothing of them. The loop
around the statement is in all figures; "an empty loop" tells how much it is.
"""

import contextlib
import ctypes
import struct
import timeit
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from operator import attrgetter
from typing import Any

from benchlib.channels import is_ours
from benchlib.codec import FRESH, in_slices
from benchlib.contest import Contender, Contenders, Contest, Prepare, Setting, Skipped
from benchlib.method import Figures
from fastcomm import Struct
from fastcomm.structs import f8, i8, u4, u8

NAMES = ("bid", "ask", "last", "open", "bid_size", "ask_size", "stamp", "change")
VALUES = (1.5, 2.5, 3.25, 4.125, 100, 200_000, 3_000_000_000, -5)
PACKER = struct.Struct("<ddddIIQq")
ROWS = 1000  # messages that become an array
ARRAYS = 4


class Quote(Struct, registry=None):
    bid: f8
    ask: f8
    last: f8
    open: f8
    bid_size: u4
    ask_size: u4
    stamp: u8
    change: i8


C_TYPES = (*4 * [ctypes.c_double], *2 * [ctypes.c_uint32], ctypes.c_uint64, ctypes.c_int64)


class CQuote(ctypes.LittleEndianStructure):
    _fields_ = tuple(zip(NAMES, C_TYPES, strict=True))


Values = tuple[Any, ...]


@dataclass(frozen=True)
class Way:
    """A statement about `one`, which `make` makes of the values of a message; `names`: what else is in it."""

    statement: str
    make: Callable[[Values], Any]
    names: Mapping[str, Any] = field(default_factory=dict)


Ways = dict[str, Way | Skipped]


def msgspec_ways(make: Callable[[Any, Any, Callable[[Values], Any]], Way]) -> Ways:
    """For each class of msgspec what `make` makes of its encoder, its decoder and how an instance is made."""
    names = ("msgspec Struct", "msgspec Struct, array_like")
    try:
        msgspec, msgpack = import_module("msgspec"), import_module("msgspec.msgpack")
    except ImportError:
        return {name: Skipped(name, "not installed: pip install 'fastcomm[peers]'") for name in names}
    fields = [(name, float if name in NAMES[:4] else int) for name in NAMES]
    ways: Ways = {}
    for name in names:
        cls = msgspec.defstruct("Quote", fields, array_like="array_like" in name)
        ways[name] = make(msgpack.Encoder(), msgpack.Decoder(cls), instances_of(cls))
    return ways


def instances_of(cls: Callable[..., Any]) -> Callable[[Values], Any]:
    return lambda values: cls(*values)


def message_of(values: Values) -> bytes:
    return Quote(*values).pack()


def row_of(values: Values) -> Any:
    return import_module("numpy").array([values], Quote.dtype)[0]


def packed_by_struct(values: Values) -> bytes:
    return PACKER.pack(*values)


def pack_into() -> Ways:
    buffer = {"buffer": bytearray(256)}
    return {
        "fastcomm": Way("one.pack_into(buffer)", instances_of(Quote), buffer),
        "struct.Struct": Way("pack_into(buffer, 0, *one)", tuple, buffer | {"pack_into": PACKER.pack_into}),
        "numpy row": Way("buffer[:56] = one.data", row_of, buffer),
        **msgspec_ways(
            lambda encoder, _, make: Way(  # a buffer of its own: it is cut to the message
                "into(one, buffer)", make, {"into": encoder.encode_into, "buffer": bytearray(256)}
            )
        ),
    }


def pack() -> Ways:
    return {
        "fastcomm": Way("one.pack()", instances_of(Quote)),
        "struct.Struct": Way("pack(*one)", tuple, {"pack": PACKER.pack}),
        "ctypes Structure": Way("bytes(one)", instances_of(CQuote)),
        "numpy row": Way("one.tobytes()", row_of),
        **msgspec_ways(lambda encoder, _, make: Way("encode(one)", make, {"encode": encoder.encode})),
    }


def unpack() -> Ways:
    numpy_names = {"frombuffer": import_module("numpy").frombuffer, "dtype": Quote.dtype}
    fields = ", ".join(f"quote.{name}" for name in NAMES)
    return {
        "fastcomm": Way("unpack(one)", message_of, {"unpack": Quote.unpack}),
        "fastcomm, looked up in its class": Way("Quote.unpack(one)", message_of, {"Quote": Quote}),
        "struct.Struct": Way("unpack(one)", packed_by_struct, {"unpack": PACKER.unpack}),
        "ctypes Structure": Way(
            f"quote = copy(one); {fields}", packed_by_struct, {"copy": CQuote.from_buffer_copy}
        ),
        "numpy row": Way("frombuffer(one, dtype)[0].item()", packed_by_struct, numpy_names),
        **msgspec_ways(
            lambda encoder, decoder, make: Way(
                "decode(one)", lambda values: encoder.encode(make(values)), {"decode": decoder.decode}
            )
        ),
    }


def one_field() -> Ways:
    third = struct.Struct("<d").unpack_from
    return {
        "fastcomm": Way("one.last", lambda values: Quote.view(message_of(values))),
        "fastcomm, a new view each time": Way("view(one).last", message_of, {"view": Quote.view}),
        "struct.Struct": Way("third(one, 16)[0]", packed_by_struct, {"third": third}),
        "ctypes Structure": Way("one.last", instances_of(CQuote)),
        "numpy row": Way("one['last']", row_of),
    }


def array() -> Ways:
    numpy = import_module("numpy")
    names = {"array": numpy.array, "dtype": Quote.dtype, "values": attrgetter(*NAMES)}
    return {
        "fastcomm": Way("array(one)", rows_by(message_of), {"array": Quote.array}),
        "numpy, of joined bytes": Way(
            "frombuffer(b''.join(one), dtype)",
            rows_by(packed_by_struct),
            {"frombuffer": numpy.frombuffer, "dtype": Quote.dtype},
        ),
        "struct.Struct, its tuples to numpy": Way(
            "array([*map(unpack, one)], dtype)", rows_by(packed_by_struct), names | {"unpack": PACKER.unpack}
        ),
        **msgspec_ways(
            lambda encoder, decoder, make: Way(
                "array([values(decode(message)) for message in one], dtype)",
                rows_by(lambda values: encoder.encode(make(values))),
                names | {"decode": decoder.decode},
            )
        ),
    }


def rows_by(make: Callable[[Values], Any]) -> Callable[[Values], list[Any]]:
    return lambda values: [make(values) for _ in range(ROWS)]


def block(way: Way, count: int, setting: Setting) -> Callable[[], Figures]:
    """`count` messages in turn."""
    inputs = [way.make(tuple(value + number for value in VALUES)) for number in range(count)]
    timer = timeit.Timer(f"for one in inputs: {way.statement}", globals={"inputs": inputs, **way.names})
    return in_slices(lambda rounds: timer.timeit(rounds) * 1e9 / (rounds * count), setting)


def prepare(make: Callable[[], Ways], count: int) -> Prepare:
    def contenders(setting: Setting, stack: contextlib.ExitStack) -> Contenders:
        found: list[Contender | Skipped] = []
        for name, way in make().items():
            if isinstance(way, Skipped):
                found.append(way)
            else:
                measure = block(way, count, setting)
                found.append(Contender(name, "", measure, "ours" if is_ours(name) else "peer"))
        nothing = block(Way("pass", tuple), count, setting)
        return [*found, Contender("an empty loop", "", nothing, "limit")]

    return contenders


def contests() -> list[Contest]:
    """For scripts/compare_peers.py."""
    one, many = "time of a message", f"time of {ROWS} messages"
    return [
        Contest(f"struct of 8 numbers: {what}", measured, "ns", PACKER.size, prepare(make, count))
        for what, measured, make, count in (
            ("pack into a buffer", one, pack_into, FRESH),
            ("pack", one, pack, FRESH),
            ("unpack", one, unpack, FRESH),
            ("one field", one, one_field, FRESH),
            ("array", many, array, ARRAYS),
        )
    ]
