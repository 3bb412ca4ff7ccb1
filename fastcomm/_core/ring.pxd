"""The Ring class for the modules that are laid over it."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastcomm._core.layout cimport fc_wait_t
from fastcomm._core.protocol cimport record_t
from fastcomm._core.ring_handle cimport RingHandle
from fastcomm._core.wait cimport spin_t


cdef class Ring(RingHandle):
    cdef uint32_t stirs            # how often waits for records were ended to look elsewhere
    cdef int fifo                  # of our participant, to sleep on instead of futexes; -1: none
    cdef spin_t spin_get
    cdef spin_t spin_put
    cdef int64_t next_housekeeping
    # The consumer's place, and since when it has been there, as producers that wait have seen it.
    cdef uint64_t watched_head
    cdef int64_t watched_since

    cdef bint spin_first(self) noexcept
    cdef int wait_record(self, record_t *record, object timeout, int64_t *deadline,
                         uint32_t stirs) except -1
    cdef bint spin_for_record(self, int64_t now, int64_t deadline) except -1
    cdef int stir(self) except -1
    cdef int announce(self, fc_wait_t *wait) noexcept
    cdef int sleep(self, fc_wait_t *wait, uint32_t seen, int64_t deadline) except -1
    cdef int doze(self, fc_wait_t *wait, uint32_t seen, int64_t slice) except -1
    cdef int write_waiting(self, const void *data, uint64_t nbytes, object timeout,
                           int64_t *deadline) except -1
    cdef int64_t standstill(self, int64_t now) noexcept
    cdef int wait_room(self, uint64_t nbytes, object timeout, int64_t *deadline) except -1
