"""Lines as JSON and as a table; and what machine they are from."""

import datetime
import itertools
import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastcomm
from benchlib.contest import Line, Ratio, Setting, Skipped
from benchlib.method import TOLERANCE, Gate
from benchlib.processes import ALL_CPUS

HEADINGS = (
    "who",
    "waits",
    "pinned",
    "bytes",
    "",
    "median",
    "quartiles",
    "unit",
    "quiet/dropped",
    "of the limit",
    "of the best peer",
)
SCHEMA = 1  # of the JSON file; a key that is renamed, removed or means something else makes it one more
NOISY = "?"  # after a median of blocks none of which could be kept


def machine() -> dict[str, Any]:
    return {
        "cpu": cpu_model(),
        "cpus": sorted(ALL_CPUS),
        "load": os.getloadavg(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "fastcomm": fastcomm.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


@dataclass(frozen=True)
class Report:
    """What a run measured.

    By name of the benchmark: `failed`, tracebacks; `distances`, ns from core to core before and after.
    """

    lines: list[Line]
    skipped: list[Skipped]
    failed: dict[str, str]
    distances: dict[str, list[float | None]]


def document(setting: Setting, gate: Gate, report: Report) -> dict[str, Any]:
    placement = setting.placement
    return {
        "schema": SCHEMA,
        "machine": machine(),
        "method": {
            "quick": setting.quick,
            "cpu_here": placement.here,
            "cpus_there": placement.there,
            "reference_loop_ns": gate.fastest,
            "tolerance": TOLERANCE,
        },
        "lines": [line.as_json() for line in report.lines],
        "core_to_core_ns": report.distances,
        "skipped": [{"name": skip.name, "reason": skip.reason} for skip in report.skipped],
        "failed": report.failed,
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def cells(line: Line) -> tuple[str, ...]:
    contest, summary = line.contest, line.summary
    return (
        line.contender.name,
        line.contender.waiting or "-",
        "yes" if line.pinned else "no",
        "-" if contest.payload is None else str(contest.payload),
        line.statistic,
        median_of(line),
        f"{number(summary.low)} .. {number(summary.high)}",
        contest.unit,
        f"{summary.kept}/{summary.dropped}",
        to(line.limit),
        to(line.best_peer),
    )


def median_of(line: Line) -> str:
    return number(line.summary.median) + (NOISY if line.summary.noisy else "")


def to(ratio: Ratio | None) -> str:
    return "" if ratio is None else f"{ratio.ratio:.3g} {ratio.name}"


def number(value: float) -> str:
    """Four digits, thousands grouped."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def print_table(title: str, lines: Sequence[Line]) -> None:
    rows = [cells(line) for line in lines]
    if sys.stdout.isatty() and print_rich(title, rows):
        return
    print(f"\n{title}")
    print_aligned([HEADINGS, *rows])


def print_aligned(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    sys.stdout.flush()


def markdown(lines: Sequence[Line]) -> str:
    """A row for each benchmark: ours, their ratio to the best peer, the peers from the best one on."""
    rows = ["| benchmark | fastcomm | of the best peer | peers |", "| --- | --- | --- | --- |"]
    for contest, found in itertools.groupby(lines, key=lambda line: line.contest):
        ranked = sorted(found, key=lambda line: line.summary.median, reverse=contest.more_is_better)
        ours = [line for line in ranked if line.contender.role == "ours"]
        ours.sort(key=lambda line: len(line.contender.name))  # plain "fastcomm" first
        figures = [short(line).removeprefix("fastcomm").lstrip(", ") for line in ours]
        ratios = [f"{line.best_peer.ratio:.2f}" if line.best_peer else "-" for line in ours]
        peers = [short(line) for line in ranked if line.contender.role == "peer"]
        row = (contest.name, "; ".join(figures) + f" {contest.unit}", "; ".join(ratios), ", ".join(peers))
        rows.append(f"| {' | '.join(row)} |")
    return "\n".join(rows)


def short(line: Line) -> str:
    return f"{line.contender.name} {number(line.summary.median)}{NOISY if line.summary.noisy else ''}"


def print_rich(title: str, rows: Iterable[Sequence[str]]) -> bool:
    """False if rich is not installed."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        return False
    table = Table(*HEADINGS, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    return True
