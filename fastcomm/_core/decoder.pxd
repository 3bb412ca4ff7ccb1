"""Decoding for other compiled modules."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t

from fastcomm._core.capi cimport PyObject

cdef enum:
    KEY_SLOTS = 512
    SCRIPT_SLOTS = 64


cdef struct Reader:
    const uint8_t* start
    const uint8_t* p
    const uint8_t* end
    Py_ssize_t owed         # values declared by the containers around and not yet read: at least a byte each
    Py_ssize_t header       # bytes of it
    PyObject** keys         # of the decoder; NULL: don't look there
    PyObject** script       # of the decoder, from the next str on
    PyObject** script_end
    PyObject* decoder       # borrowed
    PyObject* entries       # borrowed list of the string table; NULL: none
    PyObject* memo          # owned dict of this message, for TypeTable; NULL: not needed yet
    PyObject* detail        # owned text of BAD_VALUE
    PyObject* view          # memoryview over the message to slice bytes from; NULL: copy them
    int depth
    int why
    Py_ssize_t where
    Py_ssize_t number       # what the text of `why` needs


@cython.final
cdef class Decoder:
    cdef object types               # TypeTable, made when needed
    cdef object table               # StringTable or None
    cdef list entries
    cdef uint32_t table_id
    cdef Py_ssize_t max_size, max_decompressed
    cdef bint interning
    cdef PyObject* keys[KEY_SLOTS]          # short ASCII keys, by a hash of their bytes
    cdef PyObject* script[SCRIPT_SLOTS]     # short ASCII strings of the message before, in their order

    cdef object span(self, const uint8_t* data, Py_ssize_t length, PyObject* view)
    cdef object compressed_span(self, Reader* reader, int flags)
    cdef object message(self, object buffer, bint copy)


# Bytes are copied out. Raises DecodeError.
cdef object c_decode(const uint8_t* data, Py_ssize_t length)
