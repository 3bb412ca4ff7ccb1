"""An ``Encoder`` to keep, for other compiled modules."""

cimport cython
from libc.stdint cimport uint8_t

from fastcomm._core.output cimport Writer


# Raises EncodeError unless `length` bytes at `offset` are within a buffer of `size`.
cdef int check_room(Py_ssize_t length, Py_ssize_t offset, Py_ssize_t size) except -1


@cython.final
cdef class Encoder:
    cdef Writer writer
    cdef bint busy
    cdef object table       # StringTable or None

    # The bytes stay valid until the next call on this encoder.
    cdef const uint8_t* c_encode(self, object obj, Py_ssize_t* length) except NULL
    cdef uint8_t* write(self, object obj, uint8_t* start, Py_ssize_t size) except? NULL
    cdef int fail(self) except -1
    cdef int use_types(self, object types) except -1
    cdef Encoder twin(self)
    cdef bytes message(self, object obj)
    cdef Py_ssize_t copy_into(self, object obj, Py_buffer* view, Py_ssize_t offset) except -1
    cdef int trim(self) except -1
