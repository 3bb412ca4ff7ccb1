/* An inbox that changes hands, with store buffers: which orders of "epoch-moved" must be seq_cst (Port.deliver, settle(),
 * Ring._retire_inbox, ring_close, ring_peek, Ring._open_inbox).
 *
 * The machine is in sb.inc. 2 publishers of one record each, meant for the first agent or, if they see its epoch before
 * they begin, for the second; 2 cells that are used once. The first agent leaves: it moves the epoch, closes, drains; the
 * second opens the inbox, and receives from where the drain ended until nobody publishes any more. The claim's header is
 * written by the claimer itself: helping is in ring.pml.
 * Checked: nobody receives what was meant for a former agent. What counts as delivered was received by its agent or
 * met by its drain, unless the drain ended before it at another's claim in progress.
 *
 * 189,895 states, 1 s.
 * Must fail: COMMIT_ACQREL, the commit is not seq_cst (settle); CHECK_ACQUIRE, the load of the epoch after it is not
 * (Port.deliver); EPOCH_RELEASE, the store of the epoch is not (_retire_inbox); DRAIN_ACQUIRE, the load of the header in
 * the drain is not (ring_peek); NO_STALE_CHECK, the receiver does not compare epochs. COMMIT_RELAXED, the commit is no
 * release: the record's bytes come after its header.
 * Closing and reopening are acq_rel, and need be no more. (With CLOSE_SEQ_CST the closing CAS would wait for the epoch's
 * store, and EPOCH_RELEASE would hold: one of the two has to be seq_cst.)
 */
#define CELLS 2
#define PUBLISHERS 2
#define AGENTS PUBLISHERS      /* the two agents, one after the other: they are ordered by the gate */
#define WRITERS 3

#define EPOCH 0
#define TAIL 1
#define HEADER 2
#define DATA 4
#define PLACES 6

#define WRITING 1
#define COMMITTED 2
#define CLOSED 8    /* in the tail */
#include "sb.inc"

#if defined(COMMIT_RELAXED)
#define COMMIT RELAXED
#elif defined(COMMIT_ACQREL)
#define COMMIT ACQ_REL
#else
#define COMMIT SEQ_CST
#endif
#ifdef CHECK_ACQUIRE
#define CHECK ACQUIRE
#else
#define CHECK SEQ_CST
#endif
#ifdef EPOCH_RELEASE
#define MOVE RELEASE
#else
#define MOVE SEQ_CST
#endif
#ifdef DRAIN_ACQUIRE
#define LOOK ACQUIRE
#else
#define LOOK SEQ_CST
#endif
#ifdef CLOSE_SEQ_CST
#define CLOSE SEQ_CST
#else
#define CLOSE ACQ_REL
#endif

#define MEANT_FOR(record) ((record) - 1)     /* a record is the epoch that it is meant for, plus 1 */

/* for assertions alone */
byte met[CELLS];            /* by the drain or by the agent that it was meant for */
byte dropped[CELLS];        /* by an agent that it was not meant for */
byte drained_to = CELLS;    /* the cell at which the drain ended, at a claim in progress or at the tail */
bool delivered[CELLS];
byte gone;

proctype Publisher(byte me) {
    REGISTERS;
    byte meant, epoch, tail, old, cell;
    load(EPOCH, meant, ACQUIRE);
    if
    :: true
    :: meant == 1 -> meant = 0    /* the route is older than that */
    fi;
    do
    :: load(EPOCH, epoch, ACQUIRE);
        if
        :: epoch != meant -> goto ended
        :: else -> epoch = 0
        fi;
        load(TAIL, tail, ACQUIRE);
        if
        :: tail >= CLOSED -> goto ended
        :: else
        fi;
        compare_exchange(TAIL, cell, tail, tail + 1, ACQ_REL);
        if
        :: cell == tail -> break
        :: else -> tail = 0; cell = 0
        fi
    od;
    tail = 0;
    exchange(HEADER + cell, old, WRITING, ACQ_REL);
    store(DATA + cell, meant + 1, RELAXED);
    exchange(HEADER + cell, old, COMMITTED, COMMIT);
    load(EPOCH, epoch, CHECK);
    d_step { delivered[cell] = (epoch == meant) };
ended:
    DRAINED;
    d_step { gone++; meant = 0; epoch = 0; tail = 0; old = 0; cell = 0 }
}

proctype Agents() {
    REGISTERS;
    byte me = AGENTS, cell, tail, old, header, data, own = 0;
    /* _retire_inbox() of the first */
    store(EPOCH, 1, MOVE);
    do
    :: load(TAIL, tail, ACQUIRE);
        compare_exchange(TAIL, old, tail, tail + CLOSED, CLOSE);
        if
        :: old == tail -> break
        :: else
        fi
    od;
    old = 0;
    do
    :: cell == tail -> break
    :: else ->
        load(HEADER + cell, header, LOOK);
        if
        :: header != COMMITTED -> break
        :: else ->
            load(DATA + cell, data, ACQUIRE);
            d_step { assert(data != 0); met[cell]++; cell++; header = 0; data = 0 }
        fi
    od;
    skip;
    d_step { drained_to = cell; header = 0; own = 1 };
    /* _open_inbox() of the second */
    compare_exchange(TAIL, old, tail + CLOSED, tail, CLOSE);
    d_step { old = 0; tail = 0 };
    do
    :: load(TAIL, tail, ACQUIRE);
        if
        :: cell == tail && gone == PUBLISHERS && memory[TAIL] == tail -> break
        :: cell == tail && (memory[TAIL] != tail || gone == PUBLISHERS)
        :: cell != tail ->
            load(HEADER + cell, header, ACQUIRE);
            if
            :: header != COMMITTED -> memory[HEADER + cell] == COMMITTED
            :: else ->
                load(DATA + cell, data, ACQUIRE);
#ifdef NO_STALE_CHECK
                if
                :: true ->
#else
                if
                :: MEANT_FOR(data) != own -> dropped[cell]++
                :: else ->
#endif
                    d_step { assert(data != 0 && MEANT_FOR(data) == own); met[cell]++ }
                fi;
                cell++;
                data = 0
            fi;
            header = 0
        fi;
        tail = 0
    od;
    skip;
    d_step {
        cell = 0;
        do
        :: cell == CELLS -> break
        :: else ->
            assert(met[cell] <= 1);
            assert(!delivered[cell] || met[cell] == 1 || (dropped[cell] == 1 && drained_to < cell));
            cell++
        od
    }
}

init {
    atomic {
        run Drain(0);
        run Drain(1);
        run Drain(2);
        run Publisher(0);
        run Publisher(1);
        run Agents()
    }
}
