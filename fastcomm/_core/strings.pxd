"""A table of learned strings, and how its count is published."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastcomm._core.atomics cimport fc_load_acquire_u32, fc_store_release_u32
from fastcomm._core.layout cimport fc_strings_t


cdef inline void strings_learned(fc_strings_t *table, uint32_t count) noexcept nogil:
    # SYNC entry-learned (release): the texts and ends of the strings up to it are there.
    fc_store_release_u32(&table.count, count)


cdef inline uint32_t strings_seen(fc_strings_t *table) noexcept nogil:
    # SYNC entry-learned (acquire)
    return fc_load_acquire_u32(&table.count)


@cython.final
cdef class StringTable:
    cdef object memory          # a memoryview, which keeps it
    cdef fc_strings_t* head
    cdef uint32_t* ends
    cdef uint8_t* text
    cdef readonly list texts
    cdef dict numbers
    cdef readonly uint32_t id
    cdef readonly uint64_t refused
    cdef uint32_t max_strings, max_bytes
    cdef uint32_t used          # bytes of the texts that were taken in
    cdef object gate

    cdef int begin(self) except -1
    cdef int take_in(self) except -1
    cdef int learn_now(self, str text, bytes encoded) except? -1
    cdef bint has_room(self, Py_ssize_t length)
    cdef int append(self, bytes encoded)
