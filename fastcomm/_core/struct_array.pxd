"""Gathering messages into rows, for the module that drains rings."""

cimport cython
from libc.stdint cimport uint8_t

from fastcomm._core.schema cimport Layout
from fastcomm._core.struct_reader cimport Reader


@cython.final
cdef class Rows:
    cdef Layout layout
    cdef bytearray row_bytes
    cdef bytearray heap_bytes
    cdef readonly Py_ssize_t count
    cdef Py_ssize_t heap_size

    cdef int add_message(self, const uint8_t* data, Py_ssize_t length) except -1
    cdef int complete(self, Reader* reader, uint8_t* row) except -1
    cdef int put_default(self, Py_ssize_t index, uint8_t* row) except -1
    cdef uint8_t* heap_room(self, Py_ssize_t size) except NULL
