"""Words of a queue's control block: the consumers' lock, the journal of who holds it, the count of tasks."""

from libc.stdint cimport uint32_t, uint64_t

from fastcomm._core.atomics cimport (
    fc_cas_acquire_u32,
    fc_cas_release_u32,
    fc_cas_relaxed_u64,
    fc_cas_seqcst_u32,
    fc_cas_seqcst_u64,
    fc_load_acquire_u64,
    fc_load_relaxed_u64,
    fc_load_seqcst_u32,
    fc_load_seqcst_u64,
    fc_store_relaxed_u64,
    fc_store_release_u64,
)
from fastcomm._core.layout cimport fc_queue_t


cdef inline bint lock_take(fc_queue_t *queue, uint32_t *holder, uint32_t me) noexcept nogil:
    """*holder becomes who has it, if that is somebody."""
    holder[0] = 0
    # SYNC lock-passed (acquire): all that the last holder did, and who reaped it.
    return fc_cas_acquire_u32(&queue.lock, holder, me)


cdef inline bint lock_still_taken(fc_queue_t *queue) noexcept nogil:
    """The second look of who is about to sleep."""
    # SYNC wake-up (A)
    return fc_load_seqcst_u32(&queue.lock) != 0


cdef inline void lock_give_back(fc_queue_t *queue, uint32_t me) noexcept nogil:
    """Nothing happens if we were taken for dead, and the lock is somebody else's."""
    # SYNC lock-passed (release), wake-up (B)
    fc_cas_seqcst_u32(&queue.lock, &me, 0)


cdef inline void lock_free_dead(fc_queue_t *queue, uint32_t dead) noexcept nogil:
    """Under the gate; then ring always."""
    # SYNC lock-passed (release)
    fc_cas_release_u32(&queue.lock, &dead, 0)


cdef inline void journal_write(fc_queue_t *queue, uint64_t head, uint64_t taken) noexcept nogil:
    """Under the lock, before the head: as long as journal_head is not the head, journal_taken means nothing.
    """
    fc_store_relaxed_u64(&queue.journal_head, head)
    # SYNC journal-written (release)
    fc_store_release_u64(&queue.journal_taken, taken)


cdef inline bint journal_read(fc_queue_t *queue, uint64_t head, uint64_t *taken) noexcept nogil:
    """Under the gate; False: it is not about `head`."""
    if fc_load_relaxed_u64(&queue.journal_head) != head:
        return False
    # SYNC journal-written (acquire): whoever stores another journal_taken has stored its journal_head before,
    # and the second look sees that.
    taken[0] = fc_load_acquire_u64(&queue.journal_taken)
    return fc_load_relaxed_u64(&queue.journal_head) == head


cdef inline void taken_publish(fc_queue_t *queue, uint64_t taken) noexcept nogil:
    """Under the lock, after the head."""
    # NO SYNC: who is killed between the head and this leaves the two in that order, which needs the compiler
    # to keep it. Living processes read it under the lock, or know of an item that was taken.
    fc_store_release_u64(&queue.taken, taken)


cdef inline void taken_raise(fc_queue_t *queue, uint64_t taken) noexcept nogil:
    """Under the gate: never lower."""
    cdef uint64_t now = fc_load_relaxed_u64(&queue.taken)
    while now < taken and not fc_cas_relaxed_u64(&queue.taken, &now, taken):
        pass


cdef inline bint done_raise(fc_queue_t *queue, uint64_t *done) noexcept nogil:
    """CAS from *done to the next; which becomes what was found there if it fails."""
    # SYNC task-done (release), wake-up (B)
    return fc_cas_seqcst_u64(&queue.done, done, done[0] + 1)


cdef inline uint64_t done_read(fc_queue_t *queue) noexcept nogil:
    # SYNC task-done (acquire), wake-up (A)
    return fc_load_seqcst_u64(&queue.done)
