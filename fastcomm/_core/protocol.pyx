"""The ring's protocol: records of bytes from one or many producers to one consumer, lock-free, exact when any
of them is killed.

Memory: control words (fc_ring_t), one header word for each cell, the cells (64 bytes each); see
include/fc_layout.h. Data and control words are apart, so no payload can be mistaken for a header. A record is
a run of cells that does not cross the end: an 8-byte prefix (fc_record_prefix_t), then the payload.

Claim. The tail word holds the last claim: its end, its owner, its length. A producer first HELPS: it makes
sure that the last claim's header says WRITING(owner, length); then it moves the tail over its own cells with
one CAS. So at any time at most the last claim lacks its header, and the tail word says whose it is: a dead
producer's claim is known exactly, with no time-out and no guess. A record that does not fit before the end is
preceded by a PAD claim over the rest.

Commit. Write the data, tag the interior cells, then CAS the header to COMMITTED. The CAS fails only where the
header says ABORTED: this process was taken for dead.

Batch. One claim for several records: the inner headers are stored first, from the last to the second, the
first header flips last; until then it says WRITING with the whole length.

Consume. At the head: COMMITTED is read, PAD and ABORTED are skipped, a claim without a header is helped,
WRITING by a dead owner is CASed to ABORTED: read the word, THEN probe the owner, then CAS exactly that word,
so that a claim made after the probe is never hit.

Why a helper may sleep at its worst place. Between its second look at the tail and its CAS the helper H holds
a header word w that was not of that claim's lap. While the claim is the last one and unheaded the CAS is
right. Otherwise the header has been written since, and its tag differs from w's, until the 36-bit position
has gone round a whole period (tens of minutes at full speed): H asleep for exactly that long could find w
again and write WRITING(somebody) into a cell that is not claimed, or is claimed by another. No harm comes of
it: a consumer that finds WRITING at head == tail takes it for nothing there; help() compares owner and
length, not only the tag, corrects the word, and tries again if another word came between; commit replaces any
word but ABORTED; and the consumer aborts only a word whose owner and length agree with the tail's if it is
the last claim. A consumer as the helper never meets this: nothing goes round while it sleeps. This is STRAY
in tests/model/ring.pml.

Interior cells get the tag of their lap each time, so no header word is older than one lap (but for those of a
dead claimer, one lap each), and "not this lap's tag" always means "not written in this lap". One store of 8
bytes for 64 bytes of data is cheap; doing it only once per period was not measurably faster.

Positions are counted modulo 2^36 in cells; head and tail start at `cells`, one lap in.

Thread safety: the functions keep all they know in a ring_t, which one thread uses at a time; two ring_t of
one owner may be used at once. Process safety: any number of producers, one consumer.

Orders. The comment at each ordered access says which sync point it is an end of; README.md lists them. Where
words are only compared with each other, or CASed from exactly what was read, their order does not matter, and
they are relaxed.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastcomm._core.atomics cimport *
from fastcomm._core.futex cimport fc_monotonic_ns
from fastcomm._core.hooks cimport *
from fastcomm._core.layout cimport *
from fastcomm._core.wait cimport ring_bell, someone_sleeps

cdef enum:
    MAX_LOOKS = 1 << 20    # a head that is stale this often while the tail stands still is corrupt


# ----------------------------------------------------------------------------------------------------- words

cdef inline uint64_t tail_word(uint64_t position, uint32_t owner, uint32_t length) noexcept nogil:
    return (position << 28) | (<uint64_t>owner << 16) | length


cdef inline uint32_t tail_owner(uint64_t tail) noexcept nogil:
    return <uint32_t>(tail >> 16) & 0xFFF


cdef inline uint32_t tail_length(uint64_t tail) noexcept nogil:
    return <uint32_t>tail & 0xFFFF


cdef inline uint32_t tag_of(ring_t *ring, uint64_t position) noexcept nogil:
    return <uint32_t>(position >> ring.log2_cells)


cdef inline uint64_t tail_start(uint64_t tail) noexcept nogil:
    """The first cell of the last claim."""
    return (tail_position(tail) - tail_length(tail)) & FC_POS_MASK


cdef inline uint64_t tail_after(ring_t *ring, uint64_t position, uint32_t length) noexcept nogil:
    """The tail word when we have claimed `length` cells from `position` on."""
    return tail_word((position + length) & FC_POS_MASK, ring.owner, length)


cdef inline uint64_t header_word(uint32_t tag, uint32_t owner, uint32_t length,
                                 uint32_t state) noexcept nogil:
    return (<uint64_t>tag << 32) | (<uint64_t>owner << 20) | (<uint64_t>length << 4) | state


cdef inline uint32_t header_tag(uint64_t header) noexcept nogil:
    return <uint32_t>(header >> 32)


cdef inline uint32_t header_owner(uint64_t header) noexcept nogil:
    return <uint32_t>(header >> 20) & 0xFFF


cdef inline uint32_t header_length(uint64_t header) noexcept nogil:
    return <uint32_t>(header >> 4) & 0xFFFF


cdef inline uint32_t header_state(uint64_t header) noexcept nogil:
    return <uint32_t>header & 0xF


cdef inline uint64_t *header_at(ring_t *ring, uint64_t position) noexcept nogil:
    return ring.headers + (position & ring.mask)


cdef inline bint move_tail(ring_t *ring, uint64_t tail, uint64_t new) noexcept nogil:
    # SYNC claim-headed (release): whoever sees our tail sees the header of the claim before ours, and the
    # head that we compared it with.
    return fc_cas_release_u64(&ring.shared.tail, &tail, new)


# ----------------------------------------------------------------------------------------------------- claim

cdef void help_last_claim(ring_t *ring, uint64_t tail) noexcept nogil:
    """Make sure that the claim which `tail` describes bears its header, or that `tail` is no longer the last
    claim.
    """
    cdef uint32_t length = tail_length(tail)
    cdef uint64_t start, header, writing
    if length == 0:
        return
    start = tail_start(tail)
    writing = header_word(tag_of(ring, start), tail_owner(tail), length, FC_WRITING)
    while True:
        # SYNC tail-before-header (acquire): if this is the word of a later claim, the second look sees its
        # tail.
        header = fc_load_acquire_u64(header_at(ring, start))
        if header_tag(header) == tag_of(ring, start) and (
                header_state(header) != FC_WRITING or header == writing):
            return
        # Without this a header that was written and consumed since would be overwritten.
        if tail_moved(ring, tail):
            return
        fc_hook(FC_HOOK_HELP_BEFORE_CAS)
        # Again if it fails: what came between may be the word of a helper that had slept.
        # SYNC tail-before-header (release)
        if fc_cas_release_u64(header_at(ring, start), &header, writing):
            return


cdef void tag_interior(ring_t *ring, uint64_t position, uint32_t cells) noexcept nogil:
    """Cells of a record behind its first.

    Relaxed: nobody reads them in this lap, the next lap's claimers overwrite them.
    """
    cdef uint64_t word = header_word(tag_of(ring, position), ring.owner, 0, FC_INTERIOR)
    cdef uint64_t *header = header_at(ring, position)
    cdef uint32_t i
    for i in range(1, cells):
        fc_store_relaxed_u64(header + i, word)


cdef int settle(ring_t *ring, uint64_t position, uint32_t length, uint32_t state) noexcept nogil:
    """Turn the header of our claim at `position` into `state`, whether a helper got there before or not."""
    cdef uint64_t *at = header_at(ring, position)
    cdef uint64_t wanted = header_word(tag_of(ring, position), ring.owner, length, state)
    cdef uint64_t header = fc_load_relaxed_u64(at)
    while not (header_tag(header) == header_tag(wanted) and header_state(header) == FC_ABORTED):
        # SYNC record-committed (release), tail-before-header (release), wake-up (B), epoch-moved (B)
        if fc_cas_seqcst_u64(at, &header, wanted):
            return RING_OK
    return RING_FENCED


cdef size_t records_that_fit(const uint32_t *cells, size_t count, uint64_t room,
                             uint32_t *total) noexcept nogil:
    cdef size_t i
    total[0] = 0
    for i in range(count):
        if total[0] + cells[i] > room:
            return i
        total[0] += cells[i]
    return count


cdef int ring_read_tail(ring_t *ring, uint64_t *tail) noexcept nogil:
    """The tail word to claim from; every claim before it bears its header, unless the tail has moved. RING_OK
    or _CLOSED.
    """
    tail[0] = ring_tail(ring)
    if tail_owner(tail[0]) == FC_OWNER_CLOSED:
        return RING_CLOSED
    help_last_claim(ring, tail[0])
    return RING_OK


cdef inline uint64_t room_left(ring_t *ring, uint64_t used) noexcept nogil:
    """Cells that we may claim."""
    cdef uint64_t free = ring.cells - used
    return free - ring.reserve if free > ring.reserve else 0


cdef int ring_claim_from(ring_t *ring, uint64_t tail, const uint32_t *cells, size_t count, claim_t *claim,
                         size_t *taken) noexcept nogil:
    """One attempt to claim for at least one of the records, by moving the tail from exactly `tail`.

    RING_OK, _FULL, or _MOVED: the tail is another one by now, by somebody's claim or by our own of padding.
    """
    cdef uint64_t head, position = tail_position(tail)
    cdef int64_t used
    cdef uint64_t free, to_end = ring.cells - (position & ring.mask)
    cdef uint32_t total
    head = ring.known_head
    # Nobody has claimed since we did: then the position has not gone round, and an old head is only too low.
    if (count > 1 or tail != ring.last_tail
            or distance(position, head) + to_end + cells[0] + ring.reserve > ring.cells):
        head = ring_head(ring)
    used = distance(position, head)
    if used < 0 or used > ring.cells:
        return RING_MOVED if tail_moved(ring, tail) else RING_CORRUPT
    free = room_left(ring, <uint64_t>used)
    taken[0] = records_that_fit(cells, count, min(min(free, to_end), <uint64_t>ring.max_cells), &total)
    if taken[0] == 0:
        if cells[0] > to_end and to_end + cells[0] <= free:
            return claim_padding(ring, tail, <uint32_t>to_end)
        # Full only if the tail still is what the head was compared with.
        return RING_MOVED if tail_moved(ring, tail) else RING_FULL
    fc_hook(FC_HOOK_CLAIM_BEFORE_CAS)
    if not move_tail(ring, tail, tail_after(ring, position, total)):
        return RING_MOVED
    fc_hook(FC_HOOK_CLAIM_AFTER_CAS)
    ring.last_tail = tail_after(ring, position, total)
    ring.known_head = head
    claim.position = position
    claim.cells = total
    return RING_OK


cdef int claim_padding(ring_t *ring, uint64_t tail, uint32_t to_end) noexcept nogil:
    """RING_MOVED, unless we are fenced."""
    cdef uint64_t position = tail_position(tail)
    fc_hook(FC_HOOK_CLAIM_BEFORE_CAS)
    if move_tail(ring, tail, tail_after(ring, position, to_end)):
        fc_hook(FC_HOOK_PAD_BEFORE_HEADER)
        tag_interior(ring, position, to_end)
        if settle(ring, position, to_end, FC_PAD) != RING_OK:
            return RING_FENCED
    return RING_MOVED


cdef int ring_claim_run(ring_t *ring, const uint32_t *cells, size_t count, claim_t *claim,
                        size_t *taken) noexcept nogil:
    """Claim room for as many of the next `count` records as fit in one run, at least one. RING_OK, _FULL or
    _CLOSED.

    Wait-free but for other claimers' progress: each retry means that somebody else's claim succeeded.
    """
    cdef uint64_t tail
    cdef int status = RING_MOVED
    while status == RING_MOVED:
        status = ring_read_tail(ring, &tail)
        if status == RING_OK:
            status = ring_claim_from(ring, tail, cells, count, claim, taken)
    return status


cdef int ring_claim(ring_t *ring, uint32_t cells, claim_t *claim) noexcept nogil:
    """Claim room for one record."""
    cdef size_t taken
    return ring_claim_run(ring, &cells, 1, claim, &taken)


cdef int ring_commit(ring_t *ring, const claim_t *claim, uint32_t cells) noexcept nogil:
    """Publish the claim.

    `cells`: of its first record; the headers of further records have been stored already.
    """
    cdef int status
    tag_interior(ring, claim.position, cells)
    fc_hook(FC_HOOK_COMMIT_BEFORE_HEADER)
    status = settle(ring, claim.position, cells, FC_COMMITTED)
    fc_hook(FC_HOOK_COMMIT_AFTER_HEADER)
    return status


cdef int ring_abort(ring_t *ring, const claim_t *claim) noexcept nogil:
    """Give up the claim: the consumer skips its cells."""
    tag_interior(ring, claim.position, claim.cells)
    return settle(ring, claim.position, claim.cells, FC_ABORTED)


cdef void ring_store_inner(ring_t *ring, uint64_t position, uint32_t cells) noexcept nogil:
    """Header of a record inside a run, not reachable before the run's first header flips."""
    tag_interior(ring, position, cells)
    cdef uint64_t word = header_word(tag_of(ring, position), ring.owner, cells, FC_COMMITTED)
    # SYNC tail-before-header (release). The data is released by the first header.
    fc_store_release_u64(header_at(ring, position), word)


