# cython: autotestdict=False, auto_pickle=False
"""Subjects: NATS's grammar, the relations between patterns, and the registry that finds who listens.

A subject is a list of tokens with dots between: ``tasks.render.done``. In a pattern the token ``*`` stands
for any one token, and ``>``, which must be the last, for one or more: ``tasks.*.done`` and ``tasks.>`` match
the subject above, ``tasks.>`` does not match ``tasks``. Both count as wildcards only if they are a whole
token: ``a*.>b`` has none.

A subject or pattern is refused
- if it is empty, or longer than MAX_SUBJECT_BYTES of UTF-8, or not representable in UTF-8 (lone surrogates);
- if a token is empty: no dot at either end, no two in a row;
- if it has a character for which ``str.isspace()`` is true or a control character (category Cc: U+0000 to
  U+001F and U+007F to U+009F, so NUL too). Anything else goes;
- as a pattern, if a token ``>`` is not the last one; as a subject, if any token is ``*`` or ``>``.

Grammar and matching follow NATS (docs.nats.io, "Subject-Based Messaging"); the registry follows the idea of
``server/sublist.go`` in nats-server: a trie over tokens with a bounded cache of subjects in front.

Threads: everything here holds the GIL from start to end.
"""

cimport cython
from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_CheckExact, PyUnicode_FromObject
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp

from types import GenericAlias

from fastcomm._core.subject_trie cimport (
    MAX_TOKENS, Token, Trie, c_trie_find, c_trie_free, c_trie_insert, c_trie_match, c_trie_nbytes,
    c_trie_node, c_trie_pattern, c_trie_push, c_trie_remove, c_trie_sort, c_trie_split,
)

from fastcomm.errors import InvalidSubjectError, NotRegisteredError

cdef extern from "Python.h":
    # Declared here because the bytes that it returns are const.
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    str PyUnicode_DecodeUTF8(const char* text, Py_ssize_t size, const char* errors)

MAX_SUBJECT_BYTES = MAX_BYTES

cdef struct Text:
    const char* start
    size_t length


# Grammar

cdef inline bint c_is_forbidden(uint32_t code) noexcept nogil:
    """White space (Unicode's property and U+001C to U+001F) and category Cc."""
    return (code <= 0x20 or 0x7F <= code <= 0xA0 or code == 0x1680 or 0x2000 <= code <= 0x200A
            or code == 0x2028 or code == 0x2029 or code == 0x202F or code == 0x205F or code == 0x3000)


cdef size_t c_sequence_size(unsigned char lead, uint32_t* code, uint32_t* smallest) noexcept nogil:
    """Size of the UTF-8 sequence that `lead` begins, 0 if none; and what `lead` gives to its code point."""
    if lead < 0x80:
        code[0], smallest[0] = lead, 0
        return 1
    if 0xC0 <= lead < 0xE0:
        code[0], smallest[0] = lead & 0x1F, 0x80
        return 2
    if 0xE0 <= lead < 0xF0:
        code[0], smallest[0] = lead & 0x0F, 0x800
        return 3
    if 0xF0 <= lead < 0xF8:
        code[0], smallest[0] = lead & 0x07, 0x10000
        return 4
    return 0


cdef size_t c_decode(const char* text, size_t available, uint32_t* code) noexcept nogil:
    """Decode one character; return its size in bytes, 0 if it is malformed, overlong or a surrogate."""
    cdef uint32_t smallest = 0
    cdef size_t size = c_sequence_size(<unsigned char>text[0], code, &smallest)
    cdef size_t i
    if size == 0 or size > available:
        return 0
    for i in range(1, size):
        if (<unsigned char>text[i] & 0xC0) != 0x80:
            return 0
        code[0] = code[0] << 6 | (<unsigned char>text[i] & 0x3F)
    if code[0] < smallest or 0xD800 <= code[0] < 0xE000 or code[0] > 0x10FFFF:
        return 0
    return size


cdef inline Flaw c_check_token(const char* token, size_t length, Kind kind, bint last) noexcept nogil:
    if length == 0:
        return FLAW_EMPTY_TOKEN
    if length > 1 or (token[0] != c"*" and token[0] != c">"):
        return SOUND
    if kind == SUBJECT:
        return FLAW_WILDCARD
    if token[0] == c">" and not last:
        return FLAW_REST_NOT_LAST
    return SOUND


