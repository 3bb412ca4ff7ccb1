"""EventBus: events by subject, to listeners in the same process::

    bus = EventBus()

    @bus.on("tasks.*.done")
    def done(subject, data):
        print(subject, data)

    bus.emit("tasks.render.done", 42)

Subjects and patterns are those of fastcomm.subjects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Literal, NamedTuple, TypeVar, overload

from fastcomm._core.dispatch import Dispatch, Subscription
from fastcomm.errors import Empty, Full, ShutDown
from fastcomm.priority import PriorityQueue

__all__ = ["EventBus", "EventBusStats", "Subscription"]

Listener = Callable[[str, Any], object]
OnError = Callable[[Exception, Subscription, str, Any], object]
_L = TypeVar("_L", bound=Listener)


class EventBusStats(NamedTuple):
    """What an EventBus has done.

    subscriptions: now. emitted: events that went to their listeners; delivered: calls of listeners that did
    not fail; errors: those that did. Of the queue, 0 without one: queued: waiting now; coalesced, dropped:
    events.
    """

    subscriptions: int
    emitted: int
    delivered: int
    errors: int
    queued: int
    coalesced: int
    dropped: int


class EventBus(Dispatch):
    """Events by subject, to listeners in the same process, lower priority number first.

    Without a queue, emit() calls the listeners and returns when they have. With `queued` it puts the event
    into a PriorityQueue and returns, and dispatch() or run(), in the same thread or another, calls them:
    events of lower priority number first, a newer one in the place of the queued one with its subject and
    key. dispatch_async() and run_async() do so in an event loop. `maxsize` and `overflow` ("block", "error",
    "drop_lowest") bound the queue, as PriorityQueue says.

    A listener that raises an Exception harms no other: it counts in stats() and its subscription's `errors`,
    and `on_error(error, subscription, subject, data)` is called; without one it is logged (logger
    "fastcomm.events"), as is what `on_error` itself raises. KeyboardInterrupt and the like go through to who
    emits.

    Finding the listeners of a subject that was emitted before costs one look-up in a dict; a change of
    subscriptions drops from that cache the subjects that it concerns and no others (SubjectRegistry).

    Thread safety: any method in any thread; listeners run in the thread that emits or dispatches, several at
    a time if several threads do. Process safety: private memory.
    """

    _queue: PriorityQueue[tuple[str, Any]] | None

    def __init__(
        self,
        *,
        queued: bool = False,
        maxsize: int = 0,
        overflow: Literal["block", "error", "drop_lowest"] = "block",
        on_error: OnError | None = None,
    ) -> None:
        if not queued and (maxsize or overflow != "block"):
            raise ValueError("maxsize and overflow are of the queue: EventBus(queued=True, ...)")
        self._queue = PriorityQueue(maxsize, overflow=overflow) if queued else None
        self._on_error = on_error

    @overload
    def on(
        self,
        pattern: str,
        listener: Listener,
        *,
        priority: int = 0,
        where: Callable[[Any], object] | None = None,
        transform: Callable[[Any], Any] | None = None,
        once: bool = False,
    ) -> Subscription: ...
    @overload
    def on(
        self,
        pattern: str,
        listener: None = None,
        *,
        priority: int = 0,
        where: Callable[[Any], object] | None = None,
        transform: Callable[[Any], Any] | None = None,
        once: bool = False,
    ) -> Callable[[_L], _L]: ...
    def on(
        self,
        pattern: str,
        listener: Listener | None = None,
        *,
        priority: int = 0,
        where: Callable[[Any], object] | None = None,
        transform: Callable[[Any], Any] | None = None,
        once: bool = False,
    ) -> Any:
        """Call `listener(subject, data)` for each event that the pattern matches. Without it, a decorator.

        `priority`: an int; listeners with a lower one are called first, equal ones in the order in which
        they came. `where(data)`: only if that is true. `transform(data)`: the listener gets what that
        returns. `once`: ends with the first call. InvalidSubjectError.
        """
        if listener is None:

            def decorate(function: _L) -> _L:
                self._subscribe(pattern, function, priority, where, transform, once)
                return function

            return decorate
        return self._subscribe(pattern, listener, priority, where, transform, once)

    def emit_many(self, events: Iterable[tuple[str, Any]]) -> int:
        """emit() for each (subject, data), in order; returns the sum. Full, which a queue raises, says in
        `delivered` how many were emitted, and in `missing` how many were not.
        """
        batch = list(events)
        total = 0
        for done, (subject, data) in enumerate(batch):
            try:
                total += self.emit(subject, data)
            except Full as full:
                text = f"{done} of {len(batch)} events were emitted; {full}"
                raise Full(text, delivered=done, missing=len(batch) - done) from None
        return total

    async def emit_async(self, subject: str, data: Any) -> int:
        """emit() without the queue: an awaitable that a listener returns is awaited before the next one is
        called.
        """
        return await self._deliver_async(subject, data)

    # ------------------------------------------------------------------------------------------- the queue --

    def dispatch(self, limit: int = 1024, timeout: float | None = 0) -> int:
        """Deliver up to `limit` queued events, waiting for the first at most `timeout` seconds (None: for
        ever); returns how many. ShutDown after close(), once nothing is queued.
        """
        queue = self._queued()
        if limit < 1:
            raise ValueError(f"limit is {limit}; it must be 1 or more")
        # One at a time, so that an event which comes meanwhile can be next, or replace one that waits.
        for done in range(limit):
            try:
                subject, data = queue.get(done == 0, timeout)
            except Empty:
                return done
            except ShutDown:
                if done == 0:
                    raise
                return done
            self._deliver(subject, data)
        return limit

    async def dispatch_async(self, limit: int = 1024, timeout: float | None = 0) -> int:
        """dispatch() for asyncio: an awaitable that a listener returns is awaited before the next one is
        called. A cancelled call leaves what it had not begun in the queue.
        """
        queue = self._queued()
        if limit < 1:
            raise ValueError(f"limit is {limit}; it must be 1 or more")
        for done in range(limit):
            try:
                subject, data = await queue.get_async(0 if done else timeout)
            except Empty:
                return done
            except ShutDown:
                if done == 0:
                    raise
                return done
            await self._deliver_async(subject, data)
        return limit

    def run(self) -> None:
        """Dispatch until close(), and what is queued then; for a thread of its own."""
        with suppress(ShutDown):
            while True:
                self.dispatch(timeout=None)

    async def run_async(self) -> None:
        """run() for asyncio; for a task of its own."""
        with suppress(ShutDown):
            while True:
                await self.dispatch_async(timeout=None)

    def close(self) -> None:
        """From now on emit() raises ShutDown; dispatch() too, once nothing is queued, and run() ends."""
        self._queued().shutdown()

    def _queued(self) -> PriorityQueue[tuple[str, Any]]:
        if self._queue is None:
            raise ValueError("this bus has no queue: EventBus(queued=True)")
        return self._queue

    # ---------------------------------------------------------------------------------------------- counts --

    def stats(self) -> EventBusStats:
        """The counts of this moment."""
        queue = self._queue.stats() if self._queue is not None else None
        return EventBusStats(
            self._listeners(),
            self._emitted,
            self._delivered,
            self._errors,
            queue.items if queue else 0,
            queue.coalesced if queue else 0,
            queue.dropped if queue else 0,
        )

    def _failed(self, error: Exception, subscription: Subscription, subject: str, data: Any) -> None:
        if self._on_error is not None:
            try:
                self._on_error(error, subscription, subject, data)
                return
            except Exception as another:
                error = another
        import logging

        logging.getLogger(__name__).error("%r failed for %r", subscription, subject, exc_info=error)
