"""limits.c, compiled when it is first needed and run as blocks of a contest."""

import functools
import json
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchlib.contest import Contender, Skipped
from benchlib.method import Figures
from benchlib.processes import Placement

SOURCE = Path(__file__).with_name("limits.c")
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra")
SECONDS_UNTIL_STUCK = 60.0


class NoCompilerError(RuntimeError):
    """limits.c can't be compiled here; the text says why."""


@functools.cache
def compiled() -> Path:
    """The program, in a folder that goes when this process ends. NoCompilerError."""
    command = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    found = shutil.which(command) or shutil.which("cc")
    if found is None:
        raise NoCompilerError(f"no C compiler: neither {command!r} nor 'cc' is on PATH")
    program = Path(scratch().name) / "limits"
    done = subprocess.run([found, *FLAGS, str(SOURCE), "-o", str(program)], capture_output=True, text=True)
    if done.returncode:
        raise NoCompilerError(f"{found} could not compile {SOURCE.name}: {done.stderr.strip()[:200]}")
    return program


@functools.cache
def scratch() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="fastcomm-bench-")


def run(*arguments: object) -> Figures:
    """What the program prints."""
    command = [str(compiled()), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS_UNTIL_STUCK)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def cpus(placement: Placement) -> tuple[int, int]:
    """As limits.c takes them: -1 for not pinned."""
    return (-1, -1) if placement.here is None else (placement.here, placement.there[0])


def contender(name: str, waiting: str, measure: Callable[[], Figures]) -> Contender | Skipped:
    """The limit as a contender, or why there is none."""
    try:
        compiled()
    except NoCompilerError as missing:
        return Skipped(name, str(missing))
    return Contender(name, waiting, measure)


def only(figures: Figures, statistics: tuple[str, ...], scale: float) -> Figures:
    return {statistic: figures[statistic] * scale for statistic in statistics}