cdef Flaw c_check_character(const char* text, size_t available, size_t* size) noexcept nogil:
    cdef uint32_t code = 0
    size[0] = c_decode(text, available, &code)
    if size[0] == 0:
        return FLAW_ENCODING
    return FLAW_CHARACTER if c_is_forbidden(code) else SOUND


cdef Flaw c_check(const char* text, size_t length, Kind kind, size_t* position) noexcept nogil:
    cdef size_t start = 0
    cdef size_t at = 0
    cdef size_t size
    cdef Flaw flaw
    if length == 0 or length > MAX_BYTES:
        position[0] = min(length, <size_t>MAX_BYTES)
        return FLAW_TOO_LONG if length else FLAW_EMPTY
    while at < length:
        if text[at] == c".":
            flaw = c_check_token(text + start, at - start, kind, False)
            if flaw != SOUND:
                position[0] = start
                return flaw
            at += 1
            start = at
        elif c" " < text[at] < 0x7F:
            at += 1
        else:
            flaw = c_check_character(text + at, length - at, &size)
            if flaw != SOUND:
                position[0] = at
                return flaw
            at += size
    flaw = c_check_token(text + start, length - start, kind, True)
    if flaw != SOUND:
        position[0] = start
    return flaw


# Relations

cdef inline size_t c_token_end(const char* text, size_t at, size_t length) noexcept nogil:
    while at < length and text[at] != c".":
        at += 1
    return at


cdef inline bint c_is_one(const char* text, size_t start, size_t end, char character) noexcept nogil:
    return end - start == 1 and text[start] == character


cdef inline bint c_same(const char* a, size_t a_start, size_t a_end,
                        const char* b, size_t b_start, size_t b_end) noexcept nogil:
    return a_end - a_start == b_end - b_start and memcmp(a + a_start, b + b_start, a_end - a_start) == 0


cdef bint c_is_subset(const char* a, size_t a_length, const char* b, size_t b_length) noexcept nogil:
    """Whether `b` matches everything that `a` matches."""
    cdef size_t a_start = 0
    cdef size_t b_start = 0
    cdef size_t a_end, b_end
    while a_start < a_length and b_start < b_length:
        a_end = c_token_end(a, a_start, a_length)
        b_end = c_token_end(b, b_start, b_length)
        if c_is_one(b, b_start, b_end, c">"):
            return True
        if c_is_one(a, a_start, a_end, c">"):
            return False
        if not c_is_one(b, b_start, b_end, c"*") and not c_same(a, a_start, a_end, b, b_start, b_end):
            return False
        a_start = a_end + 1
        b_start = b_end + 1
    # Sound text ends in a token: both starts are past the end only if both had equally many.
    return a_start > a_length and b_start > b_length


cdef bint c_collides(const char* a, size_t a_length, const char* b, size_t b_length) noexcept nogil:
    """Whether some subject is matched by both."""
    cdef size_t a_start = 0
    cdef size_t b_start = 0
    cdef size_t a_end, b_end
    while a_start < a_length and b_start < b_length:
        a_end = c_token_end(a, a_start, a_length)
        b_end = c_token_end(b, b_start, b_length)
        if c_is_one(a, a_start, a_end, c">") or c_is_one(b, b_start, b_end, c">"):
            return True
        if not c_is_one(a, a_start, a_end, c"*") and not c_is_one(b, b_start, b_end, c"*") \
                and not c_same(a, a_start, a_end, b, b_start, b_end):
            return False
        a_start = a_end + 1
        b_start = b_end + 1
    return a_start > a_length and b_start > b_length


cdef bint c_is_literal(const char* pattern, size_t length) noexcept nogil:
    cdef size_t start = 0
    cdef size_t end
    while start < length:
        end = c_token_end(pattern, start, length)
        if c_is_one(pattern, start, end, c"*") or c_is_one(pattern, start, end, c">"):
            return False
        start = end + 1
    return True


# From Python's str

cdef inline Text utf8(str text) except *:
    cdef Text found
    cdef Py_ssize_t size = 0
    found.start = PyUnicode_AsUTF8AndSize(text, &size)
    found.length = <size_t>size
    return found


cdef str plain(object text, Kind kind):
    """`text` as an exact str: a subclass (StrEnum, say) may compare and hash as it likes."""
    if not isinstance(text, str):
        raise TypeError(f"a {kind_name(kind)} is a str, not {type(text).__name__}")
    return PyUnicode_FromObject(text)


