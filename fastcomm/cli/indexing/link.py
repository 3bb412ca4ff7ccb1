"""A process's place on the bus: joined, warmed up, its memory measured, its messages counted."""

import gc
import time
from collections.abc import Callable
from multiprocessing import parent_process
from types import TracebackType
from typing import Any, Final, Self

from fastcomm import Agent, Bus, Message
from fastcomm.cli.indexing import IndexingError
from fastcomm.cli.indexing.latency import LatencyCounts
from fastcomm.cli.indexing.memory import own_inherited_pages, private_bytes
from fastcomm.cli.indexing.plan import SUPERVISOR, TICK_SECONDS
from fastcomm.errors import Empty, Full, PeerDiedError

_WARM_UP_SECONDS: Final = 30.0


class Link:
    """An agent that has sent and received a first message, and what joining cost (`growth`, bytes).

    Every wait is cut into slices, and `tick` runs in between. Not for several threads.
    """

    slice_seconds = 0.1

    def __init__(self, open_bus: Callable[[], Bus], name: str, address: str, shared: list[str]) -> None:
        """Join as `name`; what begins with `address` or matches the patterns `shared` is for it."""
        self.name = name
        self.sent = self.received = 0
        self.latency = LatencyCounts()
        before = _settled_private_bytes()
        self.bus = open_bus()
        self.agent: Agent = self.bus.join(name)
        for pattern in [f"{address}.>", *shared]:
            self.agent.subscribe(pattern)
        self._warm_up(f"{address}.warmup")
        self.growth = private_bytes(self.bus.path) - before

    def _warm_up(self, subject: str) -> None:
        self.agent.publish(subject, [1, "warm", "up"], timeout=_WARM_UP_SECONDS)
        self.agent.receive(timeout=_WARM_UP_SECONDS)

    def offer(self, subject: str, data: Any, timeout: float) -> bool:
        """Publish to one inbox.

        False when it has no subscriber or no room within `timeout`: nothing was sent.
        """
        try:
            reached: int = self.agent.publish(subject, data, timeout=timeout)
        except Full:
            return False
        self.sent += reached
        return reached > 0

    def send(self, subject: str, data: Any) -> None:
        """Publish to whoever subscribed, and wait for room. Raises IndexingError when nobody did.

        A message to several inboxes that waited may reach some of them twice; their readers must not mind.
        """
        while True:
            try:
                reached = self.agent.publish(subject, data, timeout=self.slice_seconds)
            except Full:
                self.tick()
                continue
            if not reached:
                raise IndexingError(f"{self.name} published to {subject!r}, but nobody subscribes to it")
            self.sent += reached
            return

    def messages(self, timeout: float | None = None, limit: int = 256) -> list[Message]:
        """What is waiting, at most `limit`; waits up to `timeout` for the first, and may return none."""
        try:
            batch: list[Message] = self.agent.receive_many(
                limit, self.slice_seconds if timeout is None else timeout
            )
        except (Empty, PeerDiedError):  # who has died is found out by watching processes
            batch = []
        self._count(batch)
        self.tick()
        return batch

    def _count(self, batch: list[Message]) -> None:
        now = time.monotonic_ns()
        record = self.latency.record
        for message in batch:
            record(now - message.sent_ns)
        self.received += len(batch)

    def tick(self) -> None:
        """Called between waits. Nothing to do here; a role reports to its supervisor."""

    def close(self) -> None:
        """Leave the bus."""
        self.agent.close()
        self.bus.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class RoleLink(Link):
    """The link of a child of the supervisor: it reports twice a second, and ends when the supervisor is gone.

    `units` is the role's own progress: bytes read, batches split, words counted.
    """

    def __init__(self, open_bus: Callable[[], Bus], name: str, address: str, shared: list[str]) -> None:
        self.units = 0
        self._due = 0.0
        super().__init__(open_bus, name, address, shared)

    def tick(self) -> None:
        """Report what happened since the last report, if it is due. A full inbox is tried again next time."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + TICK_SECONDS
        exit_if_orphaned()
        report = self._report()
        try:
            self.agent.publish(f"{SUPERVISOR}.stats", report, timeout=0)
        except Full:
            self._take_back(report)

    def leave(self) -> None:
        """The last report, which waits for room."""
        self._due = float("inf")
        report = self._report()
        while True:
            try:
                self.agent.publish(f"{SUPERVISOR}.bye", report, timeout=self.slice_seconds)
                return
            except Full:
                exit_if_orphaned()

    def _report(self) -> list[int]:
        report = [self.sent, self.received, self.units, *self.latency.take()]
        self.sent = self.received = self.units = 0
        return report

    def _take_back(self, report: list[int]) -> None:
        self.sent, self.received, self.units = report[:3]
        self.latency.put(report[3:])


def exit_if_orphaned() -> None:
    """Leave the bus and end this process when the one that started it is gone."""
    parent = parent_process()
    if parent is not None and not parent.is_alive():
        raise SystemExit(1)


def _settled_private_bytes() -> int:
    """`private_bytes` of a process whose next steps add nothing but what they allocate.

    Measured twice, since measuring itself touches new memory the first time.
    """
    gc.collect()
    private_bytes()
    own_inherited_pages()
    return private_bytes()
