"""Subscription: a pattern that an agent listens to, and what becomes of the messages that match it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from typing import TYPE_CHECKING, Any

from fastcomm.errors import ClosedError

if TYPE_CHECKING:
    from fastcomm._core.message import Message
    from fastcomm._sorter import Queue
    from fastcomm.agent import Agent

__all__ = ["Subscription"]


class Subscription:
    """A pattern that an agent listens to, until unsubscribe() or the end of the `with` block.

    Agent.subscribe() makes it. Its messages go to its handler, or wait for Agent.receive(); from the first
    call of its own receive() or try_receive(), or the first iteration over it, they wait for these alone.

    Counts: received: messages handed out or given to the handler; filtered: those that `where` did not want;
    coalesced: those replaced by a newer one with their key; errors: exceptions of the handler and of the
    functions given to subscribe().

    Thread safety: any method in any thread. Process safety: as the agent.
    """

    def __init__(
        self,
        agent: Agent,
        pattern: str,
        number: int,
        group: str | None = None,
        handler: Callable[[Message], Any] | None = None,
        where: Callable[[Message], object] | None = None,
        transform: Callable[[Message], Any] | None = None,
        coalesce: Callable[[Message], Hashable | None] | None = None,
    ) -> None:
        self.agent = agent
        self.pattern = pattern
        self.number = number
        self.group = group
        self.handler = handler
        self.where = where
        self.transform = transform
        self.coalesce = coalesce
        self.queue: Queue | None = None
        self.cancelled = False
        self.received = self.filtered = self.coalesced = self.errors = 0
        self._index: int | None = None
        self._lost_before = agent._lost_messages()

    @property
    def plain(self) -> bool:
        """Whether its messages are received as they come."""
        return (
            self.handler is None
            and self.where is None
            and self.transform is None
            and self.coalesce is None
            and self.queue is None
        )

    def receive(self, timeout: float | None = None) -> Message:
        """The next message that came by this subscription; otherwise as Agent.receive().

        It calls the handlers of what other subscriptions of the agent get meanwhile. ValueError if this one
        has a handler. ClosedError after unsubscribe().
        """
        queue = self._own_queue()
        return self.agent._receive_by(lambda: self._look(queue), timeout)

    def try_receive(self) -> Message | None:
        """The next message that is there, or None. Never waits."""
        return self._look(self._own_queue())

    async def receive_async(self, timeout: float | None = None) -> Message:
        """receive() for asyncio."""
        return await self.agent._receive_async_by(self._try_receive_async, timeout)

    def _own_queue(self) -> Queue:
        if self.handler is not None:
            raise ValueError(f"the subscription to {self.pattern!r} has a handler, which gets its messages")
        return self.agent._separate(self)

    def _check(self) -> None:
        if self.cancelled:
            raise ClosedError(f"{self.agent.name!r} has unsubscribed from {self.pattern!r}")

    def _look(self, queue: Queue) -> Message | None:
        self._check()
        self.agent._check_usable()
        return self.agent._sort_messages().next(queue)

    async def _try_receive_async(self) -> Message | None:
        queue = self._own_queue()
        self._check()
        self.agent._check_usable()
        return await self.agent._sort_messages().next_async(queue)

    def __iter__(self) -> Iterator[Message]:
        """Messages as they come, until the subscription or its agent ends."""
        while True:
            try:
                message = self.receive()
            except ClosedError:
                return
            yield message

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Messages as they come, until the subscription or its agent ends."""
        while True:
            try:
                message = await self.receive_async()
            except ClosedError:
                return
            yield message

    @property
    def pending(self) -> int:
        """Messages that wait in the queue of its own; 0 without one."""
        return 0 if self.queue is None else len(self.queue)

    @property
    def lost(self) -> int:
        """Messages that the agent's inbox did not get since this subscription began, as far as it can be
        told from those that it got: an inbox that keeps what it is sent loses none.

        What was lost is not there to say which subscription it was for.
        """
        return self.agent._lost_messages() - self._lost_before

    def unsubscribe(self) -> None:
        """Stop: what is there for this pattern alone is dropped, and counted in the agent's `unwanted`.

        Again is harmless.
        """
        self.agent._unsubscribe(self)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.unsubscribe()

    def __repr__(self) -> str:
        state = ", cancelled" if self.cancelled else ""
        if self.group is not None:
            state = f", group {self.group!r}{state}"
        return f"<Subscription of {self.agent.name!r} to {self.pattern!r}{state}>"
