"""What other compiled modules may use of the codec: a ``Codec`` or ``Encoder`` to keep, and ``c_decode``."""

cimport cython
from libc.stdint cimport uint8_t, uint64_t

from fastcomm._core.decoder cimport Decoder, c_decode
from fastcomm._core.encoder cimport Encoder
from fastcomm._core.strings cimport StringTable


@cython.final
cdef class Codec:
    cdef Encoder encoder
    cdef Decoder decoder
    cdef readonly object strings
    cdef object types, compress
    cdef dict options
    cdef int flag                       # of the compression, in the header
    cdef Py_ssize_t threshold, max_size, max_decompressed
    cdef bytes kept                     # what c_encode returned a pointer to
    cdef readonly uint64_t compressed, compression_failures
    cdef Codec counts_for               # whose failures are counted; None: its own

    # The bytes stay valid until the next call on this codec.
    cdef const uint8_t* c_encode(self, object obj, Py_ssize_t* length) except NULL
    # `shared`: a string table of the channel that the message came by, or None.
    cdef object c_decode(self, const uint8_t* data, Py_ssize_t length, StringTable shared)
    cdef bytes shrunk(self, const uint8_t* data, Py_ssize_t length)
    cdef object type_table(self)
    cdef int use_types(self, object types) except -1
    cdef int check_size(self, Py_ssize_t length) except -1
