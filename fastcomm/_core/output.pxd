"""What is written to, and how sizes, words and short texts are. See ``writer.pyx``."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastcomm._core.capi cimport PyObject
from fastcomm._core.wire cimport SHORT_STR_MAX

cdef extern from *:
    int count_leading_zeros "__builtin_clzll"(uint64_t) noexcept nogil

cdef enum:
    HEAD_ROOM = 16          # the longest head of a value is 10 bytes; words are stored whole and then cut
    FIRST_SCRATCH = 1024
    REF_SLOTS = 128
    KEY_SLOTS = 128
    KEY_WAYS = 4            # slots next to each other in which a key may be


cdef struct Step:
    PyObject* key       # owned; NULL for a position in a list or tuple
    Py_ssize_t index


cdef struct RefSlot:
    Py_hash_t hash
    uint32_t generation     # of the message that it belongs to; any other means empty
    uint32_t offset         # of the tag


cdef struct KeySlot:
    PyObject* key       # owned, an ASCII str; NULL: empty
    Py_hash_t hash
    int size            # of `code`
    uint32_t uses       # counted where a string table learns
    bint is_text        # `code` is the text itself, and not a reference to a table
    uint8_t code[SHORT_STR_MAX + 1]


cdef struct Writer:
    uint8_t* start
    uint8_t* limit      # one past the end of the memory that is written to
    PyObject* target    # owned bytes object that this is; NULL: it is the scratch buffer
    uint8_t* scratch
    Py_ssize_t scratch_size
    Py_ssize_t last_size    # of the message before, which the next one is guessed to have
    uint32_t evicted        # counts up: which way goes next
    bint interning
    bint plain          # only trees of built-in types
    bint learns         # keys into a string table
    int header          # bytes of it
    uint32_t table_id
    PyObject* types     # owned TypeTable; NULL: not needed yet
    PyObject* table     # borrowed StringTable
    uint32_t generation
    int lists           # of two or more items, around the value that is being written
    int known           # keys of this message in refs; at most half of the slots, so that a search ends
    int why             # the failure, its object (owned) and the way to it, filled on the way out
    PyObject* culprit
    PyObject* detail    # text (owned) of UNFIT
    Step* steps
    int depth
    RefSlot refs[REF_SLOTS]
    KeySlot keys[KEY_SLOTS]


cdef enum Why:
    FINE
    PENDING             # a Python error is set; it is raised as it is
    UNSUPPORTED
    TOO_DEEP
    SURROGATE
    NOT_CONTIGUOUS
    SHARED
    CHANGED
    UNFIT               # writer.detail says why


cdef inline uint8_t* put_size(uint8_t* p, uint64_t size) noexcept:
    while size >= 0x80:
        p[0] = <uint8_t> (size | 0x80)
        size >>= 7
        p += 1
    p[0] = <uint8_t> size
    return p + 1


cdef inline uint8_t* put_head(
    uint8_t* p, int short_tag, Py_ssize_t short_max, int tag, Py_ssize_t size
) noexcept:
    if size <= short_max:
        p[0] = <uint8_t> (short_tag + size)
        return p + 1
    p[0] = <uint8_t> tag
    return put_size(p + 1, size)


cdef inline void copy_short(uint8_t* target, const uint8_t* source, Py_ssize_t size) noexcept:
    """Up to 32 bytes, by overlapping words: for so few a call of memcpy costs more."""
    if size >= 16:
        memcpy(target, source, 16)
        memcpy(target + size - 16, source + size - 16, 16)
    elif size >= 8:
        memcpy(target, source, 8)
        memcpy(target + size - 8, source + size - 8, 8)
    elif size >= 4:
        memcpy(target, source, 4)
        memcpy(target + size - 4, source + size - 4, 4)
    elif size:
        target[0] = source[0]
        target[size >> 1] = source[size >> 1]
        target[size - 1] = source[size - 1]


cdef inline uint8_t* put_word(uint8_t* p, int tag, uint64_t bits) noexcept:
    cdef int last = 7 - (count_leading_zeros(bits | 1) >> 3)
    p[0] = <uint8_t> (tag + last)
    memcpy(p + 1, &bits, 8)
    return p + 2 + last
