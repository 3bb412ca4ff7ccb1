"""Decoding imports, calls and makes nothing but what docs/wire.md lists, whatever a message says.

Registered types are what the user named; the standard types' modules are fixed. Here classes that tell when
they are touched stand where a message might reach them, and an audit hook sees what is imported or run.
"""

import collections
import dataclasses
import enum
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from fastcomm import Codec, DecodeError, Struct, decode, encode
from fastcomm.structs import f8

HEAD = b"\xc1\x01"
GOLDEN = json.loads((Path(__file__).parent / "golden" / "codec_v1.json").read_text())

touched: list[str] = []


class Telltale:
    """A class that tells of being made, called, looked into or made anew from a pickle."""

    def __new__(cls, *_: object) -> "Telltale":
        touched.append("__new__")
        return object.__new__(cls)

    def __init__(self, *_: object) -> None:
        touched.append("__init__")

    def __setstate__(self, state: object) -> None:
        touched.append("__setstate__")

    def __reduce__(self) -> tuple[object, ...]:
        return touched.append, ("__reduce__",)


@dataclasses.dataclass
class Task(Telltale):
    owner: str

    def __post_init__(self) -> None:
        touched.append("__post_init__")

    def __setattr__(self, name: str, value: object) -> None:
        touched.append("__setattr__")
        object.__setattr__(self, name, value)


class Point(collections.namedtuple("Point", "x y")):
    def __new__(cls, *values: object) -> "Point":
        touched.append("__new__")
        return super().__new__(cls, *values)


class Colour(enum.Enum):
    RED = 1

    @classmethod
    def _missing_(cls, value: object) -> None:
        touched.append("_missing_")


class Nothing(Struct, registry=None):
    """One that no message can name: it has no type id."""

    price: f8


def tagged(tag: int, *values: object) -> bytes:
    return HEAD + bytes([tag]) + b"".join(encode(value)[2:] for value in values)


NAMES = ["Task", "Point", "Colour", "builtins.eval", "os.system", "os", f"{__name__}.Task", "__main__.Task"]
PICKLE = pickle.dumps(Telltale.__new__(Telltale))
UNASKED = {
    **{f"dataclass {name}": tagged(0xF9, name, {"owner": "me"}) for name in NAMES},
    **{f"namedtuple {name}": tagged(0xFA, name, (1, 2)) for name in NAMES},
    **{f"Enum {name}": tagged(0xF8, name, "RED") for name in NAMES},
    "pickle": tagged(0xFE, PICKLE),
    "Struct without an id": HEAD + b"\xfd" + bytes(4) + encode(Nothing(1.0).pack())[2:],
    "Struct that nobody defined": HEAD + b"\xfd\xff\xff\xff\xff" + encode(Nothing(1.0).pack())[2:],
    "ZoneInfo of a path": tagged(0xF5, "../../etc/passwd"),
    "ZoneInfo of a module": tagged(0xF5, "os.path"),
    "ZoneInfo of nowhere": tagged(0xF5, "Nowhere/Town"),
    "dtype of objects": tagged(0xFB, "|O", bytes(8)),
    "dtype of a name": tagged(0xFB, "os.system", bytes(8)),
    "array of objects": tagged(0xFC, "|O8", (1,), False) + b"\x08\x00" + bytes(8),
    "dtype with a class": tagged(0xFC, {"names": ["a"], "formats": ["O"]}, (1,), False)
    + b"\x08\x00"
    + bytes(8),
}


@pytest.mark.parametrize("message", UNASKED.values(), ids=UNASKED.keys())
@pytest.mark.parametrize("codec", [Codec(), Codec(types={"other": Colour})], ids=["none", "others"])
def test_what_was_not_registered_is_refused_and_not_touched(codec: Codec, message: bytes) -> None:
    touched.clear()
    for copy in (True, False):
        with pytest.raises(DecodeError):
            codec.decode(message, copy=copy)
    assert touched == []


