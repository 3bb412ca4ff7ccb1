"""Messages of one class of eight numbers beside other typed ways to bytes: nanoseconds, in one thread.

A contender packs what its users hold: msgspec and ctypes their objects, struct.Struct a tuple of values,
numpy a row of a structured array. Unpacking ends with all eight as Python objects, with names where the
contender has names.
"""

import contextlib
import ctypes
import struct
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from benchlib.contest import Contender, Contenders, Contest, Setting, Skipped
from benchlib.method import Figures, calibrate
from fastcomm import Struct
from fastcomm.structs import f8, i8, u4, u8

NAMES = ("bid", "ask", "last", "open", "bid_size", "ask_size", "stamp", "change")
VALUES = (1.5, 2.5, 3.25, 4.125, 100, 200_000, 3_000_000_000, -5)
PACKER = struct.Struct("<ddddIIQq")
ROWS = 1000  # messages that become an array


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


def msgspec_classes() -> dict[str, Any]:
    msgspec = import_module("msgspec")
    fields = list(zip(NAMES, 4 * [float] + 4 * [int], strict=True))
    return {
        "msgspec Struct": msgspec.defstruct("Named", fields),
        "msgspec Struct, array_like": msgspec.defstruct("Listed", fields, array_like=True),
    }


Calls = dict[str, Callable[[], Any]]


def msgspec_calls(make: Callable[[Any, Any, Any], Callable[[], Any]]) -> Calls:
    """One call for each class of msgspec, made of (encoder, decoder, instance)."""
    msgpack = import_module("msgspec.msgpack")
    return {
        name: make(msgpack.Encoder(), msgpack.Decoder(cls), cls(*VALUES))
        for name, cls in msgspec_classes().items()
    }


def pack_into() -> Calls:
    buffer = bytearray(256)
    quote, row = Quote(*VALUES), numpy_row()
    calls: Calls = {
        "fastcomm": lambda: quote.pack_into(buffer),
        "struct.Struct": lambda: PACKER.pack_into(buffer, 0, *VALUES),
        "numpy row": lambda: buffer.__setitem__(slice(row.nbytes), row.data),
    }
    return calls | msgspec_calls(encode_into_call)


def encode_into_call(encoder: Any, _: Any, value: Any) -> Callable[[], Any]:
    buffer, encode_into = bytearray(256), encoder.encode_into  # of its own: it is cut to the message
    return lambda: encode_into(value, buffer)


def pack() -> Calls:
    quote, c_quote, row = Quote(*VALUES), CQuote(*VALUES), numpy_row()
    calls: Calls = {
        "fastcomm": lambda: quote.pack(),
        "struct.Struct": lambda: PACKER.pack(*VALUES),
        "ctypes Structure": lambda: bytes(c_quote),
        "numpy row": lambda: row.tobytes(),
    }
    return calls | msgspec_calls(lambda encoder, _, value: lambda: encoder.encode(value))


def unpack() -> Calls:
    message, plain, dtype = Quote(*VALUES).pack(), PACKER.pack(*VALUES), Quote.dtype
    frombuffer = import_module("numpy").frombuffer
    calls: Calls = {
        "fastcomm": lambda: Quote.unpack(message),
        "struct.Struct": lambda: PACKER.unpack(plain),
        "ctypes Structure": lambda: [getattr(CQuote.from_buffer_copy(plain), name) for name in NAMES],
        "numpy row": lambda: frombuffer(plain, dtype)[0].item(),
    }
    return calls | msgspec_calls(unpack_call)


def unpack_call(encoder: Any, decoder: Any, value: Any) -> Callable[[], Any]:
    message, decode = encoder.encode(value), decoder.decode
    return lambda: decode(message)


def one_field() -> Calls:
    message, plain = Quote(*VALUES).pack(), bytearray(PACKER.pack(*VALUES))
    view, c_quote, row = Quote.view(message), CQuote.from_buffer(plain), numpy_row()
    read_third = struct.Struct("<d").unpack_from
    return {
        "fastcomm": lambda: view.last,
        "fastcomm, a new view each time": lambda: Quote.view(message).last,
        "struct.Struct": lambda: read_third(plain, 16)[0],
        "ctypes Structure": lambda: c_quote.last,
        "numpy row": lambda: row["last"],
    }


def array() -> Calls:
    messages = [Quote(*VALUES).pack() for _ in range(ROWS)]
    plain = [PACKER.pack(*VALUES) for _ in range(ROWS)]
    numpy = import_module("numpy")
    calls: Calls = {
        "fastcomm": lambda: Quote.array(messages),
        "numpy, of joined bytes": lambda: numpy.frombuffer(b"".join(plain), Quote.dtype),
        "numpy, of tuples by struct.Struct": lambda: numpy.array([*map(PACKER.unpack, plain)], Quote.dtype),
    }
    return calls | msgspec_calls(array_call)


def array_call(encoder: Any, decoder: Any, value: Any) -> Callable[[], Any]:
    from operator import attrgetter

    numpy = import_module("numpy")
    messages, decode, values = [encoder.encode(value)] * ROWS, decoder.decode, attrgetter(*NAMES)
    return lambda: numpy.array([values(decode(message)) for message in messages], Quote.dtype)


def numpy_row() -> Any:
    return import_module("numpy").array([VALUES], Quote.dtype)[0]


def block(call: Callable[[], Any], setting: Setting) -> Callable[[], Figures]:
    def turn(count: int) -> float:
        started = time.perf_counter_ns()
        for _ in range(count):
            call()
        return (time.perf_counter_ns() - started) / count

    count = calibrate(turn, 1, setting.block_seconds)
    return lambda: {"": turn(count)}


def prepare(make: Callable[[], Calls]) -> Callable[[Setting, contextlib.ExitStack], Contenders]:
    def contenders(setting: Setting, stack: contextlib.ExitStack) -> Contenders:
        try:
            calls = make()
        except ImportError as missing:
            return [Skipped("msgspec", f"{missing}: pip install 'fastcomm[peers]'")]
        nothing = Contender("a call that does nothing", "", block(lambda: None, setting))
        return [*(Contender(name, "", block(call, setting)) for name, call in calls.items()), nothing]

    return contenders


def contests() -> list[Contest]:
    """For scripts/compare_peers.py."""
    measured = "a message of 8 numbers, with the call of a lambda"
    many = f"{ROWS} messages"
    return [
        Contest("struct: pack into a buffer", measured, "ns", PACKER.size, prepare(pack_into)),
        Contest("struct: pack", measured, "ns", PACKER.size, prepare(pack)),
        Contest("struct: unpack", measured, "ns", PACKER.size, prepare(unpack)),
        Contest("struct: one field of a message", measured, "ns", PACKER.size, prepare(one_field)),
        Contest("struct: messages to an array", many, "ns", PACKER.size, prepare(array)),
    ]
