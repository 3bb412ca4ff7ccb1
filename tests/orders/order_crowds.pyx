"""Crowds of threads on one mapping, for ThreadSanitizer: run.py, docs/verification.md says what for.

They run freely, many threads on one ring, lock or table, as the objects of the core would use it, without the
GIL. What they find must be right, and no access may race: no order is missing that nobody thought of.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from fastcomm._core.atomics cimport (
    fc_copy_to_shared,
    fc_fetch_add_relaxed_u32,
    fc_load_relaxed_u32,
    fc_load_relaxed_u64,
    fc_store_relaxed_u32,
)
from fastcomm._core.contested cimport *
from fastcomm._core.futex cimport fc_futex_wait
from fastcomm._core.layout cimport *
from fastcomm._core.protocol cimport *
from fastcomm._core.queue_control cimport *
from fastcomm._core.tables cimport begin_write, end_write, generation_bump, generation_seen, read_entry
from fastcomm._core.wait cimport (
    SLICE_NS,
    announce_sleep,
    bell_read,
    ring_bell,
    ring_bell_always,
    someone_sleeps,
)
from order_threads cimport aligned_alloc, part_t, run_threads, sched_yield

cdef enum:
    CELLS = 16             # of the smallest ring
    RECORDS = 3000         # of each producer
    CHANGES = 3000         # of an entry
    TURNS = 2000           # of each who takes the lock


# -------------------------------------------------------------------------------------- a ring with all roles

cdef enum:
    PRODUCERS = 4
    CONSUMERS = 2
    DEAD = PRODUCERS + 1       # the owner number of claims that are never committed
    BATCH = 5
    MAX_RECORD_CELLS = 3

cdef struct crowd_t:
    unsigned char *memory
    uint32_t consumer          # role
    uint32_t next[PRODUCERS]   # number of the next record of each; plain: who has the role may touch it
    uint32_t received          # plain as well
    uint32_t total
    uint32_t finished          # relaxed
    bint failed                # plain: set only when the run fails anyway

cdef struct member_t:
    crowd_t *crowd
    ring_t ring
    uint32_t number            # of the thread among its kind


cdef inline uint64_t bytes_of(uint32_t number) noexcept nogil:
    return 8 + number % 150


cdef void make_numbered(unsigned char *payload, uint32_t number) noexcept nogil:
    memset(payload, number & 0xFF, bytes_of(number))
    memcpy(payload, &number, 4)


cdef void write_numbered(ring_t *ring, uint64_t position, uint32_t number) noexcept nogil:
    cdef unsigned char[160] payload
    make_numbered(payload, number)
    ring_write_record(ring, position, payload, bytes_of(number), 0)


cdef bint is_numbered(const record_t *record, uint32_t number) noexcept nogil:
    cdef uint32_t found, i
    if record.nbytes != bytes_of(number):
        return False
    memcpy(&found, record.payload, 4)
    for i in range(4, record.nbytes):
        if record.payload[i] != <unsigned char>(number & 0xFF):
            return False
    return found == number


cdef void sleep_for_room(ring_t *ring) noexcept nogil:
    cdef uint32_t seen = bell_read(&ring.shared.not_full)
    announce_sleep(&ring.shared.not_full, FC_SLEEP_FUTEX)
    if not ring_has_room(ring, MAX_RECORD_CELLS):
        fc_futex_wait(&ring.shared.not_full.bell, seen, SLICE_NS)


cdef uint32_t put_some(ring_t *ring, uint32_t number, uint32_t count) noexcept nogil:
    """How many of the records from `number` on were put: one run of them, or none."""
    cdef uint32_t[BATCH] cells
    cdef claim_t claim
    cdef size_t taken
    cdef uint32_t i
    cdef uint64_t position
    for i in range(count):
        cells[i] = record_cells(bytes_of(number + i))
    if ring_claim_run(ring, cells, count, &claim, &taken) != RING_OK:
        return 0
    position = claim.position
    for i in range(<uint32_t>taken):
        write_numbered(ring, position, number + i)
        if i:
            ring_store_inner(ring, position, cells[i])
        position += cells[i]
    ring_commit(ring, &claim, cells[0])
    ring_wake_consumer(ring)
    return <uint32_t>taken


cdef void *produce(void *arg) noexcept nogil:
    """Singly, or in batches; every tenth claim is given up, some are left behind by the dead."""
    cdef member_t *me = <member_t *>arg
    cdef claim_t claim
    cdef uint32_t put, number = 0, turn = 0
    while number < <uint32_t>RECORDS and not me.crowd.failed:
        turn += 1
        if turn % 10 == me.number:
            me.ring.owner = DEAD if turn % 20 == me.number else me.number + 1
            if ring_claim(&me.ring, 2, &claim) == RING_OK and me.ring.owner != DEAD:
                ring_abort(&me.ring, &claim)
            me.ring.owner = me.number + 1
        put = put_some(&me.ring, number, min(<uint32_t>BATCH, RECORDS - number) if me.number % 2 else 1)
        if put == 0:
            sleep_for_room(&me.ring)
        number += put
    return NULL


cdef bint consume_some(member_t *me) noexcept nogil:
    """With the role, until nothing is there, or for a while; whether anything was."""
    cdef crowd_t *crowd = me.crowd
    cdef uint64_t position = fc_load_relaxed_u64(&me.ring.shared.head)
    cdef record_t record
    cdef uint32_t producer
    cdef int _, status
    cdef bint found = False
    for _ in range(20):
        status = ring_peek(&me.ring, &position, &record)
        if status == RING_BUSY and record.owner == DEAD:
            ring_abort_dead(&me.ring, position, &record)
            continue
        if status != RING_OK:
            if status == RING_CORRUPT:
                crowd.failed = True
            break
        producer = record.owner - 1
        if producer >= PRODUCERS or not is_numbered(&record, crowd.next[producer]):
            crowd.failed = True
            break
        found = True
        crowd.next[producer] += 1
        crowd.received += 1
        position = (position + record.cells) & FC_POS_MASK
        ring_release(&me.ring, position)
    if not found:
        ring_release(&me.ring, position)    # over padding and what was given up
    if crowd.received == crowd.total:
        fc_store_relaxed_u32(&crowd.finished, 1)
    return found


cdef void *consume(void *arg) noexcept nogil:
    cdef member_t *me = <member_t *>arg
    cdef crowd_t *crowd = me.crowd
    cdef fc_wait_t *wait = &me.ring.shared.not_empty
    cdef uint32_t holder, seen
    cdef bint found
    while not fc_load_relaxed_u32(&crowd.finished) and not crowd.failed:
        holder = 0
        if not role_take(&crowd.consumer, &holder, me.number + 1):
            sched_yield()
            continue
        seen = bell_read(wait)
        announce_sleep(wait, FC_SLEEP_FUTEX)
        found = consume_some(me)
        role_drop(&crowd.consumer, me.number + 1)
        if not found and not fc_load_relaxed_u32(&crowd.finished):
            fc_futex_wait(&wait.bell, seen, SLICE_NS)
    ring_bell_always(wait)
    return NULL


cdef bint run_ring_crowd(uint32_t cells) noexcept nogil:
    """Starts just below the end of the positions, so they wrap as well."""
    cdef crowd_t crowd
    cdef member_t[PRODUCERS + CONSUMERS] members
    cdef part_t[PRODUCERS + CONSUMERS] parts
    cdef size_t size = FC_RING_BYTES(cells)
    cdef uint32_t i
    memset(&crowd, 0, sizeof(crowd))
    crowd.memory = <unsigned char *>aligned_alloc(64, size)
    crowd.total = PRODUCERS * RECORDS
    memset(crowd.memory, 0, size)
    ring_format(crowd.memory, cells, False, FC_POS_MASK + 1 - 8 * cells)
    for i in range(<uint32_t>(PRODUCERS + CONSUMERS)):
        members[i].crowd = &crowd
        members[i].number = i if i < PRODUCERS else i - PRODUCERS
        ring_attach(&members[i].ring, crowd.memory, size, i + 1)
        parts[i] = produce if i < PRODUCERS else consume
    run_threads(parts, PRODUCERS + CONSUMERS, members, sizeof(member_t))
    free(crowd.memory)
    return not crowd.failed and crowd.received == crowd.total


# --------------------------------------------------------------------------- a ring that drops what is oldest

cdef struct contest_t:
    unsigned char *memory
    uint32_t gone              # relaxed
    uint32_t refused           # relaxed: that found something unfinished in their way
    uint32_t received
    bint failed                # plain: set only when the run fails anyway


cdef struct rival_t:
    contest_t *contest
    ring_t ring
    uint32_t number            # of the producer
    uint64_t dropped


cdef void *put_newest(void *arg) noexcept nogil:
    """Never waits; some claims are left behind by the dead, for the consumer to give up."""
    cdef rival_t *me = <rival_t *>arg
    cdef unsigned char[160] payload
    cdef record_t oldest
    cdef claim_t claim
    cdef size_t taken
    cdef uint32_t cells, number = 0
    cdef int status
    while number < <uint32_t>RECORDS:
        if number % 50 == 7 * me.number:
            me.ring.owner = DEAD
            ring_claim(&me.ring, 1, &claim)
            me.ring.owner = me.number + 1
        cells = record_cells(bytes_of(number))
        status = contested_claim_run(&me.ring, &cells, 1, &claim, &taken, &me.dropped, &oldest)
        if status == RING_OK:
            make_numbered(payload, number)
            contested_write_record(&me.ring, claim.position, payload, bytes_of(number), 0)
            ring_commit(&me.ring, &claim, cells)
        elif status == RING_BUSY:
            fc_fetch_add_relaxed_u32(&me.contest.refused, 1)
        else:
            me.contest.failed = True
        number += 1
    fc_fetch_add_relaxed_u32(&me.contest.gone, 1)
    return NULL


cdef void *take_oldest(void *arg) noexcept nogil:
    cdef rival_t *me = <rival_t *>arg
    cdef uint64_t[20] copy
    cdef uint32_t[PRODUCERS] next
    cdef record_t record
    cdef uint64_t head
    cdef uint32_t number = 0, producer
    cdef int status
    cdef bint ended
    memset(next, 0, sizeof(next))
    while not me.contest.failed:
        ended = fc_load_relaxed_u32(&me.contest.gone) == PRODUCERS
        status = contested_peek(&me.ring, &head, &record)
        if status == RING_EMPTY:
            if ended:
                break
            sched_yield()
        elif status == RING_BUSY and record.owner == DEAD:
            ring_abort_dead(&me.ring, head & FC_POS_MASK, &record)
        elif status == RING_OK and contested_take(&me.ring, head, &record, <unsigned char *>copy):
            record.payload = <unsigned char *>copy
            memcpy(&number, copy, 4)
            producer = record.owner - 1
            if producer >= PRODUCERS or number < next[producer] or not is_numbered(&record, number):
                me.contest.failed = True
                break
            next[producer] = number + 1
            me.contest.received += 1
        elif status == RING_CORRUPT:
            me.contest.failed = True
    return NULL


cdef bint run_contest() noexcept nogil:
    """What was received and what was dropped is what was sent."""
    cdef contest_t contest
    cdef rival_t[PRODUCERS + 1] rivals
    cdef part_t[PRODUCERS + 1] parts
    cdef size_t size = FC_RING_BYTES(CELLS)
    cdef uint64_t dropped = 0, counted
    cdef uint32_t i
    memset(&contest, 0, sizeof(contest))
    contest.memory = <unsigned char *>aligned_alloc(64, size)
    memset(contest.memory, 0, size)
    ring_format(contest.memory, CELLS, False, FC_POS_MASK + 1 - 8 * CELLS)
    for i in range(<uint32_t>(PRODUCERS + 1)):
        rivals[i].contest, rivals[i].number, rivals[i].dropped = &contest, i, 0
        ring_attach(&rivals[i].ring, contest.memory, size, i + 1)
        parts[i] = put_newest if i < PRODUCERS else take_oldest
    run_threads(parts, PRODUCERS + 1, rivals, sizeof(rival_t))
    for i in range(<uint32_t>PRODUCERS):
        dropped += rivals[i].dropped
    counted = fc_load_relaxed_u64(&rivals[0].ring.shared.dropped)
    free(contest.memory)
    return (not contest.failed and dropped == counted
            and contest.received + dropped + contest.refused == PRODUCERS * RECORDS)


# ---------------------------------------------------------------------------------- an inbox that is reopened

cdef struct inbox_t:
    unsigned char *memory
    uint32_t sent              # relaxed
    uint32_t gone              # relaxed
    uint32_t received


cdef struct sender_t:
    inbox_t *inbox
    ring_t ring


cdef void *send(void *arg) noexcept nogil:
    cdef sender_t *me = <sender_t *>arg
    cdef uint32_t put, number = 0
    while number < RECORDS:
        put = put_some(&me.ring, number, 1)    # none while it is full, or closed
        if put:
            fc_fetch_add_relaxed_u32(&me.inbox.sent, put)
        else:
            sched_yield()
        number += put
    fc_fetch_add_relaxed_u32(&me.inbox.gone, 1)
    return NULL


cdef void *receive(void *arg) noexcept nogil:
    """Closes the ring after every few records, takes what is left, opens it again."""
    cdef sender_t *me = <sender_t *>arg
    cdef uint64_t position = fc_load_relaxed_u64(&me.ring.shared.head)
    cdef record_t record
    cdef int status
    cdef bint ended = False
    while not ended:
        ended = fc_load_relaxed_u32(&me.inbox.gone) == PRODUCERS
        ring_close(&me.ring)
        status = RING_OK
        while status != RING_EMPTY:
            status = ring_peek(&me.ring, &position, &record)
            if status == RING_OK:
                position = (position + record.cells) & FC_POS_MASK
                me.inbox.received += 1
            elif status == RING_BUSY:
                sched_yield()
        ring_release(&me.ring, position)
        ring_reopen(&me.ring)
        sched_yield()
    return NULL


cdef bint run_inbox_crowd() noexcept nogil:
    cdef inbox_t inbox
    cdef sender_t[PRODUCERS + 1] members
    cdef part_t[PRODUCERS + 1] parts
    cdef size_t size = FC_RING_BYTES(CELLS)
    cdef uint32_t i
    memset(&inbox, 0, sizeof(inbox))
    inbox.memory = <unsigned char *>aligned_alloc(64, size)
    memset(inbox.memory, 0, size)
    ring_format(inbox.memory, CELLS, False, CELLS)
    for i in range(PRODUCERS + 1):
        members[i].inbox = &inbox
        ring_attach(&members[i].ring, inbox.memory, size, i + 1)
        parts[i] = send if i < PRODUCERS else receive
    run_threads(parts, PRODUCERS + 1, members, sizeof(sender_t))
    free(inbox.memory)
    return inbox.received == PRODUCERS * RECORDS


# ------------------------------------------------------------------------------------ the lock, and the tasks

cdef struct taker_t:
    fc_queue_t *queue
    uint64_t *count            # plain: who has the lock may touch it
    uint32_t owner


cdef void *take_turns(void *arg) noexcept nogil:
    cdef taker_t *me = <taker_t *>arg
    cdef uint32_t holder, seen
    cdef uint64_t done
    cdef int _
    for _ in range(TURNS):
        while not lock_take(me.queue, &holder, me.owner):
            seen = bell_read(&me.queue.unlocked)
            announce_sleep(&me.queue.unlocked, FC_SLEEP_FUTEX)
            if lock_still_taken(me.queue):
                fc_futex_wait(&me.queue.unlocked.bell, seen, SLICE_NS)
        me.count[0] += 1
        journal_write(me.queue, me.count[0], me.count[0])
        taken_publish(me.queue, me.count[0])
        lock_give_back(me.queue, me.owner)
        if someone_sleeps(&me.queue.unlocked):
            ring_bell(&me.queue.unlocked)
        done = 0
        while not done_raise(me.queue, &done):
            pass
        if someone_sleeps(&me.queue.all_done):
            ring_bell(&me.queue.all_done)
    return NULL


cdef void *join_tasks(void *arg) noexcept nogil:
    cdef taker_t *me = <taker_t *>arg
    cdef uint32_t seen
    while done_read(me.queue) < PRODUCERS * TURNS:
        seen = bell_read(&me.queue.all_done)
        announce_sleep(&me.queue.all_done, FC_SLEEP_FUTEX)
        if done_read(me.queue) < PRODUCERS * TURNS:
            fc_futex_wait(&me.queue.all_done.bell, seen, SLICE_NS)
    me.count[0] += 1    # all that was done is done: nobody else touches it any more
    return NULL


cdef bint run_queue_crowd() noexcept nogil:
    cdef fc_queue_t queue
    cdef taker_t[PRODUCERS + 1] members
    cdef part_t[PRODUCERS + 1] parts
    cdef uint64_t count = 0
    cdef uint32_t i
    memset(&queue, 0, sizeof(queue))
    for i in range(PRODUCERS + 1):
        members[i].queue, members[i].count, members[i].owner = &queue, &count, i + 1
        parts[i] = take_turns if i < PRODUCERS else join_tasks
    run_threads(parts, PRODUCERS + 1, members, sizeof(taker_t))
    return count == PRODUCERS * TURNS + 1


# -------------------------------------------------------------------------------------------- a table's entry

cdef struct reader_t:
    fc_subscription_t *entry
    fc_subscriptions_t *table
    bint failed


cdef void *change_entry(void *arg) noexcept nogil:
    cdef reader_t *me = <reader_t *>arg
    cdef fc_subscription_t entry
    cdef uint32_t change
    for change in range(1, CHANGES + 1):
        memset(&entry, change & 0xFF, sizeof(entry))
        entry.epoch = change
        begin_write(&me.entry.version)
        fc_copy_to_shared(&me.entry.epoch, &entry.epoch, 8 + FC_MAX_PATTERN)
        end_write(&me.entry.version)
        generation_bump(me.table, change)
    return NULL


cdef void *copy_entries(void *arg) noexcept nogil:
    cdef reader_t *me = <reader_t *>arg
    cdef fc_subscription_t copy
    cdef uint64_t generation = 0
    cdef uint32_t i
    while generation < CHANGES and not me.failed:
        generation = generation_seen(me.table)
        if read_entry(&me.entry.version, &copy, me.entry, sizeof(copy)):
            me.failed = copy.epoch < generation
            for i in range(<uint32_t>FC_MAX_PATTERN):
                if <unsigned char>copy.pattern[i] != <unsigned char>(copy.epoch & 0xFF):
                    me.failed = True
    return NULL


cdef bint run_entry_crowd() noexcept nogil:
    cdef fc_subscription_t entry
    cdef fc_subscriptions_t table
    cdef reader_t[4] members
    cdef part_t[4] parts
    cdef int i
    cdef bint failed = False
    memset(&entry, 0, sizeof(entry))
    memset(&table, 0, sizeof(table))
    for i in range(4):
        members[i].entry, members[i].table, members[i].failed = &entry, &table, False
        parts[i] = copy_entries if i else change_entry
    run_threads(parts, 4, members, sizeof(reader_t))
    for i in range(4):
        failed |= members[i].failed
    return not failed


def run(str name not None):
    """Whether what the threads found was right; a data race is ThreadSanitizer's to report."""
    cdef bint right
    cdef str small = "a ring of 16 cells", large = "a ring of 64 cells"
    cdef uint32_t cells = CELLS if name == small else 4 * CELLS
    if name == small or name == large:
        with nogil:
            right = run_ring_crowd(cells)
    elif name == "a ring that drops":
        with nogil:
            right = run_contest()
    elif name == "an inbox":
        with nogil:
            right = run_inbox_crowd()
    elif name == "a queue":
        with nogil:
            right = run_queue_crowd()
    else:
        with nogil:
            right = run_entry_crowd()
    return bool(right)
