/* Sleeping and waking with store buffers: which orders of wait.pxd, and of what it waits for, must be seq_cst.
 *
 * The machine is in sb.inc: PSO, and seq_cst waits for seq_cst only. What is waited for is a number that grows: the head
 * (STORE: one maker, as ring_release stores it), or a header, a count of done tasks (2 makers, each by a CAS, as settle()
 * and task_done() do). 2 sleepers, which want 1 or 2 of it, and sleep for ever: there is no slice that would hide a lost
 * wake-up. Nobody dies. Checked: no dead end.
 *
 * 134,856 states, 1 s; STORE: 23,167.
 * ALWAYS: the makers ring whether anybody sleeps or not (ring_bell_always: closing, the dead); nothing need be seq_cst
 *   then: STORE, FLAG_ACQREL, LOOK_ACQUIRE, MADE_RELEASE: 33,904 states.
 *
 * Must fail, with and without STORE: FLAG_ACQREL, the flag is not seq_cst (announce_sleep); LOOK_ACQUIRE, the second look
 * is not (ring_peek, ring_has_room, ring_claim_from, unfinished); MADE_RELEASE, the write is not (settle, ring_release,
 * task_done); SLEEPERS_ACQUIRE, the look at the flag is not (someone_sleeps). ALWAYS with CLEAR_RELAXED and BELL_RELAXED:
 * neither the exchange nor the bell of ring_bell_always is a release.
 * As the code has it, and holds: the bell relaxed, and the exchange of ring_bell no release (CLEAR_RELAXED, BELL_RELAXED):
 * 24,378 states with STORE; that of ring_bell_always acq_rel (ALWAYS, BELL_RELAXED).
 */
#define PLACES 3
#define MADE 0
#define BELL 1
#define SLEEPING 2
#define SLEEPERS_HERE 2
#ifdef STORE
#define WRITERS 3
#else
#define WRITERS 4
#endif
#include "sb.inc"
#include "sleep_sb.inc"

#ifdef MADE_RELEASE
#define MAKE RELEASE
#else
#define MAKE SEQ_CST
#endif

proctype Sleeper(byte me) {
    REGISTERS;
    byte want, seen, old, made;
    if
    :: want = 1
    :: want = 2
    fi;
    do
    :: bell_read(seen);
        announce_sleep();
        old = 0;
        load(MADE, made, LOOK);
        if
        :: made >= want -> break
        :: else -> made = 0
        fi;
        futex_wait(seen);
        seen = 0
    od
}

inline tell() {
#ifdef ALWAYS
    ring_bell_always()
#else
    wake()
#endif
}

proctype Maker(byte me) {
    REGISTERS;
    byte old, sleepers;
#ifdef STORE
    store(MADE, 1, MAKE);
    tell();
    store(MADE, 2, MAKE);
    tell()
#else
    exchange(MADE, old, old + 1, MAKE);
    old = 0;
    tell()
#endif
}

init {
    byte j = 0;
    atomic {
        do
        :: j == WRITERS -> break
        :: else ->
            run Drain(j);
            if
            :: j < SLEEPERS_HERE -> run Sleeper(j)
            :: else -> run Maker(j)
            fi;
            j++
        od;
        j = 0
    }
}
