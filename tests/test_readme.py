"""The Python blocks of the README, of docs/bus.md and of docs/inprocess.md are run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.S | re.M)


BLOCKS = blocks("README.md")
NUMBERED = [
    (page, number)
    for page in ("README.md", "docs/bus.md", "docs/inprocess.md")
    for number in range(len(blocks(page)))
]


@pytest.mark.parametrize(("page", "number"), NUMBERED)
def test_block_runs_and_prints_nothing_to_stderr(page: str, number: int, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(blocks(page)[number])
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_bus_example_prints_each_worker_and_its_square(tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(next(block for block in BLOCKS if "connect" in block))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert sorted(done.stdout.split("\n")) == ["", *(f"worker-{n} {(n + 10) ** 2}" for n in range(3))]
