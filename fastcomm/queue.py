"""Queue, SimpleQueue, JoinableQueue: multiprocessing's queues over a ring in shared memory,
without a feeder thread.
"""

from __future__ import annotations

import io
import itertools
import operator
import os
import pickle
import sys
import types
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Self

from fastcomm._core.decoder import decode
from fastcomm._core.encoder import encode_plain
from fastcomm._core.ring import Ring, after_sending
from fastcomm._core.segment import (
    KIND_QUEUE,
    PAGE,
    PARTICIPANT_BYTES,
    SECTION_CONTROL,
    Segment,
)
from fastcomm._core.segment_file import reserve_pages
from fastcomm._core.shared_queue import SharedQueue
from fastcomm._doorbell import Deadline
from fastcomm.errors import ClosedError, Empty, Full, PeerDiedError, SegmentExistsError
from fastcomm.rings import MAX_HANDLES, RingBuffer, cells_for
from fastcomm.segments import entered, segment_path

__all__ = ["JoinableQueue", "Queue", "SimpleQueue"]

INLINE_SHARE = 8  # an item above this part of the capacity travels in a file of its own
MESSAGE_BEGIN = 0xC1  # of the codec


class QueueRing(RingBuffer, SharedQueue):
    """One handle of a queue's segment: RingBuffer's participants around SharedQueue's items, which are
    messages of the codec or pickles here.

    parameters of the segment: cells, maxsize, whether tasks are counted, whether it was named by its user.
    """

    _kind = KIND_QUEUE
    _core = SharedQueue

    def __init__(self, segment: Segment, slot: int) -> None:
        super().__init__(segment, slot)
        _, self.maxsize, _, self._named = segment.parameters[:4]
        self.inline_bytes = min(self.capacity // INLINE_SHARE, self.max_record)
        self._numbers = itertools.count(1)
        self._swept = -1  # deaths after which the files of the dead were removed
        self._files_at(os.fsencode(segment.path) + b".item.")

    @classmethod
    def _memory(cls, segment: Segment) -> tuple[memoryview, ...]:
        return (*super()._memory(segment), segment.memory(*segment.section(SECTION_CONTROL)))

    @classmethod
    def open(cls, name: str | None, capacity: int, maxsize: int, counts_tasks: bool) -> QueueRing:
        named = name is not None
        name = f"queue-{os.urandom(8).hex()}" if name is None else name
        shape = [cells_for(capacity), maxsize, int(counts_tasks), int(named)]
        while True:
            segment, created = Segment.open(
                segment_path(name), name=name, kind=KIND_QUEUE, plan=lambda: _plan(shape)
            )
            with entered(segment):
                if created:
                    memory, control = cls._memory(segment)
                    Ring.format(memory, cells=shape[0])
                    SharedQueue.format_control(control, limit=maxsize, counts_tasks=counts_tasks)
                    segment.publish()
                if segment.parameters[:4] == shape:
                    queue = cls._join(segment)
                    assert isinstance(queue, cls)
                    return queue
                _remove_if_useless(segment, shape)
            segment.close()

    # --------------------------------------------------------------------------- deaths, waiting, the end --

    def _housekeep(self, for_room: bool) -> None:
        self._segment.check_vanished()
        self._reap_dead(self._segment.scan_is_due())
        deaths = self._segment.deaths[0]
        if deaths != self._swept and self._sweep():
            self._swept = deaths
        self._check_company("full" if for_room else "empty")

    def _why_full(self, nbytes: int, timeout: float) -> str:
        return (
            f"no room for an item of {nbytes} bytes in {self.name!r} within {timeout:.3g} s: "
            f"{self._backlog()}; {self._who_else()}"
        )

    def _outlives_handles(self) -> bool:
        """Items in a queue that was named wait for the next who opens it;
        one without a name can't be opened again.
        """
        if self._named and not self._segment.unlinked and super()._outlives_handles():
            return True
        for path, *_ in _item_files(self._segment):
            _remove(path)
        return False

    # ---------------------------------------------------------------------------------------- large items --

    def put_in_file(self, data: bytes, timeout: float | None) -> None:
        """Write the item into a file, then put a record that leads to it."""
        path, record = self._write_file(data)
        try:
            self.put(record, timeout)
        except BaseException:
            _remove(path)
            raise

    def _write_file(self, data: bytes) -> tuple[str, bytes]:
        if not self._usable():
            self._not_usable()
        generation = self._segment.generation_of(self._slot)
        while True:
            path, record = self._file_record(self._slot, generation, next(self._numbers), len(data))
            # It exists if somebody was killed, in an earlier queue of this name.
            with suppress(FileExistsError):
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                break
        try:
            reserve_pages(fd, 0, len(data), path)
            _write_whole(fd, data)
        except BaseException:
            _remove(path)
            raise
        finally:
            os.close(fd)
        return path, record

    def _sweep(self) -> bool:
        """Remove the files of producers that have gone, except those to which an item leads. False: not now.

        In this order: a file whose producer was alive when it was listed is complete or its item is seen
        below.
        """
        files = _item_files(self._segment)
        left = [
            file for file in files
            if self._segment.generation_of(file[1]) != file[2] or not self._segment.alive(file[1])
        ]  # fmt: skip
        if not left:
            return True
        wanted = self._files()
        if wanted is None:
            return False
        for path, *key in left:
            if tuple(key) not in wanted:
                _remove(path)
        return True


def _plan(shape: list[int]) -> tuple[int, list[tuple[int, int]], int, list[int]]:
    """Header page, participants, control block, ring; all of it reserved at creation."""
    participants = MAX_HANDLES * PARTICIPANT_BYTES
    control = PAGE + participants
    ring = Ring.bytes_needed(shape[0])
    sections = [(PAGE, participants), (control + PAGE, ring), (control, PAGE)]
    return MAX_HANDLES, sections, control + PAGE + ring, shape


def _remove_if_useless(segment: Segment, shape: list[int]) -> None:
    """Under the gate, a queue of that name and another shape:
    remove it if it is empty and all its handles are dead.
    """
    cells, maxsize, counts_tasks, named = segment.parameters[:4]
    unread = SharedQueue(*QueueRing._memory(segment), owner=1, name=segment.name).items
    living = [slot for slot in segment.taken_slots() if segment.alive(slot)]
    if living or unread or not named:
        kind = "a JoinableQueue" if counts_tasks else "a Queue"
        raise SegmentExistsError(
            f"{segment.name!r} exists as {kind} with maxsize={maxsize} and capacity={cells * 64}, and was "
            f"asked for with maxsize={shape[1]} and capacity={shape[0] * 64}; it has {unread} items and "
            f"{len(living)} handles. Open it as it is, or take another name"
        )
    for path, *_ in _item_files(segment):
        _remove(path)
    segment.unlink()


def _item_files(segment: Segment) -> list[tuple[str, int, int, int]]:
    """(path, slot, generation, number) of each file of a large item."""
    folder, base = os.path.split(segment.path)
    prefix = f"{base}.item."
    return [
        (os.path.join(folder, entry), *map(int, entry.removeprefix(prefix).split(".")))  # type: ignore[misc]
        for entry in os.listdir(folder)
        if entry.startswith(prefix)
    ]


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _write_whole(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _dumps(obj: Any) -> bytes:
    """By the codec where it gives back what pickle would, and a Struct by its type id; else a pickle as
    multiprocessing makes it, which knows how to send connections, locks and the like.
    """
    data = encode_plain(obj)
    if data is not None:
        return data
    if _has_type_id(obj):
        message: bytes = obj.pack()
        return message
    from multiprocessing.reduction import ForkingPickler

    buffer = io.BytesIO()
    ForkingPickler(buffer, pickle.HIGHEST_PROTOCOL).dump(obj)
    return buffer.getvalue()


def _has_type_id(obj: Any) -> bool:
    """Whether it is a Struct by whose type id receivers know the class. There is none before its module is
    loaded, which is not done here.
    """
    structs = sys.modules.get("fastcomm._core.struct_base")
    return (
        structs is not None
        and isinstance(obj, structs.StructBase)
        and structs.registry.get(type(obj).type_id) is type(obj)
    )


def _loads(data: bytes) -> Any:
    """Of _dumps(). No pickle begins like a message of the codec."""
    return decode(data) if data[0] == MESSAGE_BEGIN else pickle.loads(data)


def _checked(block: bool, timeout: float | None) -> float | None:
    """The time-out of a call in which `block` and `timeout` mean what they mean in queue.Queue."""
    if not block:
        return 0
    if timeout is not None and not timeout >= 0:
        raise ValueError(
            f"timeout is {timeout!r}; it must be None (wait for ever) or a number of seconds >= 0"
        )
    return timeout


class _Items:
    """What the three kinds of queue have in common: a handle, and objects as bytes."""

    _ring: QueueRing

    def _open(self, name: str | None, capacity: int, maxsize: int = 0, counts_tasks: bool = False) -> None:
        self._ring = QueueRing.open(name, capacity, max(0, operator.index(maxsize)), counts_tasks)
        self._failed: deque[bytes] = deque()  # items of a get_many() from one on that could not be loaded

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_failed": deque()}

    def __class_getitem__(cls, item: Any) -> types.GenericAlias:
        return types.GenericAlias(cls, item)

    @property
    def name(self) -> str:
        """By which unrelated processes find it: the one it was given, or a random one."""
        return self._ring.name

    def _send(self, data: bytes, timeout: float | None) -> None:
        ring = self._ring
        if len(data) > ring.inline_bytes:
            ring.put_in_file(data, timeout)
        elif timeout == 0:
            if not ring.try_put(data):
                raise Full(ring._why_full(len(data), 0))
        else:
            ring.put(data, timeout)

    def _receive(self, timeout: float | None) -> Any:
        if self._failed:
            with suppress(IndexError):  # another thread was faster
                return _loads(self._failed.popleft())
        if timeout == 0:
            data = self._ring.try_get()
            if data is None:
                raise self._nothing()
            return _loads(data)
        return _loads(self._ring.get(timeout))

    def _nothing(self) -> Empty:
        return Empty(f"no item is to be had from {self.name!r}{self._ring._why_held_up()}")

    def empty(self) -> bool:
        """Whether nothing was in it when it looked. ClosedError, here an OSError too."""
        if self._ring.closed:
            raise _ClosedQueueError(f"this handle of {self.name!r} is closed")
        return self._ring.items == 0

    def _check_open(self) -> None:
        if self._ring.closed:
            self._ring._not_usable()

    def close(self) -> None:
        """This process uses it no more: put() and get() raise ClosedError, which is a ValueError. Others are
        not disturbed.

        What was put stays. The last handle to close removes the queue, unless it was named and holds items.
        """
        self._ring.close()

    def unlink(self) -> None:
        """Remove the queue's name now, items or not; who has it open goes on. ClosedError."""
        self._ring.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._ring.closed else f"{self._ring.items} items"
        return f"<{type(self).__name__} {self.name!r}, {state}>"


class _ClosedQueueError(ClosedError, OSError):
    """What empty() of a closed queue raises: an OSError where multiprocessing does."""


class SimpleQueue(_Items):
    """multiprocessing.SimpleQueue: get, put, empty, close. `name` and `capacity` as of Queue; `ctx` is not
    needed.

    What happens to threads, forks and killed peers is the same as with Queue.
    """

    def __init__(self, *, name: str | None = None, capacity: int = 1 << 20, ctx: object = None) -> None:
        self._open(name, capacity)

    def put(self, obj: object) -> None:
        """Send any object that can be pickled; waits for room.
        An object that can't be pickled raises here.
        """
        self._send(_dumps(obj), None)

    def get(self) -> Any:
        """The next object; waits for one."""
        return self._receive(None)


class Queue(_Items):
    """multiprocessing.Queue over shared memory: many producers, many consumers, any object that can be
    pickled.

    `maxsize`: items at most, 0 or less: as many as fit into `capacity` bytes (rounded up to a power of two, 1
    KiB to 4 GiB, all reserved at once; an item takes its bytes, 8 more, rounded up to 64). One
    larger than an eighth of that travels in a file of its own. put() into a full queue waits: there is no
    thread that would hold things back, an item is visible when put() returns, and outlives the process that
    sent it. `name`: unrelated processes that give the same name, maxsize and capacity share one queue. `ctx`
    is accepted for the sake of multiprocessing's callers.

    At most 256 handles at a time. ShmFullError, SegmentExistsError (another shape), InvalidNameError.

    Thread safety: threads may share it; a wait gives up the GIL. Process safety: it pickles as its name,
    under every start method, and in the child of a fork it joins anew at its first use; keep it open until a
    child has it.

    When a process is killed (SIGKILL at any point): what it had put arrives, what it was taking is either
    still there or gone with it, and nobody is held up. If no other handle is left then, a call that waits
    raises PeerDiedError, once.
    """

    def __init__(
        self, maxsize: int = 0, *, name: str | None = None, capacity: int = 1 << 20, ctx: object = None
    ) -> None:
        self._open(name, capacity, maxsize)

    @property
    def maxsize(self) -> int:
        """Items at most; 0: as many as fit."""
        return self._ring.maxsize

    def put(self, obj: object, block: bool = True, timeout: float | None = None) -> None:
        """Send an object. Waits for room if `block`, at most `timeout` seconds (None: for ever), then raises
        Full.

        An object that can't be pickled raises here, whatever pickle raises. ClosedError; ShutDown;
        ShmFullError if a large one finds no room for its file; PeerDiedError; ValueError for a negative
        time-out.
        """
        timeout = _checked(block, timeout)
        self._send(_dumps(obj), timeout)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """The next object. Waits for one if `block`, at most `timeout` seconds (None: for ever), then raises
        Empty.

        Never waits for another consumer for more than the time of a copy, unless that was stopped (SIGSTOP)
        in the middle; then for 0.1 s at a time. ClosedError; ShutDown; PeerDiedError; ValueError for a
        negative time-out; what pickle raises if the object can't be made here: it is gone then.
        """
        return self._receive(_checked(block, timeout))

    def put_nowait(self, obj: object) -> None:
        """put() that never waits."""
        self.put(obj, False)

    def get_nowait(self) -> Any:
        """get() that never waits."""
        return self.get(False)

    def put_many(self, items: Iterable[object], block: bool = True, timeout: float | None = None) -> int:
        """Send each object of an iterable, in order; returns how many. Full carries `delivered` and
        `missing`, PeerDiedError `delivered`.

        All are pickled first: one that can't be raises before anything is sent. Without maxsize many share
        one claim and one wake-up.
        """
        deadline = Deadline(_checked(block, timeout))
        encoded = [_dumps(item) for item in items]
        done = 0
        try:
            for run in self._runs(encoded):
                if len(run[0]) > self._ring.inline_bytes:
                    self._ring.put_in_file(run[0], deadline.left())
                else:
                    self._ring.put_many(run, deadline.left())
                done += len(run)
        except (Full, PeerDiedError) as ended:
            raise after_sending(ended, done + ended.delivered, len(encoded)) from None
        return done

    def _runs(self, encoded: list[bytes]) -> Iterator[list[bytes]]:
        """In order: lists of such as fit into the ring, and each larger one alone."""
        for large, run in itertools.groupby(encoded, lambda data: len(data) > self._ring.inline_bytes):
            if large:
                yield from ([data] for data in run)
            else:
                yield list(run)

    def get_many(self, limit: int = 1024, block: bool = True, timeout: float | None = None) -> list[Any]:
        """1 to `limit` objects: waits for the first as get() does, then takes what else is there, under one
        lock.

        If one of them can't be made here, those before it are returned; the next get() raises what pickle
        raised, and the ones after it follow.
        """
        timeout = _checked(block, timeout)
        if self._failed:
            return [self._receive(timeout)]
        encoded = self._ring.get_many(limit, timeout) if timeout != 0 else self._ring.try_get_many(limit)
        if not encoded:
            raise self._nothing()
        objects: list[Any] = []
        for data in encoded:
            try:
                objects.append(_loads(data))
            except BaseException:
                self._failed.extend(encoded[len(objects) :])
                break
        return objects or [self._receive(timeout)]

    def empty(self) -> bool:
        """Whether nothing was in it when it looked. ClosedError, here an OSError too, unless this handle was
        closed before it was ever used: True then. Both as multiprocessing's.
        """
        stats = self._ring.stats()
        if self._ring.closed and not stats.records_put and not stats.records_got:
            return True
        return super().empty()

    def qsize(self) -> int:
        """How many items are in it; exact unless others put or get at the same moment. ClosedError."""
        self._check_open()
        return self._ring.items

    def full(self) -> bool:
        """Whether it has `maxsize` items, or no room for the smallest. ClosedError."""
        self._check_open()
        return self._ring.is_full

    def shutdown(self, immediate: bool = False) -> None:
        """queue.Queue's of Python 3.13, on every version, for all processes: from now on put() raises
        ShutDown, and get() too as soon as the queue is empty. `immediate`: what is in it is thrown away.
        Calls that wait end. ClosedError.
        """
        self._ring.shut_down(immediate)

    def join_thread(self) -> None:
        """Returns at once: there is no thread to join, what was put has been sent."""

    def cancel_join_thread(self) -> None:
        """Does nothing: there is no thread to join, and nothing that could be lost at exit."""


class JoinableQueue(Queue):
    """multiprocessing.JoinableQueue: a Queue that counts what was put until task_done() was called for it.

    The count is exact whoever is killed: an item that was never put does not count, one that was taken does
    until task_done(), also if its taker was killed.
    """

    def __init__(
        self, maxsize: int = 0, *, name: str | None = None, capacity: int = 1 << 20, ctx: object = None
    ) -> None:
        self._open(name, capacity, maxsize, counts_tasks=True)

    def task_done(self) -> None:
        """What was got from the queue has been dealt with.
        ValueError if called more often than items were taken; ClosedError.
        """
        self._ring.task_done()

    def join(self) -> None:
        """Wait until task_done() was called for every item that was put. ClosedError.

        PeerDiedError, once, if others were killed and no other handle is left: what they had taken will never
        be done.
        """
        self._ring.join_tasks()
