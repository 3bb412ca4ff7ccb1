"""Agent: a named end of a bus that publishes, subscribes and receives."""

from __future__ import annotations

import os
from _thread import allocate_lock
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from fastcomm import _handles
from fastcomm._core.codec import Codec
from fastcomm._core.delivery import Delivery
from fastcomm._core.message import Message
from fastcomm._core.port import Port
from fastcomm._core.subjects import check_pattern
from fastcomm._core.tables import MAX_AGENT_NAME, MAX_GROUP
from fastcomm._doorbell import Deadline, Doorbell
from fastcomm.bus import _InboxView
from fastcomm.errors import ClosedError, Empty, InvalidNameError, PeerDiedError, RequestTimeoutError
from fastcomm.priorities import Priority
from fastcomm.subscription import Subscription

if TYPE_CHECKING:
    from fastcomm._sorter import Queue, Sorter
    from fastcomm.affinity import Plan, PlanLike, pinned
    from fastcomm.bus import Bus

__all__ = ["Agent", "AgentStats"]

OnError = Callable[[Exception, Subscription, Message], object]

OVERFLOWS = ("block", "error", "drop_newest")  # by their number, FC_OVERFLOW_*
MAX_SPIN_US = 1000
MAX_PENDING = 4096  # messages that are taken out of the inbox and not received yet