cdef void ring_write_prefix(ring_t *ring, uint64_t position, uint64_t nbytes, uint32_t epoch) noexcept nogil:
    # fc_record_prefix_t, in one word. Relaxed: the header's state says when it can be read.
    fc_store_relaxed_u64(
        <uint64_t *>(ring_payload(ring, position) - 8), <uint64_t>epoch << 32 | <uint32_t>nbytes
    )
    fc_hook(FC_HOOK_WRITE_HALF)


cdef void ring_write_record(ring_t *ring, uint64_t position, const void *data, uint64_t nbytes,
                            uint32_t epoch) noexcept nogil:
    ring_write_prefix(ring, position, nbytes, epoch)
    memcpy(ring_payload(ring, position), data, nbytes)


cdef uint32_t ring_wake_consumer(ring_t *ring) noexcept nogil:
    """Wake the consumer if it sleeps. Returns the FC_SLEEP_* bits that were set."""
    if someone_sleeps(&ring.shared.not_empty):
        return ring_bell(&ring.shared.not_empty)
    return 0


# --------------------------------------------------------------------------------------------------- consume

cdef int ring_peek(ring_t *ring, uint64_t *position, record_t *record) noexcept nogil:
    """Look at the record at *position, the consumer's place; moves *position over padding and given-up
    claims.

    RING_OK: `record` describes it. RING_BUSY: claimed, not committed; record.owner and .header say by whom.
    RING_EMPTY. RING_CORRUPT: words that no producer writes. Every length is copied once, checked, then used.
    """
    cdef uint32_t looks = 0
    cdef int status
    while looks < MAX_LOOKS:
        status = ring_look_at(ring, position[0], record)
        if status == RING_SKIP:
            ring_count_skipped(ring, record)
            position[0] = (position[0] + record.cells) & FC_POS_MASK
        elif status == RING_MOVED:
            looks += 1
        else:
            return status
    return RING_CORRUPT


