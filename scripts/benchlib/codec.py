"""Encoding and decoding beside other serializers: nanoseconds a message, in one thread of one process.

For each message and direction two benchmarks. The first takes one object, or one message, again and again, so
that whatever a contender remembers is there. "fresh" takes a different one each time: to encode, every str
in it is a new object (those in dict keys have their hash, which making the dict computed); to decode, the
text of every value has changed, while the keys come again as they do in a stream of messages of a kind.
"""

import contextlib
import itertools
import marshal
import pickle
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from benchlib.channels import is_ours
from benchlib.contest import Contender, Contenders, Contest, Prepare, Setting, Skipped
from benchlib.method import Figures, calibrate
from fastcomm import Codec, StringTable, decode, encode

SLICES = 50  # of a block
ALONE = 1.02  # wall-clock over CPU time of a slice that nothing interrupted
FRESH = 256  # different objects in turn: more than fit into a first-level cache

SEED = {
    "id": "test-123",
    "type": "task.assignment",
    "data": {"taskId": "456", "payload": "test data"},
}
AGENT = {
    "type": "task.result",
    "task": "a81bc81b-dead-4e5d-abff-90865d1e13b1",
    "agent": "indexer-17",
    "status": "done",
    "attempt": 2,
    "elapsed": 0.1375,
    "files": ["src/ring.c", "src/wait.c", "docs/method.md"],
    "totals": {"lines": 18233, "words": 91442, "bytes": 618304},
    "host": {"name": "node-3", "load": 0.75, "cores": 16},
    "trace": "0af7651916cd43dd8448eb211c80319c",
    "parent": "b7ad6b7169203331",
    "warnings": [],
    "retry": False,
    "error": None,
    "note": "completed without warnings after one retry",
}
OWN_KEYS = {
    "order_ref": 17,
    "quote_currency": "EUR",
    "settle_days": 2,
    "legs": [{"leg_no": number, "leg_ratio": 0.5, "leg_venue": "X"} for number in range(3)],
    "desk_code": "A1",
}
LARGE = {f"key-{number}": number * 1000 for number in range(1000)}
BLOB = bytes(range(256)) * 4096


@dataclass(frozen=True)
class Serializer:
    name: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


def ours() -> list[Serializer]:
    plain, learning = Codec(interning=False), Codec(strings=StringTable())
    return [
        Serializer("fastcomm", encode, decode),
        Serializer("fastcomm, interning off", plain.encode, plain.decode),
        Serializer("fastcomm, string table", learning.encode, learning.decode),
    ]


def peers() -> list[Serializer | Skipped]:
    found: list[Serializer | Skipped] = [
        Serializer("pickle 5", lambda value: pickle.dumps(value, 5), pickle.loads),
        Serializer("marshal", marshal.dumps, marshal.loads),
    ]
    for name, make in (("msgspec", msgspec_peer), ("ormsgpack", ormsgpack_peer), ("orjson", orjson_peer)):
        try:
            found.append(make())
        except ImportError:
            found.append(Skipped(name, "not installed: pip install 'fastcomm[peers]'"))
    return found


def msgspec_peer() -> Serializer:
    module = import_module("msgspec.msgpack")
    return Serializer("msgspec (msgpack)", module.Encoder().encode, module.Decoder().decode)


def ormsgpack_peer() -> Serializer:
    module = import_module("ormsgpack")
    numpy_too = module.OPT_SERIALIZE_NUMPY
    return Serializer("ormsgpack", lambda value: module.packb(value, option=numpy_too), module.unpackb)


def orjson_peer() -> Serializer:
    module = import_module("orjson")
    return Serializer("orjson", module.dumps, module.loads)


def fresh_copy(value: Any, suffix: str = "") -> Any:
    """Equal, of str objects that nobody else has; the text of values ends in `suffix` instead."""
    if isinstance(value, str):
        kept = value[: len(value) - len(suffix)] if len(suffix) < len(value) else value
        return "".join(list(kept + suffix if kept is not value else value))
    if isinstance(value, dict):
        return {fresh_copy(key): fresh_copy(item, suffix) for key, item in value.items()}
    if isinstance(value, list):
        return [fresh_copy(item, suffix) for item in value]
    return value


def variants(value: Any) -> list[Any]:
    return [fresh_copy(value, f"{number:x}") for number in range(FRESH)]


def in_slices(turn: Callable[[int], float], setting: Setting) -> Callable[[], Figures]:
    """A block in many short slices: the median of those in which the thread had its CPU all the time."""
    count = calibrate(turn, 1, setting.block_seconds / SLICES)

    def one_slice() -> tuple[float, bool]:
        wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
        figure = turn(count)
        cpu, wall = time.thread_time_ns() - cpu, time.perf_counter_ns() - wall
        return figure, wall <= ALONE * cpu

    def measure() -> Figures:
        slices = [one_slice() for _ in range(SLICES)]
        alone = [figure for figure, was_alone in slices if was_alone]
        return {"": statistics.median(alone or [figure for figure, _ in slices])}

    return measure


def block(function: Callable[[Any], Any], inputs: Sequence[Any], setting: Setting) -> Callable[[], Figures]:
    """Calls with each input in turn."""

    def turn(count: int) -> float:
        cycle = itertools.islice(itertools.cycle(inputs), count)
        started = time.perf_counter_ns()
        for one in cycle:
            function(one)
        return (time.perf_counter_ns() - started) / count

    return in_slices(turn, setting)


def comes_back(serializer: Serializer, value: Any) -> bool:
    """Does it keep the value, type by type? Those that can't are no peers for it."""
    try:
        found = serializer.decode(serializer.encode(value))
        return type(found) is type(value) and repr(found) == repr(value)
    except Exception:
        return False


def prepare(value: Any, encoding: bool, fresh: bool) -> Prepare:
    def contenders(setting: Setting, stack: contextlib.ExitStack) -> Contenders:
        found: list[Contender | Skipped] = []
        inputs = variants(value) if fresh else [value]
        for one in (*ours(), *peers()):
            if isinstance(one, Skipped):
                found.append(one)
            elif not comes_back(one, value):
                found.append(Skipped(one.name, "what it decodes is not what it encoded"))
            else:
                call = one.encode if encoding else one.decode
                taken = inputs if encoding else [one.encode(item) for item in inputs]
                measure = block(call, taken, setting)
                found.append(Contender(one.name, "", measure, "ours" if is_ours(one.name) else "peer"))
        return found

    return contenders


def float_array() -> Any:
    import numpy

    return numpy.arange(512 * 512, dtype=numpy.float32).reshape(512, 512)


def contests() -> list[Contest]:
    found = []
    messages = {"seed": SEED, "agent": AGENT, "own keys": OWN_KEYS, "dict of 1,000": LARGE}
    messages["1 MiB of bytes"] = BLOB
    messages["512x512 float32"] = float_array()
    for name, value in messages.items():
        size = len(encode(value))
        has_text = isinstance(value, dict)
        for encoding, fresh in itertools.product((True, False), (False, True) if has_text else (False,)):
            title = f"codec {name}: {'encode' if encoding else 'decode'}{', fresh' if fresh else ''}"
            found.append(Contest(title, "time of a message", "ns", size, prepare(value, encoding, fresh)))
    return found
