"""Sleeping and waking on a word of shared memory; the argument is in wait.pyx."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastcomm._core.atomics cimport (
    fc_exchange_acqrel_u32,
    fc_exchange_acquire_u32,
    fc_fetch_add_relaxed_u32,
    fc_fetch_or_seqcst_u32,
    fc_load_relaxed_u32,
    fc_load_seqcst_u32,
)
from fastcomm._core.futex cimport fc_futex_wait, fc_futex_wake_all, fc_monotonic_ns
from fastcomm._core.hooks cimport (
    FC_HOOK_SLEEP_BEFORE_FLAG,
    FC_HOOK_SLEEP_BEFORE_WAIT,
    FC_HOOK_WAKE_BEFORE_BUMP,
    FC_HOOK_WAKE_BEFORE_CLEAR,
    FC_HOOK_WAKE_BEFORE_FUTEX,
    fc_hook,
)
from fastcomm._core.layout cimport FC_SLEEP_FD, FC_SLEEP_FUTEX, fc_wait_t

cdef enum:
    SLICE_NS = 100_000_000   # no sleep is longer: a waker can be killed between any two of its steps
    SPIN_LIMIT_NS = 50_000


# How long this waiter spins before it sleeps: learnt from what spinning brought lately.
cdef struct spin_t:
    int64_t limit_ns  # no spin is longer; 0: sleep at once
    int64_t hit_ns    # running mean of the spins that were rewarded
    uint32_t misses   # spins without reward in a row
    uint32_t skip     # waits that still go straight to sleep


cdef inline uint32_t bell_read(fc_wait_t *w) noexcept nogil:
    """Before announce_sleep(), which keeps this load before it."""
    return fc_load_relaxed_u32(&w.bell)


cdef inline void announce_sleep(fc_wait_t *w, uint32_t how) noexcept nogil:
    """Then the caller looks again at what it waits for."""
    fc_hook(FC_HOOK_SLEEP_BEFORE_FLAG)
    # SYNC wake-up (A), bell-before-flag (release), flag-cleared (acquire)
    fc_fetch_or_seqcst_u32(&w.sleeping, how)
    fc_hook(FC_HOOK_SLEEP_BEFORE_WAIT)


cdef inline bint someone_sleeps(fc_wait_t *w) noexcept nogil:
    """After a seq_cst write of what the sleeper waits for."""
    # SYNC wake-up (B)
    return fc_load_seqcst_u32(&w.sleeping) != 0


cdef inline uint32_t ring_bell(fc_wait_t *w) noexcept nogil:
    """Wake every futex sleeper; returns the FC_SLEEP_* bits that were set, so that the caller rings FIFOs."""
    cdef uint32_t sleepers
    fc_hook(FC_HOOK_WAKE_BEFORE_CLEAR)
    # SYNC bell-before-flag (acquire): whose flag we clear has read the bell before we change it.
    sleepers = fc_exchange_acquire_u32(&w.sleeping, 0)
    fc_hook(FC_HOOK_WAKE_BEFORE_BUMP)
    fc_fetch_add_relaxed_u32(&w.bell, 1)    # the system call of the wake-up comes after it
    fc_hook(FC_HOOK_WAKE_BEFORE_FUTEX)
    if sleepers & FC_SLEEP_FUTEX:
        fc_futex_wake_all(&w.bell)
    return sleepers


cdef inline void ring_bell_always(fc_wait_t *w) noexcept nogil:
    """Wake every futex sleeper, whatever `sleeping` says: for deaths and close, when a waker may have died
    halfway.
    """
    # SYNC bell-before-flag (acquire), flag-cleared (release): whose flag comes later sees why we ring.
    fc_exchange_acqrel_u32(&w.sleeping, 0)
    fc_fetch_add_relaxed_u32(&w.bell, 1)
    fc_futex_wake_all(&w.bell)


cdef void fifo_sleep(int fd, int64_t timeout_ns) noexcept nogil
cdef void fifo_ring(int fd) noexcept nogil

cdef int64_t spin_budget_ns(spin_t *spin) noexcept nogil
cdef void spin_rewarded(spin_t *spin, int64_t after_ns) noexcept nogil
cdef void spin_missed(spin_t *spin) noexcept nogil


cdef class Doorbells:
    cdef dict _fds
    cpdef void ring(self, str path)
    cpdef void close(self)
