"""The ring's protocol for the modules that are laid over it; the description is in protocol.pyx."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastcomm._core.atomics cimport (
    fc_cas_acquire_u32,
    fc_cas_release_u32,
    fc_fetch_add_release_u32,
    fc_load_acquire_u32,
    fc_load_acquire_u64,
    fc_load_relaxed_u64,
    fc_load_seqcst_u64,
)
from fastcomm._core.layout cimport FC_POS_MASK, fc_ring_t

cdef enum:
    RING_OK = 0
    RING_FULL = 1
    RING_EMPTY = 2
    RING_BUSY = 3      # the record at the head is claimed and not committed
    RING_CLOSED = 4    # takes no claims
    RING_FENCED = 5    # the claim was given up: its owner was taken for dead
    RING_CORRUPT = 6
    RING_MOVED = 7     # of one attempt to claim, or one look: the tail has moved, look at it again
    RING_SKIP = 8      # of one look: padding or a claim that was given up


# A process's private view of one ring.
cdef struct ring_t:
    fc_ring_t *shared
    uint64_t *headers
    unsigned char *data
    uint64_t mask
    uint32_t cells
    uint32_t log2_cells
    uint32_t max_cells     # of one record or one run
    uint32_t owner         # number that our claims bear
    uint64_t last_tail     # the tail word that our last claim left
    uint64_t known_head    # head as read then; good while the tail is still last_tail
    bint limited           # a limit of items stands besides the cells: producers wait for any release
    uint64_t full_at       # head at which that limit was found reached: no room while it is there
    uint32_t reserve       # cells that our claims leave free
    bint wakes_always      # who waits for room is woken by each release, not when a quarter is free


cdef struct claim_t:
    uint64_t position      # of its first cell
    uint32_t cells


cdef struct record_t:
    const unsigned char *payload
    uint32_t nbytes
    uint32_t epoch
    uint32_t owner
    uint32_t cells
    uint64_t header        # BUSY: the word that was read


cdef inline uint32_t record_cells(uint64_t nbytes) noexcept nogil:
    """Cells that a record of so many payload bytes takes: 8 bytes of prefix, rounded up to 64."""
    return <uint32_t>((nbytes + 8 + 63) >> 6)


cdef inline uint64_t tail_position(uint64_t tail) noexcept nogil:
    return tail >> 28


cdef inline int64_t distance(uint64_t ahead, uint64_t behind) noexcept nogil:
    """ahead - behind, both modulo 2^36, as a signed number."""
    return (<int64_t>((ahead - behind) << 28)) >> 28


cdef inline unsigned char *ring_payload(ring_t *ring, uint64_t position) noexcept nogil:
    """Where the payload of a claim at `position` begins."""
    return ring.data + ((position & ring.mask) << 6) + 8


# ---- head, tail and roles, with their orders

cdef inline uint64_t ring_head(ring_t *ring) noexcept nogil:
    # SYNC cells-released (acquire), wake-up (A): what the consumer read from the freed cells was read before
    # we write there, and who sees a head sees a tail that is not behind it; to claim is the second look of
    # who has asked for its doorbell.
    return fc_load_seqcst_u64(&ring.shared.head)


cdef inline uint64_t ring_tail(ring_t *ring) noexcept nogil:
    # SYNC claim-headed (acquire), inbox-reopened (acquire): the headers of all claims but the last are there,
    # and a head that left room for it.
    return fc_load_acquire_u64(&ring.shared.tail)


cdef inline bint tail_moved(ring_t *ring, uint64_t tail) noexcept nogil:
    """A second look. Relaxed: an acquire before it, of the head or of a header, says how new it must be."""
    return fc_load_relaxed_u64(&ring.shared.tail) != tail


cdef inline bint role_take(uint32_t *role, uint32_t *holder, uint32_t me) noexcept nogil:
    """CAS of a role word from *holder; which becomes what was found there if it fails."""
    # SYNC role-passed (acquire): the head is where the last consumer left it.
    return fc_cas_acquire_u32(role, holder, me)


cdef inline void role_drop(uint32_t *role, uint32_t owner) noexcept nogil:
    # SYNC role-passed (release)
    fc_cas_release_u32(role, &owner, 0)


# ---- urgent messages of an inbox

cdef inline void urgent_tell(ring_t *ring) noexcept nogil:
    # SYNC urgent-told (release): who sees the count sees the record that was committed before.
    fc_fetch_add_release_u32(&ring.shared.urgent, 1)


cdef inline uint32_t urgent_told(ring_t *ring) noexcept nogil:
    # SYNC urgent-told (acquire)
    return fc_load_acquire_u32(&ring.shared.urgent)


cdef void ring_format(unsigned char *memory, uint32_t cells, bint one_producer, uint64_t start) noexcept nogil
cdef bint ring_attach(ring_t *ring, unsigned char *memory, size_t size, uint32_t owner) noexcept nogil

cdef void help_last_claim(ring_t *ring, uint64_t tail) noexcept nogil
cdef int ring_claim_run(ring_t *ring, const uint32_t *cells, size_t count, claim_t *claim,
                        size_t *taken) noexcept nogil
cdef int ring_read_tail(ring_t *ring, uint64_t *tail) noexcept nogil
cdef int ring_claim_from(ring_t *ring, uint64_t tail, const uint32_t *cells, size_t count, claim_t *claim,
                         size_t *taken) noexcept nogil
cdef int ring_claim(ring_t *ring, uint32_t cells, claim_t *claim) noexcept nogil
cdef void ring_write_prefix(ring_t *ring, uint64_t position, uint64_t nbytes, uint32_t epoch) noexcept nogil
cdef void ring_write_record(ring_t *ring, uint64_t position, const void *data, uint64_t nbytes,
                            uint32_t epoch) noexcept nogil
cdef void ring_store_inner(ring_t *ring, uint64_t position, uint32_t cells) noexcept nogil
cdef int ring_commit(ring_t *ring, const claim_t *claim, uint32_t cells) noexcept nogil
cdef int ring_abort(ring_t *ring, const claim_t *claim) noexcept nogil
cdef uint32_t ring_wake_consumer(ring_t *ring) noexcept nogil

cdef int ring_peek(ring_t *ring, uint64_t *position, record_t *record) noexcept nogil
cdef int ring_look_at(ring_t *ring, uint64_t at, record_t *record) noexcept nogil
cdef void ring_count_skipped(ring_t *ring, const record_t *skipped) noexcept nogil
cdef bint ring_abort_dead(ring_t *ring, uint64_t position, const record_t *record) noexcept nogil
cdef void ring_pass_over(ring_t *ring, uint64_t position, const record_t *record) noexcept nogil
cdef uint32_t ring_release(ring_t *ring, uint64_t position) noexcept nogil
cdef uint32_t ring_wake_producers(ring_t *ring, uint64_t position) noexcept nogil

cdef void ring_close(ring_t *ring) noexcept nogil
cdef void ring_reopen(ring_t *ring) noexcept nogil
cdef void ring_resolve_dead(ring_t *ring, uint32_t owner) noexcept nogil

cdef uint32_t ring_step(ring_t *ring, uint64_t *position) noexcept nogil
cdef bint ring_is_closed(ring_t *ring) noexcept nogil
cdef uint64_t ring_unread(ring_t *ring) noexcept nogil
cdef uint32_t ring_holdup(ring_t *ring) noexcept nogil
cdef uint64_t ring_depth(ring_t *ring) noexcept nogil
cdef bint ring_has_room(ring_t *ring, uint32_t cells) noexcept nogil
cdef bint ring_has_record(ring_t *ring, uint64_t position) noexcept nogil
cdef int64_t ring_spin_for_record(ring_t *ring, uint64_t position, int64_t start,
                                  int64_t budget) noexcept nogil
cdef int64_t ring_spin_for_room(ring_t *ring, uint32_t cells, int64_t start, int64_t budget) noexcept nogil
