"""What a run shows while it goes on: totals by role, rates, recent latencies, inbox depths."""

import time
from dataclasses import dataclass, field
from typing import Final, Protocol

from fastcomm import AgentInfo
from fastcomm.cli.indexing.latency import LatencyCounts

ROLES: Final = ("reader", "tokenizer", "owner", "aggregator")
_RECENT_SECONDS: Final = 1.5


def role_of(name: str) -> str:
    """The role of an agent named ``role-number`` or ``role-number-life``."""
    return name.partition("-")[0]


@dataclass(slots=True)
class RoleTotals:
    """What all agents of one role have reported."""

    sent: int = 0
    received: int = 0
    units: int = 0
    latency: LatencyCounts = field(default_factory=LatencyCounts)
    recent: list[LatencyCounts] = field(default_factory=lambda: [LatencyCounts(), LatencyCounts()])

    def add(self, report: list[int]) -> None:
        """Add one report of a `RoleLink`."""
        self.sent += report[0]
        self.received += report[1]
        self.units += report[2]
        self.latency.put(report[3:])
        self.recent[-1].put(report[3:])

    def shift(self) -> None:
        """Forget the older half of the recent latencies."""
        self.recent = [self.recent[-1], LatencyCounts()]


@dataclass(slots=True)
class Depths:
    """Bytes waiting in the inboxes of one role, of `capacity` each."""

    agents: int = 0
    mean: float = 0.0
    largest: int = 0
    capacity: int = 0


class Progress:
    """The state of a run as the supervisor knows it; read by a `Display`."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.phase = "starting"
        self.roles = {role: RoleTotals() for role in ROLES}
        self.depths = {role: Depths() for role in ROLES}
        self.started = time.monotonic()
        self.kills = self.lost_batches = 0
        self.rate = 0.0
        self._rate_from = (self.started, 0)
        self._shifted = self.started

    def enter(self, phase: str) -> float:
        """Begin a phase; the elapsed time counts from the start of indexing. Returns the time now."""
        self.phase = phase
        now = time.monotonic()
        if phase == "indexing":
            self.started = now
        return now

    def report(self, name: str, report: list[int]) -> None:
        """Add what agent `name` reported."""
        self.roles[role_of(name)].add(report)

    def sample(self, agents: list[AgentInfo]) -> None:
        """Take the depths of all inboxes, and the rate since the sample before."""
        for role in ROLES:
            inboxes = [agent for agent in agents if agent.alive and role_of(agent.name) == role]
            depths = [agent.depth for agent in inboxes]
            if depths:
                mean, capacity = sum(depths) / len(depths), inboxes[0].capacity
                self.depths[role] = Depths(len(depths), mean, max(depths), capacity)
        now = time.monotonic()
        if now - self._shifted >= _RECENT_SECONDS:
            self._shift(now)

    def _shift(self, now: float) -> None:
        since, before = self._rate_from
        self.rate = (self.received - before) / (now - since)
        self._rate_from = (now, self.received)
        self._shifted = now
        for totals in self.roles.values():
            totals.shift()

    @property
    def received(self) -> int:
        """Messages received by all roles."""
        return sum(totals.received for totals in self.roles.values())

    @property
    def share(self) -> float:
        """The share of the corpus that was read, 0..1."""
        return min(1.0, self.roles["reader"].units / self.total_bytes) if self.total_bytes else 1.0

    @property
    def elapsed(self) -> float:
        """Seconds since the start of the work."""
        return time.monotonic() - self.started


class Display(Protocol):
    """Shows a `Progress`; called several times a second from the supervisor's loop."""

    def show(self, progress: Progress) -> None:
        """Show the state now; must return soon."""
