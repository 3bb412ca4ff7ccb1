/* The ring in plain C: what its protocol costs on this machine without Python. The bytes (fc_layout.h) and
 * the accesses (fc_atomics.h, fc_futex.h) are the package's own, the steps those of protocol.pyx and
 * wait.pyx, in the same order; tests/test_bench.py passes records from here to Python and back. Left out is
 * what no benchmark meets: deaths, epochs, closing, most checks of words that no producer writes.
 */
#ifndef TWIN_H
#define TWIN_H

#include "fc_atomics.h"
#include "fc_futex.h"
#include "fc_layout.h"

#include <stdlib.h>
#include <string.h>

enum { OK, FULL, EMPTY, MOVED };
enum { MAX_BATCH = 256, SPIN_LIMIT_NS = 50000, SLICE_NS = 100000000, MAX_SKIP = 64 };

#define FOREVER INT64_MAX

/* How long a waiter spins: as spin_t of wait.pyx. */
typedef struct {
    int64_t hit_ns;
    uint32_t misses, skip;
} spin_t;

typedef struct {
    fc_ring_t *shared;
    uint64_t *headers;
    uint8_t *data;
    uint64_t mask;
    uint32_t cells, log2_cells, owner;
    uint64_t last_tail, known_head; /* a producer's */
    uint64_t position;              /* the consumer's */
    int patience;                   /* pauses between two looks of a spinner */
    spin_t spin;
} ring_t;

/* Patience for throughput. A spinner that looks all the time takes the line that the producer is writing, and
 * both go on in lockstep, a few cache misses a message; one that waits some microseconds finds many. For
 * latency it is 1. */
enum { LAZY = 256 };

typedef struct {
    const uint8_t *payload;
    uint32_t nbytes, cells;
} record_t;

/* ----------------------------------------------------------------------------------------------- words -- */

static inline uint64_t tail_word(uint64_t position, uint32_t owner, uint32_t length)
{
    return (position & FC_POS_MASK) << 28 | (uint64_t)owner << 16 | length;
}

static inline uint64_t tail_position(uint64_t tail) { return tail >> 28; }
static inline uint32_t tail_owner(uint64_t tail) { return tail >> 16 & 0xFFF; }
static inline uint32_t tail_length(uint64_t tail) { return tail & 0xFFFF; }

static inline uint64_t tail_start(uint64_t tail)
{
    return (tail_position(tail) - tail_length(tail)) & FC_POS_MASK;
}

static inline uint64_t header_word(const ring_t *ring, uint64_t position, uint32_t owner, uint32_t length,
                                   uint32_t state)
{
    return position >> ring->log2_cells << 32 | (uint64_t)owner << 20 | (uint64_t)length << 4 | state;
}

static inline int of_this_lap(const ring_t *ring, uint64_t header, uint64_t position)
{
    return (uint32_t)(header >> 32) == (uint32_t)(position >> ring->log2_cells);
}

static inline uint32_t header_length(uint64_t header) { return header >> 4 & 0xFFFF; }
static inline uint32_t header_state(uint64_t header) { return header & 0xF; }

static inline uint64_t *header_at(const ring_t *ring, uint64_t position)
{
    return ring->headers + (position & ring->mask);
}

static inline uint8_t *cell_at(const ring_t *ring, uint64_t position)
{
    return ring->data + (position & ring->mask) * FC_CELL;
}

static inline int64_t distance(uint64_t ahead, uint64_t behind)
{
    return (int64_t)((ahead - behind) << 28) >> 28;
}

static inline uint32_t cells_of(uint64_t nbytes)
{
    return (nbytes + sizeof(fc_record_prefix_t) + FC_CELL - 1) / FC_CELL;
}

/* --------------------------------------------------------------------------------- sleeping and waking -- */

static inline void wake_sleepers(fc_wait_t *wait)
{
    if (fc_load_seqcst_u32(&wait->sleeping) == 0) /* (B) */
        return;
    fc_exchange_seqcst_u32(&wait->sleeping, 0);
    fc_fetch_add_seqcst_u32(&wait->bell, 1);
    fc_futex_wake_all(&wait->bell);
}

