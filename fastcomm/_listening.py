"""What an agent listens to: its subscriptions, the handlers that it calls, and leaving in good order."""

from __future__ import annotations

from _thread import LockType
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING, Any, cast

from fastcomm._core.calls import Caller
from fastcomm._core.message import Message
from fastcomm._core.subjects import check_pattern
from fastcomm._core.tables import MAX_GROUP
from fastcomm._doorbell import Deadline
from fastcomm.errors import ClosedError, InvalidNameError, PeerDiedError, RequestTimeoutError
from fastcomm.subscription import Subscription

if TYPE_CHECKING:
    from fastcomm._inbox import Inbox
    from fastcomm._sorter import Queue, Sorter
    from fastcomm.agent import Agent
    from fastcomm.bus import Bus
    from fastcomm.config import Settings


class ListeningPort(Caller):
    """The part of an Agent that subscribes and calls handlers."""

    bus: Bus
    _settings: Settings
    name: str
    on_error: Callable[[Exception, Subscription, Message], object] | None
    _slot: int
    _epoch: int
    _inbox: Inbox
    _changing: LockType  # held to change the subscriptions and the sorter
    _mine: list[Subscription]
    _max_pending: int
    _numbered: int
    _cancelled: bool
    _sorter: Sorter | None

    @property
    def closed(self) -> bool:
        return self._inbox.closed

    def _check_usable(self) -> None:
        if not self._inbox._usable():
            self._not_usable()

    # What is added above.

    def close(self) -> None:
        raise NotImplementedError

    def _answer_failure(self, message: Message, error: Exception, timeout: float | None = None) -> None:
        raise NotImplementedError

    async def _answer_failure_async(self, message: Message, error: Exception) -> None:
        raise NotImplementedError

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
        (logger "fastcomm.agent"). Of a request it is also the answer, unless there was one already.
        InvalidSubjectError, TableFullError.
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
                cast("Agent", self), pattern, self._numbered, group, handler, where, transform, coalesce
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
        """What is still wanted; before anything was cancelled, all is that comes."""
        if self._cancelled:
            self._set_patterns(
                [one.pattern.encode() for one in self._mine if one.group is None],
                {one.number for one in self._mine if one.group is not None},
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
            nanoseconds = 1 << 62 if left is None else int(min(left, 1e9) * 1e9)
            if not self._inbox._doze_on_fifo(nanoseconds):
                self.bus._subscriptions.wait_change(generation, nanoseconds)
            self.bus._housekeep()

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

    def __iter__(self) -> Iterator[Message]:
        """Messages as they come, until the agent is closed (by another thread, say)."""
        while True:
            try:
                yield self.receive()
            except ClosedError:
                return

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

                self._sorter = Sorter(self, self._max_pending)
                for subscription in self._mine:
                    self._sorter.add(subscription)
                self._set_sorting()
            return self._sorter

    def _separate(self, subscription: Subscription) -> Queue:
        return self._sort_messages().separate(subscription)

    def _sorted(self) -> Message | None:
        sorter = self._sort_messages()
        return sorter.next(sorter.common)


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
