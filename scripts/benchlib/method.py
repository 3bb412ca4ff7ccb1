"""How a figure is taken: blocks in turn, a reference loop around each, order statistics of what is kept.

Shared machines flip between full and half speed within a second. So contenders take turns, block by block; a
block counts only if a fixed loop ran at the machine's full speed right before and right after it; and what is
quoted is the median over the blocks that count, with their quartiles.
"""

import contextlib
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

REFERENCE_TURNS = 20_000  # about a millisecond
TOLERANCE = 1.25

Figures = Mapping[str, float]  # name of a statistic ("" if there is one only): its value


def reference_loop() -> int:
    """Nanoseconds that a fixed piece of work takes, in this process, where it runs now."""
    started = time.perf_counter_ns()
    total = 0
    for i in range(REFERENCE_TURNS):
        total += i & 7
    return time.perf_counter_ns() - started


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """As timeit does: tuples and lists would have it look at all that others have made."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@dataclass(frozen=True)
class Block:
    """One contender's turn: what it measured, and nanoseconds of the reference loop before and after."""

    contender: str
    figures: Figures
    before: int
    after: int


@dataclass
class Gate:
    """Keeps blocks from quiet moments. The yardstick is the fastest reference loop of the whole run."""

    loop: Callable[[], int] = reference_loop
    tolerance: float = TOLERANCE
    fastest: float = field(default=math.inf, init=False)

    def time_loop(self) -> int:
        taken = self.loop()
        self.fastest = min(self.fastest, taken)
        return taken

    def admits(self, block: Block) -> bool:
        return max(block.before, block.after) <= self.tolerance * self.fastest


@dataclass(frozen=True)
class Summary:
    """Median and quartiles over the blocks kept; if none was, over the dropped ones, and `noisy` is true."""

    median: float
    low: float
    high: float
    kept: int
    dropped: int
    noisy: bool


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Nearest rank: the smallest value that at least `percent` percent of the values do not exceed."""
    if not ordered or not 0 < percent <= 100:
        raise ValueError(
            f"percentile {percent} of {len(ordered)} values; it takes 1 value and 0 < percent <= 100"
        )
    return ordered[math.ceil(percent / 100 * len(ordered)) - 1]


def percentiles(values: Sequence[float], percents: Sequence[int], scale: float = 1.0) -> dict[str, float]:
    """``{"p50": ...}`` of unordered values, each times `scale`."""
    ordered = sorted(values)
    return {f"p{percent}": percentile(ordered, percent) * scale for percent in percents}


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile, interpolated; three times the same of a single value."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def summarise(blocks: Sequence[Block], statistic: str, gate: Gate) -> Summary:
    """Of all the blocks of one contender."""
    kept = [block.figures[statistic] for block in blocks if gate.admits(block)]
    low, median, high = quartiles(kept or [block.figures[statistic] for block in blocks])
    return Summary(median, low, high, len(kept), len(blocks) - len(kept), noisy=not kept)


class GaveUpError(RuntimeError):
    """A contender can't go on, for the reason that the text gives; the others are measured without it."""


def interleave(
    contenders: Mapping[str, Callable[[], Figures]],
    rounds: int,
    gate: Gate,
    gave_up: dict[str, str] | None = None,
) -> list[Block]:
    """A B A B ...: `rounds` blocks of each; up to twice as many while one has fewer that the gate admits.

    gave_up: gets the names of those that raised GaveUpError, with the reason; None: it is raised.
    """
    blocks: list[Block] = []
    left = dict(contenders)
    for done in range(2 * rounds):
        if done >= rounds and all(count_kept(blocks, name, gate) >= rounds for name in left):
            break
        for name, measure in list(left.items()):
            before = gate.time_loop()
            try:
                figures = measure()
            except GaveUpError as reason:
                if gave_up is None:
                    raise
                gave_up[name] = str(reason)
                del left[name]
            else:
                blocks.append(Block(name, figures, before, gate.time_loop()))
    return blocks


def count_kept(blocks: Sequence[Block], contender: str, gate: Gate) -> int:
    return sum(block.contender == contender and gate.admits(block) for block in blocks)


def calibrate(measure: Callable[[int], object], start: int, seconds: float) -> int:
    """How many operations take about `seconds`, found by doubling; that warms up as well."""
    count = start
    while True:
        started = time.perf_counter()
        measure(count)
        taken = time.perf_counter() - started
        if taken >= seconds / 2:
            return max(start, round(count * seconds / taken))
        count *= 2
