"""limits.c, compiled when it is first needed and run as blocks of a contest."""

import functools
import json
import os
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from benchlib.contest import Contender, Skipped
from benchlib.method import Figures
from benchlib.processes import Placement

SOURCE = Path(__file__).with_name("limits.c")
HEADERS = Path(__file__).resolve().parents[2] / "fastcomm" / "_core" / "include"
FLAGS = ("-std=gnu11", "-O3", "-Wall", "-Wextra", f"-I{HEADERS}")  # as setup.py compiles the package
SECONDS_UNTIL_STUCK = 60.0
CELL_ROUNDS = 5000


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
    done = subprocess.run(
        [found, *FLAGS, str(SOURCE), "-o", str(program), "-lm"], capture_output=True, text=True
    )
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


def limit(
    name: str,
    waiting: str,
    placement: Placement,
    *arguments: object,
    statistics: tuple[str, ...] = ("",),
    scale: float = 1.0,
) -> Contender | Skipped:
    """A contender that runs the program with these arguments on these CPUs, or why there is none.

    `statistics`: those of what it prints that count, each times `scale`.
    """
    try:
        compiled()
    except NoCompilerError as missing:
        return Skipped(name, str(missing))

    def measure() -> Figures:
        figures = run(*arguments, *cpus(placement))
        return {statistic: figures[statistic] * scale for statistic in statistics}

    return Contender(name, waiting, measure, "limit", placement.pinned)


def core_to_core_ns(placement: Placement) -> float | None:
    """What a cell takes from one CPU of a pinned run to another now; None: not pinned, or no compiler."""
    if not placement.pinned:
        return None
    try:
        return run("cell", CELL_ROUNDS, *cpus(placement))["p50"]
    except NoCompilerError:
        return None


def cpus(placement: Placement) -> tuple[int, ...]:
    """As limits.c takes them: the measuring process's, then the others'; none if they are not pinned."""
    return () if placement.here is None else (placement.here, *placement.there)