cdef str kind_name(Kind kind):
    return "subject" if kind == SUBJECT else "pattern"


cdef str flaw_text(Flaw flaw, str text, Py_ssize_t position, size_t length):
    if flaw == FLAW_EMPTY:
        return "it is empty"
    if flaw == FLAW_TOO_LONG:
        return f"it has {length} bytes of UTF-8, {MAX_BYTES} are allowed"
    if flaw == FLAW_EMPTY_TOKEN:
        return f"empty token at position {position}; put one dot between tokens and none at either end"
    if flaw == FLAW_WILDCARD:
        return f"wildcard {text[position]!r} at position {position}; only patterns have wildcards"
    if flaw == FLAW_REST_NOT_LAST:
        return f"'>' at position {position} is not the last token; use '*' for a single token"
    return (f"character {text[position]!r} at position {position}; "
            "white space and control characters are not allowed")


cdef object invalid(Flaw flaw, str text, Kind kind, size_t offset, size_t length):
    """The error to raise, with the position counted in characters."""
    cdef Py_ssize_t position = len(text.encode()[:offset].decode(errors="ignore"))
    reason = flaw_text(flaw, text, position, length)
    shown = text if len(text) <= MAX_BYTES else text[:MAX_BYTES] + "..."
    return InvalidSubjectError(f"invalid {kind_name(kind)} {shown!r}: {reason}", position=position)


cdef object not_utf8(str text, Kind kind, Py_ssize_t position):
    return InvalidSubjectError(
        f"invalid {kind_name(kind)} {text!r}: lone surrogate at position {position} has no UTF-8",
        position=position)


cdef Text checked(str text, Kind kind) except *:
    """The UTF-8 of `text`, which lives as long as `text` does."""
    cdef Text found
    cdef size_t position = 0
    cdef Flaw flaw
    try:
        found = utf8(text)
    except UnicodeEncodeError as error:
        raise not_utf8(text, kind, error.start) from None
    flaw = c_check(found.start, found.length, kind, &position)
    if flaw != SOUND:
        raise invalid(flaw, text, kind, position, found.length)
    return found


cdef bint is_valid(object text, Kind kind) except -1:
    cdef str held = plain(text, kind)
    cdef Text found
    cdef size_t position = 0
    try:
        found = utf8(held)
    except UnicodeEncodeError:
        return False
    return c_check(found.start, found.length, kind, &position) == SOUND


def is_valid_subject(subject) -> bool:
    """Whether `subject` may be published to. TypeError if it is no str."""
    return is_valid(subject, SUBJECT)


def is_valid_pattern(pattern) -> bool:
    """Whether `pattern` may be subscribed to. Every valid subject may. TypeError if it is no str."""
    return is_valid(pattern, PATTERN)


def check_subject(subject) -> None:
    """Raise InvalidSubjectError unless `subject` may be published to.

    The text has the reason; `position` counts characters. TypeError if it is no str.
    """
    checked(plain(subject, SUBJECT), SUBJECT)


def check_pattern(pattern) -> None:
    """Raise InvalidSubjectError unless `pattern` may be subscribed to.

    The text has the reason; `position` counts characters. TypeError if it is no str.
    """
    checked(plain(pattern, PATTERN), PATTERN)


def matches(pattern, subject) -> bool:
    """Whether `pattern` matches `subject`. InvalidSubjectError if either is not what it should be."""
    cdef str p = plain(pattern, PATTERN)
    cdef str s = plain(subject, SUBJECT)
    cdef Text left = checked(p, PATTERN)
    cdef Text right = checked(s, SUBJECT)
    return c_is_subset(right.start, right.length, left.start, left.length)


def collides(a, b) -> bool:
    """Whether some subject is matched by both patterns. InvalidSubjectError if either is no pattern.

    The limit on length is left out of account: a subject that both match may be longer than it.
    """
    cdef str first = plain(a, PATTERN)
    cdef str second = plain(b, PATTERN)
    cdef Text left = checked(first, PATTERN)
    cdef Text right = checked(second, PATTERN)
    return c_collides(left.start, left.length, right.start, right.length)


def is_subset(a, b) -> bool:
    """Whether pattern `b` matches every subject that pattern `a` matches.

    InvalidSubjectError if either is no pattern. The limit on length is left out of account, as in `collides`.
    """
    cdef str first = plain(a, PATTERN)
    cdef str second = plain(b, PATTERN)
    cdef Text left = checked(first, PATTERN)
    cdef Text right = checked(second, PATTERN)
    return c_is_subset(left.start, left.length, right.start, right.length)


