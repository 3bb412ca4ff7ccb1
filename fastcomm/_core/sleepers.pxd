"""Threads of one process that sleep, without the GIL, until another one has done something under it.

Only the sleep itself is without the GIL. A thread looks at what it waits for, reads the bell and announces
itself with nothing between, so whoever makes that true comes later and finds it announced; if the ring comes
before the thread sleeps, the bell has another value by then and the kernel lets it go at once. No wake-up
gets lost, and no memory order is needed beyond what passing the GIL brings.

One ring wakes one thread. It looks again, for itself; one that leaves without having taken what it was
woken for (an exception, a message that needed no room) rings for the next.

Threads: all of it under the GIL. Processes: none; in the child of a fork the parent's sleepers are counted
and absent, which costs a system call for each.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint32_t

from fastcomm._core.atomics cimport fc_fetch_add_relaxed_u32, fc_load_relaxed_u32
from fastcomm._core.futex cimport fc_futex_wait, fc_futex_wake_all, fc_futex_wake_one, fc_monotonic_ns

cdef enum:
    # A signal that comes just before the sleep does not interrupt it: its handler runs after this long.
    SLEEP_NS = 100_000_000

cdef struct Sleepers:
    uint32_t bell
    uint32_t asleep     # announced, and not yet back under the GIL
    uint32_t rung       # so many of these, or more, are on their way: no need to ring for them again


cdef inline void ring_one(Sleepers* sleepers) noexcept:
    if sleepers.asleep > sleepers.rung:
        sleepers.rung += 1
        fc_fetch_add_relaxed_u32(&sleepers.bell, 1)
        fc_futex_wake_one(&sleepers.bell)


cdef inline void ring_all(Sleepers* sleepers) noexcept:
    if sleepers.asleep > sleepers.rung:
        sleepers.rung = sleepers.asleep
        fc_fetch_add_relaxed_u32(&sleepers.bell, 1)
        fc_futex_wake_all(&sleepers.bell)


cdef inline bint sleep_until(Sleepers* sleepers, int64_t deadline) except -1:
    """Sleep until rung for, or for a while. False: `deadline` (of CLOCK_MONOTONIC; -1: never) has passed."""
    cdef int64_t slice = SLEEP_NS
    cdef uint32_t seen = fc_load_relaxed_u32(&sleepers.bell)
    if deadline >= 0:
        slice = min(slice, deadline - fc_monotonic_ns())
        if slice <= 0:
            return False
    sleepers.asleep += 1
    with nogil:
        fc_futex_wait(&sleepers.bell, seen, slice)
    sleepers.asleep -= 1
    if sleepers.rung > 0:
        sleepers.rung -= 1
    try:
        PyErr_CheckSignals()
    except BaseException:
        ring_one(sleepers)
        raise
    return True
