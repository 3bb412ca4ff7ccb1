"""Ring: a handle of a ring (ring_handle.pyx) that waits for records and for room, and lends cells to views.

Thread safety: any thread may use a handle, under the GIL, which is given up only while waiting, never between
claim and commit (save for `claim()`, whose cells are its own).
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.unistd cimport close

from fastcomm._core.atomics cimport fc_load_relaxed_u64
from fastcomm._core.clock cimport deadline_of
from fastcomm._core.futex cimport fc_futex_wait, fc_monotonic_ns
from fastcomm._core.hooks cimport arm_hook
from fastcomm._core.layout cimport FC_SLEEP_FD, FC_SLEEP_FUTEX, fc_wait_t
from fastcomm._core.protocol cimport *
from fastcomm._core.ring_handle cimport RingHandle, check_limit
from fastcomm._core.wait cimport (
    SLICE_NS,
    SPIN_LIMIT_NS,
    announce_sleep,
    bell_read,
    fifo_ring,
    fifo_sleep,
    ring_bell_always,
    spin_budget_ns,
    spin_missed,
    spin_rewarded,
)

from fastcomm.errors import Empty, ForkedError, Full, PeerDiedError


def after_sending(ended, Py_ssize_t done, Py_ssize_t total):
    """The error that ended a put of `total` records after `done` of them, with these numbers."""
    text = f"{done} of {total} records were sent; {ended}"
    if isinstance(ended, Full):
        return Full(text, delivered=done, missing=total - done)
    return PeerDiedError(text, pid=ended.pid, delivered=done)


cdef class Ring(RingHandle):
    """A ring laid over memory that it is given: ``Ring(memory, owner=n)`` after ``Ring.format(memory,
    cells=...)``.

    `memory` is a writable buffer of bytes, 64-byte aligned, that every party maps; `owner`, 1 to 4094, is the
    number that this handle's claims bear and must be unique among live handles. Nobody's liveness can be told
    from memory alone, so a bare Ring takes every owner for alive; RingBuffer knows better.

    Thread safety: any thread, under the GIL. Process safety: any number of producers, one consumer. After a
    fork the child must not use the handle.
    """

    def __cinit__(self):
        self.spin_get.limit_ns = self.spin_put.limit_ns = SPIN_LIMIT_NS
        self.fifo = -1

    def __dealloc__(self):
        if self.fifo >= 0:
            close(self.fifo)

    def _limit_spin(self, int64_t ns):
        """Spin no longer than `ns` before sleeping, for records or for room; 0: not at all."""
        self.spin_get.limit_ns = self.spin_put.limit_ns = ns

    def _sleep_on(self, int fifo):
        """Sleep on this descriptor of our participant's doorbell FIFO, not on futexes; it is closed with us.
        """
        self.fifo = fifo

    def _wake_at_each_release(self):
        """Wake who waits for room when any is given back, not when a quarter is free."""
        self.ring.wakes_always = True

    def _wake_all(self):
        RingHandle._wake_all(self)
        if self.fifo >= 0:
            fifo_ring(self.fifo)

    def _housekeep(self, bint for_room):
        """Called about once in a wait slice while a call waits for room or for a record.

        PeerDiedError when a peer was killed and nobody is left who could end the wait, until
        _death_reported() is called.
        """

    def _death_reported(self):
        """The PeerDiedError that _housekeep() raised goes to the caller: the next wait is for new peers."""

    # -------------------------------------------------------------------------------------- wait for records

    cdef bint spin_first(self) noexcept:
        """Whether waiting is better begun by spinning: looking reads the producers' tail, and takes it from
        them.
        """
        return (self.spin_get.hit_ns != 0 and self.usable and self.is_consumer and not self.contested
                and not ring_has_record(&self.ring, self.position))

    cdef int wait_record(self, record_t *record, object timeout, int64_t *deadline,
                         uint32_t stirs) except -1:
        """look() until it finds something (1), or somebody has stirred us since `stirs` was read (0); or
        raise Empty.

        *deadline is 0 at the first call of one operation.
        """
        cdef int64_t now, started = fc_monotonic_ns()
        cdef uint32_t seen
        cdef fc_wait_t *wait = &self.ring.shared.not_empty
        if deadline[0] == 0:
            deadline[0] = deadline_of(timeout)
        while self.stirs == stirs:
            now = fc_monotonic_ns()
            if 0 <= deadline[0] <= now:
                if self.look(record):
                    return 1
                raise Empty(self._why_empty((now - started) / 1e9))
            if self.spin_for_record(now, deadline[0]) and self.look(record):
                return 1
            self._see_to_the_dead(False)
            seen = bell_read(wait)
            self.announce(wait)
            if self.look(record):
                return 1
            if self.stirs == stirs:
                self.sleep(wait, seen, deadline[0])
            if self.look(record):
                return 1
        return 0

    cdef bint spin_for_record(self, int64_t now, int64_t deadline) except -1:
        """Spin, if that pays lately; whether something came."""
        cdef int64_t took, budget = spin_budget_ns(&self.spin_get)
        cdef uint64_t position = self.position    # under the GIL: another thread of this handle may move it
        if budget == 0:
            return False
        if deadline >= 0:
            budget = min(budget, deadline - now)
        with nogil:
            took = ring_spin_for_record(&self.ring, position, now, budget)
        if took < 0:
            spin_missed(&self.spin_get)
            return False
        spin_rewarded(&self.spin_get, took)
        self.spins += 1
        return True

    cdef int stir(self) except -1:
        """Have threads that wait for records return: what they wait for may be elsewhere."""
        self.stirs += 1
        ring_bell_always(&self.ring.shared.not_empty)
        if self.fifo >= 0:
            fifo_ring(self.fifo)
        return 0

    cdef int announce(self, fc_wait_t *wait) noexcept:
        announce_sleep(wait, FC_SLEEP_FUTEX if self.fifo < 0 else FC_SLEEP_FD)
        return 0

    cdef int sleep(self, fc_wait_t *wait, uint32_t seen, int64_t deadline) except -1:
        """One slice of sleep, then signals."""
        cdef int64_t slice = SLICE_NS
        if deadline >= 0:
            slice = min(slice, max(<int64_t>0, deadline - fc_monotonic_ns()))
        self.sleeps += 1
        return self.doze(wait, seen, slice)

    cdef int doze(self, fc_wait_t *wait, uint32_t seen, int64_t slice) except -1:
        """Sleep at most so long, then signals."""
        cdef int fifo = self.fifo
        with nogil:
            if fifo < 0:
                fc_futex_wait(&wait.bell, seen, slice)
            else:
                fifo_sleep(fifo, slice)
        PyErr_CheckSignals()
        return 0

    def _doze_on_fifo(self, int64_t slice):
        """Sleep until our FIFO is rung, at most so long; False at once if we sleep on futexes."""
        if self.fifo < 0:
            return False
        self.doze(NULL, 0, min(slice, <int64_t>SLICE_NS))
        return True

    def _see_to_the_dead(self, bint for_room):
        """Housekeeping before a call sleeps, once in a slice: not after, when it would delay what woke the
        sleeper.

        PeerDiedError only when what the call waits for is not there.
        """
        cdef record_t record
        cdef int64_t now = fc_monotonic_ns()
        if now < self.next_housekeeping:
            return
        self.next_housekeeping = now + SLICE_NS
        try:
            self._housekeep(for_room)
        except PeerDiedError:
            # A peer can have sent something, or made room, and died then.
            if ring_has_room(&self.ring, 1) if for_room else self.look(&record):
                return
            self._death_reported()
            raise

    def _why_empty(self, double seconds):
        return f"nothing arrived in {self.name!r} within {seconds:.3g} s{self._why_held_up()}"

    def _why_held_up(self):
        """Whose claim the next record is, as a part of a message; empty if it is nobody's."""
        cdef uint32_t owner = ring_holdup(&self.ring)
        return f"; the next record is claimed and not sent by {self._describe_owner(owner)}" if owner else ""

    def get(self, timeout=None):
        """The next record as bytes; waits at most `timeout` seconds (None: for ever), then raises Empty.

        Takes the consumer's role (RoleTakenError). The GIL is free while it waits, Ctrl-C works.
        PeerDiedError when the last other participant was killed; the next call waits for new ones.
        ClosedError when another thread closes the handle.
        """
        cdef record_t record
        cdef int64_t deadline = 0
        if self.spin_first() or not self.look(&record):
            self.wait_record(&record, timeout, &deadline, self.stirs)
        return self.take(&record)

    def get_many(self, Py_ssize_t limit=1024, timeout=None):
        """A list of 1 to `limit` records as bytes: waits for the first as get() does, then takes what else is
        there.

        Their room is given back once, at the end.
        """
        cdef record_t record
        cdef int64_t deadline = 0
        check_limit(limit)
        if self.spin_first() or not self.look(&record):
            self.wait_record(&record, timeout, &deadline, self.stirs)
        return self.take_many(&record, limit)

    def peek(self, timeout=None):
        """``with ring.peek() as view``: the next record as a read-only memoryview into the ring, given back
        at the end.

        Waits as get() does. get() and peek() meanwhile raise RecordPinnedError. An exception inside the block
        leaves the record where it is, to be read again. If a view derived from `view` (a slice, a numpy
        array) still lives when the block ends, that raises BufferError, and the record is given back when the
        last view goes.
        """
        cdef record_t record
        cdef int64_t deadline = 0
        cdef Peek peek = Peek.__new__(Peek)
        if self.spin_first() or not self.look(&record):
            self.wait_record(&record, timeout, &deadline, self.stirs)
        peek.ring = self
        peek.forks = self.forks
        peek.data = <unsigned char *>record.payload
        peek.nbytes = record.nbytes
        peek.record = record
        self.pinned = True
        self.leases += 1
        return peek

    # ----------------------------------------------------------------------------------------- wait for room

    cdef int write_waiting(self, const void *data, uint64_t nbytes, object timeout,
                           int64_t *deadline) except -1:
        while not self.write(data, nbytes):
            self.wait_room(nbytes, timeout, deadline)
        return 0

    cdef int wait_room(self, uint64_t nbytes, object timeout, int64_t *deadline) except -1:
        """Return when a record of `nbytes` may fit, or raise Full. *deadline is 0 at the first call of one
        operation.
        """
        cdef int64_t now = fc_monotonic_ns()
        cdef int64_t budget, took
        cdef uint32_t seen, cells = record_cells(nbytes)
        cdef ring_t ring
        cdef fc_wait_t *wait = &self.ring.shared.not_full
        if deadline[0] == 0:
            deadline[0] = deadline_of(timeout)
        self.standstill(now)
        if 0 <= deadline[0] <= now:
            raise Full(self._why_full(nbytes, timeout))
        budget = spin_budget_ns(&self.spin_put)
        if budget:
            if deadline[0] >= 0:
                budget = min(budget, deadline[0] - now)
            ring = self.ring    # under the GIL: another thread of this handle may change it
            with nogil:
                took = ring_spin_for_room(&ring, cells, now, budget)
            if took >= 0:
                spin_rewarded(&self.spin_put, took)
                self.spins += 1
                return 0
            spin_missed(&self.spin_put)
        self._see_to_the_dead(True)
        seen = bell_read(wait)
        self.announce(wait)
        if not ring_has_room(&self.ring, cells):
            self.sleep(wait, seen, deadline[0])
        return 0

    cdef int64_t standstill(self, int64_t now) noexcept:
        """Nanoseconds since a call of this found the head where it is now."""
        cdef uint64_t head = fc_load_relaxed_u64(&self.ring.shared.head)
        if head != self.watched_head or self.watched_since == 0:
            self.watched_head = head
            self.watched_since = now
        return now - self.watched_since

    def _seconds_since_a_release(self):
        """For how long the head has not moved, as far as this handle has watched it."""
        return self.standstill(fc_monotonic_ns()) / 1e9

    def _why_full(self, Py_ssize_t nbytes, timeout):
        return (
            f"no room for a record of {nbytes} bytes in {self.name!r} within {timeout:.3g} s: "
            f"{self._backlog()}"
        )

    def _backlog(self):
        """What waits, for whom, and for how long it has, as far as this handle has watched."""
        consumer, _ = self._consumer()
        still = self._seconds_since_a_release()
        return (
            f"{self.depth} of {self.capacity} bytes wait for its consumer, {self._describe_owner(consumer)}, "
            f"which has taken nothing for {still:.3g} s{self._why_held_up()}"
        )

    def put(self, data, timeout=None):
        """Send `data` (any contiguous buffer of bytes); waits for room at most `timeout` seconds, then raises
        Full.

        When it returns the record is committed: it outlives this process. Otherwise as try_put();
        PeerDiedError when the consumer was killed and the ring is full.
        """
        cdef Py_buffer view
        cdef int64_t deadline = 0
        if PyBytes_CheckExact(data):
            self.check_size(PyBytes_GET_SIZE(data))
            self.write_waiting(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), timeout, &deadline)
            return
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self.check_size(view.len)
            self.write_waiting(view.buf, view.len, timeout, &deadline)
        finally:
            PyBuffer_Release(&view)

    def put_many(self, items, timeout=None):
        """Send each item of an iterable in order, waiting for room as put() does; returns how many there
        were.

        Runs of `bytes` items share one claim and one wake-up. A too large item raises before anything is
        sent. Full carries `delivered`, how many were sent, and `missing`.
        """
        cdef list records = list(items)
        cdef Py_ssize_t done = 0, put
        cdef int64_t deadline = 0
        self.check_sizes(records)
        while True:
            put = self._put_from(records, done)
            done += put
            if done == len(records):
                return done
            if put:
                continue
            item = records[done]
            try:
                self.wait_room(memoryview(item).nbytes, timeout, &deadline)
            except (Full, PeerDiedError) as ended:
                raise after_sending(ended, done, len(records)) from None

    def claim(self, Py_ssize_t nbytes, timeout=None):
        """``with ring.claim(n) as view``: `n` bytes of the ring to be filled in place, sent when the block
        ends.

        Waits for room as put() does. An exception inside the block gives the claim up. If a view derived from
        `view` still lives when the block ends, that raises BufferError, nothing is sent, and the claim is
        given up when the last view goes. Until it ends, records that others put after it wait behind it.
        """
        cdef Claim claim = Claim.__new__(Claim)
        cdef int64_t deadline = 0
        if nbytes < 0:
            raise ValueError(f"a record of {nbytes} bytes; it must be at least 0")
        self.check_size(nbytes)
        while not self.claim_cells(record_cells(nbytes), &claim.claim):
            self.wait_room(nbytes, timeout, &deadline)
        ring_write_prefix(&self.ring, claim.claim.position, nbytes, self.epoch)
        claim.ring = self
        claim.forks = self.forks
        claim.data = ring_payload(&self.ring, claim.claim.position)
        claim.nbytes = nbytes
        self.leases += 1
        return claim

    # ---------------------------------------------------------------------------------------- asyncio's half

    def _arm_not_empty(self):
        """Ask for the doorbell when a record comes; True if there is one already."""
        cdef record_t record
        announce_sleep(&self.ring.shared.not_empty, FC_SLEEP_FD)
        return self.look(&record) == 1

    def _arm_not_full(self, Py_ssize_t nbytes):
        """Ask for the doorbell when there is room; True if there may be some already."""
        self.standstill(fc_monotonic_ns())
        announce_sleep(&self.ring.shared.not_full, FC_SLEEP_FD)
        return ring_has_room(&self.ring, record_cells(nbytes))