cdef int ring_look_at(ring_t *ring, uint64_t at, record_t *record) noexcept nogil:
    """One look at what is claimed at `at`, the head as far as the caller knows: RING_OK, _BUSY, _EMPTY and
    _CORRUPT as ring_peek().

    RING_SKIP: padding or a claim that was given up; record.cells and .header are its own. RING_MOVED: look
    again.
    """
    # SYNC record-committed (acquire), wake-up (A), epoch-moved (A)
    cdef uint64_t header = fc_load_seqcst_u64(header_at(ring, at))
    cdef uint64_t tail
    cdef uint32_t length, state
    if header_tag(header) == tag_of(ring, at):
        state = header_state(header)
        length = header_length(header)
        if length == 0 or length > ring.cells - (at & ring.mask):
            return RING_CORRUPT
        if state == FC_COMMITTED:
            return describe(ring, at, header, record)
        record.owner = header_owner(header)
        record.cells = length
        record.header = header
        if state == FC_PAD or state == FC_ABORTED:
            return RING_SKIP
        if state != FC_WRITING:
            return RING_CORRUPT
        tail = ring_tail(ring)
        if tail_position(tail) == at:
            # a helper that slept for a whole period left this word; nothing is claimed here
            return RING_EMPTY
        if tail_start(tail) == at and (
                tail_owner(tail) != header_owner(header) or tail_length(tail) != length):
            help_last_claim(ring, tail)
            return RING_MOVED
        return RING_BUSY
    tail = ring_tail(ring)
    if tail_position(tail) == at:
        return RING_EMPTY
    if tail_start(tail) == at:
        help_last_claim(ring, tail)
    # else: the claim at the head was followed by another, so its header was written after we looked.
    return RING_MOVED