@pytest.mark.parametrize("data", [PICKLE, b"\x80\x05" + PICKLE, HEAD + PICKLE, b'{"a": 1}', b"\x81\xa1a\x01"])
def test_other_formats_are_no_messages(data: bytes) -> None:
    touched.clear()
    with pytest.raises(DecodeError):
        decode(data)
    assert touched == []


def test_a_pickle_in_bytes_stays_bytes() -> None:
    touched.clear()
    assert decode(encode({"data": PICKLE}))["data"] == PICKLE
    assert touched == []


def test_registered_types_are_made_without_a_call_of_what_is_the_users() -> None:
    codec = Codec(types=[Task, Point, Colour])
    message = codec.encode([Task("me"), Point(1, 2), Colour.RED])
    touched.clear()
    task, point, colour = codec.decode(message)
    assert touched == []
    assert (type(task), task.owner, type(point), point, colour) == (Task, "me", Point, (1, 2), Colour.RED)


def test_a_member_that_an_enum_does_not_have_is_not_asked_for() -> None:
    touched.clear()
    for member in (2, "BLUE", "__class__", "_missing_", None):
        with pytest.raises(DecodeError):
            Codec(types=[Colour]).decode(tagged(0xF8, "Colour", member))
    assert touched == []


# Of the types that need no registration. zoneinfo looks in the package tzdata for what is nowhere else.
STANDARD = ("datetime", "decimal", "uuid", "zoneinfo", "importlib.resources", "numpy")
FORBIDDEN = {"os.system", "os.exec", "os.fork", "subprocess.Popen", "pickle.find_class", "socket.connect"}

AUDITED = """
import sys
for module in sys.argv[1:]:
    __import__(module)
from fastcomm import Codec, DecodeError, decode
events = []
codec = Codec()
before = set(sys.modules)
sys.addaudithook(lambda *event: events.append(event))
for line in sys.stdin:
    for copy in (True, False):
        try:
            codec.decode(bytes.fromhex(line), copy=copy)
        except DecodeError:
            pass
print(*{arguments[0] for name, arguments in events if name == "import"} | set(sys.modules) - before)
print(*{name for name, _ in events})
"""


def audited(messages: list[bytes], *loaded: str) -> tuple[set[str], set[str]]:
    """What reading the messages imports in a process that has those modules, and which events it raises."""
    command = [sys.executable, "-c", AUDITED, *loaded]
    lines = "\n".join(message.hex() for message in messages)
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    imported, events = done.stdout.splitlines()
    return set(imported.split()), set(events.split())


@pytest.mark.no_sanitizer("asks what is imported, not what it does")
def test_messages_of_builtin_types_import_nothing() -> None:
    plain = [bytes.fromhex(entry["hex"]) for entry in GOLDEN if entry["hex"].startswith("c101")]
    built_in = [message for message in plain if not {*message} & {*range(0xF0, 0xFF)}]
    assert len(built_in) > 40
    imported, events = audited(built_in)
    assert imported == set()
    assert events == set()


@pytest.mark.no_sanitizer("asks what is imported, not what it does")
def test_no_message_imports_or_runs_what_is_not_of_the_standard_types() -> None:
    messages = [bytes.fromhex(entry["hex"]) for entry in GOLDEN] + list(UNASKED.values())
    imported, events = audited(messages, *STANDARD)
    packages = {"fastcomm", "tzdata", "lz4", "zstandard", "__future__"}  # the last by zstandard
    assert {module.split(".")[0] for module in imported} <= packages
    assert events.isdisjoint(FORBIDDEN)


def test_the_audit_sees_what_a_pickle_imports_and_runs() -> None:
    """What the test before would miss, were it blind."""
    message = tagged(0xFE, b"cos\nsystem\n(S'true'\ntR.")
    script = AUDITED.replace("Codec()", "Codec(fallback='pickle')")
    command = [sys.executable, "-c", script, *STANDARD]
    done = subprocess.run(command, input=message.hex(), capture_output=True, text=True, check=True)
    _, events = map(str.split, done.stdout.splitlines())
    assert {"pickle.find_class", "os.system"} <= set(events)
