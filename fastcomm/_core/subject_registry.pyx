"""SubjectRegistry: values stored under patterns, found by subject.

It follows the idea of ``server/sublist.go`` in nats-server: a trie over tokens (subject_trie.pyx) with a
bounded cache of subjects in front.

Threads: everything here holds the GIL from start to end.
"""

cimport cython
from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_CheckExact, PyUnicode_DecodeUTF8
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc

from fastcomm._core.subject_sketch cimport Filter, Sketch, c_filter, c_passes, c_sketch
from fastcomm._core.subject_trie cimport (
    MAX_TOKENS, Token, Trie, c_trie_find, c_trie_free, c_trie_insert, c_trie_match, c_trie_nbytes,
    c_trie_node, c_trie_pattern, c_trie_push, c_trie_remove, c_trie_sort, c_trie_split,
)
from fastcomm._core.subjects cimport (
    MAX_BYTES, PATTERN, SUBJECT, Text, c_is_literal, c_is_subset, checked, plain,
)

from types import GenericAlias

from fastcomm.errors import NotRegisteredError


@cython.final
cdef class RegistryStats:
    """What a SubjectRegistry holds and has done, at one moment. Immutable; compares by value.

    `patterns` (distinct), `values`, `nodes` of the trie, `nbytes` (reserved for trie and values), `cached`
    subjects, and `hits` and `misses` of the cache since the registry was made.
    """

    cdef readonly Py_ssize_t patterns
    cdef readonly Py_ssize_t values
    cdef readonly Py_ssize_t nodes
    cdef readonly Py_ssize_t nbytes
    cdef readonly Py_ssize_t cached
    cdef readonly uint64_t hits
    cdef readonly uint64_t misses

    cdef tuple key(self):
        return (self.patterns, self.values, self.nodes, self.nbytes, self.cached, self.hits, self.misses)

    def __eq__(self, other):
        if not isinstance(other, RegistryStats):
            return NotImplemented
        return self.key() == (<RegistryStats>other).key()

    def __hash__(self):
        return hash(self.key())

    def __repr__(self):
        return (f"RegistryStats(patterns={self.patterns}, values={self.values}, nodes={self.nodes}, "
                f"nbytes={self.nbytes}, cached={self.cached}, hits={self.hits}, misses={self.misses})")


@cython.final
cdef class _Cached:
    """One subject in the match cache."""

    cdef str subject
    cdef Text text          # inside `subject`
    cdef tuple values
    cdef Py_ssize_t place   # in the clock
    cdef bint used          # since the hand last passed


@cython.final
cdef class _MatchCache:
    """subject -> values, bounded.

    It evicts by CLOCK (second chance): a subject that was asked for since the hand last passed it stays for
    one more round, so that a stream of subjects seen once does not drive out the busy ones.
    """

    cdef dict entries
    cdef list clock         # the same entries, without holes
    cdef Sketch* sketches   # of these, so that a walk over all of them touches little memory
    cdef Py_ssize_t sketch_capacity
    cdef Py_ssize_t capacity
    cdef Py_ssize_t hand

    def __cinit__(self, Py_ssize_t capacity):
        self.entries = {}
        self.clock = []
        self.capacity = capacity

    def __dealloc__(self):
        free(self.sketches)

    cdef int grow_sketches(self) except -1:
        cdef Py_ssize_t wider = 2 * self.sketch_capacity + 8
        cdef Sketch* grown = <Sketch*>realloc(self.sketches, <size_t>wider * sizeof(Sketch))
        if grown == NULL:
            raise MemoryError(f"no memory for one more cached subject; there are {len(self.clock)}")
        self.sketches = grown
        self.sketch_capacity = wider
        return 0

    cdef int add(self, _Cached entry, Sketch sketch) except -1:
        """Add a subject that is not there, in the place of another one if the cache is full."""
        cdef _Cached victim
        if len(self.clock) < self.capacity:
            if len(self.clock) == self.sketch_capacity:
                self.grow_sketches()
            entry.place = len(self.clock)
            self.clock.append(entry)
        else:
            victim = self.find_victim()
            self.entries.pop(victim.subject, None)
            entry.place = victim.place
            self.clock[entry.place] = entry
            self.hand = entry.place + 1
        self.sketches[entry.place] = sketch
        self.entries[entry.subject] = entry
        return 0

    cdef _Cached find_victim(self):
        cdef _Cached entry
        while True:
            if self.hand >= len(self.clock):
                self.hand = 0
            entry = <_Cached>self.clock[self.hand]
            if not entry.used:
                return entry
            entry.used = False
            self.hand += 1

    cdef int drop(self, _Cached entry) except -1:
        """The last one takes the place that gets free."""
        cdef _Cached last = <_Cached>self.clock.pop()
        if last is not entry:
            self.clock[entry.place] = last
            self.sketches[entry.place] = self.sketches[last.place]
            last.place = entry.place
        self.entries.pop(entry.subject, None)
        return 0

    cdef int drop_matched(self, str pattern, Text text, const Token* tokens, size_t count) except -1:
        """Drop the subjects that the pattern matches: one look-up if it is literal, else a walk over all."""
        cdef _Cached entry
        cdef Filter passing
        cdef Py_ssize_t i
        if c_is_literal(text.start, text.length):
            entry = self.entries.get(pattern)
            return 0 if entry is None else self.drop(entry)
        passing = c_filter(tokens, count)
        # From the end, so that whatever takes a freed place has been looked at.
        for i in range(len(self.clock) - 1, -1, -1):
            if c_passes(&passing, &self.sketches[i]):
                entry = <_Cached>self.clock[i]
                if c_is_subset(entry.text.start, entry.text.length, text.start, text.length):
                    self.drop(entry)
        return 0


