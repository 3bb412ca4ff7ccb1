"""Waiting for another process: spin for a while, then sleep on a futex; asyncio sleeps on a doorbell FIFO
instead.

READ THIS BEFORE CHANGING ANYTHING HERE.

A waiter W waits for a condition C on shared memory (a committed record at the head; room behind the tail). A
maker M makes C true. Naively, a wake-up gets lost:

        W                                   M
        looks: not C
                                            makes C true
                                            nobody sleeps: no wake-up
        sleeps for ever

So both sides write before they look, and all four accesses are seq_cst (SYNC wake-up, ends A and B):

        W                                   M
        seen = bell
        sleeping |= FUTEX         (A)       makes C true                (B)
        looks again: C?           (A)       looks: sleeping != 0 ?      (B)
        futex_wait(bell, seen)              sleeping = 0; bell += 1; futex_wake(all)

Reduced: w[sleeping] r[C] on one side, w[C] r[sleeping] on the other. In the single order of the seq_cst
accesses one of the two writes comes first, so at least one side sees the other's: W finds C, or M finds the
sleeper. (tests/model/wait_sb.pml takes the order of each of the four away: each time a wake-up is lost.) If M
rings between W's second look and its futex_wait, `bell` differs from `seen` and futex_wait returns at once
(the kernel compares it under its own lock). `seen` is read before the flag is set: a ring after the flag
changes the bell after `seen` (SYNC bell-before-flag). Who closes or reaps rings without a look at `sleeping`:
a sleeper whose flag comes after that sees why (SYNC flag-cleared).

All sleepers are woken, because they may wait for different things (room for 1 cell, room for 100).

A maker can be killed between any two of its steps, and no order of them survives that: it may have made C
true and not looked, or cleared `sleeping` and not rung. Therefore NO WAIT SLEEPS LONGER THAN SLICE_NS AT A
TIME. At the end of a slice the waiter looks again from scratch, and while it is at it sees to the dead. That
is not polling: an undisturbed wait ends by its wake-up, the slice bounds what a crash can cost.

Spinning. Waking an idle core costs tens of microseconds, a spinning receiver sees a record within a cache
miss, so the spin is the largest lever on latency; and a spin longer than the gap between messages never ends,
so it must not be a fixed time. A waiter spins at most its limit (SPIN_LIMIT_NS unless told otherwise), and
twice the running mean of the spins that were rewarded. Each spin without reward halves how often it tries
(up to once in 64 waits); a reward sets that back. So a stream that is slower than the limit, or one whose
sender can't run because the spinner has its core, ends up asleep between messages, and a fast one spinning.

Without futex (where the kernel or a sandbox has none, or a flag says so) a thread sleeps as asyncio does: its
flag is FD, it polls its participant's FIFO, and reads it empty when it wakes. Threads that share a FIFO are
all woken by a byte, but one that looks after another has read it sleeps on, to the end of its slice at most.

Left out: fairness among waiters, priorities, robust wake-ups without the slice (FUTEX_WAIT_REQUEUE_PI and the
like solve other problems).
"""

cimport cython
from libc.errno cimport EAGAIN
from libc.stdint cimport int64_t, uint32_t
from posix.unistd cimport read, write

from fastcomm._core.futex cimport fc_futex_wait

import os

cdef extern from "<poll.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    struct pollfd:
        int fd
        short events
        short revents
    short POLLIN
    int ppoll(pollfd *fds, unsigned long count, const timespec *timeout, const void *mask)


cdef enum:
    MAX_SKIP = 64
    MAX_CACHED_FIFOS = 64


cdef int64_t spin_budget_ns(spin_t *spin) noexcept nogil:
    """Nanoseconds to spin now, 0 to sleep at once."""
    cdef int64_t budget
    if spin.skip > 0:
        spin.skip -= 1
        return 0
    # A floor, so that one slow message amid fast ones does not count as a miss.
    budget = 2 * spin.hit_ns if spin.hit_ns > 2_000 else 4_000
    return spin.limit_ns if spin.hit_ns == 0 or budget > spin.limit_ns else budget


cdef void spin_rewarded(spin_t *spin, int64_t after_ns) noexcept nogil:
    spin.misses = 0
    spin.skip = 0
    spin.hit_ns += (after_ns - spin.hit_ns) // 8 if spin.hit_ns else after_ns
    if spin.hit_ns <= 0:
        spin.hit_ns = 1


cdef void spin_missed(spin_t *spin) noexcept nogil:
    spin.misses += 1
    spin.skip = 1 << spin.misses if spin.misses < 6 else MAX_SKIP
    spin.hit_ns = 0


cdef void fifo_sleep(int fd, int64_t timeout_ns) noexcept nogil:
    """Sleep until the FIFO has a byte, or a signal comes, at most so long; then read it empty."""
    cdef pollfd wanted
    cdef timespec timeout
    cdef char[256] rest
    wanted.fd = fd
    wanted.events = POLLIN
    wanted.revents = 0
    timeout.tv_sec = timeout_ns // 1_000_000_000
    timeout.tv_nsec = timeout_ns % 1_000_000_000
    if ppoll(&wanted, 1, &timeout, NULL) == 1:
        while read(fd, rest, sizeof(rest)) == <ssize_t>sizeof(rest):
            pass


cdef void fifo_ring(int fd) noexcept nogil:
    """A full FIFO has been rung already."""
    cdef char byte = 0
    if write(fd, &byte, 1) < 0:
        return


def futex_works():
    """Whether the kernel, and a sandbox around us, has futexes to sleep on."""
    cdef uint32_t word = 1
    return fc_futex_wait(&word, 0, 0) == EAGAIN    # it has another value than that


@cython.final
cdef class Doorbells:
    """Write ends of doorbell FIFOs, opened when first rung, the 64 used last kept open.

    A FIFO's path contains the generation of its owner's slot, so a cached end never rings a later owner. It
    is opened for reading and writing: a write then never raises SIGPIPE, whoever has gone.

    Thread safety: under the GIL. Close it in the child after a fork if that should not hold the descriptors.
    """

    def __cinit__(self):
        self._fds = {}

    cpdef void ring(self, str path):
        """Write one byte. A full FIFO has been rung already, an absent one has no sleeper."""
        fd = self._fds.pop(path, None)
        if fd is None:
            try:
                fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                return
            if len(self._fds) >= MAX_CACHED_FIFOS:
                os.close(self._fds.pop(next(iter(self._fds))))
        self._fds[path] = fd
        try:
            os.write(fd, b"\0")
        except BlockingIOError:
            pass

    cpdef void close(self):
        while self._fds:
            os.close(self._fds.popitem()[1])

    def __dealloc__(self):
        if self._fds:
            for fd in self._fds.values():
                os.close(fd)
