"""The state of a participant's slot, which says what its other words mean."""

from libc.stdint cimport uint32_t

from fastcomm._core.atomics cimport fc_load_acquire_u32, fc_store_release_u32
from fastcomm._core.layout cimport fc_participant_t


cdef inline uint32_t slot_state(const fc_participant_t *participant) noexcept nogil:
    # SYNC participant-joined (acquire): its generation and pid are those of who joined, or of a later one.
    return fc_load_acquire_u32(&participant.state)


cdef inline void slot_set_state(fc_participant_t *participant, uint32_t state) noexcept nogil:
    """Under the gate."""
    # SYNC participant-joined (release)
    fc_store_release_u32(&participant.state, state)
