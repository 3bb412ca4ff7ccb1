"""Types, a string table and Structs for the fuzzer, and the messages that it begins with."""

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import json
import uuid
import zoneinfo
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from fastcomm import Codec, StringTable, Struct
from fastcomm.structs import Array, Char, Number, f4, f8, i8, u1, u2

GOLDEN = Path(__file__).parent.parent / "golden" / "codec_v1.json"
LONGEST = 4096
MAX_DECOMPRESSED = 16 << 10


# ---- what both ends know


class Colour(enum.Enum):
    RED = 1
    GREEN = "g"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass
class Task:
    owner: object
    steps: object


class Leg(Struct, type_id=0x11):
    name: str
    price: f4
    urgent: bool


class Quote(Struct, type_id=0x12):
    small: u1
    symbol: str
    price: f8
    code: Annotated[str, Char(7)]
    raw: Annotated[bytes, Char(5)]
    grid: Annotated[NDArray[np.int16], Array("i2", (2, 3))]
    payload: bytes
    leg: Leg
    colour: Colour
    rights: Annotated[Rights, Number("u1")]
    note: str | None
    count: u2 | None
    other: Leg | None
    last: i8 = -1
    label: str = "none"


TYPES = [Colour, Rights, Point, Task]
NAMED = {cls.__qualname__: cls for cls in TYPES}
TABLE_ID = 0x61626364  # always the same, so that a message found in one run is one in the next


def string_table() -> StringTable:
    """One that is full: what is learned while messages are read would make each depend on those before."""
    memory = bytearray(StringTable.nbytes(300, 8000))
    learner = StringTable(300, 8000, memory=memory)
    for number in range(300):
        learner.learn(f"entry {number}" if number % 3 else f"größe {number}")
    memory[8:12] = TABLE_ID.to_bytes(4, "little")
    return StringTable(300, 8000, memory=memory)


TABLE = string_table()
OPTIONS = {"types": TYPES, "strings": TABLE, "max_decompressed": MAX_DECOMPRESSED}


# ---- what they begin with

ROW = {"id": 7, "owner": "me", "kind of task": "größe", "tags": ["a", b"bytes", None, True, 0.5, -300, 2**70]}
QUOTE = Quote(
    small=1,
    symbol="ACME",
    price=1.5,
    code="abc",
    raw=b"\x00x",
    grid=np.arange(6, dtype="i2").reshape(2, 3),
    payload=b"bytes",
    leg=Leg("first", 0.5, True),
    colour=Colour.GREEN,
    rights=Rights.READ | Rights.WRITE,
    note="größe",
    count=7,
    other=Leg("second", -1.0, False),
)
VALUES = (
    [ROW] * 5,
    {"entry 1": {"entry 2": [{"größe 3": 1}, (1, 2), {1, 2}, frozenset("ab"), bytearray(b"x" * 20)]}},
    [Colour.RED, Rights.READ | Rights.WRITE, Point(1, [2]), Task("me", {"steps": (Point(None, b""),)})],
    {Colour.GREEN: {Rights.WRITE, Point(1, 2), dt.date(2024, 2, 29), decimal.Decimal("1.50")}},
    [
        dt.datetime(2024, 2, 29, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"), fold=1),
        dt.time(1, tzinfo=dt.UTC),
    ],
    [
        dt.timedelta(-1, 5, 7),
        dt.timezone(dt.timedelta(hours=2), "two"),
        uuid.UUID(int=7),
        decimal.Decimal("sNaN"),
    ],
    [
        np.arange(30.0).reshape(5, 6).T,
        np.zeros(3, "M8[ms]"),
        np.float32(1),
        np.str_("größe"),
        np.bytes_(b"x"),
    ],
    [np.zeros(2, [("a", "u1"), ("b", "<f8", (2, 2)), ("c", [("d", "S3")])]), np.zeros((0, 3), "?")],
    [QUOTE, Leg("only", 1.0, True)],
    {i: i for i in range(70)},
    [{f"key {i % 40}": i} for i in range(80)],
)


def messages() -> Iterator[bytes]:
    for entry in json.loads(GOLDEN.read_text()):
        yield bytes.fromhex(entry["hex"])
    codec = Codec(**OPTIONS)
    compressors = [Codec(**OPTIONS, compression=name, threshold=1) for name in ("lz4", "zstd")]
    for value in VALUES:
        yield from (codec.encode(value) for codec in (codec, *compressors))
    for zone in ("Nowhere/Town", "Europe/Nowhere", "NOWHERE"):
        yield b"\xc1\x01\xf5" + codec.encode(zone)[2:]
    yield QUOTE.pack()
    yield Leg("alone", 2.0, False).pack()


def write_messages(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, message in enumerate(messages()):
        if len(message) <= LONGEST:
            (folder / f"seed-{number:03}").write_bytes(message)
