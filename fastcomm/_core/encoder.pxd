"""An ``Encoder`` to keep, for other compiled modules."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t

from fastcomm._core.capi cimport PyObject
from fastcomm._core.wire cimport SHORT_STR_MAX

cdef enum:
    REF_SLOTS = 128
    KEY_SLOTS = 128
    KEY_WAYS = 4            # slots next to each other in which a key may be
    SCRIPT_SLOTS = 64


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
    bint lent           # that is a bytes object's; the scratch buffer otherwise
    uint8_t* scratch
    Py_ssize_t scratch_size
    Py_ssize_t last_size    # of the message before, which the next one is guessed to have
    uint32_t evicted        # counts up: which way goes next
    bint interning
    bint plain          # only trees of built-in types
    bint learns         # keys into a string table
    int header          # bytes of it
    uint32_t table_id
    PyObject* encoder   # borrowed
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
    int turn                    # how many keys of this message were looked for
    KeySlot* script[SCRIPT_SLOTS]   # where those of the message before were, in their order


@cython.final
cdef class Encoder:
    cdef Writer writer
    cdef bint busy
    cdef object types       # TypeTable, made when needed
    cdef object table       # StringTable or None

    # The bytes stay valid until the next call on this encoder.
    cdef const uint8_t* c_encode(self, object obj, Py_ssize_t* length) except NULL
    cdef uint8_t* write(self, object obj, uint8_t* start, Py_ssize_t size) except? NULL
    cdef Encoder twin(self)
    cdef bytes message(self, object obj)
    cdef Py_ssize_t copy_into(self, object obj, Py_buffer* view, Py_ssize_t offset) except -1
    cdef int trim(self) except -1