class AgentStats(NamedTuple):
    """Counters of one agent since it joined, and its inbox now.

    published: messages sent; delivered: inboxes that they reached; received: taken out of the inbox;
    bytes_in, bytes_out: of their records; misdirected: sent to an agent that left at that moment;
    dropped: sent to inboxes that were full and drop what comes then; unwanted: received for a
    subscription that had been cancelled meanwhile, and dropped; pending: taken from the inbox into
    private memory, to be sorted by priority or while a publish waited, and not received yet; lost:
    messages that this agent's inbox did not get though it was to, as the numbers of those behind them
    show. refused: messages that this agent's full inbox did not take and drops ("drop_newest"). depth:
    bytes that wait in the inbox, of capacity. aborted: unfinished messages of dead publishers that were
    skipped; discarded: what earlier holders of this inbox left unread; stale: what was meant for them and
    came later.
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
    refused: int
    depth: int
    capacity: int
    aborted: int
    discarded: int
    stale: int


class Agent(Port):
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
        overflow: Literal["block", "error", "drop_newest"] = "block",
        on_error: OnError | None = None,
    ) -> None:
        """Use Bus.join()."""
        if spin_us is not None and not 0 <= spin_us <= MAX_SPIN_US:
            raise ValueError(f"spin_us is {spin_us}; it must be 0 to {MAX_SPIN_US}")
        if overflow not in OVERFLOWS:
            raise ValueError(f"overflow is {overflow!r}; it must be one of {', '.join(OVERFLOWS)}")
        self.bus = bus
        self.overflow = overflow
        self.on_error = on_error
        self._spin_us = spin_us
        self._plan = None if cpus is None else _plan_of(cpus, bus._limits.max_agents)
        self._pinned: pinned | None = None
        self._owns_bus = False
        self._doorbell: Doorbell | None = None
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
            MAX_PENDING,
            Codec(strings=bus._strings) if codec is None else codec,
            bus._strings,
        )
        bus._agents.add(self)
        _handles.track(self)

    def _join(self, name: str | None) -> _Inbox:
        segment = self.bus._enter()
        try:
            slot, self.name = self.bus._claim_slot(name, self._pin)
            try:
                inbox = self._open_inbox(slot)
            except BaseException:
                segment.free(slot)
                raise
            segment.live(slot)
        except BaseException:
            self._unpin()
            raise
        finally:
            segment.leave_gate()
        return inbox

    def _open_inbox(self, slot: int) -> _Inbox:
        inbox = _Inbox(self.bus, slot)
        if self._spin_us is not None:
            inbox._limit_spin(self._spin_us * 1000)
        self._epoch = inbox._open_inbox(OVERFLOWS.index(self.overflow))
        self._dropped_before = inbox._dropped
        self._slot = slot
        self._mine: list[Subscription] = []
        self._numbered = 0
        self._cancelled = False
        self._sorter: Sorter | None = None
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

    # --------------------------------------------------------------------------------------------- subscribe

    def subscribe(
        self,
        pattern: str,
        handler: Callable[[Message], Any] | None = None,
        *,
        group: str | None = None,
        where: Callable[[Message], object] | None = None,
        transform: Callable[[Message], Any] | None = None,
        coalesce: Callable[[Message], Hashable | None] | None = None,
    ) -> Subscription:
        """Receive what is published to subjects that match `pattern`; when this returns publishers see it.

        NATS's grammar: tokens between dots; ``*`` is one whole token, ``>`` one or more last tokens.

        Without a handler the messages wait for receive(), which gives one that several such patterns match
        once, or for the subscription's own receive(). `handler(message)` is called for each by run() and
        run_async(), and by receive() and its like when they come across one; a message is given to each
        handler whose pattern it matches. A handler for run_async() may be a coroutine function.

        group: of the subscriptions of all agents with that name one gets each message: that of the agent with
        the least backlog which has room; ties rotate. An agent that gets a message by a group and by other
        subscriptions gets it twice. What it left unread when it leaves or dies goes to the others. 1 to 40
        bytes of UTF-8.

        These run in this process, when the message is received or handled; the first two in that order:
        `where(message)`: only if that is true. `transform(message)`: the message has what that returns as its
        data. `coalesce(message)`: a key (hashable; None: no key); a newer message takes the place of the one
        with that key that was taken from the inbox and waits. Of several patterns without a handler the first
        that was subscribed to, and whose `where` is true, decides.

        An Exception of the handler or of one of these harms nobody else: it counts in the subscription's
        `errors`, and the agent's `on_error(error, subscription, message)` is called; without one it is logged
        (logger "fastcomm.agent"). InvalidSubjectError, TableFullError.
        """
        check_pattern(pattern)
        encoded_group = _encoded_group(group)
        for function in (handler, where, transform, coalesce):
            if function is not None and not callable(function):
                raise TypeError(f"handlers, where, transform and coalesce are functions, not {function!r}")
        self._check_usable()
        bus = self.bus
        bus._segment.check_vanished()
        with bus._changing_tables():
            self._check_usable()  # another thread may have closed it while this one waited for the gate
            self._numbered += 1
            subscription = Subscription(
                self, pattern, self._numbered, group, handler, where, transform, coalesce
            )
            # Before publishers see it: another thread of this agent may receive at once.
            self._listen(subscription)
            try:
                subscription._index = bus._subscriptions.insert(
                    self._slot + 1, self._epoch, pattern.encode(), subscription.number, encoded_group
                )
            except BaseException:
                self._listen_no_more(subscription)
                raise
        bus._ring_everybody()
        return subscription

    def _listen(self, subscription: Subscription) -> None:
        with self._changing:
            self._mine.append(subscription)
            self._tell_patterns()
            if self._sorter is not None:
                self._sorter.add(subscription)
        if not subscription.plain:
            self._sort_messages()

    def _listen_no_more(self, subscription: Subscription) -> None:
        with self._changing:
            self._mine.remove(subscription)
            self._tell_patterns()
            if self._sorter is not None:
                self._sorter.remove(subscription)

    def _unsubscribe(self, subscription: Subscription) -> None:
        if subscription.cancelled:
            return
        bus = self.bus
        with bus._changing_tables():
            if subscription.cancelled:  # another thread was faster
                return
            subscription.cancelled = self._cancelled = True
            if subscription._index is not None:
                bus._subscriptions.remove(subscription._index)
                subscription._index = None
            self._listen_no_more(subscription)
        self._wake_others()  # who waits in its receive()
        bus._ring_everybody()

    def _tell_patterns(self) -> None:
        self._set_patterns(
            [one.pattern.encode() for one in self._mine if one.group is None],
            {one.number for one in self._mine if one.group is not None},
            self._cancelled,
        )

    def _forget_subscriptions(self) -> None:
        """They are no longer in the table, or their entries there belong to somebody else."""
        for subscription in self._mine:
            subscription._index = None
            subscription.cancelled = True
        self._mine = []

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """What this agent listens to, in the order of subscribing."""
        return tuple(self._mine)

    def wait_for_subscribers(self, subject: str, n: int = 1, timeout: float | None = None) -> int:
        """Return when `n` agents or more would get what is published to `subject`; how many they are. A group
        counts as one.

        RequestTimeoutError, a TimeoutError, after `timeout` seconds (None: wait for ever).
        """
        deadline = Deadline(timeout)
        while True:
            count, generation = self._routes_to(subject)
            if count >= n:
                return count
            self._check_subscribers_deadline(subject, n, count, deadline)
            left = deadline.left()
            self.bus._subscriptions.wait_change(
                generation, 1 << 62 if left is None else int(min(left, 1e9) * 1e9)
            )
            self.bus._housekeep()

    async def wait_for_subscribers_async(self, subject: str, n: int = 1, timeout: float | None = None) -> int:
        """wait_for_subscribers() for asyncio."""
        deadline = Deadline(timeout)
        bell = self._bell()
        bell.attach()
        while (count := self._routes_to(subject)[0]) < n:
            self._check_subscribers_deadline(subject, n, count, deadline)
            await bell.wait(deadline.left())
            self.bus._housekeep()
        return count

    def _check_subscribers_deadline(self, subject: str, n: int, count: int, deadline: Deadline) -> None:
        if deadline.left() == 0:
            raise RequestTimeoutError(
                f"{count} of {n} agents subscribed to {subject!r} on {self.bus.name!r} within "
                f"{deadline.seconds} s"
            )

    # ---------------------------------------------------------------------------------------------- handlers

    def run(self) -> None:
        """Call handlers as messages come, those of lower priority number first, until the agent is closed: by
        a handler, or by another thread.

        Several threads may run(), and several handlers are called at a time then. Messages of subscriptions
        without a handler wait for other threads to receive them, at most 4,096; then it raises Full. Ctrl-C
        works; the death of the last other agent does not end it.
        """
        self._check_usable()
        sorter = self._sort_messages()
        while not self.closed:
            try:
                self._receive_by(lambda: sorter.next(None), None)
            except PeerDiedError:
                pass
            except ClosedError:
                if not self.closed:
                    raise

    async def run_async(self) -> None:
        """run() for asyncio: what a handler returns is awaited, if it can be, before the next is called."""
        self._check_usable()
        sorter = self._sort_messages()
        while not self.closed:
            try:
                await self._receive_async_by(lambda: sorter.next_async(None), None)
            except PeerDiedError:
                pass
            except ClosedError:
                if not self.closed:
                    raise

    def dispatch(self) -> None:
        """Call the handlers of what is there. Never waits."""
        self._check_usable()
        self._sort_messages().next(None)

    def drain(self) -> list[Message]:
        """Leave in good order: end the subscriptions, call the handlers of what is there, then close().

        Returns what was there for subscriptions without a handler. What a publisher was sending at that
        moment may come too late; the inbox counts it as discarded then.
        """
        self._end_subscriptions()
        left = []
        own = [one.try_receive for one in self._mine if one.queue is not None]
        for look in (self.try_receive, *own):
            while (message := look()) is not None:
                left.append(message)
        self.close()
        return left

    async def drain_async(self) -> list[Message]:
        """drain() for asyncio."""
        self._end_subscriptions()
        left = []
        own = [one._try_receive_async for one in self._mine if one.queue is not None]
        for look in (self._look_async, *own):
            while (message := await look()) is not None:
                left.append(message)
        self.close()
        return left

    def _end_subscriptions(self) -> None:
        """Publishers see them no more; what came by them is received and handled all the same."""
        self._check_usable()
        with self.bus._changing_tables():
            self.bus._subscriptions.drop_owner(self._slot + 1)
            for subscription in self._mine:
                subscription._index = None
        self.bus._ring_everybody()

    def _sort_messages(self) -> Sorter:
        """From now on, if not before: what comes is sorted to the subscriptions."""
        with self._changing:
            if self._sorter is None:
                from fastcomm._sorter import Sorter

                self._sorter = Sorter(self, MAX_PENDING)
                for subscription in self._mine:
                    self._sorter.add(subscription)
                self._set_sorting()
            return self._sorter

    def _separate(self, subscription: Subscription) -> Queue:
        return self._sort_messages().separate(subscription)

    def _sorted(self) -> Message | None:
        sorter = self._sort_messages()
        return sorter.next(sorter.common)

    def _wake_others(self) -> None:
        super()._wake_others()
        if self._doorbell is not None:
            self._doorbell.wake()

    # ----------------------------------------------------------------------------------------------- asyncio

    def _bell(self) -> Doorbell:
        self._check_usable()
        if self._doorbell is None:
            self._doorbell = Doorbell(lambda: self.bus._segment.arm_fifo(self._slot))
        return self._doorbell

    async def receive_async(self, timeout: float | None = None) -> Message:
        """receive() for asyncio: waits on a file descriptor, without a thread.

        A cancelled call has taken nothing, but what a handler was awaited for.
        """
        deadline = Deadline(timeout)
        while (message := await self._look_async()) is None:
            await self._wait_for_message(deadline)
        return message

    async def _look_async(self) -> Message | None:
        if self._sorter is None:
            return self.try_receive()
        self._check_usable()
        return await self._sort_messages().next_async(self._sort_messages().common)

    async def _receive_async_by(
        self, look: Callable[[], Awaitable[Message | None]], timeout: float | None
    ) -> Message:
        deadline = Deadline(timeout)
        while (message := await look()) is None:
            await self._wait_for_message(deadline)
        return message

    async def _wait_for_message(self, deadline: Deadline) -> None:
        """Return when one may be there; Empty when the time is over."""
        if deadline.left() == 0:
            raise Empty(self._inbox._why_empty(deadline.waited()))
        bell = self._bell()
        bell.attach()
        self._inbox._see_to_the_dead(False)
        if not self._inbox._arm_not_empty():
            await bell.wait(deadline.left())

    async def receive_many_async(self, limit: int = 1024, timeout: float | None = None) -> list[Message]:
        """receive_many() for asyncio."""
        if limit < 1:
            raise ValueError(f"limit is {limit}; it must be at least 1")
        messages = [await self.receive_async(timeout)]
        while len(messages) < limit and (message := await self._look_async()) is not None:
            messages.append(message)
        return messages

    async def publish_async(
        self,
        subject: str,
        data: Any,
        *,
        priority: int = Priority.NORMAL,
        headers: dict[str, Any] | None = None,
        timeout: float | None = None,
    ) -> int:
        """publish() for asyncio: a full inbox does not hold up the event loop.

        Cancelled, it may have reached some inboxes. It waits for no other publish of this agent: what other
        coroutines or threads send while it waits for room may come first.
        """
        deadline = Deadline(timeout)
        reached, delivery = self._begin(subject, data, priority, headers)
        return reached if delivery is None else await self._finish_async(delivery, deadline)

    async def publish_many_async(
        self,
        subject: str,
        items: Iterable[Any],
        *,
        priority: int = Priority.NORMAL,
        headers: dict[str, Any] | None = None,
        timeout: float | None = None,
    ) -> int:
        """publish_many() for asyncio, with what publish_async() says."""
        deadline = Deadline(timeout)
        return await self._finish_async(self._begin_many(subject, items, priority, headers), deadline)

    async def _finish_async(self, delivery: Delivery, deadline: Deadline) -> int:
        bell = self._bell()
        bell.attach()
        while not self._advance(delivery, deadline.seconds):
            if deadline.left() == 0:
                self._expire(delivery)
            await bell.wait(deadline.left())
            self._housekeep_publishing(self._waits_for_room(delivery))
        return delivery.reached

    def fileno(self) -> int:
        """A descriptor that is readable while there may be messages, for select(), poll() and event loops of
        others.

        Level-triggered. When it is readable call try_receive() until it gives None; that None rests the
        descriptor.
        """
        bell = self._bell()
        self._inbox._watch()
        bell.wake()
        return bell.fileno()

    def _rest(self) -> bool:
        self._bell().rest()
        return self._inbox._arm_not_empty()

    def __iter__(self) -> Iterator[Message]:
        """Messages as they come, until the agent is closed (by another thread, say)."""
        while True:
            try:
                yield self.receive()
            except ClosedError:
                return

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Messages as they come, until the agent is closed."""
        while True:
            try:
                message = await self.receive_async()
            except ClosedError:
                return
            yield message

    # ---------------------------------------------------------------------------------- what Port asks about

    def _ring_consumers(self, owners: list[int]) -> None:
        for owner in owners:
            self.bus._doorbells.ring(self.bus._segment.fifo_path(owner - 1))

    def _housekeep_publishing(self, owner: int) -> None:
        self.bus._housekeep(waits_for=owner - 1)

    # ------------------------------------------------------------------------------------------ fork and end

    @property
    def closed(self) -> bool:
        return self._inbox.closed

    def _check_usable(self) -> None:
        if not self._inbox._usable():
            self._not_usable()

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
                bus._retire(self._slot)
                bus._subscriptions.drop_owner(self._slot + 1)
                self._forget_subscriptions()
                segment.free(self._slot)
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
        )

    def __repr__(self) -> str:
        return f"<Agent {self.name!r} of {self.bus.name!r}{', closed' if self.closed else ''}>"


