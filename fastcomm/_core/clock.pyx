"""The clock of every time-out and time stamp:

CLOCK_MONOTONIC, the same in all processes of a host. Never the wall clock.
"""

from libc.stdint cimport int64_t

from fastcomm._core.futex cimport fc_monotonic_ns

cdef enum:
    # seconds from which a time-out is none: 31 years, and far from where 64 bits end
    FOR_EVER = 1_000_000_000


cdef int64_t deadline_of(object timeout) except -2:
    """When a time-out of so many seconds is over, in nanoseconds of the clock; -1: never. ValueError."""
    cdef double seconds
    if timeout is None:
        return -1
    seconds = timeout
    if not seconds >= 0:    # NaN too
        raise ValueError(
            f"timeout is {timeout!r}; it must be None (wait for ever) or a number of seconds >= 0"
        )
    return fc_monotonic_ns() + <int64_t>(seconds * 1e9) if seconds < FOR_EVER else -1


def monotonic_ns():
    """Nanoseconds of the clock that Message.sent_ns is of; time.monotonic_ns() reads the same one."""
    return fc_monotonic_ns()
