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
    """Items by priority among threads and coroutines: lower number first, equal ones in order of arrival.

    queue.PriorityQueue's methods, with the priority beside the item, so that items are never compared:
    an int (or what has __index__; TypeError for floats) of 64 bits (else OverflowError).

    `key`: if an item with an equal key is queued, the two are coalesced: one stays, in the older one's place
    in the order. If the newer one's priority is lower it moves up, behind what has that priority already; it
    never moves back. Keys are hashable; None is no key. A key is forgotten as soon as its item leaves.
    `merge` says which item stays:

    - "latest": the newer;
    - "highest": the newer, unless its priority is the higher number; then the queued one;
    - a function: what merge(queued, newer) returns. It may use the queue; if that, or another thread, changes
      what is queued under the key meanwhile, its result is thrown away and the put begins anew. If it raises,
      put() does, and nothing has changed.

    `maxsize`: items at most; 0 or less: as many as memory has. It can be set at any time. What put() does
    when it is full (coalescing needs no room) says `overflow`:

    - "block": waits for room, then raises Full;
    - "error": raises Full at once;
    - "drop_lowest": drops what would come last, which may be the new one. It counts in stats().dropped, and
      as done for join(). Takes twice the time and memory of the heap.

    Cost: an indexed 4-ary heap (_core/dary_heap.pxd), so put, get, remove and update take logarithmic time in
    C. Memory for one item, beside itself and its key: 44 bytes, 15 to 25 more with a key, 28 more with
    "drop_lowest"; up to half as much again is reserved. It is used again, and given back by clear().

    Thread safety: any method in any thread; each is atomic but for put_many(), which is a put for each. A
    wait gives up the GIL; signals are handled. The _async calls wait in any number of event loops, beside
    threads; one that is cancelled has taken and put nothing. Process safety: private memory; it can't be
    pickled, and a forked child has its own copy.
    """

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
