"""A hundred processes that receive and send to random others, at a given rate or as fast as they can.

Open loop: a message is due at a time that was fixed beforehand, and its latency counts from then on, however
late it was really sent; so a stall is not measured as a single slow message. The peer: a bound Unix datagram
socket in each process. At rate also with each agent pinned to the place of a plan; the limit is then the C
twin of the ring in as many processes, pinned in the same way.
"""

import collections
import contextlib
import itertools
import random
import select
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from benchlib import limits
from benchlib.channels import is_ours, stamp_of
from benchlib.contest import Contender, Contenders, Contest, Prepare, Setting, Skipped
from benchlib.method import Figures, percentiles
from benchlib.processes import Placement, Worker, wake_on_time
from fastcomm import Agent, Bus, Empty
from fastcomm.affinity import Plan, plan
from fastcomm.testing import isolated_name

PAYLOAD = 256
RATE = 10_000  # a second, of all agents together
PLAN = "scatter"  # a CPU each: what the C twin can be pinned to as well
PERCENTS = (50, 95, 99)
LEAD_SECONDS = 0.3  # for a hundred processes to hear of the start
QUIET_SECONDS = 0.5  # without a message, after the end: nothing is on the way any more
STUCK_SECONDS = 20.0
RETRY_SECONDS = 0.0002  # after a full socket


class LostError(RuntimeError):
    """Messages did not arrive, or half a second after the others."""


def count_agents(setting: Setting) -> int:
    return 20 if setting.quick else 100


def block_seconds(setting: Setting) -> float:
    return 0.5 if setting.quick else 1.0


class End(Protocol):
    """An agent's end of what is measured."""

    def send(self, target: int, message: bytes) -> None:
        """Waits for room; what comes meanwhile must not be lost."""

    def poll(self) -> bytes | None:
        """The next message that is there."""

    def wait(self, seconds: float) -> bytes | None:
        """The next message, or None after `seconds`."""


class BusEnd:
    def __init__(self, agent: Agent, subjects: list[str]) -> None:
        self.agent = agent
        self.subjects = subjects

    def send(self, target: int, message: bytes) -> None:
        self.agent.publish(self.subjects[target], message, timeout=STUCK_SECONDS)

    def poll(self) -> bytes | None:
        message = self.agent.try_receive()
        return None if message is None else message.data

    def wait(self, seconds: float) -> bytes | None:
        try:
            data: bytes = self.agent.receive(seconds).data
        except Empty:
            return None
        return data


@dataclass(frozen=True)
class Joining:
    """Where to join, and how."""

    bus: Bus
    cpus: Plan | None = None
    spin_us: int | None = None


def join_bus(where: Joining, index: int, agents: int) -> BusEnd:
    subjects = [f"agent.{number}" for number in range(agents)]
    agent = where.bus.join(f"a{index}", cpus=where.cpus, spin_us=where.spin_us)
    agent.subscribe(subjects[index])
    return BusEnd(agent, subjects)


class DatagramEnd:
    """Two that send to each other's full sockets must not stop: take what came, and try again."""

    def __init__(self, bound: socket.socket, addresses: list[str]) -> None:
        self.socket = bound
        self.addresses = addresses
        self.pending: collections.deque[bytes] = collections.deque()

    def send(self, target: int, message: bytes) -> None:
        until = time.monotonic() + STUCK_SECONDS
        while time.monotonic() < until:
            try:
                self.socket.sendto(message, self.addresses[target])
                return
            except BlockingIOError:
                if (received := self.wait_for_new(RETRY_SECONDS)) is not None:
                    self.pending.append(received)
        raise TimeoutError(f"socket {target} has been full for {STUCK_SECONDS:g} s")

    def poll(self) -> bytes | None:
        return self.pending.popleft() if self.pending else self.poll_for_new()

    def wait(self, seconds: float) -> bytes | None:
        return self.poll() or self.wait_for_new(seconds)

    def wait_for_new(self, seconds: float) -> bytes | None:
        """select(): the time-outs of a socket and of poll() are whole milliseconds."""
        return self.poll_for_new() if select.select((self.socket,), (), (), seconds)[0] else None

    def poll_for_new(self) -> bytes | None:
        try:
            return self.socket.recv(PAYLOAD)
        except BlockingIOError:
            return None


def bind_socket(folder: str, index: int, agents: int) -> DatagramEnd:
    addresses = [f"{folder}/{number}" for number in range(agents)]
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    bound.bind(addresses[index])
    bound.setblocking(False)
    return DatagramEnd(bound, addresses)


# ---- in the agents' processes


def agent_process(
    join: Callable[[Any, int, int], End], where: Any, index: int, agents: int
) -> Callable[..., Any]:
    """Does ``(function, *arguments)`` for each block."""
    wake_on_time()
    end = join(where, index, agents)
    targets = random_targets(index, agents)
    return lambda function, *arguments: function(end, targets, random.Random(index), *arguments)


def random_targets(index: int, agents: int) -> Iterator[int]:
    """Without end, never the agent itself."""
    rng = random.Random(1000 + index)
    others = [number for number in range(agents) if number != index]
    return itertools.cycle(rng.choices(others, k=4096))


