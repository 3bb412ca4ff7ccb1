"""Cython's view of include/fc_futex.h."""

from libc.stdint cimport int64_t, uint32_t


cdef extern from "fc_futex.h" nogil:
    int fc_futex_wait(uint32_t *word, uint32_t seen, int64_t timeout_ns)
    void fc_futex_wake_all(uint32_t *word)
    void fc_futex_wake_one(uint32_t *word)
    int64_t fc_monotonic_ns()
