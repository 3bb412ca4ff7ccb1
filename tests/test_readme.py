"""The README's Python blocks are run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.S | re.M)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block_runs_and_prints_nothing_to_stderr(number: int, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(BLOCKS[number])
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_bus_example_prints_each_worker_and_its_square(tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(next(block for block in BLOCKS if "connect" in block))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert sorted(done.stdout.split("\n")) == ["", *(f"worker-{n} {(n + 10) ** 2}" for n in range(3))]
