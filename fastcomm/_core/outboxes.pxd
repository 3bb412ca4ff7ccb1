"""From a message to records in inboxes."""

from libc.stdint cimport uint32_t, uint64_t

from fastcomm._core.layout cimport FC_CRITICAL, FC_CRITICAL_SHARE, fc_call_t, fc_envelope_t
from fastcomm._core.protocol cimport record_cells, ring_t
from fastcomm._core.routes cimport Route, group_t, target_t

cdef enum:
    MAX_INBOXES = 4096

# What became of a message in one inbox.
cdef enum:
    DELIVERED = 0
    NO_ROOM = 1
    GONE = 2               # the inbox has another agent, or none
    RUNG = 4               # besides: its agent waits on its doorbell FIFO
    DROPPED = 8            # by an inbox that drops what it has no room for


# The pieces of a message's record, in their order.
cdef struct parts_t:
    fc_envelope_t envelope
    fc_call_t call                 # if the envelope's kind says that it is of one
    const char *sender
    const char *subject
    const char *headers
    const char *data
    uint64_t data_length
    uint64_t total


# What we have sent to an inbox while it had this epoch.
cdef struct sent_t:
    uint32_t epoch
    uint32_t count


cdef inline uint32_t reserve_for(const ring_t *ring, const parts_t *parts) noexcept nogil:
    """Cells that a message has to leave free.

    None if it could never fit then, with the padding that may lie before it.
    """
    cdef uint32_t reserve = ring.cells // FC_CRITICAL_SHARE
    if parts.envelope.priority == FC_CRITICAL or 2 * record_cells(parts.total) + reserve > ring.cells:
        return 0
    return reserve


cdef class Outboxes:
    cdef object memory
    cdef unsigned char *inboxes
    cdef size_t stride
    cdef uint32_t owner, count
    cdef bint singly               # one message a claim
    cdef object describe
    cdef ring_t **rings            # by slot; NULL: not looked at yet
    cdef sent_t *sent              # by slot
    cdef unsigned char *scratch    # for a record that is to be written by words
    cdef uint32_t held_up_by       # the owner of an unfinished record that could not be dropped; 0: none
    cdef uint64_t delivered, bytes_out, misdirected, dropped

    cdef ring_t *ring(self, uint32_t owner) except? NULL
    cdef int deliver(self, const target_t *target, const parts_t *parts, size_t count,
                     size_t *taken, bint dropping) except -1
    cdef void write(self, ring_t *ring, uint64_t position, const parts_t *parts, const target_t *target,
                    uint32_t inbox_sequence, bint contested) noexcept nogil
    cdef int deliver_all(self, const target_t *target, const parts_t *parts, size_t count,
                         size_t *taken, size_t *done) except -1
    cdef int drop(self, const target_t *target) except -1
    cdef int deliver_to_group(self, Route route, group_t *group, const parts_t *parts, list rung) except -1
    cdef int least_backlog(self, Route route, const group_t *group, const unsigned char *tried) except -2
    cdef int refused(self, uint32_t owner, int status) except -1