# Registry

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
    cdef Py_ssize_t capacity
    cdef Py_ssize_t hand

    def __cinit__(self, Py_ssize_t capacity):
        self.entries = {}
        self.clock = []
        self.capacity = capacity

    cdef int add(self, _Cached entry) except -1:
        """Add a subject that is not there, in the place of another one if the cache is full."""
        cdef _Cached victim
        if len(self.clock) < self.capacity:
            entry.place = len(self.clock)
            self.clock.append(entry)
        else:
            victim = self.find_victim()
            self.entries.pop(victim.subject, None)
            entry.place = victim.place
            self.clock[entry.place] = entry
            self.hand = entry.place + 1
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
            last.place = entry.place
        self.entries.pop(entry.subject, None)
        return 0

    cdef int drop_matched(self, str pattern, Text text) except -1:
        """Drop the subjects that the pattern matches: one look-up if it is literal, else a walk over all."""
        cdef _Cached entry
        cdef Py_ssize_t i
        if c_is_literal(text.start, text.length):
            entry = self.entries.get(pattern)
            return 0 if entry is None else self.drop(entry)
        # From the end, so that whatever takes a freed place has been looked at.
        for i in range(len(self.clock) - 1, -1, -1):
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
    (at most `cache_size` comparisons) for one with wildcards. A miss walks the trie: its cost grows with the
    patterns that match or nearly match (share a beginning, with wildcards counted as shared), and not with
    how many are stored.

    The order of results is the order of insertion. The same value may be stored under one pattern several
    times: each insertion counts, is found, and must be removed on its own. Values may be any objects and need
    not be hashable.

    Memory for one stored value: 24 bytes, and for each token that its pattern does not share with the
    beginning of another one 21 bytes and the token's own (rounded up to 4), and 11 to 21 of hash table. With
    one such token of 8 characters that came to 74 bytes, measured at 1 M. Growing arrays reserve up to half
    as much again, which `stats().nbytes` counts and the system backs with memory once it is used. What is
    removed is used again; all is given back when the last value goes and by `clear()`. A cached subject takes
    about 150 bytes, its str included, and if anything matches a tuple.

    Thread safety: under the GIL each method is atomic, but for the values' ``__eq__`` that `remove` may call:
    if that changes the registry, `remove` goes by what is there afterwards. The iterator may be used while
    others insert and remove. Process safety: private memory; a forked child has its own copy.

    The algorithm is that of NATS (``server/sublist.go``); subject_trie.pyx says what differs.
    """

    cdef Trie trie
    cdef list values            # by number of the trie's entry; None where none is stored
    cdef _MatchCache cache
    cdef dict cached            # cache.entries, one step nearer
    cdef uint64_t hits
    cdef uint64_t misses

    def __cinit__(self, *, Py_ssize_t cache_size=1024):
        if cache_size < 0:
            raise ValueError(f"cache_size is {cache_size}; it must be 0 (no cache) or more")
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
        self.cache.drop_matched(key, text)

    def remove(self, pattern, value) -> None:
        """Take `value` from under exactly `pattern`: this object, else an equal one; the oldest of several.

        NotRegisteredError (a KeyError) if there is none. Linear in the number of values under that pattern.
        """
        cdef str key = plain(pattern, PATTERN)
        cdef Text text = checked(key, PATTERN)
        cdef uint32_t entry = self.oldest(text, value)
        if entry == 0:
            value = self.equal_value(text, value)
            entry = self.oldest(text, value)
        if entry == 0:
            raise NotRegisteredError(f"{value!r} is not stored under pattern {key!r}")
        # Held until the end: its destructor may come back here.
        value = self.values[entry]
        self.values[entry] = None
        c_trie_remove(&self.trie, entry)
        self.cache.drop_matched(key, text)
        if self.trie.stored == 0:
            self.release()

    # A plain method descriptor: the interpreter calls it 8 ns (of 30) faster than one of Cython's functions.
    @cython.binding(False)
    @cython.embedsignature.format("clinic")
    def match(self, subject, /):
        """The values of all patterns that match `subject`, in the order of insertion.

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
        cdef uint64_t generation
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
        if entry is not None:
            entry.subject = subject
            entry.text = text
            entry.values = result
            self.cache.add(entry)
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
        c_trie_free(&self.trie)
        return 0