cdef void ring_count_skipped(ring_t *ring, const record_t *skipped) noexcept nogil:
    if header_state(skipped.header) == FC_ABORTED:
        fc_fetch_add_relaxed_u64(&ring.shared.aborted, 1)


cdef inline int describe(ring_t *ring, uint64_t position, uint64_t header, record_t *record) noexcept nogil:
    cdef const unsigned char *payload = ring_payload(ring, position)
    cdef uint64_t prefix = fc_load_relaxed_u64(<const uint64_t *>(payload - 8))
    cdef uint32_t length = header_length(header)
    cdef uint32_t nbytes = <uint32_t>prefix
    if length > ring.max_cells or nbytes > <uint64_t>length * FC_CELL - 8:
        return RING_CORRUPT
    record.payload = payload
    record.nbytes = nbytes
    record.epoch = <uint32_t>(prefix >> 32)
    record.owner = header_owner(header)
    record.cells = length
    record.header = header
    return RING_OK


cdef bint ring_abort_dead(ring_t *ring, uint64_t position, const record_t *record) noexcept nogil:
    """The owner of the BUSY record was probed AFTER record.header was read, and is dead: give its claim up.
    """
    return replace_state(header_at(ring, position), record.header, FC_ABORTED)


cdef void ring_pass_over(ring_t *ring, uint64_t position, const record_t *record) noexcept nogil:
    """The committed record was put into another ring: nobody reads it here.

    For who retires a closed ring, under the gate: nobody consumes. Padding, as it is no unfinished claim.
    """
    replace_state(header_at(ring, position), record.header, FC_PAD)


