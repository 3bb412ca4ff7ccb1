"""Outboxes: an agent's views of the inboxes of others, and how messages get into one of them.

Whoever leaves or reaps stores the new epoch, closes the ring, and drains it; a publisher commits, and then
loads the epoch (SYNC epoch-moved). If it sees the old one, the commit came first, and the drain meets the
record; if the new one, the message counts as not delivered. Its record is dropped by the next owner, whose
records bear another epoch.

An inbox says what becomes of a message that it has no room for: its publisher waits, or raises at once, or
drops it, or drops what is oldest there (contested.pyx). What was dropped has a number in that inbox, so that
the receiver sees the gap, and is counted.

A group of subscriptions gets each message once: in the inbox of the member with the least backlog that has
room. The record bears the number of that subscription, so that no other of its agent takes it for its own.

The last eighth of an inbox takes CRITICAL messages only: a claim for any other leaves so many cells free.

Thread safety: under the GIL. Nothing here waits.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from fastcomm._core.atomics cimport fc_fetch_add_relaxed_u64, fc_load_relaxed_u32, fc_load_seqcst_u32
from fastcomm._core.contested cimport contested_claim_run, contested_write_record
from fastcomm._core.hooks cimport FC_HOOK_BATCH_BETWEEN_HEADERS, arm_hook, fc_hook
from fastcomm._core.layout cimport (
    FC_CALL_MASK,
    FC_NORMAL,
    FC_OVERFLOW_DROP_NEWEST,
    FC_OVERFLOW_DROP_OLDEST,
    FC_SLEEP_FD,
    fc_call_t,
    fc_envelope_t,
    fc_ring_t,
)
from fastcomm._core.message cimport copy_envelope
from fastcomm._core.protocol cimport *

from fastcomm.errors import CorruptSegmentError, FencedError

cdef enum:
    RUN = 256              # messages that one claim is for at most


cdef inline uint32_t overflow_of(const ring_t *ring) noexcept nogil:
    return fc_load_relaxed_u32(&ring.shared.overflow)


cdef inline void fill(unsigned char *at, const parts_t *parts, uint32_t inbox_sequence,
                      uint32_t subscription) noexcept nogil:
    cdef fc_envelope_t *envelope = <fc_envelope_t *>at
    copy_envelope(envelope, &parts.envelope)
    envelope.inbox_sequence = inbox_sequence
    envelope.subscription = subscription
    at += sizeof(fc_envelope_t)
    if parts.envelope.kind & FC_CALL_MASK:
        memcpy(at, &parts.call, sizeof(fc_call_t))
        at += sizeof(fc_call_t)
    memcpy(at, parts.sender, parts.envelope.sender_length)
    at += parts.envelope.sender_length
    memcpy(at, parts.subject, parts.envelope.subject_length)
    at += parts.envelope.subject_length
    if parts.envelope.headers_length:
        memcpy(at, parts.headers, parts.envelope.headers_length)
        at += parts.envelope.headers_length
    memcpy(at, parts.data, parts.data_length)


@cython.final
cdef class Outboxes:
    """Where one agent puts its messages, and what it has put there."""

    def __init__(self, memory, size_t stride, uint32_t owner, describe):
        """`memory`: of all inboxes, `stride` bytes each; owner: of the agent; `describe(owner)` is a str for
        errors.
        """
        cdef unsigned char[::1] view = memory
        self.memory = memory
        self.inboxes = &view[0]
        self.stride = stride
        self.owner = owner
        self.describe = describe
        self.count = view.shape[0] // stride
        self.rings = <ring_t **>calloc(self.count, sizeof(ring_t *))
        self.sent = <sent_t *>calloc(self.count, sizeof(sent_t))
        self.scratch = <unsigned char *>malloc(stride // 2)    # no record is larger
        if self.rings == NULL or self.sent == NULL or self.scratch == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef uint32_t i
        free(self.sent)
        free(self.scratch)
        if self.rings != NULL:
            for i in range(self.count):
                free(self.rings[i])
            free(self.rings)

    cdef ring_t *ring(self, uint32_t owner) except? NULL:
        """Our view of the inbox of `owner`."""
        cdef ring_t *ring = self.rings[owner - 1]
        cdef unsigned char *memory
        if ring == NULL:
            ring = <ring_t *>malloc(sizeof(ring_t))
            if ring == NULL:
                raise MemoryError
            memory = self.inboxes + (owner - 1) * self.stride
            if not ring_attach(ring, memory, self.stride, self.owner):
                free(ring)
                raise CorruptSegmentError(
                    f"inbox {owner - 1} of the bus does not begin with the control words of a ring"
                )
            self.rings[owner - 1] = ring
        return ring

    # ----------------------------------------------------------------------------------------------- publish

    cdef int deliver(self, const target_t *target, const parts_t *parts, size_t count,
                     size_t *taken, bint dropping) except -1:
        """Try to put messages into one inbox: *taken of them, with one claim and one wake-up; the outcome.

        dropping: make room by dropping what is oldest there, if that is what the inbox wants.
        """
        cdef ring_t *ring = self.ring(target.owner)
        cdef sent_t *sent = &self.sent[target.owner - 1]
        cdef claim_t claim
        cdef record_t oldest
        cdef uint32_t[RUN] cells
        cdef uint64_t position, nbytes
        cdef size_t i
        cdef bint contested
        cdef int status
        taken[0] = 0
        if fc_load_relaxed_u32(&ring.shared.epoch) != target.epoch:
            return GONE
        count = min(count, <size_t>(1 if self.singly else RUN))
        for i in range(count):
            cells[i] = record_cells(parts[i].total)
        ring.reserve = reserve_for(ring, parts)
        status = ring_claim_run(ring, cells, count, &claim, taken)
        if status == RING_FULL and dropping and overflow_of(ring) == FC_OVERFLOW_DROP_OLDEST:
            status = contested_claim_run(ring, cells, count, &claim, taken, &self.dropped, &oldest)
            if status == RING_BUSY:
                self.held_up_by = oldest.owner
        if status == RING_OK:
            contested = overflow_of(ring) == FC_OVERFLOW_DROP_OLDEST    # as whoever opened it wants it
            if sent.epoch != target.epoch:
                sent.epoch = target.epoch
                sent.count = 0
            sent.count += taken[0]
            position = claim.position + claim.cells
            nbytes = 0
            # From the last to the first: the first header makes all of them reachable
            for i in range(taken[0], 0, -1):
                position -= cells[i - 1]
                nbytes += parts[i - 1].total
                self.write(
                    ring, position, &parts[i - 1], target, sent.count - <uint32_t>(taken[0] - i), contested
                )
                if i > 1:
                    ring_store_inner(ring, position, cells[i - 1])
                    fc_hook(FC_HOOK_BATCH_BETWEEN_HEADERS)
            status = ring_commit(ring, &claim, cells[0])
            if status == RING_OK:
                if parts.envelope.priority < FC_NORMAL:
                    urgent_tell(ring)
                # SYNC epoch-moved (B): if it is the old one, the leaver's drain meets our record.
                if fc_load_seqcst_u32(&ring.shared.epoch) != target.epoch:
                    self.misdirected += taken[0]
                    taken[0] = 0
                    return GONE
                self.delivered += taken[0]
                self.bytes_out += nbytes
                return RUNG if ring_wake_consumer(ring) & FC_SLEEP_FD else DELIVERED
        taken[0] = 0
        if status == RING_FULL or status == RING_BUSY:
            return NO_ROOM
        if status == RING_CLOSED:
            return GONE
        return self.refused(target.owner, status)

    cdef void write(self, ring_t *ring, uint64_t position, const parts_t *parts, const target_t *target,
                    uint32_t inbox_sequence, bint contested) noexcept nogil:
        if contested:
            fill(self.scratch, parts, inbox_sequence, target.subscription)
            contested_write_record(ring, position, self.scratch, parts.total, target.epoch)
        else:
            ring_write_prefix(ring, position, parts.total, target.epoch)
            fill(ring_payload(ring, position), parts, inbox_sequence, target.subscription)

    cdef int deliver_all(self, const target_t *target, const parts_t *parts, size_t count,
                         size_t *taken, size_t *done) except -1:
        """deliver() until all of them are there or were dropped, or no more can be.

        *taken were delivered, *done are done with.
        """
        cdef size_t run
        cdef int outcome = DELIVERED
        taken[0] = done[0] = 0
        while done[0] < count and not outcome & (NO_ROOM | GONE):
            outcome = outcome & RUNG | self.deliver(
                target, parts + done[0], count - done[0], &run, True
            )
            taken[0] += run
            done[0] += run
            if outcome & NO_ROOM and self.drop(target):
                outcome ^= NO_ROOM
                done[0] += 1
        return outcome

    cdef int drop(self, const target_t *target) except -1:
        """There is no room for a message: drop and count it, if that is what its inbox wants; whether it is.

        Also if it wants the oldest to be dropped, and that is not committed. The message has a number there,
        so that its receiver can see the gap.
        """
        cdef fc_ring_t *shared = self.ring(target.owner).shared
        cdef uint32_t overflow = fc_load_relaxed_u32(&shared.overflow)
        if overflow != FC_OVERFLOW_DROP_NEWEST and overflow != FC_OVERFLOW_DROP_OLDEST:
            return False
        if self.sent[target.owner - 1].epoch != target.epoch:
            self.sent[target.owner - 1].epoch = target.epoch
            self.sent[target.owner - 1].count = 0
        self.sent[target.owner - 1].count += 1
        fc_fetch_add_relaxed_u64(&shared.dropped, 1)
        self.dropped += 1
        return True

    cdef int deliver_to_group(self, Route route, group_t *group, const parts_t *parts, list rung) except -1:
        """Try to put one message into the inbox of the member with the least backlog that has room.

        If none has, the first of them is asked what is to be dropped.
        """
        cdef unsigned char[MAX_INBOXES] tried
        cdef const target_t *target
        cdef size_t taken
        cdef int member, outcome, first = -1
        cdef bint dropping = False
        memset(tried, 0, group.count)
        while True:
            member = self.least_backlog(route, group, tried)
            if member < 0:
                if first < 0:
                    return GONE
                member, dropping = first, True
            tried[member] = True
            target = &route.members[group.first + member]
            outcome = self.deliver(target, parts, 1, &taken, dropping)
            if outcome & RUNG:
                rung.append(target.owner)
            if taken:
                group.turn = (member + 1) % group.count
                group.reached = member
                return DELIVERED
            if dropping:
                break
            if outcome == NO_ROOM and first < 0:
                first = member
        if outcome == NO_ROOM and self.drop(target):
            return DROPPED
        group.waits_for = first
        return outcome

    cdef int least_backlog(self, Route route, const group_t *group, const unsigned char *tried) except -2:
        """The untried member for which the least waits, in its inbox (cells) and taken out of it (messages);
        -1: all were tried.
        """
        cdef ring_t *ring
        cdef uint64_t backlog, least = ~<uint64_t>0
        cdef int i, member, best = -1
        for i in range(group.count):
            member = (group.turn + i) % group.count
            if not tried[member]:
                ring = self.ring(route.members[group.first + member].owner)
                backlog = ring_depth(ring) + fc_load_relaxed_u32(&ring.shared.backlog)
                if backlog < least:
                    least, best = backlog, member
        return best

    cdef int refused(self, uint32_t owner, int status) except -1:
        if status == RING_FENCED:
            raise FencedError(
                "this agent was taken for dead (was its lock's file descriptor closed?) as it sent to the "
                "inbox of "
                f"{self.describe(owner)}; close it and join again"
            )
        raise CorruptSegmentError(
            f"the head and the tail of the inbox of {self.describe(owner)} contradict each other; "
            "close every agent of the bus "
            "and unlink it"
        )


def _arm_hook(int hook, int countdown=1):
    arm_hook(hook, countdown)
