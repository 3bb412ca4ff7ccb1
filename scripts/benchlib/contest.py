"""What a benchmark is: contenders that measure the same thing, whose blocks become lines of the report."""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchlib.method import Block, Figures, Gate, Summary, interleave, summarise
from benchlib.processes import ALL_CPUS, Placement, running_on


@dataclass(frozen=True)
class Setting:
    """How long and where to measure."""

    placement: Placement
    quick: bool = False

    @property
    def rounds(self) -> int:
        return 3 if self.quick else 9

    @property
    def block_seconds(self) -> float:
        """Of a block: short beside the second in which a machine changes its speed."""
        return 0.03 if self.quick else 0.1

    def messages(self, gap: float) -> int:
        """That a block of messages `gap` seconds apart has."""
        return max(20, round(2 * self.block_seconds / gap))


@dataclass(frozen=True)
class Contender:
    """`measure()` is one block. `waiting`: a receiver "spins", "sleeps" or "polls"; "" if none waits."""

    name: str
    waiting: str
    measure: Callable[[], Figures]


@dataclass(frozen=True)
class Skipped:
    """A contender, or a benchmark, that can't run here."""

    name: str
    reason: str


Contenders = Sequence[Contender | Skipped]
Prepare = Callable[[Setting, contextlib.ExitStack], Contenders]


@dataclass(frozen=True)
class Contest:
    """A benchmark. `prepare` starts what is needed, leaves its end to the ExitStack, returns the contenders.

    `payload`: bytes of a message; None where there is none. `rounds`: (quick, full) instead of the setting's.
    `pin`: whether it is pinned when the run is. `gated`: whether the speed of the machine matters.
    """

    name: str
    measured: str
    unit: str
    payload: int | None
    prepare: Prepare
    rounds: tuple[int, int] | None = None
    pin: bool = True
    gated: bool = True
    needs_two_cpus: bool = False

    def count_rounds(self, setting: Setting) -> int:
        return setting.rounds if self.rounds is None else self.rounds[0 if setting.quick else 1]


@dataclass(frozen=True)
class Line:
    """A figure of one contender. `ratios`: this median over that of each other contender, in the same run."""

    benchmark: str
    measured: str
    statistic: str
    contender: str
    pinned: bool
    waiting: str
    payload: int | None
    unit: str
    summary: Summary
    ratios: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        fields = asdict(self)
        return fields | fields.pop("summary")


@dataclass(frozen=True)
class Result:
    lines: list[Line]
    skipped: list[Skipped]


def run_contest(contest: Contest, setting: Setting, gate: Gate) -> Result:
    """The lines of one benchmark, contender by contender. What its contenders raise ends it."""
    if contest.needs_two_cpus and len(ALL_CPUS) < 2:
        return Result([], [Skipped(contest.name, "both sides spin, which needs 2 CPUs")])
    if not contest.pin:
        setting = replace(setting, placement=Placement())
    if not contest.gated:
        gate = Gate(tolerance=math.inf)
    with contextlib.ExitStack() as stack:
        stack.enter_context(running_on(setting.placement.here))
        found = contest.prepare(setting, stack)
        contenders = [one for one in found if isinstance(one, Contender)]
        measures = {one.name: one.measure for one in contenders}
        blocks = interleave(measures, contest.count_rounds(setting), gate)
    lines = lines_of(contest, contenders, blocks, setting, gate)
    return Result(lines, [one for one in found if isinstance(one, Skipped)])


def lines_of(
    contest: Contest, contenders: Sequence[Contender], blocks: Sequence[Block], setting: Setting, gate: Gate
) -> list[Line]:
    by_name = {one.name: [block for block in blocks if block.contender == one.name] for one in contenders}
    statistics = list(dict.fromkeys(statistic for block in blocks for statistic in block.figures))
    lines = []
    for statistic in statistics:
        summaries = {name: summarise(own, statistic, gate) for name, own in by_name.items()}
        for one in contenders:
            lines.append(
                Line(
                    contest.name,
                    contest.measured,
                    statistic,
                    one.name,
                    setting.placement.pinned,
                    one.waiting,
                    contest.payload,
                    contest.unit,
                    summaries[one.name],
                    ratios(one.name, summaries),
                )
            )
    return lines


def ratios(name: str, summaries: dict[str, Summary]) -> dict[str, float]:
    mine = summaries[name].median
    return {
        other: mine / summary.median
        for other, summary in summaries.items()
        if other != name and summary.median
    }