static inline int64_t spin_budget_ns(spin_t *spin)
{
    if (spin->skip > 0) {
        spin->skip--;
        return 0;
    }
    if (spin->hit_ns == 0 || 2 * spin->hit_ns > SPIN_LIMIT_NS)
        return SPIN_LIMIT_NS;
    return spin->hit_ns > 2000 ? 2 * spin->hit_ns : 4000;
}

static inline void spin_ended(spin_t *spin, int64_t took)
{
    if (took < 0) {
        spin->misses++;
        spin->skip = spin->misses < 6 ? 1u << spin->misses : MAX_SKIP;
        spin->hit_ns = 0;
        return;
    }
    spin->misses = spin->skip = 0;
    spin->hit_ns += spin->hit_ns ? (took - spin->hit_ns) / 8 : took;
    if (spin->hit_ns <= 0)
        spin->hit_ns = 1;
}

typedef int (*condition_t)(const ring_t *ring, uint32_t cells);

/* Nanoseconds until `deadline`, at most `limit`. */
static inline int64_t left_until(int64_t deadline, int64_t limit)
{
    int64_t left = deadline == FOREVER ? limit : deadline - fc_monotonic_ns();
    return left < 0 ? 0 : left < limit ? left : limit;
}

/* Spin, then sleep at most a slice and not beyond `deadline`, until `there` may be true. */
static inline void wait_until(ring_t *ring, fc_wait_t *wait, condition_t there, uint32_t cells,
                              int64_t deadline)
{
    int64_t started, elapsed = 0, budget = left_until(deadline, spin_budget_ns(&ring->spin));
    if (budget) {
        started = fc_monotonic_ns();
        while (elapsed < budget) {
            for (int i = 0; i < 32; i += ring->patience) {
                if (there(ring, cells)) {
                    spin_ended(&ring->spin, elapsed);
                    return;
                }
                for (int k = 0; k < ring->patience; k++)
                    fc_pause();
            }
            elapsed = fc_monotonic_ns() - started;
        }
        spin_ended(&ring->spin, -1);
    }
    uint32_t seen = fc_load_seqcst_u32(&wait->bell);
    fc_fetch_or_seqcst_u32(&wait->sleeping, FC_SLEEP_FUTEX); /* (A) */
    if (!there(ring, cells))
        fc_futex_wait(&wait->bell, seen, left_until(deadline, SLICE_NS));
}

/* --------------------------------------------------------------------------------------------- produce -- */

static inline void help_last_claim(const ring_t *ring, uint64_t tail)
{
    uint64_t start = tail_start(tail), header, writing;
    if (tail_length(tail) == 0)
        return;
    writing = header_word(ring, start, tail_owner(tail), tail_length(tail), FC_WRITING);
    header = fc_load_acquire_u64(header_at(ring, start)); /* SYNC claim-headed */
    while (!(of_this_lap(ring, header, start) && (header_state(header) != FC_WRITING || header == writing))) {
        if (fc_load_acquire_u64(&ring->shared->tail) != tail)
            return;
        if (fc_cas_acqrel_u64(header_at(ring, start), &header, writing))
            return;
    }
}

static inline void tag_interior(const ring_t *ring, uint64_t position, uint32_t cells)
{
    uint64_t word = header_word(ring, position, ring->owner, 0, FC_INTERIOR);
    uint64_t *header = header_at(ring, position);
    for (uint32_t i = 1; i < cells; i++)
        fc_store_relaxed_u64(header + i, word);
}

/* SYNC record-committed. No claim is given up here, so any word is replaced. */
static inline void settle(const ring_t *ring, uint64_t position, uint32_t length, uint32_t state)
{
    uint64_t *at = header_at(ring, position), header = fc_load_relaxed_u64(at);
    while (!fc_cas_seqcst_u64(at, &header, header_word(ring, position, ring->owner, length, state)))
        ;
}

