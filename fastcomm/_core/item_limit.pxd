"""The limit of a queue's items, kept without permits.

A permit taken by who is killed before he uses it would be lost. Instead a producer counts, and claims by a
CAS from exactly the tail up to which it counted: so the count held when the claim succeeded, whoever was
killed whenever. So that this costs a step for each claim and not for each item, a handle keeps the places of
the items it has counted; those before head drop out. A claim that is still being written counts: it may
become an item. It may as well become padding, or be given up; hence "full" is only said after counting anew
from the head.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastcomm._core.futex cimport fc_monotonic_ns
from fastcomm._core.layout cimport FC_COMMITTED, FC_NEVER, FC_POS_MASK, FC_WRITING
from fastcomm._core.protocol cimport *

cdef enum:
    # A position comes round again after 2^36 cells, minutes at full speed: what was counted earlier is
    # counted anew.
    FORGET_SECONDS = 30

cdef struct item_limit_t:
    uint64_t items           # so many at most
    uint64_t *places         # of items that were counted, from head on: a ring of `items` entries
    uint64_t first, count
    uint64_t counted_to      # position up to which claims were looked at
    int64_t counted_ns


cdef inline int claim_within_limit(item_limit_t *limit, ring_t *ring, const uint32_t *cells, claim_t *claim,
                                   size_t *taken) noexcept nogil:
    """ring_claim_run() for one record, unless there are as many items as the limit allows."""
    cdef uint64_t tail
    cdef int status = RING_MOVED
    while status == RING_MOVED:
        status = ring_read_tail(ring, &tail)
        if status == RING_OK:
            status = count_items(limit, ring, tail)
        if status == RING_OK:
            status = ring_claim_from(ring, tail, cells, 1, claim, taken)
    return status


cdef inline int count_items(item_limit_t *limit, ring_t *ring, uint64_t tail) noexcept nogil:
    """RING_OK: fewer items than the limit up to exactly `tail`; RING_FULL; RING_MOVED; RING_CORRUPT."""
    cdef uint64_t head = ring_head(ring)
    cdef int64_t now = fc_monotonic_ns()
    cdef int status
    if (distance(limit.counted_to, head) < 0 or distance(tail_position(tail), limit.counted_to) < 0
            or now - limit.counted_ns > FORGET_SECONDS * <int64_t>1_000_000_000):
        start_counting(limit, head)
    limit.counted_ns = now
    status = count_up_to(limit, ring, tail, head)
    if status == RING_FULL:
        # What was being written may have been given up since.
        head = ring_head(ring)
        start_counting(limit, head)
        status = count_up_to(limit, ring, tail, head)
        if status == RING_FULL:
            ring.full_at = head
    return status


cdef inline void start_counting(item_limit_t *limit, uint64_t head) noexcept nogil:
    limit.counted_to = head & FC_POS_MASK
    limit.count = 0


cdef inline int count_up_to(item_limit_t *limit, ring_t *ring, uint64_t tail, uint64_t head) noexcept nogil:
    cdef uint64_t at
    cdef uint32_t state
    while limit.count and distance(limit.places[limit.first], head) < 0:
        limit.first = (limit.first + 1) % limit.items
        limit.count -= 1
    while limit.counted_to != tail_position(tail) and limit.count < limit.items:
        at = limit.counted_to
        state = ring_step(ring, &limit.counted_to)
        if state == FC_NEVER:    # consumed and overwritten since the tail was read
            return RING_MOVED if tail_moved(ring, tail) else RING_CORRUPT
        if state == FC_COMMITTED or state == FC_WRITING:
            limit.places[(limit.first + limit.count) % limit.items] = at
            limit.count += 1
    if limit.count < limit.items:
        return RING_OK
    # Full only if the tail still is what was counted up to.
    return RING_MOVED if tail_moved(ring, tail) else RING_FULL
