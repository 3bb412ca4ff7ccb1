"""PriorityQueue: items by priority among the threads and coroutines of a process.

The compiled half (fastcomm/_core/heap.pyx) is the queue; here are the twins of its waiting calls for asyncio.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from fastcomm._core import heap
from fastcomm._core.heap import PriorityQueueStats, check_priority
from fastcomm._doorbell import Deadline
from fastcomm.errors import Empty, Full

if TYPE_CHECKING:
    import asyncio

__all__ = ["PriorityQueue", "PriorityQueueStats"]

_T = TypeVar("_T")
_R = TypeVar("_R")


class PriorityQueue(heap.PriorityQueue[_T]):
    __doc__ = heap.PriorityQueue.__doc__
    __slots__ = ()

    # No waiting coroutine holds an item: it takes one, or puts its own, when it has been woken and looks
    # again, with no await after that. So one that is cancelled has taken and put nothing.

    async def put_async(
        self, item: _T, timeout: float | None = None, *, priority: int = 0, key: Hashable | None = None
    ) -> None:
        """put() for asyncio, in any number of event loops. A cancelled call has put nothing.

        Who waits longest is woken first, but does not have the room before others who come at that moment.
        """
        call = partial(self.put, item, True, 0, priority=priority, key=key)
        await self._retry(call, Full, self._room_waiters, timeout if self._waits_for_room else 0)

    async def put_many_async(
        self,
        items: Iterable[_T],
        timeout: float | None = None,
        *,
        priority: int | Callable[[_T], int] = 0,
        key: Callable[[_T], Hashable | None] | None = None,
    ) -> int:
        """put_many() for asyncio. A cancelled call has put so many of the first ones as had room."""
        batch = list(items)
        keys = [None if key is None else key(item) for item in batch]
        ranks = [priority(item) if callable(priority) else priority for item in batch]
        for rank in ranks:
            check_priority(rank)
        deadline = Deadline(timeout)
        for done, (item, rank, own_key) in enumerate(zip(batch, ranks, keys, strict=True)):
            try:
                await self.put_async(item, deadline.left(), priority=rank, key=own_key)
            except Full as full:
                raise Full(
                    f"{done} of {len(batch)} items were put; {full}",
                    delivered=done,
                    missing=len(batch) - done,
                ) from None
        return len(batch)

    async def get_async(self, timeout: float | None = None) -> _T:
        """get() for asyncio, in any number of event loops. A cancelled call has taken nothing.

        Who waits longest is woken first, but does not have the item before others who come at that moment.
        """
        return await self._retry(partial(self.get, True, 0), Empty, self._item_waiters, timeout)

    async def get_many_async(self, limit: int = 1024, timeout: float | None = None) -> list[_T]:
        """get_many() for asyncio. A cancelled call has taken nothing."""
        return await self._retry(partial(self.get_many, limit, True, 0), Empty, self._item_waiters, timeout)

    async def join_async(self) -> None:
        """join() for asyncio."""
        await self._retry(self._check_done, Full, self._done_waiters, None)

    def _check_done(self) -> None:
        if self.unfinished_tasks:
            raise Full

    async def _retry(
        self, call: Callable[[], _R], refusal: type[Exception], waiters: list[Any], timeout: float | None
    ) -> _R:
        """What `call` returns as soon as it does not raise `refusal`; what it raises after `timeout`."""
        deadline = Deadline(timeout)
        try:
            return call()
        except refusal:
            if timeout == 0:
                raise
        waiter = _Waiter()
        try:
            while True:
                waiter.enlist(waiters)  # and then look: what comes after the look finds it in the list
                left = deadline.left()
                try:
                    return call()
                except refusal:
                    if left == 0:
                        raise
                await waiter.wait(left)
        finally:
            self._leave(waiters, waiter)


class _Waiter:
    """A coroutine that waits. Calling it wakes it, from any thread; False: its event loop is closed."""

    __slots__ = ("_future", "_loop")

    def __init__(self) -> None:
        from asyncio import get_running_loop

        self._loop = get_running_loop()

    def __call__(self) -> bool:
        from asyncio import _get_running_loop

        try:
            if _get_running_loop() is self._loop:
                self._finish()
            else:
                self._loop.call_soon_threadsafe(self._finish)
        except RuntimeError:
            return False
        return True

    def _finish(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    def enlist(self, waiters: list[Any]) -> None:
        self._future: asyncio.Future[None] = self._loop.create_future()
        if self not in waiters:
            waiters.append(self)

    async def wait(self, seconds: float | None) -> None:
        """Until it is woken, or so long (None: for ever)."""
        end = None if seconds is None else self._loop.call_later(seconds, self._finish)
        try:
            await self._future
        finally:
            if end is not None:
                end.cancel()