/* One attempt, from exactly `tail`, for as many of `count` records as fit: OK, FULL or MOVED. */
static inline int claim_from(ring_t *ring, uint64_t tail, const record_t *records, size_t count,
                             size_t *taken, uint32_t *total)
{
    uint64_t position = tail_position(tail), to_end = ring->cells - (position & ring->mask);
    uint64_t head = ring->known_head, free, room, after;
    if (count > 1 || tail != ring->last_tail ||
        distance(position, head) + to_end + records[0].cells > ring->cells)
        head = fc_load_acquire_u64(&ring->shared->head); /* SYNC cells-released */
    int64_t used = distance(position, head);
    if (used < 0 || used > ring->cells)
        return MOVED;
    free = ring->cells - used;
    room = free < to_end ? free : to_end;
    if (room > ring->cells / 2)
        room = ring->cells / 2;
    for (*taken = 0, *total = 0; *taken < count && *total + records[*taken].cells <= room; ++*taken)
        *total += records[*taken].cells;
    if (*taken == 0) {
        if (records[0].cells > to_end && to_end + records[0].cells <= free) {
            after = tail_word(position + to_end, ring->owner, to_end);
            if (fc_cas_acqrel_u64(&ring->shared->tail, &tail, after)) {
                tag_interior(ring, position, to_end);
                settle(ring, position, to_end, FC_PAD);
            }
            return MOVED;
        }
        return fc_load_acquire_u64(&ring->shared->tail) == tail ? FULL : MOVED;
    }
    after = tail_word(position + *total, ring->owner, *total);
    if (!fc_cas_acqrel_u64(&ring->shared->tail, &tail, after))
        return MOVED;
    ring->last_tail = after;
    ring->known_head = head;
    return OK;
}

static inline void write_record(const ring_t *ring, uint64_t position, const record_t *record)
{
    fc_record_prefix_t prefix = {.nbytes = record->nbytes, .epoch = 0};
    memcpy(cell_at(ring, position), &prefix, sizeof prefix);
    memcpy(cell_at(ring, position) + sizeof prefix, record->payload, record->nbytes);
    tag_interior(ring, position, record->cells);
}

/* One claim for as many as fit; how many, 0 if there is no room. */
static inline size_t try_put_run(ring_t *ring, const record_t *records, size_t count)
{
    uint64_t tail, position;
    uint32_t total;
    size_t taken;
    int status;
    do {
        tail = fc_load_acquire_u64(&ring->shared->tail);
        help_last_claim(ring, tail);
        status = claim_from(ring, tail, records, count, &taken, &total);
    } while (status == MOVED);
    if (status == FULL)
        return 0;
    position = tail_position(tail) + total;
    for (size_t i = taken; i-- > 0;) { /* the first header, which makes all of them reachable, comes last */
        position -= records[i].cells;
        write_record(ring, position, &records[i]);
        if (i)
            fc_store_release_u64(header_at(ring, position),
                                 header_word(ring, position, ring->owner, records[i].cells, FC_COMMITTED));
    }
    settle(ring, position, records[0].cells, FC_COMMITTED);
    wake_sleepers(&ring->shared->not_empty);
    return taken;
}

static inline int has_room(const ring_t *ring, uint32_t cells)
{
    uint64_t tail = fc_load_acquire_u64(&ring->shared->tail);
    uint64_t head = fc_load_seqcst_u64(&ring->shared->head);
    uint64_t to_end = ring->cells - (tail_position(tail) & ring->mask);
    int64_t used = distance(tail_position(tail), head);
    return used < 0 || used + (cells <= to_end ? cells : to_end + cells) <= ring->cells;
}

static inline void put_many(ring_t *ring, const record_t *records, size_t count)
{
    while (count) {
        size_t put = try_put_run(ring, records, count);
        if (put == 0)
            wait_until(ring, &ring->shared->not_full, has_room, records[0].cells, FOREVER);
        records += put;
        count -= put;
    }
}

/* --------------------------------------------------------------------------------------------- consume -- */