def _plan_of(cpus: PlanLike, agents: int) -> Plan:
    from fastcomm.affinity import agent_plan  # most agents are not pinned

    return agent_plan(cpus, agents)


def _encoded_group(group: str | None) -> bytes:
    if group is None:
        return b""
    encoded = group.encode("utf-8", "surrogatepass")
    if not 1 <= len(encoded) <= MAX_GROUP or not group.isprintable():
        raise InvalidNameError(
            f"the group {group[:100]!r} has {len(encoded)} bytes; it has 1 to {MAX_GROUP} bytes of printable "
            "UTF-8"
        )
    return encoded


def _name_in_child(name: str) -> str:
    """Of an agent that joins anew in the child of a fork: name.pid, shortened to what a name may have."""
    suffix = f".{os.getpid()}"
    return name.encode()[: MAX_AGENT_NAME - len(suffix)].decode("utf-8", "ignore") + suffix


class _Inbox(_InboxView):
    """The inbox of an agent of this process."""

    def __init__(self, bus: Bus, slot: int) -> None:
        super().__init__(bus, slot, owner=slot + 1)
        self._slot = slot
        self._deaths_seen = bus._segment.deaths[0]

    def _why_empty(self, seconds: float) -> str:
        others = len(self._bus._segment.taken_slots()) - 1
        return (
            f"no message came within {seconds:.3g} s; {others} other agents are on the bus {self._bus.name!r}"
        )

    def _housekeep(self, for_room: bool) -> None:
        bus = self._bus
        bus._housekeep()
        deaths, pid = bus._segment.deaths
        if deaths == self._deaths_seen:
            return
        # Agents of this process are peers too.
        if not any(slot != self._slot and bus._segment.alive(slot) for slot in bus._segment.taken_slots()):
            raise PeerDiedError(
                f"no message came, and nobody else is left on {bus.name!r}; {deaths - self._deaths_seen} "
                "agents were killed since "
                f"this one looked, the last was pid {pid}",
                pid=pid,
            )

    def _death_reported(self) -> None:
        self._deaths_seen = self._bus._segment.deaths[0]

    def _ring_doorbells(self, consumer: bool) -> None:
        segment = self._bus._segment
        for path in [segment.fifo_path(self._slot)] if consumer else segment.armed_fifos():
            self._bus._doorbells.ring(path)
