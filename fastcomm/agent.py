"""Agent: a named end of a bus that publishes, subscribes and receives."""

from __future__ import annotations

import os
from _thread import allocate_lock
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from fastcomm import _handles
from fastcomm._core.codec import Codec
from fastcomm._core.message import Message
from fastcomm._core.tables import MAX_AGENT_NAME
from fastcomm._inbox import Inbox
from fastcomm.calls import CallingPort
from fastcomm.config import settings, with_what_is_there
from fastcomm.errors import ClosedError
from fastcomm.subscription import Subscription

if TYPE_CHECKING:
    from fastcomm.affinity import Plan, PlanLike, pinned
    from fastcomm.bus import Bus

__all__ = ["Agent", "AgentStats"]

OnError = Callable[[Exception, Subscription, Message], object]

OVERFLOWS = ("block", "error", "drop_newest", "drop_oldest")  # by their number, FC_OVERFLOW_*
MAX_SPIN_US = 1000
MAX_PENDING = 4096  # messages that are taken out of the inbox and not received yet


class AgentStats(NamedTuple):
    """Counters of one agent since it joined, and its inbox now.

    published: messages sent; delivered: inboxes that they reached; received: taken out of the inbox;
    bytes_in, bytes_out: of their records; misdirected: sent to an agent that left at that moment;
    dropped: messages that it dropped since an inbox was full which wants that, its own or older ones of
    anybody; unwanted: received for a subscription that had been cancelled meanwhile, and dropped;
    pending: taken from the inbox into private memory, to be sorted by priority or while a publish
    waited, and not received yet; lost:
    messages that this agent's inbox did not get though it was to, as the numbers of those behind them
    show. requests: sent; responses: sent to those who asked; late_responses: that came when nobody waited
    for them any more, as the time was over or another had answered; unsent_responses: not sent, as who
    asked had gone or its time was over; expired_requests: not handed out for that reason. refused:
    messages that were dropped as this agent's inbox was full, or those of `$bus.agent.*` that it had no room
    for. depth: bytes that wait in the inbox, of capacity. aborted: unfinished messages of dead
    publishers that were skipped; discarded: what earlier holders of this inbox left unread; stale: what
    was meant for them and came later. fallbacks: messages for which an optimisation failed and that were
    sent without it: whose compression failed.
    """

    published: int
    delivered: int
    received: int
    bytes_in: int
    bytes_out: int
    misdirected: int
    dropped: int
    unwanted: int
    pending: int
    lost: int
    requests: int
    responses: int
    late_responses: int
    unsent_responses: int
    expired_requests: int
    refused: int
    depth: int
    capacity: int
    aborted: int
    discarded: int
    stale: int
    fallbacks: int


