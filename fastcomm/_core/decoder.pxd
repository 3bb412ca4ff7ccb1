"""Decoding for other compiled modules."""

from libc.stdint cimport uint8_t


# Bytes are copied out. Raises DecodeError.
cdef object c_decode(const uint8_t* data, Py_ssize_t length)
