"""What a benchmark is: contenders that measure the same thing, whose blocks become lines of the report."""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

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


Role = Literal["ours", "peer", "limit"]  # a limit is what the machine allows, without Python or without us


@dataclass(frozen=True)
class Contender:
    """`measure()` is one block. `waiting`: a receiver "spins", "sleeps" or "polls"; "" if none waits.

    `pinned`: it pins its own processes, whatever the contest does.
    """

    name: str
    waiting: str
    measure: Callable[[], Figures]
    role: Role = "peer"
    pinned: bool = False


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

    @property
    def more_is_better(self) -> bool:
        """Of rates; of times and sizes it is less."""
        return self.unit.endswith("/s")

    def count_rounds(self, setting: Setting) -> int:
        return setting.rounds if self.rounds is None else self.rounds[0 if setting.quick else 1]


@dataclass(frozen=True)
class Ratio:
    """The median of a line over that of another contender, in the same run."""

    name: str
    median: float
    ratio: float


@dataclass(frozen=True)
class Line:
    """A figure of one contender.

    `ratios`: to each other contender. Of ours also `limit` and `best_peer`: to the best limit and the best
    peer; None if there was none.
    """

    contest: Contest
    statistic: str
    contender: Contender
    pinned: bool
    summary: Summary
    ratios: dict[str, float]
    limit: Ratio | None
    best_peer: Ratio | None

    def as_json(self) -> dict[str, Any]:
        """docs/benchmarks.md describes it."""
        summary = self.summary
        return {
            "name": self.contest.name,
            "statistic": self.statistic,
            "contender": self.contender.name,
            "role": self.contender.role,
            "measured": self.contest.measured,
            "payload": self.contest.payload,
            "waiting": self.contender.waiting,
            "pinned": self.pinned,
            "unit": self.contest.unit,
            "better": "more" if self.contest.more_is_better else "less",
            "median": summary.median,
            "spread": [summary.low, summary.high],
            "quiet_blocks": summary.kept,
            "dropped_blocks": summary.dropped,
            "noisy": summary.noisy,
            "limit": self.limit and vars(self.limit),
            "best_peer": self.best_peer and vars(self.best_peer),
            "ratios": self.ratios,
        }


@dataclass(frozen=True)
class Result:
    lines: list[Line]
    skipped: list[Skipped]


def run_contest(contest: Contest, setting: Setting, gate: Gate) -> Result:
    """The lines of one benchmark, contender by contender. What its contenders raise ends it, but for
    GaveUpError, which ends that contender.
    """
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
        gave_up: dict[str, str] = {}
        blocks = interleave(measures, contest.count_rounds(setting), gate, gave_up)
    stayed = [one for one in contenders if one.name not in gave_up]
    lines = lines_of(contest, stayed, blocks, setting, gate)
    skipped = [one for one in found if isinstance(one, Skipped)]
    return Result(lines, [*skipped, *(Skipped(name, reason) for name, reason in gave_up.items())])


def lines_of(
    contest: Contest, contenders: Sequence[Contender], blocks: Sequence[Block], setting: Setting, gate: Gate
) -> list[Line]:
    by_name = {one.name: [block for block in blocks if block.contender == one.name] for one in contenders}
    statistics = list(dict.fromkeys(statistic for block in blocks for statistic in block.figures))
    lines = []
    for statistic in statistics:
        summaries = {name: summarise(own, statistic, gate) for name, own in by_name.items()}
        best_of = {role: best(contest, contenders, role, summaries) for role in ("limit", "peer")}
        for one in contenders:
            ratios = ratios_of(one.name, summaries)
            limit, peer = (
                Ratio(name, summaries[name].median, ratios[name])
                if one.role == "ours" and name in ratios
                else None
                for name in (best_of["limit"], best_of["peer"])
            )
            pinned = setting.placement.pinned or one.pinned
            lines.append(Line(contest, statistic, one, pinned, summaries[one.name], ratios, limit, peer))
    return lines


def best(
    contest: Contest, contenders: Sequence[Contender], role: str, summaries: dict[str, Summary]
) -> str | None:
    """Name of the contender in that role with the best median."""
    names = [one.name for one in contenders if one.role == role]
    choose = max if contest.more_is_better else min
    return choose(names, key=lambda name: summaries[name].median, default=None)


def ratios_of(name: str, summaries: dict[str, Summary]) -> dict[str, float]:
    mine = summaries[name].median
    return {
        other: mine / summary.median
        for other, summary in summaries.items()
        if other != name and summary.median
    }
