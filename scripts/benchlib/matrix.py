"""How long a record takes from each CPU to each other one, through two rings; and what to make of that."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import combinations, pairwise
from time import perf_counter_ns

from benchlib.method import Figures, Gate, Summary, interleave, percentile, summarise
from benchlib.processes import Worker
from fastcomm import RingBuffer
from fastcomm.affinity import Topology, format_cpus, pinned, plan
from fastcomm.testing import isolated_name

PAYLOAD = 64
CAPACITY = 1 << 14
STUCK_SECONDS = 10.0
WARM_UP = 0.2  # of the round trips of a block, which don't count
NOTEWORTHY = 0.97  # a measured order is preferred to a plan if its figure is below that of the plan's

Pair = tuple[int, int]


class NotPinnedError(RuntimeError):
    """The kernel did not put a process on the CPU that was to be measured."""


@dataclass(frozen=True)
class Effort:
    """Round trips of a block, and blocks of each pair."""

    trips: int
    rounds: int


QUICK, FULL = Effort(200, 2), Effort(2000, 7)


# ---- measure


def echo(there: RingBuffer, back: RingBuffer, cpu: int, count: int) -> None:
    with there, back, only_on(cpu):
        for _ in range(count):
            back.put(there.get(STUCK_SECONDS))


@contextmanager
def only_on(cpu: int) -> Iterator[None]:
    with pinned(cpu) as granted:
        if granted != {cpu}:
            raise NotPinnedError(f"CPU {cpu} can't be measured: {format_cpus(granted)} was granted instead")
        yield


@contextmanager
def new_ring() -> Iterator[RingBuffer]:
    with RingBuffer.create(isolated_name(), capacity=CAPACITY) as ring:
        try:
            yield ring
        finally:
            ring.unlink()


def echo_process() -> Callable[..., None]:
    return echo


def one_way_ns(worker: Worker, trips: int, pair: Pair) -> Figures:
    """Half of the median round trip. The rings are made where their first consumer runs."""
    here, there = pair
    with only_on(here), new_ring() as out, new_ring() as back:
        worker.start(out, back, there, trips)
        payload, stamps = bytes(PAYLOAD), [perf_counter_ns()]
        try:
            for _ in range(trips):
                out.put(payload)
                back.get(STUCK_SECONDS)
                stamps.append(perf_counter_ns())
        finally:
            worker.result()  # raises what ended the echo, if something did
    times = sorted(later - earlier for earlier, later in pairwise(stamps[int(trips * WARM_UP) :]))
    return {"": percentile(times, 50) / 2}


def measure(cpus: Sequence[int], effort: Effort, gate: Gate) -> dict[Pair, Summary]:
    """Of each pair, lower place in `cpus` first; blocks of all pairs take turns. NotPinnedError."""
    with Worker(None, echo_process) as worker:
        pairs = {f"{here}-{there}": (here, there) for here, there in combinations(cpus, 2)}
        contenders = {name: partial(one_way_ns, worker, effort.trips, pair) for name, pair in pairs.items()}
        blocks = interleave(contenders, effort.rounds, gate)
    return {
        pair: summarise([block for block in blocks if block.contender == name], "", gate)
        for name, pair in pairs.items()
    }


def matrix_of(cpus: Sequence[int], latency: Mapping[Pair, float]) -> tuple[tuple[float, ...], ...]:
    """A row for each CPU; 0 on the diagonal. There and back were measured together, so it is symmetric."""
    both = {**latency, **{(there, here): value for (here, there), value in latency.items()}}
    return tuple(tuple(both.get((row, column), 0.0) for column in cpus) for row in cpus)


# ---- recommend


@dataclass(frozen=True)
class Order:
    """CPUs for workers in turn. `mean_ns`: one way among the first 2, 4, 8 ... of them, on average."""

    name: str
    cpus: tuple[int, ...]
    mean_ns: float


def orders(cpus: Iterable[int], latency: Mapping[Pair, float], topology: Topology) -> list[Order]:
    """Best first: `compact` and `scatter` as sysfs has it, and what the measurement says."""
    measured = set(cpus)
    found = {"measured": nearest_first(measured, latency, topology)}
    for name in ("compact", "scatter"):
        of_plan = [min(place) for place in plan(name, on=topology).places]
        found[name] = [cpu for cpu in of_plan if cpu in measured]
    rated = [Order(name, tuple(order), spread_ns(order, latency)) for name, order in found.items()]
    # A measured order must be better than noise; of equals compact comes first.
    return sorted(
        rated, key=lambda one: (one.mean_ns / (NOTEWORTHY if one.name == "measured" else 1), one.name)
    )


def nearest_first(cpus: Iterable[int], latency: Mapping[Pair, float], topology: Topology) -> list[int]:
    """Begins with the nearest two; then always the CPU that is nearest to those taken, on average.

    Second threads of a core come after all first ones: near they are, but each has half a core.
    """
    core_of = {cpu: core for core in topology.cores for cpu in core}
    left, taken = sorted(cpus), list[int]()
    while left:
        used = {core_of[cpu] for cpu in taken}
        fresh = [cpu for cpu in left if core_of[cpu] not in used] or left
        if taken:
            chosen = min(
                fresh, key=lambda cpu: statistics.fmean(between(cpu, other, latency) for other in taken)
            )
        else:
            apart = [pair for pair in combinations(fresh, 2) if core_of[pair[0]] != core_of[pair[1]]]
            chosen = min(apart, key=lambda pair: between(*pair, latency))[0] if apart else left[0]
        taken.append(chosen)
        left.remove(chosen)
    return taken


def between(one: int, other: int, latency: Mapping[Pair, float]) -> float:
    return latency[one, other] if (one, other) in latency else latency[other, one]


def spread_ns(order: Sequence[int], latency: Mapping[Pair, float]) -> float:
    sizes = [size for size in (2, 4, 8, 16, 32, 64, 128) if size < len(order)] + [len(order)]
    means = [
        statistics.fmean(between(*pair, latency) for pair in combinations(order[:size], 2)) for size in sizes
    ]
    return statistics.fmean(means)
