"""SharedQueue: a ring with many consumers, a limit of items, and items of any size; what queue.py is made of.

The ring's protocol stays as it is (protocol.pyx), one record an item. What it lacks is in a control block
beside it (fc_queue_t), and in files.

Many consumers. To take an item is: lock, look at the head, copy out, publish the new head, unlock. The lock
is a word with the owner number of who takes; between lock and unlock no Python code runs and the GIL is kept,
so it is held for about the time of the copy. Who finds it taken probes its holder, and has a dead one reaped:
that frees the lock before the number can come to mean somebody else. The ring holds nothing half-done: before
the head was published the item is still there, afterwards it is gone. Waiting for an item holds no lock.

Limit of items: a producer counts before it claims (item_limit.pxd).

Large items (above an eighth of the capacity) travel in a file each. It is complete before its record is
committed, and its consumer, under the lock, opens it, removes it, and only then publishes the head. Killed in
between, it leaves a record without a file, which the next one skips: the item was as good as taken. The other
order would leave a file of a live producer, that nobody could tell from one which is about to be sent.

Tasks. Unfinished = items in the ring + taken - done. `taken` and head must change as one, and a consumer can
be killed between: so it first writes what both become (the journal), and its reaper compares the head with
it. This is idempotent and never lowers `taken`, as reaping must be: a reaper can be killed too.

Thread safety: as Ring. Process safety: any number of producers and consumers.

What is done under the lock is ordered by it (SYNC lock-passed), also when a reaper frees it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINTR, ENOENT, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, strerror

from fastcomm._core.atomics cimport *
from fastcomm._core.futex cimport fc_futex_wait, fc_monotonic_ns
from fastcomm._core.hooks cimport FC_HOOK_QUEUE_ITEM_OPENED, FC_HOOK_QUEUE_LOCKED, arm_hook, fc_hook
from fastcomm._core.item_limit cimport claim_within_limit, item_limit_t
from fastcomm._core.layout cimport *
from fastcomm._core.protocol cimport *
from fastcomm._core.queue_control cimport *
from fastcomm._core.ring cimport Ring
from fastcomm._core.ring_handle cimport check_limit
from fastcomm._core.wait cimport (
    SLICE_NS,
    announce_sleep,
    bell_read,
    ring_bell,
    ring_bell_always,
    someone_sleeps,
)

from fastcomm.errors import CorruptSegmentError, PeerDiedError, ShutDown

cdef extern from "<fcntl.h>" nogil:
    int open(const char *path, int flags)
    int O_RDONLY, O_CLOEXEC, O_NOFOLLOW

cdef extern from "<unistd.h>" nogil:
    ssize_t read(int fd, void *to, size_t size)
    int close(int fd)
    int unlink(const char *path)

cdef enum:
    PATH_BYTES = 4096
    LOCK_SPINS = 100
    LOOKS = 100                       # of items(), for a moment in which nobody takes one


cdef inline bint is_in_file(const record_t *record) noexcept nogil:
    """Whether the record is an fc_item_file_t and not an item; those begin with 0x80 or 0xC1."""
    return record.nbytes == sizeof(fc_item_file_t) and record.payload[0] == 0


cdef class SharedQueue(Ring):
    """A queue laid over the memory of a ring and of a control block, both 64-byte aligned; the rest as Ring.

    Ring.peek() is not for it: the record at its head is anybody's.
    """

    cdef unsigned char[::1] control
    cdef fc_queue_t *shared
    cdef bytes prefix             # of the files of large items
    cdef item_limit_t limit
    cdef uint32_t kept_by         # who kept the lock when we last tried in vain, and since when we know
    cdef int64_t kept_since

    def __init__(self, unsigned char[::1] memory not None, unsigned char[::1] control not None, *, int owner,
                 str name="queue"):
        Ring.__init__(self, memory, owner=owner, name=name)
        if <size_t>control.shape[0] < sizeof(fc_queue_t) or <size_t>&control[0] % 64:
            raise CorruptSegmentError(
                f"{control.shape[0]} bytes for the control block of {name!r}; it needs {sizeof(fc_queue_t)}, "
                "64-byte aligned"
            )
        self.control = control
        self.shared = <fc_queue_t *>&control[0]
        self.prefix = b""
        self.limit.items = self.shared.limit
        if 0 < self.limit.items < self.ring.cells:    # more than `cells` items never fit
            self.limit.places = <uint64_t *>malloc(self.limit.items * sizeof(uint64_t))
            if self.limit.places == NULL:
                raise MemoryError()
            self.ring.limited = True

    def __dealloc__(self):
        free(self.limit.places)

    @staticmethod
    def format_control(unsigned char[::1] control not None, *, uint64_t limit, bint counts_tasks):
        """Lay out the control block in zeroed memory. `limit`: items at most, 0: as many as fit."""
        cdef fc_queue_t *shared = <fc_queue_t *>&control[0]
        shared.limit = limit
        shared.counts_tasks = counts_tasks

    def _files_at(self, bytes prefix not None):
        """What the paths of the files of large items begin with."""
        if len(prefix) > PATH_BYTES - 64:
            raise ValueError(
                f"the path of {self.name!r} has {len(prefix)} bytes; it must have less than {PATH_BYTES - 64}"
            )
        self.prefix = prefix

    # ---------------------------------------------------------------------------------------------- lock --

    cdef int lock(self) except -1:
        """1: the consumers' lock is ours; 0: somebody who lives has kept it for a slice."""
        cdef fc_queue_t *shared = self.shared
        cdef int64_t now, until = 0
        cdef uint32_t holder, seen
        while True:
            # Anew in each round: another thread may have closed the handle meanwhile.
            if not self.usable:
                self._not_usable()
            if lock_take(shared, &holder, self.ring.owner):
                fc_hook(FC_HOOK_QUEUE_LOCKED)
                self.kept_by = 0
                return 1
            if lock_was_freed(shared):
                continue
            if holder > FC_MAX_OWNER:
                raise CorruptSegmentError(
                    f"the lock of {self.name!r} is said to be held by owner {holder}, a number above "
                    f"{FC_MAX_OWNER} that nobody can have; close every handle of it and unlink it"
                )
            if not self._owner_alive(holder):
                self._reap_owner(holder)    # not from here: the number may be a live newcomer's by now
                continue
            now = fc_monotonic_ns()
            if holder != self.kept_by:
                self.kept_by, self.kept_since = holder, now
            if until == 0:
                until = now + SLICE_NS
            elif now >= until:
                return 0
            seen = bell_read(&shared.unlocked)
            announce_sleep(&shared.unlocked, FC_SLEEP_FUTEX)
            if lock_still_taken(shared):
                with nogil:
                    fc_futex_wait(&shared.unlocked.bell, seen, SLICE_NS)
                PyErr_CheckSignals()

    cdef void unlock(self) noexcept nogil:
        lock_give_back(self.shared, self.ring.owner)
        if someone_sleeps(&self.shared.unlocked):
            ring_bell(&self.shared.unlocked)

    def _why_held_up(self):
        """Who keeps the lock, or whose claim the next item is, as a part of a message; empty if nobody."""
        cdef uint32_t holder = fc_load_relaxed_u32(&self.shared.lock)
        if holder == 0 or lock_was_freed(self.shared):
            return Ring._why_held_up(self)
        seen = f" for {(fc_monotonic_ns() - self.kept_since) / 1e9:.3g} s" if holder == self.kept_by else ""
        return f"; {self._describe_owner(holder)}, is taking an item{seen}, and keeps others from it"

    def _backlog(self):
        limit = f"of at most {self.shared.limit} items" if self.shared.limit else "items"
        return (
            f"it has {self.items} {limit}, {self.depth} of {self.capacity} bytes are taken; none was taken "
            f"out for {self._seconds_since_a_release():.3g} s{self._why_held_up()}"
        )

    cdef void complete_journal(self) noexcept nogil:
        """After the death of who held the lock: if it had published its head,
        `taken` becomes what it was to be.
        """
        cdef uint64_t taken
        if journal_read(self.shared, ring_head(&self.ring), &taken):
            taken_raise(self.shared, taken)

    cdef void publish(self, uint64_t items) noexcept nogil:
        """Under the lock: `items` were taken, the head moves to our position."""
        cdef fc_queue_t *shared = self.shared
        cdef uint64_t taken
        if not shared.counts_tasks or items == 0:
            ring_release(&self.ring, self.position)
            return
        taken = fc_load_relaxed_u64(&shared.taken) + items
        journal_write(shared, self.position, taken)
        ring_release(&self.ring, self.position)
        taken_publish(shared, taken)

    # ------------------------------------------------------------------------------------------- consume --

    cdef int find(self, record_t *record) except -1:
        """1: `record` is the next item, and the lock is ours; 0: there is none, or the lock was not to be
        had.

        A dead producer's claim is given up on the way. ShutDown if nothing can come any more.
        """
        cdef bint closed
        cdef int status
        cdef uint64_t at
        while True:
            if not self.lock():
                return 0
            if fc_load_relaxed_u32(&self.shared.shut_down) == FC_QUEUE_SHUT_DOWN_NOW:
                self.drain()
            self.position = fc_load_relaxed_u64(&self.ring.shared.head) & FC_POS_MASK
            closed = ring_is_closed(&self.ring)    # before the look: no claim comes after it
            at = self.position
            status = ring_peek(&self.ring, &self.position, record)
            if status == RING_OK:
                return 1
            if self.position != at:
                self.publish(0)    # padding and given-up claims are room that somebody may wait for
            at = self.position
            self.unlock()
            if status == RING_EMPTY and closed:
                raise ShutDown(f"{self.name!r} was shut down and nothing is left in it")
            if not self.clear_way(status, at, record):
                return 0

    cdef int look(self, record_t *record) except -1:
        """Ring's waits ask this: whether there is an item now, which somebody else may take first."""
        if not self.find(record):
            return 0
        self.unlock()
        return 1

    cdef bytes take(self, const record_t *record):
        """The item that find() found; gives up the lock. None:
        its consumer was killed when it had taken it half.
        """
        cdef fc_item_file_t item
        cdef int fd = -1
        cdef bint in_file = is_in_file(record)
        cdef bytes data
        try:
            if in_file:
                memcpy(&item, record.payload, sizeof(item))
                data = PyBytes_FromStringAndSize(NULL, item.nbytes)
                fd = self.open_file(&item)
            else:
                data = PyBytes_FromStringAndSize(<const char *>record.payload, record.nbytes)
            self.advance(record)
            self.publish(1)
        finally:
            self.unlock()
        if not in_file:
            return data
        if fd < 0:
            fc_fetch_add_relaxed_u64(&self.ring.shared.discarded, 1)
            return None
        if not read_whole(fd, data):
            raise CorruptSegmentError(
                f"the file of an item of {self.name!r} has less than the {item.nbytes} bytes it was sent with"
            )
        return data

    def try_get(self):
        """The bytes of the next item, or None if there is none. Never waits for an item. ClosedError,
        ShutDown.
        """
        cdef record_t record
        while self.find(&record):
            data = self.take(&record)
            if data is not None:
                return data
        return None

    def get(self, timeout=None):
        """The bytes of the next item; waits at most `timeout` seconds (None: for ever),
        then raises Empty.
        """
        cdef record_t record
        cdef int64_t deadline = 0
        while True:
            if self.find(&record):
                data = self.take(&record)
                if data is not None:
                    return data
            else:
                self.wait_record(&record, timeout, &deadline, self.stirs)

    def try_get_many(self, Py_ssize_t limit=1024):
        """The bytes of up to `limit` items that are there now, taken under one lock;
        an item that came in a file is the last.
        """
        cdef record_t record
        cdef list records = []
        check_limit(limit)
        while self.find(&record):
            if not is_in_file(&record):
                self.take_run(&record, records, limit)
                return records
            data = self.take(&record)
            if data is not None:
                return [data]
        return records

    def get_many(self, Py_ssize_t limit=1024, timeout=None):
        """try_get_many(); if there is none, waits for the first as get() does."""
        cdef record_t record
        cdef int64_t deadline = 0
        while True:
            records = self.try_get_many(limit)
            if records:
                return records
            self.wait_record(&record, timeout, &deadline, self.stirs)

    cdef int take_run(self, record_t *record, list records, Py_ssize_t limit) except -1:
        """The item that find() found and what follows; gives up the lock."""
        try:
            while True:
                records.append(PyBytes_FromStringAndSize(<const char *>record.payload, record.nbytes))
                self.advance(record)
                if len(records) == limit or ring_peek(&self.ring, &self.position, record) != RING_OK:
                    return 0
                if is_in_file(record):
                    return 0
        finally:
            if records:
                self.publish(len(records))
            self.unlock()

    # --------------------------------------------------------------------------------------- large items --

    cdef int path_of(self, char *path, const fc_item_file_t *item) noexcept:
        return snprintf(path, PATH_BYTES, b"%s%u.%u.%llu", PyBytes_AS_STRING(self.prefix), item.slot,
                        item.generation, <unsigned long long>item.number)

    cdef int open_file(self, const fc_item_file_t *item) except -2:
        """Under the lock: a descriptor of the file, which is removed; -1 if it is gone."""
        cdef char[PATH_BYTES] path
        cdef int fd = -1
        self.path_of(path, item)
        while fd < 0:
            fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
            if fd < 0 and errno == ENOENT:
                return -1
            if fd < 0 and errno != EINTR:
                raise OSError(errno, strerror(errno).decode(), path.decode("utf-8", "surrogateescape"))
        fc_hook(FC_HOOK_QUEUE_ITEM_OPENED)
        unlink(path)
        return fd

    def _file_record(self, uint32_t slot, uint32_t generation, uint64_t number, uint64_t nbytes):
        """(path, record) of a large item."""
        cdef char[PATH_BYTES] path
        cdef fc_item_file_t item
        item.mark = item.unused = 0
        item.slot, item.generation = slot, generation
        item.number, item.nbytes = number, nbytes
        self.path_of(path, &item)
        return path.decode("utf-8", "surrogateescape"), (<char *>&item)[:sizeof(item)]

    def _files(self):
        """(slot, generation, number) of each file that a record in the ring leads to; None:
        the lock was not to be had.
        """
        cdef fc_item_file_t *items = NULL
        cdef size_t i, count = 0
        if not self.lock():
            return None
        try:
            if self.collect_files(&items, &count) < 0:
                raise MemoryError()
        finally:
            self.unlock()
        try:
            return {(items[i].slot, items[i].generation, items[i].number) for i in range(count)}
        finally:
            free(items)

    cdef int collect_files(self, fc_item_file_t **items, size_t *count) noexcept nogil:
        cdef uint64_t at, position = ring_head(&self.ring) & FC_POS_MASK
        cdef uint64_t end = tail_position(ring_tail(&self.ring))
        cdef uint32_t state
        cdef record_t record
        cdef void *grown
        while distance(end, position) > 0:
            at = position
            state = ring_step(&self.ring, &position)
            if state == FC_NEVER:
                break
            record.payload = ring_payload(&self.ring, at)
            record.nbytes = (<const fc_record_prefix_t *>(record.payload - 8)).nbytes
            if state == FC_COMMITTED and is_in_file(&record):
                grown = realloc(items[0], (count[0] + 1) * sizeof(fc_item_file_t))
                if grown == NULL:
                    free(items[0])
                    return -1
                items[0] = <fc_item_file_t *>grown
                memcpy(items[0] + count[0], record.payload, sizeof(fc_item_file_t))
                count[0] += 1
        return 0

    # -------------------------------------------------------------------------------------- limit of items --

    cdef int claim_run(self, const uint32_t *cells, size_t count, claim_t *claim, size_t *taken) except -1:
        cdef int status
        if not self.ring.limited:
            return Ring.claim_run(self, cells, count, claim, taken)
        if not self.usable:
            self._not_usable()
        status = claim_within_limit(&self.limit, &self.ring, cells, claim, taken)
        if status == RING_OK:
            return 1
        if status == RING_FULL:
            return 0
        return self.refused(status)

    cdef int refused(self, int status) except -1:
        if status == RING_CLOSED:
            raise ShutDown(f"{self.name!r} was shut down and takes no more items")
        return Ring.refused(self, status)

    # --------------------------------------------------------------------------------------------- state --

    @property
    def items(self):
        """How many items are in it; exact if there is a moment in which nobody takes one."""
        cdef uint64_t head, count = 0
        cdef int _
        for _ in range(LOOKS):
            head = ring_head(&self.ring)
            count = ring_unread(&self.ring)
            if ring_head(&self.ring) == head:
                break
        return count

    @property
    def is_full(self):
        """Whether it has reached its limit of items, or has no room for the smallest."""
        return 0 < self.limit.items <= self.items or not ring_has_room(&self.ring, 1)

    def shut_down(self, bint immediate):
        """No more puts, from any process; gets go on until it is empty, or end now with `immediate`.
        Wakes everybody.
        """
        cdef uint32_t wanted = FC_QUEUE_SHUT_DOWN_NOW if immediate else FC_QUEUE_SHUT_DOWN
        cdef uint32_t now = fc_load_relaxed_u32(&self.shared.shut_down)
        if not self.usable:
            self._not_usable()
        while now < wanted and not fc_cas_relaxed_u32(&self.shared.shut_down, &now, wanted):
            pass
        ring_close(&self.ring)
        if immediate and self.lock():
            self.drain()
            self.unlock()
        self._wake_all()

    cdef void drain(self) noexcept:
        """Under the lock: throw away every item."""
        cdef char[PATH_BYTES] path
        cdef fc_item_file_t item
        cdef record_t record
        self.position = fc_load_relaxed_u64(&self.ring.shared.head) & FC_POS_MASK
        while ring_peek(&self.ring, &self.position, &record) == RING_OK:
            if is_in_file(&record):
                memcpy(&item, record.payload, sizeof(item))
                self.path_of(path, &item)
                unlink(path)
            fc_fetch_add_relaxed_u64(&self.ring.shared.discarded, 1)
            self.position = (self.position + record.cells) & FC_POS_MASK
        self.publish(0)

    # --------------------------------------------------------------------------------------------- tasks --

    def unfinished(self):
        """Items that were put and for which task_done() has not been called."""
        cdef uint64_t count, done
        while not self.lock():
            pass    # signals are looked for in there
        if fc_load_relaxed_u32(&self.shared.shut_down) == FC_QUEUE_SHUT_DOWN_NOW:
            self.drain()
        # `done` before what is unread: an item that comes between the two is counted, and who puts one and
        # then finishes another has never brought it to 0.
        done = done_read(self.shared)
        count = ring_unread(&self.ring) + fc_load_relaxed_u64(&self.shared.taken) - done
        self.unlock()
        return count

    def task_done(self):
        """ValueError if it was called for every item that was taken."""
        cdef fc_queue_t *shared = self.shared
        cdef uint64_t done
        if not self.usable:
            self._not_usable()
        done = fc_load_relaxed_u64(&shared.done)
        while True:
            if done >= fc_load_relaxed_u64(&shared.taken):
                raise ValueError(
                    f"task_done() called too many times: {done} items were taken from {self.name!r}, and all "
                    "are done"
                )
            if done_raise(shared, &done):
                break
        if someone_sleeps(&shared.all_done):
            ring_bell(&shared.all_done)

    def join_tasks(self):
        """Wait until nothing is unfinished. PeerDiedError when the last other participant was killed,
        once.
        """
        cdef uint32_t seen
        while self.unfinished():
            self.check_who_could_finish()
            seen = bell_read(&self.shared.all_done)
            announce_sleep(&self.shared.all_done, FC_SLEEP_FUTEX)
            if self.unfinished():
                self.sleep(&self.shared.all_done, seen, -1)

    cdef int check_who_could_finish(self) except -1:
        """Housekeeping, once in a slice, as in Ring._see_to_the_dead(); but an item that nobody will take
        ends no join().
        """
        cdef int64_t now = fc_monotonic_ns()
        if now < self.next_housekeeping:
            return 0
        self.next_housekeeping = now + SLICE_NS
        try:
            self._housekeep(False)
        except PeerDiedError:
            if self.unfinished():    # a peer can have done the last one, and died then
                self._death_reported()
                raise

    # -------------------------------------------------------------------------------------- deaths and end --

    def _drop_roles(self, int owner):
        cdef uint32_t holder = owner
        Ring._drop_roles(self, owner)
        if fc_load_relaxed_u32(&self.shared.lock) == holder:
            self.complete_journal()
            lock_free_dead(self.shared, holder)

    def _wake_all(self):
        Ring._wake_all(self)
        ring_bell_always(&self.shared.unlocked)
        ring_bell_always(&self.shared.all_done)


cdef bint lock_was_freed(fc_queue_t *shared) noexcept nogil:
    """Spin for about as long as somebody needs to take an item."""
    cdef int _
    for _ in range(LOCK_SPINS):
        if fc_load_relaxed_u32(&shared.lock) == 0:
            return True
        fc_pause()
    return False


cdef bint read_whole(int fd, bytes data) except -1:
    """Fill `data`, which nobody else has seen yet, from the file, and close that.
    False if it is too short.
    """
    cdef char *to = PyBytes_AS_STRING(data)
    cdef size_t left = PyBytes_GET_SIZE(data)
    cdef ssize_t got = 1
    cdef int error = 0
    with nogil:
        while left and got:
            got = read(fd, to, left)
            if got < 0:
                error = errno
                if error != EINTR:
                    break
            else:
                to += got
                left -= got
        close(fd)
    if left and error and error != EINTR:
        raise OSError(error, strerror(error).decode())
    return left == 0


def _arm_hook(int hook, int countdown=1):
    arm_hook(hook, countdown)
