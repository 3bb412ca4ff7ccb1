"""What mypy --strict makes of Struct classes."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.no_sanitizer("runs mypy, nothing compiled")

PROGRAM = """
from enum import Enum
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from fastcomm import RingBuffer, Struct
from fastcomm.structs import Array, Char, Number, f4, f8, u4


class Side(Enum):
    BUY = 1
    SELL = 2


class Leg(Struct):
    name: str


class Quote(Struct, type_id=7):
    symbol: str
    bid: f8
    size: u4
    book: Annotated[NDArray[np.float32], Array("f4", 10)]
    code: Annotated[str, Char(8)]
    side: Annotated[Side, Number("u1")] = Side.BUY
    leg: Leg | None = None
    ask: f4 | None = None


quote = Quote("ACME", 1.5, 100, np.zeros(10, np.float32), "abc", leg=Leg("x"))
reveal_type(quote.bid)
reveal_type(quote.size)
reveal_type(quote.ask)
reveal_type(quote.side)
reveal_type(Quote.unpack(b""))
reveal_type(quote.pack())
reveal_type(Quote.type_id)
reveal_type(Quote.array([b""]))
reveal_type(Quote.pack_many([quote]))
Quote.drain(RingBuffer.create(), 10, timeout=1)
quote.bid = 2
match quote:
    case Quote(symbol, bid):
        reveal_type(bid)

Quote("ACME", "1.5", 100, np.zeros(10, np.float32), "abc")  # wrong: bid
Quote("ACME", 1.5, 100)  # wrong: two are missing
Quote("ACME", 1.5, 100, np.zeros(10, np.float32), "abc", colour="red")  # wrong: no such field
quote.size = "large"  # wrong: no int
Number("f3")  # wrong: no such number
Quote.pack_many([Leg("x")])  # wrong: no Quote
"""


def test_fields_are_typed_and_wrong_uses_are_found(tmp_path: Path) -> None:
    if importlib.util.find_spec("mypy") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("mypy is not installed")
        pytest.skip("mypy is not installed: pip install -e '.[lint]'")
    source = tmp_path / "program.py"
    source.write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--no-pretty", str(source)]
    root = Path(__file__).resolve().parent.parent.parent
    env = os.environ | {"MYPYPATH": str(root)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=env)
    revealed = re.findall(r'note: Revealed type is "(.*)"', done.stdout)
    assert [re.sub(r"builtins\.|program\.|fastcomm\.\w+\.", "", text) for text in revealed] == [
        "float",
        "int",
        "float | None",
        "Side",
        "Quote",
        "bytes",
        "int",
        "StructArray",
        "list[bytes]",
        "float",
    ]
    errors = [int(line) for line in re.findall(r"program\.py:(\d+): error", done.stdout)]
    wrong = [number for number, line in enumerate(PROGRAM.splitlines(), 1) if "# wrong" in line]
    assert sorted(set(errors)) == wrong, done.stdout
