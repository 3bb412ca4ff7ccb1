"""What a structure with so many entries takes: ``python -m benchlib.weigh MODULE NAME COUNT`` prints bytes.

It is filled in a process of its own, by a function that MODULE.fill(NAME, COUNT) returns; what goes into it
is there before. The figure is by how much the resident memory has grown, over the number of entries.
"""

import contextlib
import functools
import gc
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchlib.contest import Contender, Contenders, Contest, Setting, Skipped
from benchlib.method import Figures

SCRIPTS = Path(__file__).resolve().parent.parent
PAGE = os.sysconf("SC_PAGE_SIZE")
FEW = 10_000


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def grown_by(module: str, name: str, count: int) -> float:
    """Bytes an entry."""
    fill = import_module(f"benchlib.{module}").fill(name, count)
    gc.collect()
    before = resident_bytes()
    kept = fill()
    gc.collect()
    grown = resident_bytes() - before
    del kept
    return grown / count


def weigh(module: str, name: str, count: int) -> Figures:
    command = [sys.executable, "-m", "benchlib.weigh", module, name, str(count)]
    path = os.pathsep.join(filter(None, (str(SCRIPTS), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, check=True, capture_output=True, text=True
    )
    return {"": float(done.stdout)}


def contenders(
    count: int, names: Sequence[str], module: str, setting: Setting, stack: contextlib.ExitStack
) -> Contenders:
    found: list[Contender | Skipped] = []
    count = min(count, FEW) if setting.quick else count
    for name in names:
        try:
            import_module(f"benchlib.{module}").fill(name, 1)()
        except ImportError as error:
            found.append(Skipped(name, str(error)))
            continue
        role = "ours" if name.startswith("fastcomm") else "peer"
        found.append(Contender(name, "", functools.partial(weigh, module, name, count), role))
    return found


def contest(name: str, count: int, names: Sequence[str], module: str) -> Contest:
    return Contest(
        name,
        f"resident memory of one of {count:,}",
        "B",
        None,
        functools.partial(contenders, count, names, module),
        rounds=(1, 3),
        gated=False,
    )


if __name__ == "__main__":
    print(grown_by(sys.argv[1], sys.argv[2], int(sys.argv[3])))
