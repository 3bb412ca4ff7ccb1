"""Sleeping in asyncio: coroutines wait until a byte arrives in a FIFO, level-triggered, without a thread.

The FIFO belongs to one participant of a segment. Whoever makes true what it waits for sees its flag in the
segment and writes a byte (fastcomm/_core/wait.pyx has the argument). A byte may come when nobody waits any
more, and one byte may stand for several records: state is the truth, the byte is a hint.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

SLICE_SECONDS = 0.5  # a waker can be killed before it rings: look again after this long


class Deadline:
    """When a waiting call has to end. `seconds` None: never."""

    def __init__(self, seconds: float | None) -> None:
        if seconds is not None and not seconds >= 0:
            raise ValueError(
                f"timeout is {seconds!r}; it must be None (wait for ever) or a number of seconds >= 0"
            )
        self.started = time.monotonic()
        self.seconds = seconds

    def left(self) -> float | None:
        """Seconds, never below 0; None: no end."""
        return None if self.seconds is None else max(0.0, self.started + self.seconds - time.monotonic())

    def waited(self) -> float:
        return time.monotonic() - self.started


class Doorbell:
    """The read end of a participant's FIFO and the coroutines that wait for it. One event loop at a time."""

    def __init__(self, open_fifo: Callable[[], int]) -> None:
        self._fd = -1
        self._fd = open_fifo()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._slice: asyncio.TimerHandle | None = None
        self._look: Callable[[], None] | None = None
        self._lookers = 0

    def fileno(self) -> int:
        return self._fd

    def attach(self) -> None:
        """Have the running loop watch the FIFO."""
        from asyncio import get_running_loop

        loop = get_running_loop()
        if loop is self._loop:
            return
        if self._loop is not None and not self._loop.is_closed():
            if self._waiters or self._lookers:
                raise RuntimeError(
                    "coroutines of another running event loop wait on this handle; open a handle per loop"
                )
            self._loop.remove_reader(self._fd)
        loop.add_reader(self._fd, self.rest)
        self._loop = loop
        self._waiters.clear()
        self._slice = None

    def rest(self) -> None:
        """Read the bytes that are there, and let every waiter look."""
        try:
            while len(os.read(self._fd, 4096)) == 4096:
                pass
        except BlockingIOError:
            pass
        self._let_look()

    def _let_look(self) -> None:
        if self._look is not None:
            self._look()
        for future in self._waiters:
            if not future.done():
                future.set_result(None)

    async def wait(self, seconds: float | None) -> None:
        """Return when the bell rang, or after `seconds`, or when the slice is over, within SLICE_SECONDS.

        One timer serves the slices of all waits: a timer for each would cost more than the wake-up. The
        caller has called attach().
        """
        assert self._loop is not None
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiters.add(future)
        self._start_slice()
        ends_sooner = seconds is not None and seconds < SLICE_SECONDS
        own_end = self._loop.call_later(seconds or 0.0, finish, future) if ends_sooner else None
        try:
            await future
        finally:
            if own_end is not None:
                own_end.cancel()
            self._waiters.discard(future)

    @contextmanager
    def looking(self, look: Callable[[], None]) -> Iterator[asyncio.Future[None]]:
        """While the block runs `look` is called whenever the bell rings or a slice is over; all blocks at a
        time bring the same one. The block gets a future for `look` to finish.

        For many that wait for different things: one looks for all, and wakes whom it concerns.
        """
        assert self._loop is not None
        future: asyncio.Future[None] = self._loop.create_future()
        self._look = look
        self._lookers += 1
        self._start_slice()
        try:
            yield future
        finally:
            self._lookers -= 1
            if not self._lookers:
                self._look = None  # it may keep its owner alive

    async def wait_for(self, future: asyncio.Future[None], seconds: float | None) -> None:
        """Return when the future is finished, or after `seconds`."""
        assert self._loop is not None
        end = None if seconds is None else self._loop.call_later(seconds, finish, future)
        try:
            await future
        finally:
            if end is not None:
                end.cancel()

    def _start_slice(self) -> None:
        assert self._loop is not None
        if self._slice is None:
            self._slice = self._loop.call_later(SLICE_SECONDS, self._slice_over)

    def _slice_over(self) -> None:
        self._slice = None
        if self._lookers:
            self._start_slice()
        self._let_look()

    def wake(self) -> None:
        """Make every waiter look again, from any thread."""
        if self._fd >= 0:
            with suppress(BlockingIOError):  # full: it has been rung
                os.write(self._fd, b"\0")

    def close(self) -> None:
        """Wake every waiter and close the FIFO, from any thread."""
        from asyncio import _get_running_loop

        loop = self._loop
        if loop is not None and loop.is_running() and _get_running_loop() is not loop:
            with suppress(RuntimeError):  # it ended just now
                loop.call_soon_threadsafe(self._close)
                return
        self._close()

    def _close(self) -> None:
        if self._fd < 0:
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
            self.rest()
        self.abandon()

    def abandon(self) -> None:
        """Close the FIFO and leave the loop as it is: in the child of a fork it is the parent's."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.abandon()  # the loop ended before it came to what close() had left to it


def finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
