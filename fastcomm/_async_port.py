"""An agent in an event loop: the twins of the calls that wait. No thread; a descriptor that is readable."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from fastcomm._core.delivery import Delivery
from fastcomm._core.message import Message
from fastcomm._doorbell import Deadline, Doorbell
from fastcomm._listening import ListeningPort
from fastcomm.errors import ClosedError, Empty, PeerDiedError
from fastcomm.priorities import Priority


class AsyncPort(ListeningPort):
    """The part of an Agent that waits in asyncio."""

    _doorbell: Doorbell | None = None

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

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Messages as they come, until the agent is closed."""
        while True:
            try:
                message = await self.receive_async()
            except ClosedError:
                return
            yield message

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

    def _wake_others(self) -> None:
        super()._wake_others()
        if self._doorbell is not None:
            self._doorbell.wake()
