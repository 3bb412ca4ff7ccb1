"""PriorityQueue: items by priority, a newer one in the place of the queued one with its key.

What is queued has an entry. Its item and its key stand in a list, where the garbage collector sees them (it
runs all finalizers before it takes the list away, so none meets a queue without); its priority in C arrays,
in the heap; and a table leads from its key to the entry:

    held     [item, key, item, key, ...]      by entry
    first    the heap                         what comes first
    last     the heap turned round            what would be dropped first; only with overflow="drop_lowest"
    keys     tag -> entries

Threads. The GIL serialises: between a decision (is the key there? is there room?) and the change that
follows from it no Python code runs, and no change is half made while any runs. The Python code that can run
here at all: hash and equality of keys, the merge function, and destructors. Each may come back to this queue;
so hashing comes before anything else, after a comparison of keys the walk begins anew if entries moved,
after the merge function the key is looked up again, and what is replaced or thrown away is let go last.
Forgetting a key hashes and compares nothing (key_table.pxd). The module is not declared fit for an
interpreter without the GIL; importing it there turns the GIL on.

Coroutines wait too (fastcomm/priority.py): each is in a list as a function that wakes it, which is taken out
of the list and called, last of all, when what it waits for may have come. It is in the list before it looks,
and looks again once woken; so no wake-up gets lost, and one too many does no harm.
"""

cimport cython
from cpython.long cimport PyLong_Check
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t, UINT32_MAX

from collections import namedtuple
from types import GenericAlias

from fastcomm._core.clock cimport deadline_of
from fastcomm._core.dary_heap cimport (
    Heap, Node, c_heap_free, c_heap_move, c_heap_node, c_heap_push, c_heap_remove, c_heap_reserve,
)
from fastcomm._core.key_table cimport (
    NO_ENTRY, KeyTable, c_keys_add, c_keys_after, c_keys_free, c_keys_home, c_keys_match, c_keys_nbytes,
    c_keys_remove, c_keys_reserve, c_keys_tag,
)
from fastcomm._core.sleepers cimport Sleepers, ring_all, ring_one, sleep_until

from fastcomm.errors import Empty, Full, NotRegisteredError, ShutDown

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object value, int* overflow) except? -1
    object PyNumber_Index(object value)
    bint PyIndex_Check(object value)
    void PyErr_SetInterrupt()

cdef enum:
    FIRST_CAPACITY = 16

cdef enum Merge:
    LATEST
    HIGHEST
    BY_FUNCTION

cdef enum Overflow:
    BLOCK
    ERROR
    DROP_LOWEST


PriorityQueueStats = namedtuple(
    "PriorityQueueStats", "items unfinished put got coalesced dropped removed nbytes", module=__name__
)
PriorityQueueStats.__doc__ = """What a PriorityQueue holds and has done, at one moment.

items: queued now. unfinished: of those and the ones got, for how many task_done() is outstanding.
put: messages taken; each comes to one end, so this is got + coalesced + dropped + removed + items.
got: items returned. coalesced: messages that became one with the queued one of their key.
dropped: lost by overflow="drop_lowest". removed: by remove(), clear() and shutdown(immediate=True).
nbytes: reserved, without the items and keys themselves.
"""


cdef int64_t c_priority(object priority) except? -1:
    cdef int overflow = 0
    cdef int64_t value
    if not PyLong_Check(priority):
        if not PyIndex_Check(priority):
            raise TypeError(
                f"a priority is an int, lower first, and not {type(priority).__name__}: "
                "of floats, NaN would have no place"
            )
        priority = PyNumber_Index(priority)
    value = PyLong_AsLongLongAndOverflow(priority, &overflow)
    if overflow:
        raise OverflowError(
            f"a priority lies between -2**63 and 2**63 - 1; this one has {int.bit_length(priority)} bits"
        )
    return value


def check_priority(priority) -> None:
    """Raise what put() would: TypeError, OverflowError."""
    c_priority(priority)


