"""The bus's tables for the modules that are laid over them, and the versions of their entries."""

from libc.stdint cimport uint32_t, uint64_t

from fastcomm._core.atomics cimport (
    fc_copy_from_shared,
    fc_exchange_acquire_u32,
    fc_fetch_add_release_u32,
    fc_load_acquire_u32,
    fc_load_acquire_u64,
    fc_load_relaxed_u32,
    fc_store_release_u32,
    fc_store_release_u64,
)
from fastcomm._core.layout cimport fc_agent_t, fc_subscription_t, fc_subscriptions_t

cdef enum:
    MAX_TRIES = 1 << 20    # each means that a whole change was made meanwhile


cdef inline void begin_write(uint32_t *version) noexcept nogil:
    # SYNC entry-read (acquire): who copies the entry as it was has loaded its fields before we store any.
    fc_exchange_acquire_u32(version, fc_load_relaxed_u32(version) | 1)


cdef inline void end_write(uint32_t *version) noexcept nogil:
    # SYNC entry-written (release)
    fc_store_release_u32(version, fc_load_relaxed_u32(version) + 1)


cdef inline bint read_entry(uint32_t *version, void *to, const void *source, size_t nbytes) noexcept nogil:
    """Copy an entry that begins with its version; False if it is being written."""
    cdef uint32_t seen
    cdef int _
    for _ in range(MAX_TRIES):
        # SYNC entry-written (acquire)
        seen = fc_load_acquire_u32(version)
        if seen & 1:
            return False
        fc_copy_from_shared(to, source, nbytes)
        # SYNC entry-read (release)
        if fc_fetch_add_release_u32(version, 0) == seen:
            return True
    return False


cdef inline void generation_bump(fc_subscriptions_t *shared, uint64_t generation) noexcept nogil:
    # SYNC generation-bumped (release): the entries and the log lines of the changes up to it are there.
    fc_store_release_u64(&shared.generation, generation)


cdef inline uint64_t generation_seen(fc_subscriptions_t *shared) noexcept nogil:
    # SYNC generation-bumped (acquire)
    return fc_load_acquire_u64(&shared.generation)


cdef class AgentTable:
    cdef unsigned char[::1] memory
    cdef fc_agent_t *agents
    cdef readonly int capacity


cdef class SubscriptionTable:
    cdef unsigned char[::1] memory
    cdef fc_subscriptions_t *shared
    cdef fc_subscription_t *entries
    cdef readonly uint32_t capacity

    cdef uint64_t c_generation(self) noexcept nogil
    cdef int log_change(self, uint32_t entry) except -1
