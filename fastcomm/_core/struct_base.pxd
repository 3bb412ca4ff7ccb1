"""Struct messages for the codec and the bus."""

from libc.stdint cimport uint8_t


cpdef bytes encode_struct(object instance)
cdef object decode_struct(const uint8_t* data, Py_ssize_t length)
