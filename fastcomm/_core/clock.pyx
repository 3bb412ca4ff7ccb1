"""The clock of every time-out and time stamp: CLOCK_MONOTONIC, the same in all processes of a host."""

from fastcomm._core.futex cimport fc_monotonic_ns


def monotonic_ns():
    """Nanoseconds of CLOCK_MONOTONIC; time.monotonic_ns() reads the same clock."""
    return fc_monotonic_ns()
