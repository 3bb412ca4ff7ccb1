"""Ring: the protocol of protocol.pyx as a Python object, with waiting, roles, and views into the ring.

A Ring knows memory and owner numbers, not processes: what it needs to know of these it asks by calling
methods that a subclass replaces (`_owner_alive`, `_housekeep`, ...), all of them on slow paths only.

Thread safety: any thread may use a handle, under the GIL, which is given up only while waiting, never between
claim and commit (save for `claim()`, whose cells are its own).
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastcomm._core.atomics cimport fc_cas_acqrel_u32, fc_fetch_add_relaxed_u32, fc_fetch_add_relaxed_u64
from fastcomm._core.atomics cimport fc_load_acquire_u32
from fastcomm._core.atomics cimport fc_load_acquire_u64, fc_load_relaxed_u32, fc_load_relaxed_u64
from fastcomm._core.atomics cimport fc_store_seqcst_u32
from fastcomm._core.clock cimport deadline_of
from fastcomm._core.futex cimport fc_futex_wait, fc_monotonic_ns
from fastcomm._core.hooks cimport FC_HOOK_BATCH_BETWEEN_HEADERS, fc_arm_hook, fc_hook
from fastcomm._core.layout cimport (
    FC_CELL,
    FC_MAX_CELLS,
    FC_MAX_OWNER,
    FC_MAX_RECORD_CELLS,
    FC_MIN_CELLS,
    FC_POS_MASK,
    FC_RING_BYTES,
    FC_SLEEP_FD,
    FC_SLEEP_FUTEX,
    fc_ring_t,
    fc_wait_t,
)
from fastcomm._core.protocol cimport *
from fastcomm._core.wait cimport (
    SLICE_NS,
    announce_sleep,
    bell_read,
    ring_bell_always,
    spin_budget_ns,
    spin_missed,
    spin_rewarded,
)

from collections import namedtuple

from fastcomm.errors import (
    ClosedError,
    CorruptSegmentError,
    Empty,
    FastCommError,
    FencedError,
    ForkedError,
    Full,
    MessageTooLargeError,
    PeerDiedError,
    RecordPinnedError,
    RoleTakenError,
)

cdef enum:
    CHUNK = 256    # records that one claim of put_many takes at most

RingStats = namedtuple(
    "RingStats",
    "capacity depth records_put bytes_put records_got bytes_got sleeps spins aborted misdirected discarded",
    module=__name__,
)
RingStats.__doc__ = """A snapshot of a ring as one handle sees it.

