"""Sorter: what an agent receives, sorted to its subscriptions, if any has a handler, an option or a queue."""

from __future__ import annotations

from _thread import RLock
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastcomm._core.heap import PriorityQueue
from fastcomm._core.subject_registry import SubjectRegistry
from fastcomm._core.tables import RESERVED
from fastcomm.errors import Empty, Full

if TYPE_CHECKING:
    from fastcomm._core.message import Message
    from fastcomm._listening import ListeningPort
    from fastcomm.subscription import Subscription

# Which subscriptions a message is for. Several: those without a handler or queue, of which one gets it.
Entry = tuple[tuple["Subscription", ...], "Message"]
Queue = PriorityQueue[Entry]

BUS_OWN = RESERVED.decode()  # how subjects begin that only patterns match which begin so too
MAX_PLANS = 1024  # subjects whose queues are kept; then all are forgotten


class Sorter:
    """Messages wait, by priority, in one queue for all handlers, in one for receive(), or in that of their
    subscription.

    One message at a time is taken from the agent and put into its queues, and not before somebody asks for
    more: what was not taken stays in the inbox, where publishers see it. With a subscription that coalesces
    all that is there is taken, up to the bound. Handlers are called, and `where` and `transform`, when a
    message leaves its queue: by whoever takes it, under no lock.

    Thread safety: any method in any thread; what one thread takes next is in order. Process safety: private.
    """

    def __init__(self, agent: ListeningPort, bound: int) -> None:
        self._agent = agent
        self._bound = bound
        self._lock = RLock()  # a key function may use the agent
        self._registry: SubjectRegistry[Subscription] = SubjectRegistry(cache_size=0)
        self._plans: dict[tuple[str, int], list[tuple[Queue, tuple[Subscription, ...]]]] = {}
        self._coalescing = False
        self._running = 0
        self._handled: Queue = PriorityQueue()
        self.common: Queue = PriorityQueue()
        self._queues = [self._handled, self.common]

    # ---------------------------------------------------------------------------------------- subscriptions

    def add(self, subscription: Subscription) -> None:
        with self._lock:
            self._registry.insert(subscription.pattern, subscription)
            self._changed()

    def remove(self, subscription: Subscription) -> None:
        """What waits for it alone is dropped, and counted."""
        with self._lock:
            self._registry.remove(subscription.pattern, subscription)
            self._changed()
            if subscription.queue is not None:
                self._agent._count_unwanted(len(subscription.queue))
                subscription.queue.clear()

    def separate(self, subscription: Subscription) -> Queue:
        """Give it a queue of its own; what waits for it in the common one moves there."""
        with self._lock:
            if subscription.queue is None:
                subscription.queue = PriorityQueue()
                self._changed()
                for _ in range(len(self.common)):
                    if (entry := _poll(self.common)) is not None:
                        self._move(entry, subscription, subscription.queue)
            return subscription.queue

    def _move(self, entry: Entry, subscription: Subscription, queue: Queue) -> None:
        subscriptions, message = entry
        others = tuple(one for one in subscriptions if one is not subscription)
        if len(others) < len(subscriptions):
            self._enqueue(queue, (subscription,), message)
        if others:
            self._enqueue(self.common, others, message)

    def _changed(self) -> None:
        subscriptions = [one for _, one in self._registry]
        self._plans = {}
        self._coalescing = any(one.coalesce is not None for one in subscriptions)
        self._queues = [self._handled, self.common]
        self._queues += [one.queue for one in subscriptions if one.queue is not None]

    @property
    def waiting(self) -> int:
        """Messages that were sorted and not received or handled yet."""
        return sum([len(queue) for queue in self._queues])

    # ------------------------------------------------------------------------------------------ into queues

    def _sort(self, wanted: Queue | None) -> bool:
        """Whether anything was there to be sorted."""
        with self._lock:
            moved = False
            while self._has_room(wanted) and (message := self._agent._next_unsorted()) is not None:
                self._put(message)
                moved = True
                if not self._coalescing:
                    break
        if moved and any(len(queue) for queue in self._queues if queue is not wanted):
            self._agent._wake_others()
        return moved

    def _has_room(self, wanted: Queue | None) -> bool:
        """Full if what waits for somebody else is at its bound."""
        if len(self._handled) >= self._bound or (wanted is not None and len(wanted) >= self._bound):
            return False
        for queue in self._queues:
            if len(queue) >= self._bound:
                raise Full(
                    f"{len(queue)} messages wait in the agent {self._agent.name!r} for "
                    f"{self._whose(queue)}, and no more are taken before these are"
                )
        return True

    def _whose(self, queue: Queue) -> str:
        if queue is self.common:
            return "its receive()"
        patterns = [one.pattern for _, one in self._registry if one.queue is queue]
        return f"receive() of its subscription to {', '.join(map(repr, patterns))}"

    def _put(self, message: Message) -> None:
        key = message.subject, message._subscription
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plan(*key)
        if not plan:
            self._agent._count_unwanted(1)
        for queue, subscriptions in plan:
            self._enqueue(queue, subscriptions, message)

    def _plan(self, subject: str, number: int) -> list[tuple[Queue, tuple[Subscription, ...]]]:
        """`number`: of the subscription of a group that it is for alone, or 0."""
        found = [
            one
            for one in sorted(self._registry.match(subject), key=lambda one: one.number)
            if (one.number == number if number else one.group is None)
            and (one.pattern.startswith(BUS_OWN) or not subject.startswith(BUS_OWN))
        ]
        plan: list[tuple[Queue, tuple[Subscription, ...]]] = []
        for one in found:
            queue = one.queue if one.handler is None else self._handled
            if queue is not None:
                plan.append((queue, (one,)))
        common = tuple(one for one in found if one.handler is None and one.queue is None)
        if common:
            plan.append((self.common, common))
        if not self._agent._settings.cache:
            return plan
        if len(self._plans) >= MAX_PLANS:
            self._plans = {}
        self._plans[subject, number] = plan
        return plan

    def _enqueue(self, queue: Queue, subscriptions: tuple[Subscription, ...], message: Message) -> None:
        first, before = subscriptions[0], len(queue)
        if first.coalesce is not None:
            try:
                key = first.coalesce(message)
                queue.put_nowait(
                    (subscriptions, message),
                    priority=message.priority,
                    key=None if key is None else (first.number, key),
                )
            except Exception as error:
                self._failed(error, first, message)
            else:
                first.coalesced += len(queue) == before
                return
        queue.put_nowait((subscriptions, message), priority=message.priority)

    # ---------------------------------------------------------------------------------------- out of queues

    def next(self, queue: Queue | None) -> Message | None:
        """The next message of `queue`, or None if none is there. Calls the handlers of all others."""
        while (entry := self._take(queue)) is not None:
            ready = self._prepare(*entry)
            if ready is not None:
                subscription, message = ready
                if subscription.handler is None:
                    return message
                self._call(subscription.handler, subscription, message)
        return None

    async def next_async(self, queue: Queue | None) -> Message | None:
        """next(); what a handler returns is awaited if it can be."""
        while (entry := self._take(queue)) is not None:
            ready = self._prepare(*entry)
            if ready is not None:
                subscription, message = ready
                if subscription.handler is None:
                    return message
                await self._call_async(subscription.handler, subscription, message)
        return None

    def _take(self, queue: Queue | None) -> Entry | None:
        while True:
            moved = self._sort(queue)
            entry = _poll(self._handled)
            if entry is None and queue is not None:
                entry = _poll(queue)
            if entry is not None or not moved:
                self._agent._note_sorted(self.waiting + self._running)
                return entry

    def _prepare(
        self, subscriptions: tuple[Subscription, ...], message: Message
    ) -> tuple[Subscription, Message] | None:
        """The first of them that wants it, and the message as that one gets it."""
        cancelled, failure = 0, None
        if message.time_left == 0:  # a request that nobody waits for any more
            self._agent._count_expired()
            return None
        for one in subscriptions:
            if one.cancelled:
                cancelled += 1
                continue
            try:
                if one.where is not None and not one.where(message):
                    one.filtered += 1
                    continue
                if one.transform is not None:
                    message = message._with_data(one.transform(message))
            except Exception as error:
                self._failed(error, one, message)
                failure = error
                continue
            one.received += 1
            return one, message
        if failure is not None:
            self._agent._answer_failure(message, failure, timeout=0)  # coroutines come here as well
        self._agent._count_unwanted(int(cancelled == len(subscriptions)))
        return None

    # --------------------------------------------------------------------------------------------- handlers

    def _call(self, handler: Callable[[Message], Any], subscription: Subscription, message: Message) -> None:
        self._handling(1)
        try:
            result = handler(message)
            if hasattr(result, "__await__"):
                if hasattr(result, "close"):
                    result.close()  # a coroutine that is never awaited warns
                raise TypeError(
                    "the handler returned an awaitable, which only run_async(), receive_async() and their "
                    "like await"
                )
        except Exception as error:
            self._failed(error, subscription, message)
            self._agent._answer_failure(message, error)
        finally:
            self._handling(-1)

    async def _call_async(
        self, handler: Callable[[Message], Any], subscription: Subscription, message: Message
    ) -> None:
        self._handling(1)
        try:
            result = handler(message)
            if hasattr(result, "__await__"):
                await result
        except Exception as error:
            self._failed(error, subscription, message)
            await self._agent._answer_failure_async(message, error)
        finally:
            self._handling(-1)

    def _handling(self, change: int) -> None:
        """A message that is being handled counts as waiting, for publishers to a group."""
        with self._lock:
            self._running += change
        self._agent._note_sorted(self.waiting + self._running)

    def _failed(self, error: Exception, subscription: Subscription, message: Message) -> None:
        subscription.errors += 1
        if self._agent.on_error is not None:
            try:
                self._agent.on_error(error, subscription, message)
                return
            except Exception as another:
                error = another
        import logging

        logging.getLogger("fastcomm.agent").error("%r failed for %r", subscription, message, exc_info=error)


def _poll(queue: Queue) -> Entry | None:
    if not len(queue):
        return None
    try:
        return queue.get_nowait()
    except Empty:  # another thread was faster
        return None
