"""Deadlines for other compiled modules."""

from libc.stdint cimport int64_t

cdef int64_t deadline_of(object timeout) except -2
