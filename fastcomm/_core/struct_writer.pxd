"""Packing for other compiled modules."""

from libc.stdint cimport uint8_t

from fastcomm._core.capi cimport PyObject
from fastcomm._core.schema cimport Field, Layout


# Where a writer is, as a list from the innermost field outwards, on the C stack.
cdef struct Step:
    Step* outer
    Field* field
    Py_ssize_t index        # of an array's item; -1: the field itself


cdef struct Writer:
    uint8_t* start          # what offsets of the tail count from
    uint8_t* tail           # where its next bytes go
    uint8_t* limit
    Step* step


cdef Py_ssize_t tail_size(Layout layout, PyObject* obj) except -1
cdef Py_ssize_t field_tail_size(Field* field, PyObject* value) except -1
cdef int put_field(Writer* writer, Field* field, PyObject* value, uint8_t* fixed) except -1
cdef Py_ssize_t write_message(Layout layout, PyObject* obj, uint8_t* out, Py_ssize_t size) except -1
cdef Py_ssize_t message_size(Layout layout, PyObject* obj) except -1
