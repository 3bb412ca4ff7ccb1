"""A number of agent processes that send at a rate, under one setting after the other; and which to choose."""

import contextlib
import itertools
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchlib.load import (
    LEAD_SECONDS,
    PERCENTS,
    BusEnd,
    Joining,
    check_all_arrived,
    join_bus,
    random_targets,
    send_at_rate,
)
from benchlib.method import Figures, Gate, Summary, interleave, percentiles, summarise
from benchlib.processes import Worker, wake_on_time
from fastcomm import Bus
from fastcomm.affinity import plan
from fastcomm.testing import isolated_name

AS_GOOD = 1.1  # times the best p95: settings within that are told apart by their CPU


@dataclass(frozen=True)
class Load:
    """`rate`: messages a second of all agents together; `size`: bytes of each."""

    agents: int
    rate: float
    size: int
    seconds: float


@dataclass(frozen=True)
class Knobs:
    """What is tried: a plan, how long an agent spins, bytes of an inbox."""

    plan: str
    spin_us: int
    inbox_bytes: int

    def __str__(self) -> str:
        return f"{self.plan}, spin {self.spin_us} us, inbox {self.inbox_bytes // 1024} KiB"


# ---- in the agents' processes


class Seat:
    """An agent's process, which joins a bus for a block and leaves it afterwards."""

    def __init__(self, index: int, agents: int) -> None:
        self.index, self.agents = index, agents
        self.targets = random_targets(index, agents)
        self.end: BusEnd | None = None

    def join(self, where: Joining) -> None:
        self.end = join_bus(where, self.index, self.agents)

    def send(self, start: int, stop: int, gap_ns: float, size: int) -> tuple[int, list[int], float]:
        """As send_at_rate(), and the seconds of CPU that it took."""
        assert self.end is not None
        began = time.process_time()
        rng = random.Random(self.index)
        sent, latencies = send_at_rate(self.end, self.targets, rng, start, stop, gap_ns, size)
        return sent, latencies, time.process_time() - began

    def leave(self) -> None:
        if self.end is not None:
            self.end.agent.close()
            self.end.agent.bus.close()


def take_seat(index: int, agents: int) -> Callable[..., Any]:
    wake_on_time()
    seat = Seat(index, agents)
    return lambda method, *arguments: getattr(seat, method)(*arguments)


# ---- in the measuring process


def sweep(load: Load, tried: Sequence[Knobs], rounds: int, gate: Gate) -> dict[Knobs, dict[str, Summary]]:
    """p50, p95, p99 in us, and `cpu` in % of one CPU, of every setting; their blocks take turns."""
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(None, take_seat, index, load.agents)) for index in range(load.agents)
        ]
        contenders = {str(knobs): partial(run_block, workers, load, knobs) for knobs in tried}
        blocks = interleave(contenders, rounds, gate)
    return {
        knobs: {
            statistic: summarise(
                [block for block in blocks if block.contender == str(knobs)], statistic, gate
            )
            for statistic in blocks[0].figures
        }
        for knobs in tried
    }


def run_block(workers: Sequence[Worker], load: Load, knobs: Knobs) -> Figures:
    with Bus.open(isolated_name(), max_agents=max(2, load.agents), inbox_bytes=knobs.inbox_bytes) as bus:
        joining = Joining(bus, plan(knobs.plan, load.agents), knobs.spin_us)
        for worker in workers:  # one by one: places go by slots
            worker.call("join", joining)
        start = time.monotonic_ns() + int(LEAD_SECONDS * 1e9)
        stop = start + int(load.seconds * 1e9)
        results = tell(workers, "send", start, stop, load.agents * 1e9 / load.rate, load.size)
        tell(workers, "leave")
    latencies = list(itertools.chain.from_iterable(received for _, received, _ in results))
    check_all_arrived(sum(sent for sent, _, _ in results), len(latencies))
    cpu = sum(seconds for _, _, seconds in results) / load.seconds * 100
    return {**percentiles(latencies, PERCENTS, 1e-3), "cpu": cpu}


def tell(workers: Sequence[Worker], *order: object) -> list[Any]:
    for worker in workers:
        worker.start(*order)
    return [worker.result() for worker in workers]


def recommend(found: dict[Knobs, dict[str, Summary]]) -> Knobs:
    """Of those whose p95 is about the best, the one that takes the least CPU."""
    best = min(figures["p95"].median for figures in found.values())
    good = [knobs for knobs, figures in found.items() if figures["p95"].median <= AS_GOOD * best]
    return min(good, key=lambda knobs: found[knobs]["cpu"].median)