cdef class PriorityQueue:
    """The base of fastcomm.PriorityQueue, which has the description and waits in event loops too."""

    cdef object __weakref__
    cdef list held
    cdef Heap first
    cdef Heap last
    cdef KeyTable keys
    cdef uint32_t entries       # in `held`, used and free
    cdef uint32_t capacity      # of the arrays
    cdef uint32_t free_entry    # the last one freed; the next one stands in first.places
    cdef uint64_t number        # of the next that enters a priority
    cdef Py_ssize_t limit
    cdef Merge merge
    cdef object merge_function
    cdef Overflow overflow
    cdef bint shut_down
    cdef Sleepers getters
    cdef Sleepers putters
    cdef Sleepers joiners
    cdef readonly list _item_waiters    # coroutines; see above
    cdef readonly list _room_waiters
    cdef readonly list _done_waiters
    cdef uint64_t undone        # got, and task_done() not yet called
    cdef uint64_t got
    cdef uint64_t coalesced
    cdef uint64_t dropped
    cdef uint64_t removed

    def __cinit__(self):
        self.held = []
        self.free_entry = NO_ENTRY
        self._item_waiters, self._room_waiters, self._done_waiters = [], [], []

    def __init__(self, Py_ssize_t maxsize=0, *, merge="latest", overflow="block"):
        cdef Merge how = BY_FUNCTION
        cdef Overflow when_full
        cdef list fresh = []
        if isinstance(merge, str):
            if merge not in ("latest", "highest"):
                raise ValueError(f"merge is {merge!r}; it must be 'latest', 'highest' or a function")
            how = LATEST if merge == "latest" else HIGHEST
        elif not callable(merge):
            raise TypeError(f"merge is {merge!r}; it must be 'latest', 'highest' or a function")
        if overflow not in ("block", "error", "drop_lowest"):
            raise ValueError(f"overflow is {overflow!r}; it must be 'block', 'error' or 'drop_lowest'")
        when_full = BLOCK if overflow == "block" else ERROR if overflow == "error" else DROP_LOWEST
        if self.first.size:
            raise RuntimeError(f"a queue with {self.first.size} items in it can't be initialised again")
        self.begin_anew(fresh)      # what is reserved is for another `overflow`
        self.limit = maxsize
        self.merge = how
        self.merge_function = merge
        self.overflow = when_full

    def __dealloc__(self):
        c_heap_free(&self.first)
        c_heap_free(&self.last)
        c_keys_free(&self.keys)

    def __class_getitem__(cls, item, /):
        """`PriorityQueue[T]` in annotations: a queue of items of type T."""
        return GenericAlias(cls, item)

    # ----------------------------------------------------------------------------------------- put and get --

    # put and get are plain method descriptors: the interpreter calls them 8 ns (of 50) faster than functions
    # of Cython's own type.
    @cython.binding(False)
    @cython.embedsignature.format("clinic")
    def put(self, item, bint block=True, timeout=None, *, priority=0, key=None) -> None:
        """Queue an item, or coalesce it with the queued one of its key; see the class.

        Waits for room if `block`, at most `timeout` seconds (None: for ever), then raises Full. ShutDown;
        ValueError for a negative time-out; TypeError, OverflowError for a priority; what hashing or
        comparing the key raises. Nothing is queued then.
        """
        cdef int64_t rank = c_priority(priority)
        self.offer(item, rank, key, block, self.deadline(block, timeout))

    def put_nowait(self, item, *, priority=0, key=None) -> None:
        """put() that never waits."""
        cdef int64_t rank = c_priority(priority)
        self.offer(item, rank, key, False, -1)

    @cython.binding(False)
    @cython.embedsignature.format("clinic")
    def get(self, bint block=True, timeout=None):
        """Take the item that comes first.

        Waits for one if `block`, at most `timeout` seconds (None: for ever), then raises Empty. ShutDown if
        nothing can come any more; ValueError for a negative time-out.
        """
        self.await_item(block, self.deadline(block, timeout))
        return self.take_first()

    def get_nowait(self):
        """get() that never waits."""
        self.await_item(False, -1)
        return self.take_first()

    def put_many(self, items, bint block=True, timeout=None, *, priority=0, key=None) -> int:
        """Put each of an iterable, in order; returns how many.

        `priority`: of all, or a function that returns that of an item. `key`: None, or a function that
        returns that of an item. All items, priorities and keys are there before the first is put; what goes
        wrong with them changes nothing. Full and ShutDown end it as they end put(), within `timeout` seconds
        altogether; Full carries `delivered` and `missing`.
        """
        cdef int64_t deadline = self.deadline(block, timeout)
        cdef list batch = list(items)
        cdef list keys = None if key is None else [key(item) for item in batch]
        cdef list ranks = [priority(item) for item in batch] if callable(priority) else None
        cdef int64_t rank = 0
        cdef Py_ssize_t done = 0
        if ranks is None:
            rank = c_priority(priority)
        else:
            for one in ranks:
                c_priority(one)
        try:
            for done in range(len(batch)):
                if ranks is not None:
                    rank = c_priority(ranks[done])
                self.offer(batch[done], rank, None if keys is None else keys[done], block, deadline)
        except Full as full:
            raise Full(f"{done} of {len(batch)} items were put; {full}",
                       delivered=done, missing=len(batch) - done) from None
        return len(batch)

    def get_many(self, Py_ssize_t limit=1024, bint block=True, timeout=None) -> list:
        """Take the first 1 to `limit` items: waits for one as get() does, then takes what else is there."""
        cdef list items = []
        if limit < 1:
            raise ValueError(f"limit is {limit}; it must be 1 or more")
        self.await_item(block, self.deadline(block, timeout))
        # The first without anything between; destructors of keys may take the others away.
        while True:
            items.append(self.take_first())
            if len(items) >= limit or not self.first.size:
                return items

    def peek(self):
        """The item that comes first, left where it is. Empty; ShutDown if nothing can come any more."""
        self.await_item(False, -1)
        return self.held[2 * self.first.nodes[0].entry]

    # ------------------------------------------------------------------------------- what is queued by key --

    def remove(self, key):
        """Take the item of this key out of the queue and return it. NotRegisteredError (a KeyError) if there
        is none. It counts as done for join().
        """
        cdef uint32_t entry = 0
        self.find_registered(key, &entry)
        self.removed += 1
        item = self.take(entry)
        self.ring_if_room()
        self.ring_if_done()
        return item

    def update(self, key, priority) -> None:
        """Give the item of this key another priority, in either direction: it goes behind what has that
        priority already; if it had it before, it stays where it is. NotRegisteredError (a KeyError).
        """
        cdef int64_t rank = c_priority(priority)
        cdef uint32_t entry = 0
        self.find_registered(key, &entry)
        if rank != c_heap_node(&self.first, entry).priority:
            self.move(entry, rank)

    def clear(self) -> None:
        """Throw away all that is queued, and give the memory back. It counts as done for join()."""
        # Made first: up to Python 3.11 that may collect garbage, and destructors may come back here.
        fresh = []
        # Kept until the end: its destructors find an empty queue.
        held = self.held
        self.begin_anew(fresh)
        self.pass_on()
        del held

    # ----------------------------------------------------------------------------------------------- state --

    def qsize(self) -> int:
        """How many items are queued."""
        return self.first.size

    def __len__(self):
        return self.first.size

    def empty(self) -> bool:
        """Whether nothing is queued."""
        return self.first.size == 0

    def full(self) -> bool:
        """Whether `maxsize` items are queued."""
        return not self.has_room()

    @property
    def maxsize(self) -> int:
        """Items at most; 0 or less: no limit. If it is set below what is queued, nothing is thrown away."""
        return self.limit

    @maxsize.setter
    def maxsize(self, Py_ssize_t maxsize):
        self.limit = maxsize
        if self.has_room():
            ring_all(&self.putters)
            self.wake(self._room_waiters)   # and each the next one

    @property
    def unfinished_tasks(self) -> int:
        """Items queued, and items got for which task_done() was not yet called."""
        return self.first.size + self.undone

    @property
    def _waits_for_room(self) -> bool:
        return self.overflow == BLOCK

    @property
    def is_shutdown(self) -> bool:
        """Whether shutdown() was called."""
        return self.shut_down

    def stats(self):
        """The counts of this moment."""
        cdef size_t heaps = 2 if self.overflow == DROP_LOWEST else 1
        return PriorityQueueStats(
            self.first.size, self.first.size + self.undone,
            self.got + self.coalesced + self.dropped + self.removed + self.first.size,
            self.got, self.coalesced, self.dropped, self.removed,
            self.capacity * (sizeof(Node) + sizeof(uint32_t)) * heaps
            + 2 * self.entries * sizeof(PyObject*) + c_keys_nbytes(&self.keys),
        )

    # -------------------------------------------------------------------------------------- tasks, the end --

    def task_done(self) -> None:
        """An item that was got has been dealt with. ValueError if called more often than items were got."""
        if self.undone == 0:
            raise ValueError("task_done() called more often than items were got")
        self.undone -= 1
        self.ring_if_done()

    def join(self) -> None:
        """Wait until nothing is queued and task_done() was called for every item that was got."""
        while self.first.size or self.undone:
            sleep_until(&self.joiners, -1)

    def shutdown(self, bint immediate=False) -> None:
        """queue.Queue's of Python 3.13, on every version: from now on put() raises ShutDown, and get() too as
        soon as nothing is queued. `immediate`: what is queued is thrown away. Calls that wait end.
        """
        self.shut_down = True
        if immediate:
            self.clear()
        ring_all(&self.getters)
        ring_all(&self.putters)
        while self._item_waiters:
            self.wake(self._item_waiters)
        while self._room_waiters:
            self.wake(self._room_waiters)

    # ---------------------------------------------------------------------------------------- what it does --

    cdef inline int64_t deadline(self, bint block, object timeout) except -2:
        return deadline_of(timeout) if block and timeout is not None else -1

    cdef inline bint has_room(self) noexcept:
        return self.limit <= 0 or <Py_ssize_t>self.first.size < self.limit

    @cython.final
    cdef int offer(self, object item, int64_t priority, object key, bint block, int64_t deadline) except -1:
        cdef uint32_t tag = 0 if key is None else tag_of(key)
        cdef uint32_t entry = 0
        cdef bint queued
        cdef bint waited = False
        cdef bint in_time = True
        while True:
            queued = key is not None and self.find(key, tag, &entry)
            if self.shut_down:
                raise ShutDown("the queue was shut down and takes no more items")
            if queued:
                if not self.coalesce(entry, item, priority, key, tag):
                    continue
                if waited:
                    ring_one(&self.putters)
                return 0
            if self.has_room():
                self.insert(item, priority, key, tag)
                return 0
            if self.overflow == DROP_LOWEST:
                entry = self.last.nodes[0].entry
                if priority >= c_heap_node(&self.first, entry).priority:
                    self.dropped += 1
                    return 0
                self.dropped += 1
                self.take(entry)
            elif self.overflow == ERROR or not block or not in_time:
                self.raise_full(deadline)
            else:
                in_time = sleep_until(&self.putters, deadline)
                waited = True

    @cython.final
    cdef int raise_full(self, int64_t deadline) except -1:
        raise Full(f"no room{' in time' if deadline >= 0 else ''}: "
                   f"the queue has {self.first.size} items of at most {self.limit}")

    @cython.final
    cdef int await_item(self, bint block, int64_t deadline) except -1:
        """Until something is queued. Empty, ShutDown."""
        cdef bint in_time = True
        while self.first.size == 0:
            if self.shut_down:
                raise ShutDown("the queue was shut down and nothing is left in it")
            if not block or not in_time:
                raise Empty(f"the queue is {'still ' if deadline >= 0 else ''}empty")
            in_time = sleep_until(&self.getters, deadline)
        return 0

    @cython.final
    cdef object take_first(self):
        self.got += 1
        self.undone += 1
        item = self.take(self.first.nodes[0].entry)
        self.ring_if_room()
        return item

    cdef inline int ring_if_room(self) except -1:
        if self.has_room():
            ring_one(&self.putters)
            if self._room_waiters:
                self.wake(self._room_waiters)
        return 0

    cdef inline int ring_if_done(self) except -1:
        if self.first.size == 0 and self.undone == 0:
            ring_all(&self.joiners)
            while self._done_waiters:
                self.wake(self._done_waiters)
        return 0

    # ------------------------------------------------------------------------------------- coroutines wait --

    @cython.final
    cdef int wake(self, list waiters) except -1:
        """One of those that wait, if any does; the next one, if its event loop is closed."""
        cdef bint interrupted = False
        while waiters:
            waiter = waiters.pop(0)
            try:
                if waiter():
                    break
            except KeyboardInterrupt:
                # To be raised, but after the call that this is part of; and nobody is to sleep on for it.
                interrupted = True
                waiters.insert(0, waiter)
        if interrupted:
            PyErr_SetInterrupt()
        return 0

    @cython.final
    cdef int pass_on(self) except -1:
        """Wake whoever finds now what it waits for. One of each kind, who does the same."""
        if self.first.size:
            self.wake(self._item_waiters)
        if self.has_room():
            self.wake(self._room_waiters)
        self.ring_if_done()
        return 0

    def _leave(self, list waiters, waiter) -> None:
        """A coroutine waits no longer. It may have been woken and not taken what it was woken for."""
        if waiter in waiters:
            waiters.remove(waiter)
        self.pass_on()

    # ------------------------------------------------------------------------------------------------ keys --

    @cython.final
    cdef bint find(self, object key, uint32_t tag, uint32_t* entry) except -1:
        """Whether an equal key is queued, and its entry. That is so until Python code runs again."""
        cdef uint64_t changes = self.keys.changes
        cdef uint64_t place
        if self.keys.used == 0:
            return False
        place = c_keys_home(&self.keys, tag)
        while True:
            entry[0] = c_keys_match(&self.keys, tag, &place)
            if entry[0] == NO_ENTRY:
                return False
            stored = self.held[2 * entry[0] + 1]
            if stored is key:
                return True
            if stored == key:
                if changes == self.keys.changes:
                    return True
            if changes == self.keys.changes:
                place = c_keys_after(&self.keys, place)
            elif self.keys.used == 0:
                return False
            else:
                changes = self.keys.changes
                place = c_keys_home(&self.keys, tag)

    @cython.final
    cdef int find_registered(self, object key, uint32_t* entry) except -1:
        if key is None or not self.find(key, tag_of(key), entry):
            raise NotRegisteredError(f"nothing is queued with key {key!r}")
        return 0

    @cython.final
    cdef bint coalesce(
        self, uint32_t entry, object item, int64_t priority, object key, uint32_t tag
    ) except -1:
        """Make one of an item and the queued one of its key. False: that has changed, look again."""
        cdef uint32_t now = 0
        queued = self.held[2 * entry]
        if self.merge == BY_FUNCTION:
            item = self.merge_function(queued, item)
            if not self.find(key, tag, &now) or now != entry:
                return False
            if self.held[2 * entry] is not queued or self.shut_down:
                return False
        elif self.merge == HIGHEST and priority > c_heap_node(&self.first, entry).priority:
            item = queued
        if priority < c_heap_node(&self.first, entry).priority:
            self.move(entry, priority)
        self.held[2 * entry] = item
        self.coalesced += 1
        return True     # and let `queued` go

    # --------------------------------------------------------------------------------------------- entries --

    @cython.final
    cdef int insert(self, object item, int64_t priority, object key, uint32_t tag) except -1:
        cdef uint32_t entry
        if self.free_entry == NO_ENTRY:
            self.add_entry()
        entry = self.free_entry
        if key is not None:
            if not c_keys_reserve(&self.keys, self.capacity):
                raise MemoryError(f"no memory for one more key; {self.keys.used} are queued")
            c_keys_add(&self.keys, entry, tag)
        self.free_entry = self.first.places[entry]
        self.held[2 * entry] = item
        self.held[2 * entry + 1] = key
        c_heap_push(&self.first, entry, priority, self.number)
        if self.overflow == DROP_LOWEST:
            c_heap_push(&self.last, entry, ~priority, ~self.number)
        self.number += 1
        ring_one(&self.getters)
        if self._item_waiters:
            self.wake(self._item_waiters)
        return 0

    @cython.final
    cdef object take(self, uint32_t entry):
        """Take out what has this entry; its key, let go at the end, may run a destructor."""
        item = self.held[2 * entry]
        key = self.held[2 * entry + 1]
        c_heap_remove(&self.first, entry)
        if self.overflow == DROP_LOWEST:
            c_heap_remove(&self.last, entry)
        if key is not None:
            c_keys_remove(&self.keys, entry)
        self.held[2 * entry] = None
        self.held[2 * entry + 1] = None
        self.first.places[entry] = self.free_entry
        self.free_entry = entry
        return item

    @cython.final
    cdef int move(self, uint32_t entry, int64_t priority) noexcept:
        """To another priority, behind what has it already."""
        c_heap_move(&self.first, entry, priority, self.number)
        if self.overflow == DROP_LOWEST:
            c_heap_move(&self.last, entry, ~priority, ~self.number)
        self.number += 1
        return 0

    @cython.final
    cdef int add_entry(self) except -1:
        """One more entry, free. Appending runs no Python code: a list is grown by realloc."""
        cdef uint64_t wider
        if self.entries == self.capacity:
            wider = <uint64_t>self.capacity + self.capacity // 2 + FIRST_CAPACITY
            if (wider >= UINT32_MAX or not c_heap_reserve(&self.first, <uint32_t>wider)
                    or (self.overflow == DROP_LOWEST and not c_heap_reserve(&self.last, <uint32_t>wider))):
                raise MemoryError(f"no memory for one more item; {self.first.size} are queued")
            self.capacity = <uint32_t>wider
        self.held.append(None)
        try:
            self.held.append(None)
        except MemoryError:
            self.held.pop()
            raise
        self.first.places[self.entries] = NO_ENTRY
        self.free_entry = self.entries
        self.entries += 1
        return 0

    @cython.final
    cdef void begin_anew(self, list held) noexcept:
        """With an empty list; the caller holds the old one."""
        self.removed += self.first.size
        self.held = held
        c_heap_free(&self.first)
        c_heap_free(&self.last)
        c_keys_free(&self.keys)
        self.entries = self.capacity = 0
        self.free_entry = NO_ENTRY
        if self.has_room():
            ring_all(&self.putters)
        if self.undone == 0:
            ring_all(&self.joiners)


cdef inline uint32_t tag_of(object key) except? 0:
    return c_keys_tag(hash(key))
