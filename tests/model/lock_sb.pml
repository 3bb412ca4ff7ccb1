/* The lock of a queue's consumers with store buffers (SharedQueue.lock(), unlock(), _drop_roles()).
 *
 * The machine is in sb.inc, the steps of sleeping in sleep_sb.inc: no slice. 3 consumers, each takes the lock once, and adds
 * one to a count with relaxed accesses. DEAD: the lock is a dead consumer's at first, who had added one and given nothing
 * back; a reaper frees it with a CAS that is not seq_cst, and rings always.
 * Unlike in wait_sb.pml what is waited for can be undone by another, who then has to wake.
 * Checked: one at a time; nothing that was done under the lock is lost; no dead end.
 *
 * 99,913 states, 1 s; DEAD: 2,256,496 states, 8 s.
 * Must fail: UNLOCK_ACQREL, the unlocking CAS is not seq_cst; LOOK_ACQUIRE, the second look at the lock is not;
 * FLAG_ACQREL and SLEEPERS_ACQUIRE as in wait_sb.pml; UNLOCK_RELAXED, unlocking is no release.
 */
#define PLACES 4
#define LOCK 0
#define BELL 1
#define SLEEPING 2
#define COUNT 3
#ifndef CONSUMERS
#define CONSUMERS 3
#endif
#ifdef DEAD
#define WRITERS (CONSUMERS + 1)
#else
#define WRITERS CONSUMERS
#endif
#define REAPER CONSUMERS
#include "sb.inc"
#include "sleep_sb.inc"

#if defined(UNLOCK_RELAXED)
#define UNLOCK RELAXED
#elif defined(UNLOCK_ACQREL)
#define UNLOCK ACQ_REL
#else
#define UNLOCK SEQ_CST
#endif

byte inside;     /* for assertions alone: in their own eyes */
byte ended;

proctype Consumer(byte me) {
    REGISTERS;
    byte seen, old, sleepers, holder;
    do
    :: compare_exchange(LOCK, holder, 0, me + 1, ACQ_REL);
        if
        :: holder == 0 -> break
        :: else -> holder = 0
        fi;
        bell_read(seen);
        announce_sleep();
        old = 0;
        load(LOCK, holder, LOOK);
        if
        :: holder == 0
        :: else -> holder = 0; futex_wait(seen)
        fi;
        seen = 0
    od;
    skip;
    d_step { assert(inside == 0); inside++ };
    load(COUNT, old, ACQUIRE);
    store(COUNT, old + 1, RELAXED);
    d_step { old = 0; inside-- };
    compare_exchange(LOCK, holder, me + 1, 0, UNLOCK);
    d_step { assert(holder == me + 1); holder = 0 };
    wake();
    DRAINED;
    d_step {
        ended++;
        assert(ended < WRITERS || memory[COUNT] == WRITERS)
    }
}

proctype Reaper() {
    REGISTERS;
    byte me = REAPER, old, sleepers, holder;
    compare_exchange(LOCK, holder, REAPER + 1, 0, ACQ_REL);
    ring_bell_always();
    DRAINED;
    d_step {
        ended++;
        assert(ended < WRITERS || memory[COUNT] == WRITERS)
    }
}

init {
    byte j = 0;
    atomic {
        do
        :: j == WRITERS -> break
        :: else ->
            run Drain(j);
            if
            :: j < CONSUMERS -> run Consumer(j)
            :: else -> memory[LOCK] = REAPER + 1; memory[COUNT] = 1; run Reaper()
            fi;
            j++
        od;
        j = 0
    }
}
