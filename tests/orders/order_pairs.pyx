"""Pairs of steps of the core that a sync point orders, for ThreadSanitizer: run.py, docs/verification.md.

One thread writes a plain variable, the witness, and then takes the releasing step; the other takes the
acquiring step, and then writes the witness. They go one after the other, by a flag that is relaxed and so
orders nothing: if either step lacks its order, the two writes are a data race, in each run. ThreadSanitizer
looks for the order and not for its consequences, so this is as good on x86-64 as on arm64.

The GIL is given up for all of it: passing it from thread to thread is an order by itself, and would hide
every other.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from fastcomm._core.atomics cimport fc_load_relaxed_u32, fc_load_relaxed_u64, fc_store_relaxed_u32
from fastcomm._core.contested cimport contested_advance, contested_peek
from fastcomm._core.layout cimport *
from fastcomm._core.participant cimport slot_set_state, slot_state
from fastcomm._core.protocol cimport *
from fastcomm._core.queue_control cimport *
from fastcomm._core.strings cimport strings_learned, strings_seen
from fastcomm._core.tables cimport begin_write, end_write, generation_bump, generation_seen, read_entry
from fastcomm._core.wait cimport announce_sleep, ring_bell, ring_bell_always
from order_threads cimport aligned_alloc, part_t, run_threads, sched_yield

cdef enum:
    CELLS = 16
    FIRST = 1       # owner numbers
    SECOND


# What a pair works on; each thread has its own view of the ring.
cdef struct world_t:
    ring_t first
    ring_t second
    claim_t claim
    record_t record
    uint64_t tail
    uint64_t head
    fc_participant_t participant
    uint32_t role
    fc_queue_t queue
    fc_wait_t wait
    fc_subscription_t entry
    fc_subscriptions_t subscriptions
    fc_strings_t strings
    int witness
    uint32_t released      # relaxed: the first thread has done its step


ctypedef void (*step_t)(world_t *w) noexcept nogil

cdef struct pair_t:
    const char *name
    step_t prepare         # before there are threads
    step_t release
    step_t acquire

cdef struct run_t:
    world_t *world
    const pair_t *pair


# ----------------------------------------------------------------------------------------------------- steps

cdef void nothing(world_t *w) noexcept nogil:
    pass


cdef void claim_one(world_t *w) noexcept nogil:
    ring_claim(&w.first, 1, &w.claim)
    w.tail = fc_load_relaxed_u64(&w.first.shared.tail)


cdef void commit(world_t *w) noexcept nogil:
    ring_commit(&w.first, &w.claim, 1)


cdef void peek(world_t *w) noexcept nogil:
    cdef uint64_t position = w.claim.position
    cdef record_t record
    ring_peek(&w.second, &position, &record)


cdef void walk(world_t *w) noexcept nogil:
    cdef uint64_t position = w.claim.position
    ring_step(&w.second, &position)


cdef void help_first(world_t *w) noexcept nogil:
    help_last_claim(&w.first, w.tail)


cdef void help_second(world_t *w) noexcept nogil:
    help_last_claim(&w.second, w.tail)


cdef void claim_run_of_two(world_t *w) noexcept nogil:
    """`tail` is what a helper has read that slept since a lap in which the second cell was a claim."""
    claim_one(w)
    w.claim.position += 1
    w.tail += <uint64_t>1 << 28


cdef void store_inner(world_t *w) noexcept nogil:
    ring_store_inner(&w.first, w.claim.position, 1)


cdef void claim_of_the_dead(world_t *w) noexcept nogil:
    cdef uint64_t position
    claim_one(w)
    help_first(w)
    position = w.claim.position
    ring_peek(&w.first, &position, &w.record)


cdef void abort_dead(world_t *w) noexcept nogil:
    ring_abort_dead(&w.first, w.claim.position, &w.record)


cdef void claim(world_t *w) noexcept nogil:
    ring_claim(&w.first, 1, &w.claim)


cdef void read_tail(world_t *w) noexcept nogil:
    cdef uint64_t tail
    ring_read_tail(&w.second, &tail)


cdef void close(world_t *w) noexcept nogil:
    ring_close(&w.first)


cdef void reopen(world_t *w) noexcept nogil:
    ring_reopen(&w.first)


cdef void commit_one(world_t *w) noexcept nogil:
    claim_one(w)
    commit(w)


cdef void release_cell(world_t *w) noexcept nogil:
    ring_release(&w.first, w.claim.position + 1)


cdef void commit_and_look(world_t *w) noexcept nogil:
    commit_one(w)
    contested_peek(&w.first, &w.head, &w.record)


cdef void advance_head(world_t *w) noexcept nogil:
    contested_advance(&w.first, w.head, &w.record)


cdef void read_head(world_t *w) noexcept nogil:
    ring_head(&w.second)


cdef void take_role(world_t *w) noexcept nogil:
    w.role = FIRST


cdef void drop_role(world_t *w) noexcept nogil:
    role_drop(&w.role, FIRST)


cdef void take_dropped_role(world_t *w) noexcept nogil:
    cdef uint32_t holder = 0
    role_take(&w.role, &holder, SECOND)


cdef void join_slot(world_t *w) noexcept nogil:
    slot_set_state(&w.participant, FC_SLOT_JOINING)


cdef void look_at_slot(world_t *w) noexcept nogil:
    slot_state(&w.participant)


cdef void take_lock(world_t *w) noexcept nogil:
    w.queue.lock = FIRST


cdef void give_lock_back(world_t *w) noexcept nogil:
    lock_give_back(&w.queue, FIRST)


cdef void free_dead_lock(world_t *w) noexcept nogil:
    lock_free_dead(&w.queue, FIRST)


cdef void take_free_lock(world_t *w) noexcept nogil:
    cdef uint32_t holder
    lock_take(&w.queue, &holder, SECOND)


cdef void write_journal(world_t *w) noexcept nogil:
    journal_write(&w.queue, CELLS, 1)


cdef void read_journal(world_t *w) noexcept nogil:
    cdef uint64_t taken
    journal_read(&w.queue, CELLS, &taken)


cdef void finish_task(world_t *w) noexcept nogil:
    cdef uint64_t done = 0
    done_raise(&w.queue, &done)


cdef void count_tasks(world_t *w) noexcept nogil:
    done_read(&w.queue)


cdef void begin_entry(world_t *w) noexcept nogil:
    begin_write(&w.entry.version)


cdef void end_entry(world_t *w) noexcept nogil:
    end_write(&w.entry.version)


cdef void copy_entry(world_t *w) noexcept nogil:
    cdef fc_subscription_t copy
    read_entry(&w.entry.version, &copy, &w.entry, sizeof(copy))


cdef void change(world_t *w) noexcept nogil:
    generation_bump(&w.subscriptions, 1)


cdef void see_change(world_t *w) noexcept nogil:
    generation_seen(&w.subscriptions)


cdef void learn_string(world_t *w) noexcept nogil:
    strings_learned(&w.strings, 1)


cdef void see_string(world_t *w) noexcept nogil:
    strings_seen(&w.strings)


cdef void tell_urgent(world_t *w) noexcept nogil:
    urgent_tell(&w.first)


cdef void see_urgent(world_t *w) noexcept nogil:
    urgent_told(&w.second)


cdef void fall_asleep(world_t *w) noexcept nogil:
    announce_sleep(&w.wait, FC_SLEEP_FUTEX)


cdef void wake(world_t *w) noexcept nogil:
    ring_bell(&w.wait)


cdef void wake_always(world_t *w) noexcept nogil:
    ring_bell_always(&w.wait)


# ----------------------------------------------------------------------------------------------------- pairs

cdef pair_t[26] PAIRS = [
    [b"commit and peek", claim_one, commit, peek],
    [b"commit and walk", claim_one, commit, walk],
    [b"commit and help", claim_one, commit, help_second],
    [b"inner record and help", claim_run_of_two, store_inner, help_second],
    [b"help and help", claim_one, help_first, help_second],
    [b"give up and help", claim_of_the_dead, abort_dead, help_second],
    [b"claim and read the tail", nothing, claim, read_tail],
    [b"close and read the tail", nothing, close, read_tail],
    [b"reopen and read the tail", close, reopen, read_tail],
    [b"release and read the head", commit_one, release_cell, read_head],
    [b"take or drop and read the head", commit_and_look, advance_head, read_head],
    [b"drop and take a role", take_role, drop_role, take_dropped_role],
    [b"join and look at the slot", nothing, join_slot, look_at_slot],
    [b"give back and take the lock", take_lock, give_lock_back, take_free_lock],
    [b"free a dead one's and take the lock", take_lock, free_dead_lock, take_free_lock],
    [b"write and read the journal", nothing, write_journal, read_journal],
    [b"finish and count tasks", nothing, finish_task, count_tasks],
    [b"write and copy an entry", begin_entry, end_entry, copy_entry],
    [b"copy and write an entry", nothing, copy_entry, begin_entry],
    [b"change and see the generation", nothing, change, see_change],
    [b"learn and see a string", nothing, learn_string, see_string],
    [b"tell and see an urgent message", nothing, tell_urgent, see_urgent],
    [b"fall asleep and wake", nothing, fall_asleep, wake],
    [b"fall asleep and wake always", nothing, fall_asleep, wake_always],
    [b"wake always and fall asleep", nothing, wake_always, fall_asleep],
    [NULL, NULL, NULL, NULL],
]


cdef void *first_of_pair(void *arg) noexcept nogil:
    cdef run_t *run = <run_t *>arg
    run.world.witness = 1
    run.pair.release(run.world)
    fc_store_relaxed_u32(&run.world.released, 1)
    return NULL


cdef void *second_of_pair(void *arg) noexcept nogil:
    cdef run_t *run = <run_t *>arg
    while not fc_load_relaxed_u32(&run.world.released):
        sched_yield()
    run.pair.acquire(run.world)
    run.world.witness = 2
    return NULL


cdef bint run_pair(const pair_t *pair) noexcept nogil:
    cdef unsigned char *memory = <unsigned char *>aligned_alloc(64, FC_RING_BYTES(CELLS))
    cdef world_t world
    cdef run_t run
    cdef part_t[2] parts
    memset(memory, 0, FC_RING_BYTES(CELLS))
    memset(&world, 0, sizeof(world))
    ring_format(memory, CELLS, False, CELLS)
    ring_attach(&world.first, memory, FC_RING_BYTES(CELLS), FIRST)
    ring_attach(&world.second, memory, FC_RING_BYTES(CELLS), SECOND)
    pair.prepare(&world)
    run.world, run.pair = &world, pair
    parts[0], parts[1] = first_of_pair, second_of_pair
    run_threads(parts, 2, &run, 0)
    free(memory)
    return world.witness == 2


def names():
    """Of the pairs."""
    cdef const pair_t *pair = PAIRS
    found = []
    while pair.name != NULL:
        found.append((<bytes>pair.name).decode())
        pair += 1
    return found


def run(str name not None):
    """Whether both threads got to their end; a data race is ThreadSanitizer's to report."""
    cdef int index = names().index(name)
    cdef bint right
    with nogil:
        right = run_pair(&PAIRS[index])
    return bool(right)