/* OK: `record` is at ring->position. EMPTY: nothing is committed there yet. */
static inline int look(ring_t *ring, record_t *record)
{
    for (;;) {
        /* SYNC record-committed */
        uint64_t header = fc_load_acquire_u64(header_at(ring, ring->position)), tail;
        if (of_this_lap(ring, header, ring->position)) {
            if (header_state(header) == FC_COMMITTED) {
                const uint8_t *cell = cell_at(ring, ring->position);
                memcpy(&record->nbytes, cell + offsetof(fc_record_prefix_t, nbytes), sizeof record->nbytes);
                record->payload = cell + sizeof(fc_record_prefix_t);
                record->cells = header_length(header);
                if (record->nbytes > record->cells * FC_CELL - sizeof(fc_record_prefix_t))
                    abort();
                return OK;
            }
            if (header_state(header) != FC_PAD)
                return EMPTY;
            ring->position = (ring->position + header_length(header)) & FC_POS_MASK;
            continue;
        }
        tail = fc_load_acquire_u64(&ring->shared->tail);
        if (tail_position(tail) == ring->position)
            return EMPTY;
        if (tail_start(tail) == ring->position)
            help_last_claim(ring, tail);
    }
}

static inline int has_record(const ring_t *ring, uint32_t cells)
{
    (void)cells;
    uint64_t header = fc_load_acquire_u64(header_at(ring, ring->position));
    return of_this_lap(ring, header, ring->position) && header_state(header) != FC_WRITING;
}

static inline void release(ring_t *ring)
{
    fc_store_seqcst_u64(&ring->shared->head, ring->position); /* SYNC cells-released */
    if (fc_load_seqcst_u32(&ring->shared->not_full.sleeping) != 0) {
        uint64_t tail = fc_load_relaxed_u64(&ring->shared->tail);
        uint64_t used = (tail_position(tail) - ring->position) & FC_POS_MASK;
        if (used == 0 || ring->cells - used >= ring->cells / 4)
            wake_sleepers(&ring->shared->not_full);
    }
}

/* Copies 1 to `limit` records to `to`, one over the other; gives their room back once. Returns how many; 0
 * if there was none until `deadline`. */
static inline size_t get_many_until(ring_t *ring, uint8_t *to, size_t limit, int64_t deadline)
{
    record_t record;
    size_t got = 0;
    /* A spinner looks at the header alone: look() would take the tail from the producers. */
    while ((ring->spin.hit_ns != 0 && !has_record(ring, 0)) || look(ring, &record) != OK) {
        if (left_until(deadline, 1) == 0)
            return 0;
        wait_until(ring, &ring->shared->not_empty, has_record, 0, deadline);
    }
    do {
        memcpy(to, record.payload, record.nbytes);
        __asm__ volatile("" : : "r"(to) : "memory"); /* somebody may want it */
        ring->position = (ring->position + record.cells) & FC_POS_MASK;
    } while (++got < limit && look(ring, &record) == OK);
    release(ring);
    return got;
}

static inline size_t get_many(ring_t *ring, uint8_t *to, size_t limit)
{
    return get_many_until(ring, to, limit, FOREVER);
}

/* ---------------------------------------------------------------------------------------------- layout -- */

/* A handle of the ring in `memory`. */
static inline ring_t open_ring(uint8_t *memory, uint32_t owner)
{
    ring_t ring = {.shared = (fc_ring_t *)memory, .owner = owner, .patience = 1};
    ring.cells = ring.shared->cells;
    ring.mask = ring.cells - 1;
    ring.log2_cells = __builtin_ctz(ring.cells);
    ring.headers = (uint64_t *)(memory + sizeof(fc_ring_t));
    ring.data = memory + sizeof(fc_ring_t) + 8 * (size_t)ring.cells;
    ring.position = fc_load_acquire_u64(&ring.shared->head) & FC_POS_MASK;
    return ring;
}

/* Lay an empty ring over zeroed memory of FC_RING_BYTES(cells). */
static inline void format_ring(uint8_t *memory, uint32_t cells)
{
    fc_ring_t *shared = (fc_ring_t *)memory;
    shared->head = cells;
    shared->tail = tail_word(cells, 0, 0);
    fc_store_release_u32(&shared->cells, cells);
}

#endif
