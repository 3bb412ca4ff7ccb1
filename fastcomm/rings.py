"""RingBuffer: a segment with one ring in it, for every process that knows its name."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from fastcomm import _handles
from fastcomm._core.ring import Claim, Peek, Ring, after_sending
from fastcomm._core.ring_handle import RingStats
from fastcomm._core.segment import (
    KIND_RING,
    PAGE,
    PARTICIPANT_BYTES,
    SECTION_RING,
    Segment,
)
from fastcomm._core.wait import Doorbells
from fastcomm._doorbell import Deadline, Doorbell
from fastcomm.errors import Empty, Full, PeerDiedError, SegmentExistsError
from fastcomm.segments import entered, segment_path

if TYPE_CHECKING:
    from typing_extensions import Buffer  # for annotations only: type checkers bring it

__all__ = ["RingBuffer", "RingStats"]

MAX_HANDLES = 256
# who polls with a time-out of 0 knows why nothing came; describing others takes 40 us
WORTH_TELLING_SECONDS = 0.001
MIN_CAPACITY = 1024
MAX_CAPACITY = 4 << 30


class RingBuffer(Ring):
    """Records of bytes through shared memory, from one or many producers to one consumer, in order, exactly
    once.

    ``RingBuffer.create(name)`` makes it, ``RingBuffer.attach(name)`` opens it in any process of the same
    user. Every handle may put; the first that gets becomes the consumer. A record that put() has returned
    from survives its producer. At most 256 handles at a time. The last handle to close removes the ring,
    unless it holds unread records.

    Thread safety: threads may share a handle. A wait gives up the GIL. Process safety: handles pickle, and
    attach anew where they are unpickled; in the child of a fork a handle joins anew at its first use, and
    what the parent had open (claims, peeks, roles) stays the parent's.

    When a peer is killed (SIGKILL at any point): its committed records arrive, its unfinished claim is
    skipped, its role can be taken; what a get() or get_many() was taking when it was killed has gone with it
    or comes to the next consumer, never both; all else comes. put() into a full ring whose consumer was
    killed, and get() when the last other handle was killed, raise PeerDiedError once; the next call waits for
    a new peer.
    """

    _segment: Segment
    _slot: int
    _doorbell: Doorbell | None = None
    _kind: int = KIND_RING
    _core: type[Ring] = Ring  # what reaps before there is a handle

    def __init__(self, segment: Segment, slot: int) -> None:
        """Use create() or attach()."""
        super().__init__(*self._memory(segment), owner=slot + 1, name=segment.name)
        self._segment = segment
        self._doorbells = Doorbells()
        self._settle(slot)

    @classmethod
    def _memory(cls, segment: Segment) -> tuple[memoryview, ...]:
        """The parts of the segment that the core is laid over."""
        return (segment.memory(*segment.section(SECTION_RING)),)

    def _settle(self, slot: int) -> None:
        self._slot = slot
        self._death_reported()
        self._joined(slot + 1)
        _handles.track(self)

    # ------------------------------------------------------------------------------------- create and attach

    @classmethod
    def create(
        cls,
        name: str | None = None,
        *,
        capacity: int = 1 << 20,
        producers: Literal["one", "many"] = "many",
        mode: int = 0o600,
        directory: str | os.PathLike[str] | None = None,
    ) -> RingBuffer:
        """Make a ring of `capacity` bytes (rounded up to a power of two, 1 KiB to 4 GiB); `name` None: a
        random one.

        A ring of that name whose handles are all dead is taken over with its unread records;
        SegmentExistsError when it is in use, or has unread records and another shape. Its pages are reserved
        at once: ShmFullError. `mode` of the file (0o660 for a group); `directory`: another tmpfs than
        /dev/shm or FASTCOMM_DIR.
        """
        cells = cells_for(capacity)
        if producers not in ("one", "many"):
            raise ValueError(f"producers is {producers!r}; it must be 'one' or 'many'")
        name = f"ring-{os.urandom(8).hex()}" if name is None else name
        shape = [cells, int(producers == "one")]
        while True:
            segment, created = Segment.open(
                segment_path(name, directory),
                name=name,
                kind=KIND_RING,
                plan=lambda: _plan(*shape),
                mode=mode,
            )
            with entered(segment):
                if created:
                    Ring.format(
                        segment.memory(*segment.section(SECTION_RING)),
                        cells=cells,
                        one_producer=shape[1] == 1,
                    )
                    segment.publish()
                if created or cls._adopt(segment, shape):
                    return cls._join(segment)
            segment.close()

    @classmethod
    def _adopt(cls, segment: Segment, shape: list[int]) -> bool:
        """A ring of that name was there: True if it can be taken over, False if it was removed."""
        ring = Ring(segment.memory(*segment.section(SECTION_RING)), owner=1, name=segment.name)
        _reap(segment, ring)
        living = segment.taken_slots()
        if living:
            raise SegmentExistsError(
                f"the ring {segment.name!r} is in use by {segment.describe(living[0])} and {len(living) - 1} "
                "more; attach to it"
            )
        if segment.parameters[:2] == shape:
            return True
        if ring._unread():
            raise SegmentExistsError(
                f"the ring {segment.name!r} was left with {ring._unread()} unread records and another "
                "capacity or kind of producers; "
                "attach and get() them, or remove it with unlink()"
            )
        segment.unlink()
        return False

    @classmethod
    def attach(
        cls, name: str, *, directory: str | os.PathLike[str] | None = None, uid: int | None = None
    ) -> RingBuffer:
        """Open the ring `name`. SegmentNotFoundError; AbiMismatchError, CorruptSegmentError, TableFullError.

        `uid`: of the user who created it, None for this one; the file's mode must allow it.
        """
        segment, _ = Segment.open(segment_path(name, directory, uid), name=name, kind=KIND_RING)
        with entered(segment):
            return cls._join(segment)

    @classmethod
    def _join(cls, segment: Segment) -> RingBuffer:
        """Under the gate."""
        _reap(segment, cls._core(*cls._memory(segment), owner=1, name=segment.name))
        slot = segment.join()
        segment.live(slot)
        return cls(segment, slot)

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach_path, (type(self), self.path, self.name)

    @property
    def path(self) -> str:
        """The segment's file."""
        return self._segment.path

    def __repr__(self) -> str:
        state = "closed" if self._segment.closed else f"depth {self.depth}"
        return f"<{type(self).__name__} {self.name!r}, {self.capacity} bytes, {state}>"

    # ------------------------------------------------------------------------------ what the ring asks about

    def _owner_alive(self, owner: int) -> bool:
        return self._segment.alive(owner - 1)

    def _reap_owner(self, owner: int) -> None:
        segment = self._segment
        # nobody joins meanwhile: the number means who was found dead, or a newcomer that lives
        segment.enter_gate()
        try:
            _reap(segment, self)
            if not segment.alive(owner - 1):
                self._drop_roles(owner)
        finally:
            segment.leave_gate()

    def _owner_pid(self, owner: int) -> int:
        return self._segment.pid_of(owner - 1)

    def _describe_owner(self, owner: int) -> str:
        return self._segment.describe(owner - 1)

    def _why_empty(self, seconds: float) -> str:
        if seconds < WORTH_TELLING_SECONDS:
            return super()._why_empty(seconds)
        held_up = self._why_held_up()
        return f"nothing arrived in {self.name!r} within {seconds:.3g} s{held_up}; {self._who_else()}"

    def _who_else(self) -> str:
        others = [self._segment.describe(slot) for slot in self._segment.taken_slots() if slot != self._slot]
        who = f"attached besides: {'; '.join(others[:4])}" if others else "nobody else is attached"
        return f"{who}{', ...' if len(others) > 4 else ''}"

    def _housekeep(self, for_room: bool) -> None:
        segment = self._segment
        segment.check_vanished()
        consumer = self._consumer()[0]
        waits_for_dead = for_room and consumer > 0 and not segment.alive(consumer - 1)
        self._reap_dead(waits_for_dead or segment.scan_is_due())
        if not for_room:
            self._check_company("empty")
            return
        consumer, consumer_deaths = self._consumer()
        if not consumer and consumer_deaths != self._consumer_deaths_seen:
            pid = segment.deaths[1]
            raise PeerDiedError(
                f"{self.name!r} is full and its consumer was killed (last killed: pid {pid}); attach a "
                "new one",
                pid=pid,
            )

    def _reap_dead(self, due: bool) -> None:
        segment = self._segment
        if due and segment.dead_slots() and segment.try_enter_gate():
            try:
                _reap(segment, self)
            finally:
                segment.leave_gate()

    def _check_company(self, state: str) -> None:
        """PeerDiedError if somebody was killed and no other handle is left."""
        deaths, pid = self._segment.deaths
        if deaths != self._deaths_seen and not self._segment.others_alive():
            raise PeerDiedError(
                f"{self.name!r} is {state} and no other handle is left; {deaths - self._deaths_seen} were "
                f"killed since this one looked, the last was pid {pid}",
                pid=pid,
            )

    def _death_reported(self) -> None:
        self._deaths_seen = self._segment.deaths[0]
        self._consumer_deaths_seen = self._consumer()[1]

    def _ring_doorbells(self, consumer: bool) -> None:
        if consumer:
            slot = self._consumer()[0] - 1
            paths = [self._segment.fifo_path(slot)] if slot >= 0 else []
        else:
            paths = self._segment.armed_fifos()
        for path in paths:
            self._doorbells.ring(path)

    # ----------------------------------------------------------------------------------------------- asyncio

    def _bell(self) -> Doorbell:
        if not self._usable():
            self._not_usable()
        if self._doorbell is None:
            self._doorbell = Doorbell(lambda: self._segment.arm_fifo(self._slot))
        return self._doorbell

    async def _record_async(self, deadline: Deadline) -> None:
        """Return when there may be a record, or raise Empty."""
        if deadline.left() == 0:
            raise Empty(self._why_empty(deadline.waited()))
        bell = self._bell()
        bell.attach()
        self._see_to_the_dead(False)
        if not self._arm_not_empty():
            await bell.wait(deadline.left())

    async def _room_async(self, nbytes: int, deadline: Deadline) -> None:
        if deadline.left() == 0:
            raise Full(self._why_full(nbytes, deadline.waited()))
        bell = self._bell()
        bell.attach()
        self._see_to_the_dead(True)
        if not self._arm_not_full(nbytes):
            await bell.wait(deadline.left())

    async def get_async(self, timeout: float | None = None) -> bytes:
        """get() for asyncio: waits on a file descriptor, without a thread.

        A cancelled call has taken nothing.
        """
        deadline = Deadline(timeout)
        while (record := self.try_get()) is None:
            await self._record_async(deadline)
        return record

    async def get_many_async(self, limit: int = 1024, timeout: float | None = None) -> list[bytes]:
        """get_many() for asyncio."""
        deadline = Deadline(timeout)
        while not (records := self.try_get_many(limit)):
            await self._record_async(deadline)
        return records

    async def put_async(self, data: Buffer, timeout: float | None = None) -> None:
        """put() for asyncio. A cancelled call has sent nothing."""
        deadline = Deadline(timeout)
        while not self.try_put(data):
            await self._room_async(memoryview(data).nbytes, deadline)

    async def put_many_async(self, items: Iterable[Buffer], timeout: float | None = None) -> int:
        """put_many() for asyncio.

        A cancelled call has sent the first items, in order, and stats() tells how many.
        """
        deadline = Deadline(timeout)
        records = list(items)
        done = 0
        self._check_sizes(records)
        while done < len(records):
            put = self._put_from(records, done)
            done += put
            if not put:
                try:
                    await self._room_async(memoryview(records[done]).nbytes, deadline)
                except (Full, PeerDiedError) as ended:
                    raise after_sending(ended, done, len(records)) from None
        return done

    async def peek_async(self, timeout: float | None = None) -> Peek:
        """peek() for asyncio: ``with await ring.peek_async() as view``."""
        deadline = Deadline(timeout)
        while True:
            try:
                return self.peek(0)
            except Empty:
                await self._record_async(deadline)

    async def claim_async(self, nbytes: int, timeout: float | None = None) -> Claim:
        """claim() for asyncio: ``with await ring.claim_async(n) as view``."""
        deadline = Deadline(timeout)
        while True:
            try:
                return self.claim(nbytes, 0)
            except Full:
                await self._room_async(nbytes, deadline)

    def fileno(self) -> int:
        """A descriptor that is readable while there may be records, for select(), poll() and event loops of
        others.

        Level-triggered. When it is readable call try_get() until it gives None; that None rests the
        descriptor.
        """
        bell = self._bell()
        self._watch()
        bell.wake()
        return bell.fileno()

    def _rest(self) -> bool:
        """try_get() found nothing on a watched ring: rest the descriptor;

        True if something came meanwhile.
        """
        self._bell().rest()
        return self._arm_not_empty()

    # ------------------------------------------------------------------------------------------ fork and end

    def _not_usable(self) -> None:
        if self.closed:
            super()._not_usable()
        segment = self._segment
        segment.enter_gate()
        try:
            if self._usable():  # another thread was faster
                return
            _reap(segment, self)
            slot = segment.join()
            segment.live(slot)
            self._settle(slot)
        finally:
            segment.leave_gate()

    def _forget(self) -> None:
        super()._forget()
        self._doorbells.close()
        if self._doorbell is not None:
            self._doorbell.abandon()
            self._doorbell = None

    def close(self) -> None:
        """Close this handle; again is harmless. Threads and coroutines that wait in it get ClosedError.

        Claims and views that are open stay valid; the handle leaves the ring when the last of them ends. The
        last handle to leave removes the ring, unless it holds unread records: those wait for the next
        attach() or create().
        """
        super().close()

    def _leave(self) -> None:
        super()._leave()
        if self._doorbell is not None:
            self._doorbell.close()
        self._doorbells.close()
        segment = self._segment
        if segment.closed:
            return
        segment.enter_gate()
        try:
            if segment.holds(self._slot):  # not so in a forked child that never used the handle
                segment.free(self._slot)
            _reap(segment, self)
            if not segment.taken_slots() and not self._outlives_handles() and not segment.unlinked:
                segment.unlink()
        finally:
            segment.leave_gate()
            segment.close()

    def _outlives_handles(self) -> bool:
        """Asked under the gate when the last handle has left: whether the file has to stay."""
        return self._unread() > 0

    def unlink(self) -> None:
        """Remove the ring's name now, unread records or not.

        Attached handles go on with each other. ClosedError.
        """
        self._segment.enter_gate()
        try:
            self._segment.unlink()
        finally:
            self._segment.leave_gate()

    def __del__(self) -> None:
        if hasattr(self, "_segment"):
            self.close()


