"""An ``Encoder`` to keep, for other compiled modules."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t

from fastcomm._core.capi cimport PyObject

cdef enum:
    REF_SLOTS = 128


cdef struct Step:
    PyObject* key       # owned; NULL for a position in a list or tuple
    Py_ssize_t index


cdef struct RefSlot:
    Py_hash_t hash
    uint32_t generation     # of the message that it belongs to; any other means empty
    uint32_t offset         # of the tag


cdef struct Writer:
    uint8_t* start
    uint8_t* limit      # one past the end of the scratch buffer
    uint32_t generation
    int lists           # of two or more items, around the value that is being written
    int known           # keys of this message in refs; at most half of the slots, so that a search ends
    int why             # the failure, its object (owned) and the way to it, filled on the way out
    PyObject* culprit
    Step* steps
    int depth
    RefSlot refs[REF_SLOTS]


@cython.final
cdef class Encoder:
    cdef Writer writer
    cdef bint busy

    # The bytes stay valid until the next call on this encoder.
    cdef const uint8_t* c_encode(self, object obj, Py_ssize_t* length) except NULL
    cdef bytes message(self, object obj)
    cdef Py_ssize_t copy_into(self, object obj, Py_buffer* view, Py_ssize_t offset) except -1
    cdef int trim(self) except -1