@cython.final
cdef class SubjectRegistry:
    """Values stored under patterns, found by subject.

    `cache_size` bounds the match cache, in subjects (0: no cache); the least recently asked for goes,
    approximately (CLOCK). A hit costs one dict look-up. Inserting or removing drops from the cache the
    subjects that the pattern matches and no others: one look-up for a literal pattern, a walk over the cache
    (at most `cache_size` steps of a nanosecond) for one with wildcards. A miss walks the trie: its cost grows
    with the patterns that match or nearly match (share a beginning, with wildcards counted as shared), and
    not with how many are stored.

    The order of results is the order of insertion; with `key`, a function of a value, that of what it
    returns, and among equals that of insertion. It is called once for each value that a miss finds, and must
    return the same each time for the same value. What it raises, match() does.

    The same value may be stored under one pattern several times: each insertion counts, is found, and must be
    removed on its own. Values may be any objects and need not be hashable.

    Memory for one stored value: 24 bytes, and for each token that its pattern does not share with the
    beginning of another one 21 bytes and the token's own (rounded up to 4), and 11 to 21 of hash table. With
    one such token of 8 characters that came to 74 bytes, measured at 1 M. Growing arrays reserve up to half
    as much again, which `stats().nbytes` counts and the system backs with memory once it is used. What is
    removed is used again; all is given back when the last value goes and by `clear()`. A cached subject takes
    about 175 bytes, its str included, and if anything matches a tuple.

    Thread safety: under the GIL each method is atomic, but for the values' ``__eq__`` that `remove` may call:
    if that changes the registry, `remove` goes by what is there afterwards. The iterator may be used while
    others insert and remove. Process safety: private memory; a forked child has its own copy.

    The algorithm is that of NATS (``server/sublist.go``); subject_trie.pyx says what differs.
    """

    cdef Trie trie
    cdef list values            # by number of the trie's entry; None where none is stored
    cdef _MatchCache cache
    cdef dict cached            # cache.entries, one step nearer
    cdef object sort_key        # None: the order of insertion
    cdef uint64_t changes       # of what is stored
    cdef uint64_t hits
    cdef uint64_t misses

    def __cinit__(self, *, Py_ssize_t cache_size=1024, key=None):
        if cache_size < 0:
            raise ValueError(f"cache_size is {cache_size}; it must be 0 (no cache) or more")
        if key is not None and not callable(key):
            raise TypeError(f"key is {key!r}; it must be a function of a value, or None")
        self.sort_key = key
        # Follows PYTHONHASHSEED: who chooses subjects can't choose them to collide.
        self.trie.seed = <uint64_t>hash("fastcomm.subjects")
        self.values = []
        self.cache = _MatchCache(cache_size)
        self.cached = self.cache.entries

    def __dealloc__(self):
        c_trie_free(&self.trie)

    def __class_getitem__(cls, item, /):
        """`SubjectRegistry[T]` in annotations: a registry of values of type T."""
        return GenericAlias(cls, item)

    def insert(self, pattern, value) -> None:
        """Store `value` under `pattern`. InvalidSubjectError if that is no pattern."""
        cdef str key = plain(pattern, PATTERN)
        cdef Text text = checked(key, PATTERN)
        cdef Token tokens[MAX_TOKENS]
        cdef size_t count = c_trie_split(&self.trie, text.start, text.length, tokens)
        cdef uint32_t entry = c_trie_insert(&self.trie, tokens, count)
        if entry == 0:
            raise MemoryError(f"no memory for one more pattern; {self.trie.stored} values are stored")
        try:
            while <size_t>len(self.values) <= entry:
                self.values.append(None)
        except MemoryError:
            c_trie_remove(&self.trie, entry)
            raise
        self.values[entry] = value
        self.changes += 1
        self.cache.drop_matched(key, text, tokens, count)

    def remove(self, pattern, value) -> None:
        """Take `value` from under exactly `pattern`: this object, else an equal one; the oldest of several.

        NotRegisteredError (a KeyError) if there is none. Linear in the number of values under that pattern.
        """
        cdef str key = plain(pattern, PATTERN)
        cdef Text text = checked(key, PATTERN)
        cdef Token tokens[MAX_TOKENS]
        cdef size_t count
        cdef uint32_t entry = self.oldest(text, value)
        if entry == 0:
            value = self.equal_value(text, value)
            entry = self.oldest(text, value)
        if entry == 0:
            raise NotRegisteredError(f"{value!r} is not stored under pattern {key!r}")
        # Held until the end: its destructor may come back here.
        value = self.values[entry]
        self.values[entry] = None
        self.changes += 1
        c_trie_remove(&self.trie, entry)
        count = c_trie_split(&self.trie, text.start, text.length, tokens)
        self.cache.drop_matched(key, text, tokens, count)
        if self.trie.stored == 0:
            self.release()

    # A plain method descriptor: the interpreter calls it 8 ns (of 30) faster than one of Cython's functions.
    @cython.binding(False)
    @cython.embedsignature.format("clinic")
    def match(self, subject, /):
        """The values of all patterns that match `subject`, in the order of insertion or of `key`.

        Each stored (pattern, value) is there exactly once. InvalidSubjectError if `subject` is not literal.
        """
        cdef PyObject* found
        if not PyUnicode_CheckExact(subject):
            subject = plain(subject, SUBJECT)
        found = PyDict_GetItemWithError(self.cached, subject)
        if found == NULL:
            return self.walk(subject)
        self.hits += 1
        (<_Cached>found).used = True
        return (<_Cached>found).values

    def match_pattern(self, pattern) -> tuple:
        """The values of all stored patterns that are subsets of `pattern`, in the order of insertion.

        Goes through everything that is stored, about 0.1 us for each; for inspection, not for delivery.
        """
        cdef str key = plain(pattern, PATTERN)
        cdef Text text = checked(key, PATTERN)
        cdef tuple result
        cdef uint64_t generation
        while True:
            self.find_covered(text)
            generation = self.trie.generation
            result = PyTuple_New(<Py_ssize_t>self.trie.match_count)
            if generation == self.trie.generation:
                self.fill(result)
                return result

    def clear(self) -> None:
        """Forget all that is stored and cached, and give the memory back. `hits` and `misses` go on."""
        # Kept until the end: the values' destructors, which may come back here, find an empty registry.
        held = self.values
        self.release()
        del held

    def stats(self) -> RegistryStats:
        """The counts of this moment."""
        cdef RegistryStats stats = RegistryStats.__new__(RegistryStats)
        stats.patterns = self.trie.patterns
        stats.values = self.trie.stored
        stats.nodes = self.trie.nodes
        stats.nbytes = <Py_ssize_t>(c_trie_nbytes(&self.trie) + len(self.values) * sizeof(PyObject*))
        stats.cached = len(self.cached)
        stats.hits = self.hits
        stats.misses = self.misses
        return stats

    def __len__(self):
        return self.trie.stored

    def __iter__(self):
        """All (pattern, value). The order is that of insertion, but that removed places are filled again.

        A pair that is stored throughout comes exactly once; one inserted or removed meanwhile, at most once.
        """
        cdef uint32_t entry = 1
        while entry < self.trie.entries_used:
            if self.trie.entries[entry].node:
                yield self.pattern_of(entry), self.values[entry]
            entry += 1

    cdef tuple walk(self, str subject):
        cdef Text text = checked(subject, SUBJECT)
        cdef Token tokens[MAX_TOKENS]
        cdef size_t count = c_trie_split(&self.trie, text.start, text.length, tokens)
        cdef uint64_t generation, changes
        cdef tuple result
        cdef _Cached entry = None
        if not c_trie_match(&self.trie, tokens, count):
            raise MemoryError(f"no memory for the matches of subject {subject!r}")
        generation = self.trie.generation
        result = PyTuple_New(<Py_ssize_t>self.trie.match_count)
        if self.cache.capacity:
            entry = _Cached.__new__(_Cached)
        # Up to Python 3.11 making an object may collect garbage, and finalizers may come back here.
        if generation != self.trie.generation:
            return self.match(subject)
        self.misses += 1
        self.fill(result)
        if self.sort_key is not None and len(result) > 1:
            changes = self.changes
            result = tuple(sorted(result, key=self.sort_key))
            # That was foreign code, which may have changed what is stored, or looked the same subject up.
            if changes != self.changes or subject in self.cached:
                return result
        if entry is not None:
            entry.subject = subject
            entry.text = text
            entry.values = result
            self.cache.add(entry, c_sketch(tokens, count))
        return result

    cdef void fill(self, tuple result) noexcept:
        """Move the values of the last walk's matches into a new tuple."""
        cdef size_t i
        for i in range(self.trie.match_count):
            value = self.values[self.trie.matches[i].entry]
            Py_INCREF(value)
            PyTuple_SET_ITEM(result, <Py_ssize_t>i, value)

    cdef int find_covered(self, Text text) except -1:
        cdef char pattern[MAX_BYTES]
        cdef uint32_t entry
        cdef size_t length
        self.trie.generation += 1
        self.trie.match_count = 0
        for entry in range(1, self.trie.entries_used):
            if self.trie.entries[entry].node == 0:
                continue
            length = c_trie_pattern(&self.trie, self.trie.entries[entry].node, pattern)
            if c_is_subset(pattern, length, text.start, text.length) and not c_trie_push(&self.trie, entry):
                raise MemoryError("no memory for the covered patterns")
        c_trie_sort(&self.trie)
        return 0

    cdef uint32_t newest(self, Text text) noexcept:
        """Head of the chain of entries under exactly this pattern, 0 if there is none."""
        cdef Token tokens[MAX_TOKENS]
        cdef size_t count = c_trie_split(&self.trie, text.start, text.length, tokens)
        cdef uint32_t node = c_trie_find(&self.trie, tokens, count)
        return c_trie_node(&self.trie, node).newest if node else 0

    cdef uint32_t oldest(self, Text text, object value) noexcept:
        """The oldest entry under this pattern whose value is the very object `value`."""
        cdef uint32_t entry = self.newest(text)
        cdef uint32_t found = 0
        while entry:
            if self.values[entry] is value:
                found = entry
            entry = self.trie.entries[entry].older
        return found

    cdef object equal_value(self, Text text, object value):
        """The oldest value under this pattern that is equal to `value`; `value` if there is none."""
        cdef list candidates = []
        cdef uint32_t entry = self.newest(text)
        while entry:
            candidates.append(self.values[entry])
            entry = self.trie.entries[entry].older
        for candidate in reversed(candidates):
            if candidate == value:
                return candidate
        return value

    cdef str pattern_of(self, uint32_t entry):
        cdef char pattern[MAX_BYTES]
        cdef size_t length = c_trie_pattern(&self.trie, self.trie.entries[entry].node, pattern)
        return PyUnicode_DecodeUTF8(pattern, <Py_ssize_t>length, NULL)

    cdef int release(self) except -1:
        """Empty everything. The caller holds the values, so that no destructor runs in here."""
        # Made first: see `walk`, making an object may run foreign code.
        cdef list values = []
        cdef _MatchCache cache = _MatchCache(self.cache.capacity)
        self.values = values
        self.cache = cache
        self.cached = cache.entries
        self.changes += 1
        c_trie_free(&self.trie)
        return 0