# --------------------------------------------------------------------------------------- views into the ring

cdef class Lease:
    """Cells of a ring lent to a view, whose exporter this is: they stay as they are while an export lives."""

    cdef Ring ring
    cdef unsigned char *data
    cdef Py_ssize_t nbytes
    cdef Py_ssize_t exports
    cdef uint32_t forks
    cdef bint readonly, entered, left, well, done
    cdef object view

    def __init__(self):
        raise TypeError("claims and peeks are made by Ring.claim() and Ring.peek()")

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        if not self.entered or self.left:
            raise BufferError(
                "views of a claim or peek are taken inside its `with` block, from what it gives"
            )
        PyBuffer_FillInfo(buffer, self, self.data, self.nbytes, self.readonly, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.exports -= 1
        if self.left and self.exports == 0:
            self.finish(True)

    def __enter__(self):
        if self.entered:
            raise ValueError("a claim or peek is entered once")
        self.entered = True
        self.view = memoryview(self)
        return self.view

    def __exit__(self, exc_type, exc, traceback):
        view, self.view = self.view, None
        try:
            view.release()
        except BufferError:
            pass    # something was made from it; its export is counted like those of slices
        del view
        self.well = exc_type is None
        self.left = True
        if self.forks != self.ring.forks:
            self.done = True
            raise ForkedError(f"this view of {self.ring.name!r} was opened before a fork and is the parent's")
        if self.exports == 0:
            self.finish(False)
        elif self.well:
            raise BufferError(
                f"a view of this record of {self.ring.name!r} outlives its `with` block; a claim is not sent "
                "then, and the "
                "record stays where it is until that view goes"
            )

    def __del__(self):
        if not self.done and self.ring is not None and self.exports == 0:
            self.finish(True)

    cdef int finish(self, bint late) except -1:
        """Once: when the block has ended and no view is left.

        `late`: a view outlived the block, or it was never entered.
        """
        if self.done:
            return 0
        self.done = True
        if self.forks == self.ring.forks:
            try:
                self.give_back(late)
            finally:
                self.ring.end_lease()
        return 0

    cdef int give_back(self, bint late) except -1:
        return 0


@cython.final
cdef class Claim(Lease):
    """What Ring.claim() returns: a context manager that gives a writable view, and sends it at the end."""

    cdef claim_t claim

    cdef int give_back(self, bint late) except -1:
        cdef bint send = self.well and not late
        cdef int status
        if send:
            status = ring_commit(&self.ring.ring, &self.claim, self.claim.cells)
        else:
            status = ring_abort(&self.ring.ring, &self.claim)
        if status != RING_OK:
            self.ring.refused(status)
        if send:
            self.ring.records_put += 1
            self.ring.bytes_put += self.nbytes
        return self.ring.wake_consumer()


@cython.final
cdef class Peek(Lease):
    """What Ring.peek() returns: a context manager that gives a read-only view, and gives the record back at
    the end.
    """

    cdef record_t record

    def __cinit__(self):
        self.readonly = True

    cdef int give_back(self, bint late) except -1:
        self.ring.pinned = False
        if self.well:
            self.ring.advance(&self.record)
            self.ring.publish_position()
        return 0


def _arm_hook(int hook, int countdown=1):
    arm_hook(hook, countdown)
