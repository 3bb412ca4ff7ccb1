"""docs/struct.md: its program runs, its table and its bytes are those of the code."""

import re
import subprocess
import sys
from pathlib import Path

from fastcomm import Struct
from fastcomm.structs import f4, u2

TEXT = (Path(__file__).resolve().parent.parent.parent / "docs" / "struct.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.S | re.M)
PROGRAM = "\n".join(text for language, text in BLOCKS if language == "python")
PLAIN = [text for language, text in BLOCKS if not language]


class Tick(Struct, type_id=258, registry=None):
    number: u2
    label: str
    price: f4 | None


def test_program_runs_and_prints_what_it_says(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(f"{PROGRAM}\nprint(Quote.layout)\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    printed, _, layout = done.stdout.partition("\n")
    assert f"# {printed}\n" in PROGRAM
    assert layout == next(block for block in PLAIN if block.startswith("offset"))


def test_worked_message_has_those_bytes() -> None:
    dump = next(block for block in PLAIN if block.startswith("C1 11"))
    written = re.findall(r"^((?:[0-9A-F]{2} )+)", dump, re.M)
    assert len(written) == len(dump.splitlines())
    assert bytes.fromhex("".join(written)) == Tick(3, "é", 0.5).pack()
    declared = next(block for block in PLAIN if block.startswith("class Tick"))
    assert re.findall(r"    (\w+): (.+)", declared) == [
        ("number", "u2"),
        ("label", "str"),
        ("price", "f4 | None"),
    ]
