"""Decoding for other compiled modules."""

cimport cython
from libc.stdint cimport uint8_t

from fastcomm._core.capi cimport PyObject
from fastcomm._core.input cimport KEY_SLOTS, Reader
from fastcomm._core.strings cimport StringTable


@cython.final
cdef class Decoder:
    cdef PyObject* types            # owned TypeTable; NULL: not needed yet
    cdef StringTable table          # or None
    cdef Py_ssize_t max_size, max_decompressed
    cdef bint interning
    cdef PyObject* keys[KEY_SLOTS]  # owned short ASCII keys, by a hash of their bytes

    cdef int use_types(self, object types) except -1
    # `shared`: a table of the channel that the message came by, or None.
    cdef object span(self, const uint8_t* data, Py_ssize_t length, PyObject* view, StringTable shared)
    cdef object compressed_span(self, Reader* reader, int flags, StringTable shared)
    cdef object message(self, object buffer, bint copy, StringTable shared)


# Bytes are copied out. Raises DecodeError.
cdef object c_decode(const uint8_t* data, Py_ssize_t length)