capacity, depth: bytes of cells, and how many of them hold what the consumer has not released yet.
records_put, bytes_put, records_got, bytes_got, sleeps, spins: of this handle; sleeps are waits that reached
the kernel, spins are waits that were ended by spinning. aborted: claims of dead or failed producers that
consumers skipped; misdirected: records dropped because they were meant for an earlier owner of the ring;
discarded: records that a consumer left unread when it went; since the ring was created.
"""


cdef int check_limit(Py_ssize_t limit) except -1:
    if limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1")
    return 0


def after_sending(ended, Py_ssize_t done, Py_ssize_t total):
    """The error that ended a put of `total` records after `done` of them, with these numbers."""
    text = f"{done} of {total} records were sent; {ended}"
    if isinstance(ended, Full):
        return Full(text, delivered=done, missing=total - done)
    return PeerDiedError(text, pid=ended.pid, delivered=done)


cdef class Ring:
    """A ring laid over memory that it is given: ``Ring(memory, owner=n)`` after ``Ring.format(memory,
    cells=...)``.

    `memory` is a writable buffer of bytes, 64-byte aligned, that every party maps; `owner`, 1 to 4094, is the
    number that this handle's claims bear and must be unique among live handles. Nobody's liveness can be told
    from memory alone, so a bare Ring takes every owner for alive; RingBuffer knows better.

    Thread safety: any thread, under the GIL. Process safety: any number of producers, one consumer. After a
    fork the child must not use the handle.
    """

    def __init__(self, unsigned char[::1] memory not None, *, int owner, str name="ring"):
        if not 1 <= owner <= <int>FC_MAX_OWNER:
            raise ValueError(f"owner is {owner}; it must be 1 to {FC_MAX_OWNER}")
        if memory.shape[0] and <size_t>&memory[0] % 64:
            raise ValueError("the memory of a ring must be 64-byte aligned")
        if memory.shape[0] == 0 or not ring_attach(&self.ring, &memory[0], memory.shape[0], owner):
            raise CorruptSegmentError(
                f"{memory.shape[0]} bytes do not begin with the control words of a ring that fits in them"
            )
        self.memory = memory
        self.name = name
        self.usable = True

    @staticmethod
    def format(unsigned char[::1] memory not None, *, int cells, bint one_producer=False, uint64_t start=0):
        """Lay out an empty ring of `cells` cells (a power of two) in zeroed memory.

        `start`: its first position, for tests.
        """
        if cells < <int>FC_MIN_CELLS or cells > <int>FC_MAX_CELLS or cells & (cells - 1):
            raise ValueError(
                f"cells is {cells}; it must be a power of two from {FC_MIN_CELLS} to {FC_MAX_CELLS}"
            )
        if <uint64_t>memory.shape[0] < FC_RING_BYTES(cells):
            raise ValueError(
                f"a ring of {cells} cells needs {FC_RING_BYTES(cells)} bytes, the memory has "
                f"{memory.shape[0]}"
            )
        if start % cells:
            raise ValueError(f"start is {start}; it must be a multiple of the {cells} cells")
        ring_format(&memory[0], cells, one_producer, start if start else cells)

    @staticmethod
    def bytes_needed(int cells):
        """Bytes of memory for a ring of `cells` cells."""
        return FC_RING_BYTES(cells)

    # ------------------------------------------------------------------------------- what subclasses replace

    def _owner_alive(self, int owner):
        """Whether the holder of that number lives. Asked when its claim or its role stands in the way."""
        return True

    def _reap_owner(self, int owner):
        """The owner of that number was found dead: take what it had, its role at least, unless it is somebody
        else's by now.
        """
        self._resolve_dead(owner)

    def _owner_pid(self, int owner):
        return 0

    def _describe_owner(self, int owner):
        """Who that is, for the text of an error."""
        return f"owner {owner}" if owner else "nobody"

    def _housekeep(self, bint for_room):
        """Called about once in a wait slice while a call waits for room or for a record.

        PeerDiedError when a peer was killed and nobody is left who could end the wait, until
        _death_reported() is called.
        """

    def _death_reported(self):
        """The PeerDiedError that _housekeep() raised goes to the caller: the next wait is for new peers."""

    def _not_usable(self):
        """Called before a handle is used that can't be as it is: raise, or make it usable."""
        raise ClosedError(f"this handle of {self.name!r} is closed")

    def _ring_doorbells(self, bint consumer):
        """Write to the doorbell FIFO of the consumer, or of everybody who may wait for room."""

    def _leave(self):
        """The handle is closed and its last view has gone."""
        if self.is_consumer or self.is_producer:    # not so in a forked child: the roles are the parent's
            self._drop_roles(self.ring.owner)

    # ------------------------------------------------------------------------------------------------- roles

    def _take_role(self, bint consumer):
        cdef uint32_t *word = &self.ring.shared.consumer if consumer else &self.ring.shared.producer
        cdef uint32_t holder = fc_load_acquire_u32(word)
        while holder != self.ring.owner:
            if holder > FC_MAX_OWNER:
                raise CorruptSegmentError(
                    f"the {'consumer' if consumer else 'producer'} of {self.name!r} is said to be owner "
                    f"{holder}, a number "
                    f"above {FC_MAX_OWNER} that nobody can have; close every handle of it and unlink it"
                )
            if holder and self._owner_alive(holder):
                raise RoleTakenError(
                    f"the {'consumer' if consumer else 'producer'} of {self.name!r} is "
                    f"{self._describe_owner(holder)}; "
                    "a ring has one at a time: use that handle, or close it first",
                    pid=self._owner_pid(holder),
                )
            if holder:
                # Not from here: until we get to it somebody else may have reaped it, and its number, its role
                # and claims in progress may be a live newcomer's.
                self._reap_owner(holder)
                holder = fc_load_acquire_u32(word)
                continue
            # SYNC role-passed: acquires what the last holder did, up to its CAS in _drop_roles or its
            # reaper's.
            if fc_cas_acqrel_u32(word, &holder, self.ring.owner):
                break
        if consumer:
            self.position = fc_load_acquire_u64(&self.ring.shared.head) & FC_POS_MASK
            self.is_consumer = True
        else:
            self.is_producer = True

    def _drop_roles(self, int owner):
        """Let others take the roles that `owner` holds."""
        cdef uint32_t expected = owner
        # SYNC role-passed: releases what was done in the role.
        fc_cas_acqrel_u32(&self.ring.shared.consumer, &expected, 0)
        expected = owner
        fc_cas_acqrel_u32(&self.ring.shared.producer, &expected, 0)

    # ----------------------------------------------------------------------------------------------- consume

    cdef int look(self, record_t *record) except -1:
        """1: `record` is the next one; 0: there is none yet. A dead owner's claim is given up on the way."""
        cdef int status
        cdef uint64_t at
        while True:
            # Anew in each round: another thread may have closed the handle or moved on while _owner_alive()
            # ran.
            if not self.usable:
                self._not_usable()
            if not self.is_consumer:
                self._take_role(True)
            if self.pinned:
                raise RecordPinnedError(
                    f"the record at the head of {self.name!r} is held by peek(): leave its `with` block and "
                    "drop its views first"
                )
            status = ring_peek(&self.ring, &self.position, record)
            if status == RING_OK:
                if record.epoch == self.epoch:
                    return 1
                fc_fetch_add_relaxed_u64(&self.ring.shared.misdirected, 1)
                self.position = (self.position + record.cells) & FC_POS_MASK
                continue
            at = self.position
            if at != fc_load_relaxed_u64(&self.ring.shared.head):
                self.publish_position()    # padding and given-up claims are room that somebody may wait for
            if status == RING_EMPTY:
                return 0
            if status != RING_BUSY:
                raise CorruptSegmentError(
                    f"{self.name!r} has at cell {at & self.ring.mask} a header that no producer writes; "
                    "close every handle of it and unlink it"
                )
            if self._owner_alive(record.owner):
                return 0
            ring_abort_dead(&self.ring, at, record)    # `at`: another thread may have moved on while we asked

    cdef int advance(self, const record_t *record) except -1:
        self.position = (self.position + record.cells) & FC_POS_MASK
        self.records_got += 1
        self.bytes_got += record.nbytes
        return 0

    cdef int publish_position(self) except -1:
        """Give the cells before our position back to producers."""
        if ring_release(&self.ring, self.position) & FC_SLEEP_FD:
            self._ring_doorbells(False)
        return 0

    cdef bytes take(self, const record_t *record):
        cdef bytes data = PyBytes_FromStringAndSize(<const char *>record.payload, record.nbytes)
        self.advance(record)
        self.publish_position()
        return data

    cdef bint spin_first(self) noexcept:
        """Whether waiting is better begun by spinning: looking reads the producers' tail, and takes it from
        them.
        """
        return (self.spin_get.hit_ns != 0 and self.usable and self.is_consumer
                and not ring_has_record(&self.ring, self.position))

    cdef int wait_record(self, record_t *record, object timeout, int64_t *deadline) except -1:
        """look() until it finds something (1), or somebody nudges us (0); or raise Empty.

        *deadline is 0 at the first call of one operation.
        """
        cdef int64_t now, started = fc_monotonic_ns()
        cdef uint32_t seen
        cdef fc_wait_t *wait = &self.ring.shared.not_empty
        if deadline[0] == 0:
            deadline[0] = deadline_of(timeout)
        while not self.nudged:
            now = fc_monotonic_ns()
            if 0 <= deadline[0] <= now:
                if self.look(record):
                    return 1
                raise Empty(self._why_empty((now - started) / 1e9))
            if self.spin_for_record(now, deadline[0]) and self.look(record):
                return 1
            self._see_to_the_dead(False)
            seen = bell_read(wait)
            announce_sleep(wait, FC_SLEEP_FUTEX)
            if self.look(record):
                return 1
            if not self.nudged:
                self.sleep(wait, seen, deadline[0])
            if self.look(record):
                return 1
        return 0

    cdef bint spin_for_record(self, int64_t now, int64_t deadline) except -1:
        """Spin, if that pays lately; whether something came."""
        cdef int64_t took, budget = spin_budget_ns(&self.spin_get)
        if budget == 0:
            return False
        if deadline >= 0:
            budget = min(budget, deadline - now)
        with nogil:
            took = ring_spin_for_record(&self.ring, self.position, now, budget)
        if took < 0:
            spin_missed(&self.spin_get)
            return False
        spin_rewarded(&self.spin_get, took)
        self.spins += 1
        return True

    cdef int nudge(self, bint on) except -1:
        """Have waiting threads of this handle return, and none wait, until it is taken back."""
        self.nudged = on
        if on:
            ring_bell_always(&self.ring.shared.not_empty)
        return 0

    cdef int sleep(self, fc_wait_t *wait, uint32_t seen, int64_t deadline) except -1:
        """One slice of sleep, then signals."""
        cdef int64_t slice = SLICE_NS
        if deadline >= 0:
            slice = min(slice, max(<int64_t>0, deadline - fc_monotonic_ns()))
        self.sleeps += 1
        with nogil:
            fc_futex_wait(&wait.bell, seen, slice)
        PyErr_CheckSignals()
        return 0

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

    def try_get(self):
        """The next record as bytes, or None if there is none. Never waits.

        Takes the consumer's role: RoleTakenError if another live handle has it. ClosedError,
        CorruptSegmentError.
        """
        cdef record_t record
        if self.look(&record) or (self.watched and self._rest() and self.look(&record)):
            return self.take(&record)
        return None

    def try_get_many(self, Py_ssize_t limit=1024):
        """Up to `limit` records that are there now, as a list of bytes; empty if there are none.

        Never waits.
        """
        cdef record_t record
        check_limit(limit)
        return self.take_many(&record, limit) if self.look(&record) else []

    def get(self, timeout=None):
        """The next record as bytes; waits at most `timeout` seconds (None: for ever), then raises Empty.

        Takes the consumer's role (RoleTakenError). The GIL is free while it waits, Ctrl-C works.
        PeerDiedError when the last other participant was killed; the next call waits for new ones.
        ClosedError when another thread closes the handle.
        """
        cdef record_t record
        cdef int64_t deadline = 0
        if self.spin_first() or not self.look(&record):
            self.wait_record(&record, timeout, &deadline)
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
            self.wait_record(&record, timeout, &deadline)
        return self.take_many(&record, limit)

    cdef list take_many(self, record_t *record, Py_ssize_t limit):
        cdef list records = []
        try:
            while True:
                records.append(PyBytes_FromStringAndSize(<const char *>record.payload, record.nbytes))
                self.advance(record)
                if len(records) == limit or not self.look(record):
                    return records
        except FastCommError:
            return records    # what was taken is handed over; the next call meets the same error
        finally:
            self.publish_position()

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
            self.wait_record(&record, timeout, &deadline)
        peek.ring = self
        peek.forks = self.forks
        peek.data = <unsigned char *>record.payload
        peek.nbytes = record.nbytes
        peek.record = record
        self.pinned = True
        self.leases += 1
        return peek

    # ----------------------------------------------------------------------------------------------- produce

    cdef int check_size(self, uint64_t nbytes) except -1:
        cdef uint64_t limit = <uint64_t>self.ring.max_cells * FC_CELL - 8
        if nbytes > limit:
            raise MessageTooLargeError(
                f"a record of {nbytes} bytes can't pass {self.name!r}: its limit is {limit} bytes (half the "
                "capacity, "
                f"and at most {FC_MAX_RECORD_CELLS} cells of {FC_CELL}); make the ring larger or the record "
                "smaller",
                size=nbytes, limit=limit,
            )
        return 0

    cdef int claim_run(self, const uint32_t *cells, size_t count, claim_t *claim, size_t *taken) except -1:
        """1: claimed for *taken of the records; 0: full."""
        cdef int status
        if not self.usable:
            self._not_usable()
        if not self.is_producer:
            if self.ring.shared.one_producer:
                self._take_role(False)
            self.is_producer = True
        status = ring_claim_run(&self.ring, cells, count, claim, taken)
        if status == RING_OK:
            return 1
        if status == RING_FULL:
            return 0
        return self.refused(status)

    cdef int claim_cells(self, uint32_t cells, claim_t *claim) except -1:
        cdef size_t taken
        return self.claim_run(&cells, 1, claim, &taken)

    cdef int write(self, const void *data, uint64_t nbytes) except -1:
        """One record; 1: sent, 0: full."""
        cdef claim_t claim
        cdef uint32_t cells = record_cells(nbytes)
        if not self.claim_cells(cells, &claim):
            return 0
        ring_write_record(&self.ring, claim.position, data, nbytes, self.epoch)
        if ring_commit(&self.ring, &claim, cells) != RING_OK:
            self.refused(RING_FENCED)
        self.records_put += 1
        self.bytes_put += nbytes
        self.wake_consumer()
        return 1

    cdef int write_waiting(self, const void *data, uint64_t nbytes, object timeout,
                           int64_t *deadline) except -1:
        while not self.write(data, nbytes):
            self.wait_room(nbytes, timeout, deadline)
        return 0

    cdef int wake_consumer(self) except -1:
        if ring_wake_consumer(&self.ring) & FC_SLEEP_FD:
            self._ring_doorbells(True)
        return 0

    cdef int refused(self, int status) except -1:
        if status == RING_FENCED:
            raise FencedError(
                f"this process was taken for dead on {self.name!r} (was its lock's file descriptor closed?); "
                "nothing was sent"
            )
        if status == RING_CLOSED:
            raise ClosedError(f"{self.name!r} takes no more records: its consumer has left")
        raise CorruptSegmentError(
            f"the head and the tail of {self.name!r} contradict each other; close every handle of it and "
            "unlink it"
        )

    cdef int wait_room(self, uint64_t nbytes, object timeout, int64_t *deadline) except -1:
        """Return when a record of `nbytes` may fit, or raise Full. *deadline is 0 at the first call of one
        operation.
        """
        cdef int64_t now = fc_monotonic_ns()
        cdef int64_t budget, took
        cdef uint32_t seen, cells = record_cells(nbytes)
        cdef fc_wait_t *wait = &self.ring.shared.not_full
        cdef uint64_t head = fc_load_relaxed_u64(&self.ring.shared.head)
        if deadline[0] == 0:
            deadline[0] = deadline_of(timeout)
            self.watched_head = ~head
        if head != self.watched_head:
            self.watched_head = head
            self.watched_since = now
        if 0 <= deadline[0] <= now:
            raise Full(self._why_full(nbytes, timeout))
        budget = spin_budget_ns(&self.spin_put)
        if budget:
            if deadline[0] >= 0:
                budget = min(budget, deadline[0] - now)
            with nogil:
                took = ring_spin_for_room(&self.ring, cells, now, budget)
            if took >= 0:
                spin_rewarded(&self.spin_put, took)
                self.spins += 1
                return 0
            spin_missed(&self.spin_put)
        self._see_to_the_dead(True)
        seen = bell_read(wait)
        announce_sleep(wait, FC_SLEEP_FUTEX)
        if not ring_has_room(&self.ring, cells):
            self.sleep(wait, seen, deadline[0])
        return 0

    def _why_full(self, Py_ssize_t nbytes, timeout):
        consumer, _ = self._consumer()
        still = (fc_monotonic_ns() - self.watched_since) / 1e9
        return (
            f"no room for a record of {nbytes} bytes in {self.name!r} within {timeout} s: {self.depth} of "
            f"{self.capacity} bytes "
            f"wait for its consumer, {self._describe_owner(consumer)}, which has taken nothing for "
            f"{still:.3g} s"
            f"{self._why_held_up()}"
        )

    def try_put(self, data):
        """Send `data` (any contiguous buffer of bytes); False if there is no room now. Never waits.

        MessageTooLargeError if it could never fit; RoleTakenError on a ring for one producer that has
        another.
        """
        cdef Py_buffer view
        if PyBytes_CheckExact(data):
            self.check_size(PyBytes_GET_SIZE(data))
            return self.write(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)) == 1
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self.check_size(view.len)
            return self.write(view.buf, view.len) == 1
        finally:
            PyBuffer_Release(&view)

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

    def try_put_many(self, items):
        """Send as many of the items, from the first on, as there is room for now; returns how many.

        Never waits.
        """
        cdef list records = list(items)
        self.check_sizes(records)
        return self._put_from(records, 0)

    def _check_sizes(self, list records):
        self.check_sizes(records)

    def _put_from(self, list records, Py_ssize_t first):
        """try_put_many() of the records from `first` on, whose sizes have been checked."""
        cdef Py_ssize_t done = first, put
        while done < len(records):
            if PyBytes_CheckExact(records[done]):
                put = self.write_run(records, done)
            else:
                put = self.try_put(records[done])
            if put == 0:
                break
            done += put
        return done - first

    cdef int check_sizes(self, list records) except -1:
        for item in records:
            self.check_size(PyBytes_GET_SIZE(item) if PyBytes_CheckExact(item) else memoryview(item).nbytes)
        return 0

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

    cdef Py_ssize_t write_run(self, list records, Py_ssize_t first) except -1:
        """One claim for as many of the bytes objects from `first` on as fit; returns how many, 0 if there is
        no room.
        """
        cdef uint32_t cells[CHUNK]
        cdef size_t count = 0, taken = 0, i
        cdef claim_t claim
        cdef uint64_t position, nbytes
        while (count < CHUNK and first + <Py_ssize_t>count < len(records)
                and PyBytes_CheckExact(records[first + count])):
            cells[count] = record_cells(PyBytes_GET_SIZE(records[first + count]))
            count += 1
        if not self.claim_run(cells, count, &claim, &taken):
            return 0
        position = claim.position + claim.cells
        # From the last to the first: the first header makes all of them reachable
        for i in range(taken, 0, -1):
            position -= cells[i - 1]
            item = records[first + <Py_ssize_t>i - 1]
            nbytes = PyBytes_GET_SIZE(item)
            ring_write_record(&self.ring, position, PyBytes_AS_STRING(item), nbytes, self.epoch)
            self.bytes_put += nbytes
            if i > 1:
                ring_store_inner(&self.ring, position, cells[i - 1])
                fc_hook(FC_HOOK_BATCH_BETWEEN_HEADERS)
        if ring_commit(&self.ring, &claim, cells[0]) != RING_OK:
            self.refused(RING_FENCED)
        self.records_put += taken
        self.wake_consumer()
        return taken

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

    def _watch(self):
        self.watched = True

    def _rest(self):
        return False

    def _arm_not_full(self, Py_ssize_t nbytes):
        """Ask for the doorbell when there is room; True if there may be some already."""
        announce_sleep(&self.ring.shared.not_full, FC_SLEEP_FD)
        return ring_has_room(&self.ring, record_cells(nbytes))

    # ----------------------------------------------------------------------------------------- state and end

    @property
    def closed(self):
        return bool(self.is_closed)

    @property
    def capacity(self):
        """Bytes of cells; a record takes 8 bytes more than its payload, rounded up to 64."""
        return <uint64_t>self.ring.cells * FC_CELL

    @property
    def max_record(self):
        """Bytes of the largest payload that a record can have."""
        return <uint64_t>self.ring.max_cells * FC_CELL - 8

    @property
    def depth(self):
        """Bytes of cells that hold what the consumer has not released yet."""
        return ring_depth(&self.ring) * FC_CELL

    def stats(self):
        """RingStats: counters of this handle and of the ring; a snapshot, taken without disturbing anybody.
        """
        cdef fc_ring_t *shared = self.ring.shared
        return RingStats(
            self.capacity, self.depth, self.records_put, self.bytes_put, self.records_got, self.bytes_got,
            self.sleeps, self.spins, fc_load_relaxed_u64(&shared.aborted),
            fc_load_relaxed_u64(&shared.misdirected), fc_load_relaxed_u64(&shared.discarded),
        )

    def _resolve_dead(self, int owner):
        """Give up every claim of a dead owner and free its roles; idempotent.

        The caller holds the owner's lock.
        """
        ring_resolve_dead(&self.ring, owner)
        if fc_load_relaxed_u32(&self.ring.shared.consumer) == <uint32_t>owner:
            fc_fetch_add_relaxed_u32(&self.ring.shared.consumer_deaths, 1)
        self._drop_roles(owner)

    def _unread(self):
        """Committed records that nobody has taken; exact while nobody takes any."""
        return ring_unread(&self.ring)

    def _consumer(self):
        """(owner number of the consumer or 0, how many consumers were found dead)"""
        cdef uint32_t owner = fc_load_acquire_u32(&self.ring.shared.consumer)
        return owner if owner <= FC_MAX_OWNER else 0, fc_load_relaxed_u32(&self.ring.shared.consumer_deaths)

    # ------------------------------------------------------------------------------------ a ring as an inbox

    def _open_inbox(self):
        """The ring is this handle's inbox from now on: its epoch is what records must bear.

        Returns the epoch.
        """
        self.epoch = fc_load_acquire_u32(&self.ring.shared.epoch)
        self._take_role(True)
        ring_reopen(&self.ring)
        return self.epoch

    def _retire_inbox(self):
        """Under the gate, when its agent leaves or has died: nobody's records are meant for it any more.

        Returns True if nothing is left in it, False if a live publisher is in the middle of a record.
        """
        cdef record_t record
        cdef uint64_t position
        cdef int status
        # SYNC epoch-moved: the store, then the drain; a publisher commits, then loads the epoch.
        fc_store_seqcst_u32(&self.ring.shared.epoch, fc_load_relaxed_u32(&self.ring.shared.epoch) + 1)
        ring_close(&self.ring)
        position = fc_load_acquire_u64(&self.ring.shared.head) & FC_POS_MASK
        while True:
            status = ring_peek(&self.ring, &position, &record)
            if status == RING_OK:
                fc_fetch_add_relaxed_u64(&self.ring.shared.discarded, 1)
                position = (position + record.cells) & FC_POS_MASK
            elif status == RING_BUSY and not self._owner_alive(record.owner):
                ring_abort_dead(&self.ring, position, &record)
            else:
                break
        ring_release(&self.ring, position)
        return status == RING_EMPTY

    def _wake_all(self):
        """Wake everybody who sleeps on this ring, whatever the flags say."""
        ring_bell_always(&self.ring.shared.not_empty)
        ring_bell_always(&self.ring.shared.not_full)

    def _usable(self):
        return bool(self.usable)

    def _joined(self, int owner):
        """The handle has an owner number (again): it can be used."""
        self.ring.owner = owner
        self.usable = True

    def _forget(self):
        """In the child of a fork: claims, views and roles are the parent's."""
        self.usable = self.is_consumer = self.is_producer = self.pinned = self.watched = False
        self.leases = 0
        self.ring.owner = 0    # or closing the handle would drop the parent's roles
        self.forks += 1
        self.ring.last_tail = 0

    def close(self):
        """Close this handle; again is harmless. Threads that wait in it get ClosedError.

        Claims and views that are open stay valid; the handle leaves the ring when the last of them ends.
        """
        if self.is_closed:
            return
        self.is_closed = True
        self.usable = False
        self._wake_all()
        if self.leases == 0:
            self._leave()

    cdef int end_lease(self) except -1:
        self.leases -= 1
        if self.is_closed and self.leases == 0:
            self._leave()
        return 0

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()


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
    """Stop this process the `countdown`-th time it passes that step (FC_HOOK_*).

    The debug build only: else RuntimeError.
    """
    if not fc_arm_hook(hook, countdown):
        raise RuntimeError("fault hooks are compiled into the debug build only (FASTCOMM_DEBUG=1)")
