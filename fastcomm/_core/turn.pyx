"""Turn: threads that share an agent publish one after the other.

Most publishes end without waiting, and then this costs two uncontended operations on a semaphore. One that
waits for room keeps its turn, so that what other threads publish can't overtake it. CPython's own lock does
it: it waits without the GIL, with a time-out, and is interrupted by signals.

A signal handler runs in the thread that it interrupts. If it publishes while that thread waits in its turn,
it does not wait for itself: its message goes first.

Thread safety: this is it. Process safety: none, a Turn belongs to one process; after a fork make another.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t

from fastcomm._core.futex cimport fc_monotonic_ns

cdef extern from "pythread.h" nogil:
    ctypedef enum PyLockStatus:
        PY_LOCK_FAILURE
        PY_LOCK_ACQUIRED
        PY_LOCK_INTR
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock lock)
    PyLockStatus PyThread_acquire_lock_timed(PyThread_type_lock lock, long long microseconds, int intr_flag)
    void PyThread_release_lock(PyThread_type_lock lock)
    unsigned long PyThread_get_thread_ident()

cdef enum:
    LONGEST_WAIT_US = 1_000_000_000    # the call takes no more than about 2**63 ns


@cython.final
cdef class Turn:
    """For other compiled modules: take() and give_back()."""

    def __cinit__(self):
        self.lock = PyThread_allocate_lock()
        if self.lock == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.lock != NULL:
            PyThread_free_lock(self.lock)

    cdef int take(self, int64_t deadline) except -1:
        """Wait for the turn until `deadline` (CLOCK_MONOTONIC ns; -1: for ever). One of TURN_*."""
        cdef unsigned long me = PyThread_get_thread_ident()
        cdef PyLockStatus status
        cdef long long left
        if self.holder == me:
            return TURN_NESTED
        status = PyThread_acquire_lock_timed(self.lock, 0, 0)
        while status != PY_LOCK_ACQUIRED:
            left = LONGEST_WAIT_US
            if deadline >= 0:
                left = min(left, (deadline - fc_monotonic_ns()) // 1000)
                if left <= 0:
                    return TURN_TIMED_OUT
            with nogil:
                status = PyThread_acquire_lock_timed(self.lock, left, 1)
            if status == PY_LOCK_INTR:
                PyErr_CheckSignals()
        self.holder = me
        return TURN_TAKEN

    cdef void give_back(self) noexcept:
        self.holder = 0
        PyThread_release_lock(self.lock)
