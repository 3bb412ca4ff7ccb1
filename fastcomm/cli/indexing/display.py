"""How a run is shown: a live table on a terminal, a line a second elsewhere."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fastcomm.cli.indexing.latency import LatencyCounts
from fastcomm.cli.indexing.progress import Display, Progress


@contextmanager
def display(live: bool, lines_to: TextIO) -> Iterator[Display]:
    """A live table on standard output when `live` and it is a terminal, else lines to `lines_to`."""
    if not live or not sys.stdout.isatty():
        yield Lines(lines_to)
        return
    with Live(console=Console(), auto_refresh=False, transient=True) as screen:
        yield LiveTable(screen)


class Lines:
    """One line a second."""

    def __init__(self, to: TextIO) -> None:
        self._to = to
        self._second = -1

    def show(self, progress: Progress) -> None:
        """Print a line when a second has passed since the last one."""
        if int(progress.elapsed) == self._second:
            return
        self._second = int(progress.elapsed)
        recent = LatencyCounts().add(one for totals in progress.roles.values() for one in totals.recent)
        p50, p95, p99 = (recent.percentile(share) / 1000 for share in (0.5, 0.95, 0.99))
        deepest = max(depths.largest for depths in progress.depths.values())
        print(
            f"{progress.elapsed:5.1f} s  {progress.phase:<9} {progress.share:4.0%}"
            f"  {progress.received:>11,} messages  {progress.rate:>9,.0f}/s"
            f"  p50 {p50:,.0f} us  p95 {p95:,.0f} us  p99 {p99:,.0f} us"
            f"  deepest inbox {deepest:,} B{_losses(progress)}",
            file=self._to,
            flush=True,
        )


class LiveTable:
    """A table with a row for each role, redrawn in place."""

    def __init__(self, screen: Live) -> None:
        self._screen = screen

    def show(self, progress: Progress) -> None:
        """Redraw."""
        head = Text(
            f"{progress.phase}  {progress.share:.0%}  {progress.elapsed:.1f} s"
            f"  {progress.received:,} messages  {progress.rate:,.0f}/s{_losses(progress)}"
        )
        bar = ProgressBar(total=1.0, completed=progress.share, width=60)
        self._screen.update(Group(head, bar, _table(progress)), refresh=True)


def _table(progress: Progress) -> Table:
    table = Table()
    table.add_column("role")
    for column in (
        "agents",
        "sent",
        "received",
        "p50 us",
        "p95 us",
        "p99 us",
        "inbox mean B",
        "inbox max B",
        "of B",
    ):
        table.add_column(column, justify="right")
    for role, totals in progress.roles.items():
        recent, depths = LatencyCounts().add(totals.recent), progress.depths[role]
        table.add_row(
            role,
            f"{depths.agents}",
            f"{totals.sent:,}",
            f"{totals.received:,}",
            *(f"{recent.percentile(share) / 1000:,.0f}" for share in (0.5, 0.95, 0.99)),
            f"{depths.mean:,.0f}",
            f"{depths.largest:,}",
            f"{depths.capacity:,}",
        )
    return table


def _losses(progress: Progress) -> str:
    if not progress.kills:
        return ""
    return f"  killed {progress.kills}, lost {progress.lost_batches} batches"