cdef inline bint replace_state(uint64_t *at, uint64_t header, uint32_t state) noexcept nogil:
    # SYNC tail-before-header (release)
    return fc_cas_release_u64(at, &header, (header & ~<uint64_t>0xF) | state)


cdef uint32_t ring_release(ring_t *ring, uint64_t position) noexcept nogil:
    """Give the cells before `position` back. Returns the FC_SLEEP_* bits of producers that were woken."""
    fc_hook(FC_HOOK_CONSUME_BEFORE_HEAD)
    # SYNC cells-released (release), wake-up (B)
    fc_store_seqcst_u64(&ring.shared.head, position)
    fc_hook(FC_HOOK_CONSUME_AFTER_HEAD)
    return ring_wake_producers(ring, position)


cdef uint32_t ring_wake_producers(ring_t *ring, uint64_t position) noexcept nogil:
    """The cells before `position` have been given back. Returns the FC_SLEEP_* bits of who was woken."""
    cdef uint64_t used
    if someone_sleeps(&ring.shared.not_full):
        if ring.limited or ring.wakes_always:
            return ring_bell(&ring.shared.not_full)
        used = (tail_position(fc_load_relaxed_u64(&ring.shared.tail)) - position) & FC_POS_MASK
        if used == 0 or ring.cells - used >= ring.cells // 4:
            return ring_bell(&ring.shared.not_full)
    return 0