def _attach_path(cls: type[RingBuffer], path: str, name: str) -> RingBuffer:
    """Unpickle: the same file, whatever FASTCOMM_DIR says here."""
    segment, _ = Segment.open(path, name=name, kind=cls._kind)
    with entered(segment):
        return cls._join(segment)


def cells_for(capacity: int) -> int:
    capacity = operator.index(capacity)
    if not 1 <= capacity <= MAX_CAPACITY:
        raise ValueError(
            f"capacity is {capacity} bytes; it must be 1 to {MAX_CAPACITY} (it is rounded up to a power of "
            "two)"
        )
    return 1 << (max(capacity, MIN_CAPACITY) - 1).bit_length() - 6


def _plan(cells: int, one_producer: int) -> tuple[int, list[tuple[int, int]], int, list[int]]:
    """Header page, participants, ring; all of it reserved at creation."""
    participants = MAX_HANDLES * PARTICIPANT_BYTES
    ring = Ring.bytes_needed(cells)
    sections = [(PAGE, participants), (PAGE + participants, ring)]
    return MAX_HANDLES, sections, PAGE + participants + ring, [cells, one_producer]


def _reap(segment: Segment, ring: Ring) -> None:
    """Under the gate: give up what the dead had claimed, tell everybody, then free their slots.

    Idempotent.
    """
    dead = segment.dead_slots()
    if not dead:
        return
    for slot in dead:
        ring._resolve_dead(slot + 1)
        segment.note_death(slot)
    ring._wake_all()
    doorbells = Doorbells()
    for path in segment.armed_fifos():
        doorbells.ring(path)
    doorbells.close()
    for slot in dead:
        segment.free(slot)
