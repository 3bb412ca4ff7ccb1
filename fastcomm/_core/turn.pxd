"""A lock among the threads of a process, for compiled modules."""

from libc.stdint cimport int64_t

cdef extern from "pythread.h" nogil:
    ctypedef void *PyThread_type_lock


cdef enum:
    TURN_TAKEN = 1
    TURN_NESTED = 2      # this thread has it already: a signal handler interrupted it
    TURN_TIMED_OUT = 3


cdef class Turn:
    cdef PyThread_type_lock lock
    cdef unsigned long holder

    cdef int take(self, int64_t deadline) except -1
    cdef void give_back(self) noexcept
