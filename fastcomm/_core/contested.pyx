"""Rings whose head others move besides the consumer: a full ring that drops its oldest record for the newest.

Consumer and droppers all move the head by CAS, over one record at a time. So a record is taken or dropped,
and that once: by whose CAS succeeded. Nobody has a position of its own, all begin at the head as it is.

Taking. The consumer copies the record out, and then moves the head; if that fails, what it has copied may be
anything, and is thrown away. If it succeeds, the copy is right:

- The CAS finds the head that was loaded before the record was looked at. The head only grows, in all its 64
  bits: its low 36 are the position, what it has gone beyond them is kept above. So it stood there all the
  time, for however long the consumer slept, and nobody had claimed one of the record's cells again.
- What the consumer has read was written before: it came by a COMMITTED header (SYNC record-committed).
- What is written there later is not read: who claims these cells has seen a head beyond them, that is, this
  CAS or a later one. Every change of the head is a CAS, so all later ones go on the release sequence of this
  one, and an acquire of any of them has the consumer's reads behind it (SYNC cells-released).

While a copy is made that will be thrown away, its cells may be written. Both sides access them by relaxed
words, so that there is no data race, only a useless copy.

Dropping. A producer that finds no room looks at the head, sees to it that there still is no room, and then
moves the head over the record: so nothing is dropped for which there was room, as no head can move between
that look and the CAS, and the tail only grows. Whatever is oldest is dropped, of any publisher and any
priority. Padding and claims that were given up are passed over. A record that is being written can't be
dropped: its owner would commit cells that are another's. The caller drops its own message instead, and sees
whether that owner is dead. So no producer ever waits, though one be stopped in the middle of a record.

Close and drain go the same way: who drains moves the head by CAS from record to record, as late droppers may.

Thread safety and process safety: any number of producers, one consumer, as in protocol.pyx.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from fastcomm._core.atomics cimport (
    fc_cas_release_u64,
    fc_copy_from_shared,
    fc_fetch_add_relaxed_u64,
    fc_load_relaxed_u32,
    fc_store_relaxed_u64,
)
from fastcomm._core.hooks cimport *
from fastcomm._core.layout cimport FC_POS_MASK
from fastcomm._core.protocol cimport *

cdef enum:
    MAX_LOOKS = 1 << 20    # as in protocol.pyx


cdef inline bint move_head(ring_t *ring, uint64_t head, uint64_t to) noexcept nogil:
    # SYNC cells-released (release)
    return fc_cas_release_u64(&ring.shared.head, &head, to)


cdef int contested_peek(ring_t *ring, uint64_t *head, record_t *record) noexcept nogil:
    """What stands at the head, which *head becomes, behind padding and claims that were given up.

    RING_OK, _BUSY, _EMPTY, _CORRUPT as ring_peek(), but RING_OK says what stood there: whether it does, and
    what its payload is, is certain only when contested_take() has succeeded.
    """
    cdef uint32_t looks = 0
    cdef int status
    while looks < MAX_LOOKS:
        head[0] = ring_head(ring)
        status = ring_look_at(ring, head[0] & FC_POS_MASK, record)
        if status == RING_SKIP:
            if contested_advance(ring, head[0], record):
                ring_count_skipped(ring, record)
        elif status == RING_CORRUPT:
            # Or the words of a later lap. A CAS that changes nothing: what was read before it was there.
            if move_head(ring, head[0], head[0]):
                return RING_CORRUPT
        elif status == RING_MOVED:
            looks += 1
        else:
            return status
    return RING_CORRUPT


cdef bint contested_advance(ring_t *ring, uint64_t head, const record_t *record) noexcept nogil:
    """Move the head over what contested_peek() found there; False: somebody else has moved it."""
    cdef bint moved
    fc_hook(FC_HOOK_CONSUME_BEFORE_HEAD)
    moved = move_head(ring, head, head + record.cells)
    fc_hook(FC_HOOK_CONSUME_AFTER_HEAD)
    return moved


cdef bint contested_take(ring_t *ring, uint64_t head, const record_t *record,
                         unsigned char *copy) noexcept nogil:
    """Copy the payload of the record that contested_peek() found, and take it; False: it was dropped before.

    `copy` has room for the ring's largest record and is 8-aligned.
    """
    fc_copy_from_shared(copy, record.payload, (<size_t>record.nbytes + 7) & ~<size_t>7)
    return contested_advance(ring, head, record)


cdef int contested_claim_run(ring_t *ring, const uint32_t *cells, size_t count, claim_t *claim,
                             size_t *taken, uint64_t *dropped, record_t *oldest) noexcept nogil:
    """ring_claim_run() that drops the oldest records until the first of these fits; *dropped more of them.

    RING_BUSY instead of _FULL: `oldest`, at the head, is not committed, and can't be dropped. Lock-free: each
    retry means that somebody claimed, took or dropped something.
    """
    cdef uint64_t head
    cdef int status
    while True:
        status = ring_claim_run(ring, cells, count, claim, taken)
        if status != RING_FULL:
            return status
        status = contested_peek(ring, &head, oldest)
        if status == RING_BUSY or status == RING_CORRUPT:
            return status
        # Room since we found none: then nothing need be dropped. None: then there is none at the CAS either.
        if status == RING_OK and not ring_has_room(ring, cells[0]):
            if contested_advance(ring, head, oldest):
                count_dropped(ring, oldest, dropped)


cdef void count_dropped(ring_t *ring, const record_t *record, uint64_t *dropped) noexcept nogil:
    if record.epoch == fc_load_relaxed_u32(&ring.shared.epoch):
        fc_fetch_add_relaxed_u64(&ring.shared.dropped, 1)
        dropped[0] += 1
    else:
        fc_fetch_add_relaxed_u64(&ring.shared.misdirected, 1)


cdef void contested_write_record(ring_t *ring, uint64_t position, const void *data, uint64_t nbytes,
                                 uint32_t epoch) noexcept nogil:
    """ring_write_record() by words, as a consumer may be copying what stood here before."""
    cdef uint64_t *to = <uint64_t *>ring_payload(ring, position)
    cdef const char *source = <const char *>data
    cdef uint64_t word
    ring_write_prefix(ring, position, nbytes, epoch)
    while nbytes >= 8:
        memcpy(&word, source, 8)
        fc_store_relaxed_u64(to, word)
        to, source, nbytes = to + 1, source + 8, nbytes - 8
    if nbytes:
        word = 0
        memcpy(&word, source, nbytes)
        fc_store_relaxed_u64(to, word)


def _arm_hook(int hook, int countdown=1):
    arm_hook(hook, countdown)
