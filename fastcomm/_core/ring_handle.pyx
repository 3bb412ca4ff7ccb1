"""RingHandle: one handle of a ring: roles, records in and out without waiting, counters, the end.

It knows memory and owner numbers, not processes: what it needs to know of these it asks by calling methods
that a subclass replaces (`_owner_alive`, `_not_usable`, ...), all of them on slow paths only. Ring, in
ring.pyx, adds waiting and views; the protocol is in protocol.pyx.

Thread safety: any thread may use a handle, under the GIL, which is never given up here, so never between
claim and commit.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t

from fastcomm._core.atomics cimport (
    fc_fetch_add_relaxed_u32,
    fc_fetch_add_relaxed_u64,
    fc_load_relaxed_u32,
    fc_load_relaxed_u64,
    fc_store_relaxed_u32,
    fc_store_seqcst_u32,
)
from fastcomm._core.contested cimport contested_advance, contested_peek, contested_write_record
from fastcomm._core.hooks cimport FC_HOOK_BATCH_BETWEEN_HEADERS, arm_hook, fc_hook
from fastcomm._core.layout cimport (
    FC_CELL,
    FC_MAX_CELLS,
    FC_MAX_OWNER,
    FC_MAX_RECORD_CELLS,
    FC_MIN_CELLS,
    FC_OVERFLOW_BLOCK,
    FC_OVERFLOW_DROP_OLDEST,
    FC_POS_MASK,
    FC_RING_BYTES,
    FC_SLEEP_FD,
    fc_ring_t,
)
from fastcomm._core.protocol cimport *
from fastcomm._core.wait cimport ring_bell_always

from collections import namedtuple

from fastcomm.errors import (
    ClosedError,
    CorruptSegmentError,
    FastCommError,
    FencedError,
    MessageTooLargeError,
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


cdef class RingHandle:
    """What a handle does without waiting. Ring is the class to use; its docstring holds for both."""

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

    def _not_usable(self):
        """Called before a handle is used that can't be as it is: raise, or make it usable."""
        raise ClosedError(f"this handle of {self.name!r} is closed")

    def _ring_doorbells(self, bint consumer):
        """Write to the doorbell FIFO of the consumer, or of everybody who may wait for room."""

    def _rest(self):
        """try_get() found nothing on a watched ring: rest its descriptor; whether something came meanwhile.
        """
        return False

    def _leave(self):
        """The handle is closed and its last view has gone."""
        if self.is_consumer or self.is_producer:    # not so in a forked child: the roles are the parent's
            self._drop_roles(self.ring.owner)

    # ------------------------------------------------------------------------------------------------- roles

    def _take_role(self, bint consumer):
        cdef uint32_t *word = &self.ring.shared.consumer if consumer else &self.ring.shared.producer
        cdef uint32_t holder = fc_load_relaxed_u32(word)
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
                holder = fc_load_relaxed_u32(word)
                continue
            if role_take(word, &holder, self.ring.owner):
                break
        if consumer:
            self.position = fc_load_relaxed_u64(&self.ring.shared.head) & FC_POS_MASK
            self.is_consumer = True
        else:
            self.is_producer = True

    def _drop_roles(self, int owner):
        """Let others take the roles that `owner` holds."""
        role_drop(&self.ring.shared.consumer, owner)
        role_drop(&self.ring.shared.producer, owner)

    # ----------------------------------------------------------------------------------------------- consume

    cdef int look(self, record_t *record) except -1:
        """1: `record` is the next one; 0: there is none yet. A dead owner's claim is given up on the way."""
        cdef int status
        cdef uint64_t at
        if self.contested:
            return self.look_contested(record)
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
            if not self.clear_way(status, at, record):
                return 0

    cdef int look_contested(self, record_t *record) except -1:
        """look() where others move the head too: the record may be gone when it is to be taken."""
        cdef int status
        while True:
            if not self.usable:
                self._not_usable()
            status = contested_peek(&self.ring, &self.head, record)
            self.position = self.head & FC_POS_MASK
            if status != RING_OK:
                if not self.clear_way(status, self.position, record):
                    return 0
            elif record.epoch == self.epoch:
                return 1
            elif contested_advance(&self.ring, self.head, record):
                fc_fetch_add_relaxed_u64(&self.ring.shared.misdirected, 1)

    cdef bint clear_way(self, int status, uint64_t at, const record_t *record) except -1:
        """After a look at `at` that found no record: whether a dead owner's claim was given up there.

        `at` and not our position: another thread may move on while _owner_alive() runs.
        """
        if status == RING_EMPTY:
            return False
        if status != RING_BUSY:
            raise CorruptSegmentError(
                f"{self.name!r} has at cell {at & self.ring.mask} a header that no producer writes; "
                "close every handle of it and unlink it"
            )
        if self._owner_alive(record.owner):
            return False
        ring_abort_dead(&self.ring, at, record)    # exactly the word that was read before the probe
        return True

    cdef int advance(self, const record_t *record) except -1:
        self.position = (self.position + record.cells) & FC_POS_MASK
        self.records_got += 1
        self.bytes_got += record.nbytes
        return 0

    cdef int publish_position(self) except -1:
        """Give the cells before our position back to producers."""
        if self.contested:
            return 0    # taking the record has done so, and nobody waits for room
        if ring_release(&self.ring, self.position) & FC_SLEEP_FD:
            self._ring_doorbells(False)
        return 0

    cdef bytes take(self, const record_t *record):
        cdef bytes data = PyBytes_FromStringAndSize(<const char *>record.payload, record.nbytes)
        self.advance(record)
        self.publish_position()
        return data

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
        if self.contested:
            contested_write_record(&self.ring, claim.position, data, nbytes, self.epoch)
        else:
            ring_write_record(&self.ring, claim.position, data, nbytes, self.epoch)
        if ring_commit(&self.ring, &claim, cells) != RING_OK:
            self.refused(RING_FENCED)
        self.records_put += 1
        self.bytes_put += nbytes
        self.wake_consumer()
        return 1

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
        cdef uint32_t owner = fc_load_relaxed_u32(&self.ring.shared.consumer)
        return owner if owner <= FC_MAX_OWNER else 0, fc_load_relaxed_u32(&self.ring.shared.consumer_deaths)

    # ------------------------------------------------------------------------------------ a ring as an inbox

    def _open_inbox(self, uint32_t overflow=FC_OVERFLOW_BLOCK):
        """The ring is this handle's inbox from now on: its epoch is what records must bear.

        overflow: FC_OVERFLOW_*. Returns the epoch.
        """
        fc_store_relaxed_u32(&self.ring.shared.overflow, overflow)    # seen by who sees it reopened
        self.contested = overflow == FC_OVERFLOW_DROP_OLDEST
        self.epoch = fc_load_relaxed_u32(&self.ring.shared.epoch)    # moved under the gate, which we hold
        self._take_role(True)
        ring_reopen(&self.ring)
        return self.epoch

    def _retire_inbox(self, inherit=None):
        """Under the gate, when its agent leaves or has died: nobody's records are meant for it any more.

        `inherit(epoch, payload)`, for each record that was left unread: whether somebody else has got it. Its
        cells are given back at once then, so that who goes on if we are killed does not pass on more than one
        again; behind the claim of a live publisher, where none can be given back, its header says so. Returns
        True if nothing is left, False if a live publisher is in the middle of a record.
        """
        cdef record_t record
        cdef uint64_t head
        cdef int status
        # SYNC epoch-moved (A): then the drain; a publisher commits, then loads the epoch.
        fc_store_seqcst_u32(&self.ring.shared.epoch, fc_load_relaxed_u32(&self.ring.shared.epoch) + 1)
        ring_close(&self.ring)
        while True:
            status = contested_peek(&self.ring, &head, &record)
            if status == RING_OK:
                # Nothing is claimed any more, so these cells stay as they are, whoever moves the head.
                inherited = inherit is not None and inherit(
                    record.epoch, PyBytes_FromStringAndSize(<const char *>record.payload, record.nbytes)
                )
                if contested_advance(&self.ring, head, &record) and not inherited:
                    fc_fetch_add_relaxed_u64(&self.ring.shared.discarded, 1)
            elif status == RING_BUSY and not self._owner_alive(record.owner):
                ring_abort_dead(&self.ring, head & FC_POS_MASK, &record)
            else:
                break
        if status == RING_BUSY and inherit is not None:
            self.pass_on_behind((head + record.cells) & FC_POS_MASK, inherit)
        return status == RING_EMPTY

    cdef int pass_on_behind(self, uint64_t position, inherit) except -1:
        """_retire_inbox() of what lies behind the claim of a live publisher. What nobody inherits is dropped,
        and counted, by the next agent of this inbox.
        """
        cdef record_t record
        cdef int status
        while True:
            status = ring_peek(&self.ring, &position, &record)
            if status == RING_BUSY and not self._owner_alive(record.owner):
                ring_abort_dead(&self.ring, position, &record)
                continue
            if status != RING_OK and status != RING_BUSY:
                return 0
            if status == RING_OK and inherit(
                record.epoch, PyBytes_FromStringAndSize(<const char *>record.payload, record.nbytes)
            ):
                ring_pass_over(&self.ring, position, &record)
            position = (position + record.cells) & FC_POS_MASK

    def _put_into_inbox(self, uint32_t epoch, bytes data not None):
        """Under the gate: put a record into this inbox if it has that epoch; whether there was room."""
        if fc_load_relaxed_u32(&self.ring.shared.epoch) != epoch:
            return False
        self.epoch = epoch
        self.contested = fc_load_relaxed_u32(&self.ring.shared.overflow) == FC_OVERFLOW_DROP_OLDEST
        return self.write(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)) == 1

    @property
    def _dropped(self):
        """Messages that publishers have dropped because this inbox was full, of all agents that had it."""
        return fc_load_relaxed_u64(&self.ring.shared.dropped)

    def _count_dropped(self):
        fc_fetch_add_relaxed_u64(&self.ring.shared.dropped, 1)

    def _wake_all(self):
        """Wake everybody who sleeps on this ring, whatever the flags say."""
        ring_bell_always(&self.ring.shared.not_empty)
        ring_bell_always(&self.ring.shared.not_full)

    def _watch(self):
        """fileno() was asked for: from now on a try_get() that finds nothing calls _rest()."""
        self.watched = True

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


def _arm_hook(int hook, int countdown=1):
    arm_hook(hook, countdown)
