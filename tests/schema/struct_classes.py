"""Struct classes that several tests use, and a strategy for each."""

from enum import Enum, IntEnum, IntFlag
from typing import Annotated, Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from fastcomm import Struct
from fastcomm.structs import Array, Char, Number, f4, f8, i1, i2, i4, i8, u1, u2, u4, u8


class Side(Enum):
    BUY = "b"
    SELL = "s"


class Level(IntEnum):
    LOW = -5
    HIGH = 70_000


class Mode(IntFlag):
    READ = 1
    WRITE = 2


class Numbers(Struct, registry=None):
    flag: bool
    a: i1
    b: i2
    c: i4
    d: i8
    e: u1
    f: u2
    g: u4
    h: u8
    x: f4
    y: f8
    plain: int
    real: float


class Leg(Struct, registry=None):
    name: str
    price: f4
    urgent: bool


class Everything(Struct, type_id=901, registry={}):
    small: u1
    symbol: str
    price: f8
    code: Annotated[str, Char(7)]
    raw: Annotated[bytes, Char(5)]
    book: Annotated[NDArray[np.float32], Array("f4", 3)]
    grid: Annotated[NDArray[np.int16], Array("i2", (2, 3))]
    payload: bytes
    leg: Leg
    side: Side
    level: Level
    mode: Annotated[Mode, Number("u1")]
    note: str | None
    count: u2 | None
    other: Leg | None
    tail: bool


integers = {
    name: st.integers(-(1 << 8 * n - 1), (1 << 8 * n - 1) - 1)
    for name, n in (("i1", 1), ("i2", 2), ("i4", 4), ("i8", 8))
} | {name: st.integers(0, (1 << 8 * n) - 1) for name, n in (("u1", 1), ("u2", 2), ("u4", 4), ("u8", 8))}
floats = st.floats(allow_nan=False)
narrow = st.floats(allow_nan=False, width=32)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
codes = st.text("abcdef \x00", max_size=7).filter(lambda text: not text.endswith("\x00"))
raws = st.binary(max_size=5).filter(lambda data: not data.endswith(b"\x00"))

numbers = st.builds(
    Numbers,
    flag=st.booleans(),
    a=integers["i1"],
    b=integers["i2"],
    c=integers["i4"],
    d=integers["i8"],
    e=integers["u1"],
    f=integers["u2"],
    g=integers["u4"],
    h=integers["u8"],
    x=narrow,
    y=floats,
    plain=integers["i8"],
    real=floats,
)
legs = st.builds(Leg, name=texts, price=narrow, urgent=st.booleans())


def array_of(dtype: str, items: st.SearchStrategy[Any], shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    size = int(np.prod(shape))
    return st.lists(items, min_size=size, max_size=size).map(lambda v: np.array(v, dtype).reshape(shape))


everything = st.builds(
    Everything,
    small=integers["u1"],
    symbol=texts,
    price=floats,
    code=codes,
    raw=raws,
    book=array_of("f4", narrow, (3,)),
    grid=array_of("i2", integers["i2"], (2, 3)),
    payload=st.binary(max_size=20),
    leg=legs,
    side=st.sampled_from(Side),
    level=st.sampled_from(Level),
    mode=st.sampled_from([Mode(0), Mode.READ, Mode.READ | Mode.WRITE]),
    note=st.none() | texts,
    count=st.none() | integers["u2"],
    other=st.none() | legs,
    tail=st.booleans(),
)


def example(**changes: Any) -> Everything:
    values = {
        "small": 1,
        "symbol": "ACME",
        "price": 1.5,
        "code": "abc",
        "raw": b"\x00x",
        "book": np.array([1, 2, 3], "f4"),
        "grid": np.arange(6, dtype="i2").reshape(2, 3),
        "payload": b"bytes",
        "leg": Leg("first", 0.5, True),
        "side": Side.SELL,
        "level": Level.HIGH,
        "mode": Mode.READ | Mode.WRITE,
        "note": None,
        "count": 7,
        "other": None,
        "tail": True,
    }
    return Everything(**values | changes)