class Agent(CallingPort):
    """A member of a bus; Bus.join() and connect() make it.

    Thread safety: threads may share an agent. Process safety: an agent is of one process; in the child of a
    fork it joins anew at its first use, as ``name.pid`` and without subscriptions. Pickle the Bus, not the
    agent. When a peer is killed: its committed messages arrive, its unfinished one is skipped and counted,
    its subscriptions go within a second while any agent is in a call, and its name is free again.
    """

    def __init__(
        self,
        bus: Bus,
        name: str | None,
        codec: Codec | None = None,
        cpus: PlanLike | None = None,
        spin_us: int | None = None,
        overflow: Literal["block", "error", "drop_newest", "drop_oldest"] = "block",
        on_error: OnError | None = None,
        disable: Iterable[str] = (),
    ) -> None:
        """Use Bus.join()."""
        self._settings = with_what_is_there(settings(disable))
        if spin_us is not None and not 0 <= spin_us <= MAX_SPIN_US:
            raise ValueError(f"spin_us is {spin_us}; it must be 0 to {MAX_SPIN_US}")
        if overflow not in OVERFLOWS:
            raise ValueError(f"overflow is {overflow!r}; it must be one of {', '.join(OVERFLOWS)}")
        self.bus = bus
        self.overflow = overflow
        self.on_error = on_error
        self._spin_us = spin_us if self._settings.spin else 0
        self._plan = (
            None if cpus is None or not self._settings.affinity else _plan_of(cpus, bus._limits.max_agents)
        )
        self._pinned: pinned | None = None
        self._max_pending = MAX_PENDING
        self._owns_bus = False
        self._doorbell = None
        self._rejoining = allocate_lock()
        self._changing = allocate_lock()  # the subscriptions and the sorter
        super().__init__(
            self._join(name),
            bus._segment.memory(bus._inboxes_at, bus._limits.stride * bus._limits.max_agents),
            bus._limits.stride,
            bus._subscriptions,
            lambda owner: bus._describe(owner - 1),
            self.name,
            bus._segment.generation_of(self._slot),
            self._max_pending,
            self._codec_of(codec),
            bus._strings,
        )
        self._do_without(caches=not self._settings.cache, batches=not self._settings.batching)
        bus._agents.add(self)
        _handles.track(self)

    def _codec_of(self, given: Codec | None) -> Codec:
        codec = Codec(strings=self.bus._strings) if given is None else given
        interning, compression = self._settings.interning, self._settings.compression
        if not (interning and compression):
            codec = codec._without(interning=not interning, compression=not compression)
        self._codec = codec
        return codec

    def _join(self, name: str | None) -> Inbox:
        segment = self.bus._enter()
        try:
            slot, self.name = self.bus._claim_slot(name, self._pin)
            try:
                inbox = self._open_inbox(slot)
            except BaseException:
                segment.free(slot)
                raise
            self.bus._complete(slot)
        except BaseException:
            self._unpin()
            raise
        finally:
            segment.leave_gate()
        return inbox

    def _open_inbox(self, slot: int) -> Inbox:
        inbox = Inbox(self.bus, slot)
        if self._spin_us is not None:
            inbox._limit_spin(self._spin_us * 1000)
        if not self._settings.futex:
            inbox._sleep_on(self.bus._segment.arm_fifo(slot))
        if not self._settings.coalescing:
            inbox._wake_at_each_release()
        self._epoch = inbox._open_inbox(OVERFLOWS.index(self.overflow))
        self._dropped_before = inbox._dropped
        self._slot = slot
        self._mine = []
        self._numbered = 0
        self._cancelled = False
        self._sorter = None
        self._inbox = inbox
        return inbox

    def _pin(self, slot: int) -> None:
        """The calling thread to the place of that slot; before anything touches the pages of the inbox."""
        self._unpin()  # the child of a fork is still where its parent was
        if self._plan is not None:
            from fastcomm.affinity import pinned

            block = pinned(self._plan.place(slot))
            block.__enter__()
            self._pinned = block

    def _unpin(self) -> None:
        block, self._pinned = self._pinned, None
        if block is not None:
            block.__exit__()

    @property
    def cpus(self) -> frozenset[int] | None:
        """The CPUs that join(cpus=) was granted, where the thread that joined runs; None if not asked for."""
        return None if self._pinned is None else self._pinned.granted

    # ---------------------------------------------------------------------------------- what Port asks about

    def _ring_consumers(self, owners: list[int]) -> None:
        for owner in owners:
            self.bus._doorbells.ring(self.bus._segment.fifo_path(owner - 1))

    def _housekeep_publishing(self, owner: int) -> None:
        self.bus._housekeep(waits_for=owner - 1)

    # ------------------------------------------------------------------------------------------ fork and end

    def _not_usable(self) -> None:
        if self.closed:
            raise ClosedError(f"the agent {self.name!r} is closed")
        with self._rejoining:
            if not self._inbox._usable():  # else another thread was faster
                inbox = self._join(_name_in_child(self.name))
                self._attach(inbox, self.name, self.bus._segment.generation_of(self._slot))
                _handles.track(self)

    def _forget(self) -> None:
        self._inbox._forget()
        self._forget_subscriptions()
        self._rejoining = allocate_lock()
        self._changing = allocate_lock()
        self._sorter = None
        self.bus._doorbells.close()
        if self._doorbell is not None:
            self._doorbell.abandon()
            self._doorbell = None

    def close(self) -> None:
        """Leave the bus; again is harmless. What the inbox still holds is discarded and counted; waiting
        threads get ClosedError.

        The last agent to leave removes the bus's segment.
        """
        if self.closed:
            return
        self._inbox.close()
        self._unpin()
        if self._doorbell is not None:
            self._doorbell.close()
        bus, segment = self.bus, self.bus._segment
        if segment.holds(self._slot):
            with bus._changing_tables(reap=False):
                self._forget_subscriptions()
                bus._leave(self._slot)
                bus._reap()
                bus._unlink_if_unused()
            bus._ring_everybody()
        bus._agents.discard(self)
        if self._owns_bus:
            bus.close()

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_inbox"):
            self.close()

    def __reduce__(self) -> Any:
        raise TypeError("an agent belongs to the process that joined; pickle its bus, and join there")

    def stats(self) -> AgentStats:
        """A snapshot of the agent's counters."""
        ring = self._inbox.stats()
        counters = self._counters()
        if self._sorter is not None:
            counters["pending"] += self._sorter.waiting
        return AgentStats(
            **counters,
            refused=self._inbox._dropped - self._dropped_before,
            depth=ring.depth,
            capacity=ring.capacity,
            aborted=ring.aborted,
            discarded=ring.discarded,
            stale=ring.misdirected,
            fallbacks=self._codec.compression_failures,
        )

    def __repr__(self) -> str:
        return f"<Agent {self.name!r} of {self.bus.name!r}{', closed' if self.closed else ''}>"


def _plan_of(cpus: PlanLike, agents: int) -> Plan:
    from fastcomm.affinity import agent_plan  # most agents are not pinned

    return agent_plan(cpus, agents)


def _name_in_child(name: str) -> str:
    """Of an agent that joins anew in the child of a fork: name.pid, shortened to what a name may have."""
    suffix = f".{os.getpid()}"
    return name.encode()[: MAX_AGENT_NAME - len(suffix)].decode("utf-8", "ignore") + suffix
