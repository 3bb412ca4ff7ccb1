"""Messages that some inboxes had no room for, or were not tried yet."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastcomm._core.outboxes cimport Outboxes, parts_t
from fastcomm._core.ring cimport Ring
from fastcomm._core.routes cimport Route, target_t


# Of a place: so many of the messages have been delivered to it. The places of a route are its targets, then
# its groups.
cdef struct rest_t:
    int place
    size_t done


cdef class Delivery:
    cdef Ring inbox                # of the agent as it began
    cdef Route route
    cdef object owned              # what the messages' pieces point into
    cdef parts_t *parts            # of each message
    cdef size_t count
    cdef rest_t *remaining         # the places that lack some of them
    cdef int left
    cdef readonly Py_ssize_t reached
    cdef list targets              # (owner, epoch) of each inbox that was reached; None: nobody asks
    cdef int64_t deadline          # CLOCK_MONOTONIC ns; -1: never
    cdef readonly object timeout
    cdef uint64_t watched_head     # of the inbox that is waited for, and since when it has stood there
    cdef int64_t watched_since

    cdef uint32_t owner(self)
    cdef const parts_t *next_parts(self)
    cdef Py_ssize_t missing(self)
    cdef bint advance(self, Outboxes outboxes, list rung) except -1
    cdef int note(self, const target_t *target) except -1
    cdef int try_place(self, Outboxes outboxes, rest_t *rest, list rung) except -1