# ----------------------------------------------------------------------------------- close, reopen, the dead

cdef void ring_close(ring_t *ring) noexcept nogil:
    """From now on nobody can claim.

    Claims that were made before stand, and are committed or given up as ever.
    """
    cdef uint64_t tail
    while True:
        tail = ring_tail(ring)
        if tail_owner(tail) == FC_OWNER_CLOSED:
            return
        help_last_claim(ring, tail)    # its owner's name is about to leave the tail word
        if move_tail(ring, tail, tail_word(tail_position(tail), FC_OWNER_CLOSED, 0)):
            return


cdef void ring_reopen(ring_t *ring) noexcept nogil:
    cdef uint64_t tail = ring_tail(ring)
    if tail_owner(tail) == FC_OWNER_CLOSED:
        # SYNC inbox-reopened (release): who claims from here on sees the epoch of its new agent.
        fc_cas_release_u64(&ring.shared.tail, &tail, tail_word(tail_position(tail), 0, 0))


cdef void ring_resolve_dead(ring_t *ring, uint32_t owner) noexcept nogil:
    """Give up every claim of `owner`, which is dead and whose number nobody else can get meanwhile.

    Idempotent.
    """
    cdef uint64_t tail = ring_tail(ring)
    cdef uint64_t i, header
    if tail_owner(tail) == owner:
        help_last_claim(ring, tail)
    for i in range(ring.cells):
        header = fc_load_relaxed_u64(ring.headers + i)
        if header_state(header) == FC_WRITING and header_owner(header) == owner:
            replace_state(ring.headers + i, header, FC_ABORTED)


cdef uint64_t ring_depth(ring_t *ring) noexcept nogil:
    """Cells between head and tail. A snapshot of two words that move: clamped to what is possible."""
    cdef uint64_t head = fc_load_relaxed_u64(&ring.shared.head)
    cdef int64_t used = distance(tail_position(fc_load_relaxed_u64(&ring.shared.tail)), head)
    return 0 if used < 0 else min(<uint64_t>used, <uint64_t>ring.cells)


cdef uint64_t ring_unread(ring_t *ring) noexcept nogil:
    """Committed records between head and tail, while nobody consumes."""
    cdef uint64_t position = ring_head(ring) & FC_POS_MASK
    cdef uint64_t end = tail_position(ring_tail(ring))
    cdef uint64_t count = 0
    cdef uint32_t state
    while distance(end, position) > 0:
        state = ring_step(ring, &position)
        if state == FC_NEVER:
            break
        count += state == FC_COMMITTED
    return count


cdef uint32_t ring_holdup(ring_t *ring) noexcept nogil:
    """Owner of the claim that has to be committed before the consumer can go on, or 0.

    For messages: changes nothing.
    """
    cdef uint64_t position = ring_head(ring) & FC_POS_MASK
    cdef uint64_t tail = ring_tail(ring)
    cdef uint64_t header
    cdef uint32_t _
    for _ in range(ring.cells):
        header = fc_load_relaxed_u64(header_at(ring, position))
        if header_tag(header) != tag_of(ring, position):
            return tail_owner(tail) if tail_start(tail) == position else 0
        if header_state(header) == FC_WRITING:
            return header_owner(header)
        if header_state(header) != FC_PAD and header_state(header) != FC_ABORTED:
            return 0
        position = (position + header_length(header)) & FC_POS_MASK
    return 0


cdef uint32_t ring_step(ring_t *ring, uint64_t *position) noexcept nogil:
    """State of the claim at *position, which moves behind it; FC_NEVER if no header of this lap is there (any
    more).
    """
    # SYNC record-committed (acquire)
    cdef uint64_t header = fc_load_acquire_u64(header_at(ring, position[0]))
    if header_tag(header) != tag_of(ring, position[0]) or header_length(header) == 0:
        return FC_NEVER
    position[0] = (position[0] + header_length(header)) & FC_POS_MASK
    return header_state(header)


cdef bint ring_is_closed(ring_t *ring) noexcept nogil:
    return tail_owner(ring_tail(ring)) == FC_OWNER_CLOSED