def send_at_rate(
    end: End,
    targets: Iterator[int],
    rng: random.Random,
    start: int,
    stop: int,
    gap_ns: float,
    payload: int = PAYLOAD,
) -> tuple[int, list[int]]:
    """(messages sent, ns of latency of those received). Due at random, independent times, `gap_ns` apart."""
    clock, latencies, sent = time.monotonic_ns, list[int](), 0
    due = start + rng.expovariate(1 / gap_ns)
    while due < stop:
        while (left := due - clock()) > 0:
            note_latency(end.wait(left * 1e-9), latencies)
        end.send(next(targets), int(due).to_bytes(8, "little").ljust(payload, b"\0"))
        sent += 1
        due += rng.expovariate(1 / gap_ns)
        note_latency(end.poll(), latencies)
    while (message := end.wait(QUIET_SECONDS)) is not None or clock() < stop:
        note_latency(message, latencies)
    return sent, latencies


def note_latency(message: bytes | None, latencies: list[int]) -> None:
    if message is not None:
        latencies.append(time.monotonic_ns() - stamp_of(message))


def send_always(
    end: End, targets: Iterator[int], rng: random.Random, start: int, stop: int
) -> tuple[int, int, int]:
    """(messages sent, received until `stop`, received after it). Sends one, takes all that is there, ..."""
    message, clock = bytes(PAYLOAD), time.monotonic_ns
    sent = in_time = late = 0
    while clock() < start:
        time.sleep(0.001)
    while clock() < stop:
        end.send(next(targets), message)
        sent += 1
        while end.poll() is not None:
            in_time += 1
    while end.wait(QUIET_SECONDS) is not None:
        late += 1
    return sent, in_time, late


# ---- in the measuring process


def crowd(
    join: Callable[[Any, int, int], End], where: Any, setting: Setting, stack: contextlib.ExitStack
) -> list[Worker]:
    agents = count_agents(setting)
    return [
        stack.enter_context(Worker(None, agent_process, join, where, index, agents))
        for index in range(agents)
    ]


def order(
    workers: list[Worker], seconds: float, function: Callable[..., Any], *arguments: object
) -> list[Any]:
    """What each agent's `function` returned, all of them starting at one time."""
    start = time.monotonic_ns() + int(LEAD_SECONDS * 1e9)
    stop = start + int(seconds * 1e9)
    for worker in workers:
        worker.start(function, start, stop, *arguments)
    return [worker.result() for worker in workers]


def at_rate(workers: list[Worker], seconds: float) -> Figures:
    results = order(workers, seconds, send_at_rate, len(workers) * 1e9 / RATE)
    latencies = [latency for _, received in results for latency in received]
    check_all_arrived(sum(sent for sent, _ in results), len(latencies))
    return percentiles(latencies, PERCENTS, 1e-3)


def saturated(workers: list[Worker], seconds: float) -> Figures:
    results = order(workers, seconds, send_always)
    sent, in_time, late = (sum(column) for column in zip(*results, strict=True))
    check_all_arrived(sent, in_time + late)
    return {"": in_time / seconds}


def check_all_arrived(sent: int, received: int) -> None:
    if sent == 0 or sent != received:
        raise LostError(
            f"{sent} messages were sent and {received} received; a figure about that is worth nothing"
        )


def contenders(waiting: str, measure: Callable[[list[Worker], float], Figures], *, pinned: bool) -> Prepare:
    def prepare(setting: Setting, stack: contextlib.ExitStack) -> Contenders:
        seconds = block_seconds(setting)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fastcomm-bench-"))
        crowds = {
            "fastcomm bus": crowd_on_a_bus(None, setting, stack),
            "Unix datagrams": crowd(bind_socket, folder, setting, stack),
        }
        if pinned:
            crowds[f"fastcomm bus, {PLAN}"] = crowd_on_a_bus(plan(PLAN), setting, stack)
        ours_and_peer = [
            warmed_up(name, waiting, partial(measure, workers, seconds)) for name, workers in crowds.items()
        ]
        return [*ours_and_peer, *(twins(waiting, setting) if pinned else ())]

    return prepare


def warmed_up(name: str, waiting: str, measure: Callable[[], Figures]) -> Contender:
    """After a block that does not count: in the first, agents find each other, or connect."""
    measure()
    return Contender(name, waiting, measure, "ours" if is_ours(name) else "peer", name.endswith(PLAN))


def crowd_on_a_bus(cpus: Plan | None, setting: Setting, stack: contextlib.ExitStack) -> list[Worker]:
    bus = Bus.open(isolated_name())
    stack.callback(bus.close)
    return crowd(join_bus, Joining(bus, cpus), setting, stack)


def twins(waiting: str, setting: Setting) -> Iterator[Contender | Skipped]:
    """The same load through the C twin: where the kernel puts the processes, and pinned as by the plan."""
    command = ("crowd", count_agents(setting), RATE, round(block_seconds(setting) * 1000), PAYLOAD)
    statistics = tuple(f"p{percent}" for percent in PERCENTS)
    here, *there = (min(place) for place in plan(PLAN).places)
    for name, placement in {
        "C twins": Placement(),
        f"C twins, {PLAN}": Placement(here, tuple(there)),
    }.items():
        yield limits.limit(name, waiting, placement, *command, statistics=statistics, scale=1e-3)


CONTESTS = [
    Contest(
        "bus agents at rate",
        f"100 processes (20 if quick), random targets, {RATE:,}/s in all, from the intended send",
        "us",
        PAYLOAD,
        contenders("sleeps", at_rate, pinned=True),
        rounds=(1, 4),
        pin=False,
    ),
    Contest(
        "bus agents saturated",
        "100 processes (20 if quick), random targets, as fast as they can",
        "msg/s",
        PAYLOAD,
        contenders("polls", saturated, pinned=False),
        rounds=(1, 4),
        pin=False,
    ),
]