cdef bint ring_attach(ring_t *ring, unsigned char *memory, size_t size, uint32_t owner) noexcept nogil:
    """Lay a private view over a ring in memory;

    False if its first words don't describe a ring of that size.
    """
    cdef fc_ring_t *shared = <fc_ring_t *>memory
    cdef uint32_t cells
    if size < FC_RING_BYTES(FC_MIN_CELLS):
        return False
    cells = fc_load_relaxed_u32(&shared.cells)
    if cells < FC_MIN_CELLS or cells > FC_MAX_CELLS or cells & (cells - 1) or FC_RING_BYTES(cells) > size:
        return False
    memset(ring, 0, sizeof(ring_t))
    ring.shared = shared
    ring.headers = <uint64_t *>(memory + sizeof(fc_ring_t))
    ring.data = memory + sizeof(fc_ring_t) + 8 * <size_t>cells
    ring.cells = cells
    ring.mask = cells - 1
    while (<uint32_t>1 << ring.log2_cells) < cells:
        ring.log2_cells += 1
    ring.max_cells = min(cells // 2, FC_MAX_RECORD_CELLS)
    ring.owner = owner
    ring.full_at = ~<uint64_t>0    # no position
    return True


# --------------------------------------------------------------------------------------------- while waiting

cdef bint ring_has_record(ring_t *ring, uint64_t position) noexcept nogil:
    """Something other than a claim in progress stands at `position`. Reads one header and nothing else:
    relaxed, as the caller then asks ring_peek.
    """
    cdef uint64_t header = fc_load_relaxed_u64(header_at(ring, position))
    return header_tag(header) == tag_of(ring, position) and header_state(header) != FC_WRITING


cdef bint ring_has_room(ring_t *ring, uint32_t cells) noexcept nogil:
    cdef uint64_t tail = fc_load_relaxed_u64(&ring.shared.tail)    # an old one only means another try
    cdef uint64_t head = ring_head(ring)
    cdef int64_t used = distance(tail_position(tail), head)
    cdef uint64_t to_end = ring.cells - (tail_position(tail) & ring.mask)
    if tail_owner(tail) == FC_OWNER_CLOSED or used < 0:    # < 0: the tail has moved since, worth another try
        return True
    if ring.limited and head == ring.full_at:
        return False
    if used > ring.cells:
        return False
    return (cells if cells <= to_end else to_end + cells) <= room_left(ring, <uint64_t>used)


cdef int64_t ring_spin_for_record(ring_t *ring, uint64_t position, int64_t start,
                                  int64_t budget) noexcept nogil:
    """Nanoseconds from `start` until a record stood at `position`, or -1 after `budget`.

    As the clock was read last: reading it once more would come on top of the latency.
    """
    cdef int64_t elapsed = 0
    cdef int _
    while elapsed < budget:
        for _ in range(32):
            if ring_has_record(ring, position):
                return elapsed
            fc_pause()
        elapsed = fc_monotonic_ns() - start
    return -1


cdef int64_t ring_spin_for_room(ring_t *ring, uint32_t cells, int64_t start, int64_t budget) noexcept nogil:
    """The same for room for `cells`."""
    cdef int64_t elapsed = 0
    cdef int _
    while elapsed < budget:
        for _ in range(32):
            if ring_has_room(ring, cells):
                return elapsed
            fc_pause()
        elapsed = fc_monotonic_ns() - start
    return -1


cdef void ring_format(unsigned char *memory, uint32_t cells, bint one_producer,
                      uint64_t start) noexcept nogil:
    """Lay an empty ring over zeroed memory; `start`: a multiple of `cells`, normally `cells` itself."""
    cdef fc_ring_t *shared = <fc_ring_t *>memory
    shared.one_producer = one_producer
    shared.head = start & FC_POS_MASK
    shared.tail = tail_word(start & FC_POS_MASK, 0, 0)
    shared.cells = cells


def _arm_hook(int hook, int countdown=1):
    arm_hook(hook, countdown)
