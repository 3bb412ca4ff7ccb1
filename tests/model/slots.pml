/* Numbers that get another holder: join, leave, reap (segment.pyx, rings._reap), with claims in a ring.
 *
 * Bounds: 2 numbers; 3 processes, each enters the gate, reaps, joins, leaves the gate, puts one record, leaves; two
 * of them may die at each step that writes, also within the gate, and their locks go with them; a consumer outside of
 * the table that lives; N = 3 cells.
 * Checked: who lives is never fenced; a dead one's claim never looks like a living one's, so a number has no new
 * holder while a header or the tail means the former; every committed record is received, nothing else; no dead end.
 * Not here: forks, the tables of a bus, doorbell FIFOs; the ring does not wrap.
 *
 * 15,373,122 states, 42 s.
 * Must fail: FREE_FIRST, slots are freed before their claims are resolved; PROBE_FIRST, the consumer probes the
 * owners before it reads the header, not after.
 */
#define N 3
#ifndef PROCESSES
#define PROCESSES 3
#endif
#define NUMBERS 2
#define MORTAL who != 0 && who < PROCESSES    /* one lives; which does not matter, as they are alike */

#define AT_DEATH skip
#include "slots.inc"

byte claimant[N];     /* for assertions alone: the who that claimed the cell */
bool committed[N], received[N];
byte ended_count = 0;

#define SETTLED(state) committed[start % N] = true
#include "words.inc"

/* ring_resolve_dead() */
inline resolve(number) {
    t = tail;
    if
    :: BY(t) == number -> help()
    :: else
    fi;
    t = 0;
    start = 0;
    do
    :: start == N -> break
    :: else ->
        h = header[start];
        if
        :: STATE(h) == WRITING && OWNER(h) == number ->
            if
            :: d_step {
                if
                :: header[start] == h -> header[start] = AS(h, ABORTED)
                :: else
                fi }
            OR_DIE
            fi
        :: else
        fi;
        h = 0;
        start++
    od;
    start = 0
}

/* Joins, puts one record, leaves. */
proctype Process(byte who) {
    REGISTERS;
    PARTICIPANT;
    byte me = 0;
    enter_gate();
    reap();
    join();
    leave_gate();
    if
    :: me == 0 -> goto ended    /* TableFullError */
    :: else
    fi;
    do
    :: t = tail;
        help();
        start = END(t);
        if
        :: d_step {
            if
            :: tail == t -> tail = TAIL(start + 1, me, 1); claimant[start % N] = who; ok = true
            :: else -> ok = false
            fi }
        OR_DIE
        fi;
        t = 0;
        if
        :: ok -> break
        :: else
        fi
    od;
    settle(start, 1, COMMITTED);
    assert(ok);    /* who lives is never fenced */
    start = 0; ok = false;
    enter_gate();
    leave();
    leave_gate();
ended:
    skip;
    d_step { ended_count++; t = 0; h = 0; start = 0; ok = false; me = 0; n = 0; corpses = 0; locks = false }
}

/* Whether the holder of `number` lives, as others see it: Segment.alive(). The claim is at cell `at`. */
inline probe(number) {
    if
    :: slot[number] == FREE -> alive = false
    :: else ->
        d_step {
            alive = locked[number];
            /* A dead one's claim never looks like a living one's. (If it is given up since we looked, we look again.) */
            assert(!(alive && header[at % N] == h && dead[claimant[at % N]]))
        }
    fi
}

proctype Consumer() {
    REGISTERS;
    PARTICIPANT;
    byte at = N, who = 0, me = 0;
    bool alive;
#ifdef PROBE_FIRST
    bool found_dead[NUMBERS + 1];
#endif
look:
    skip;
#ifdef PROBE_FIRST
    d_step {
        found_dead[1] = IS_CORPSE(1);
        found_dead[2] = IS_CORPSE(2)
    };
#endif
    h = header[at % N];
    if
    :: IN_LAP(h, at) && STATE(h) == COMMITTED -> d_step { received[at % N] = true; at++; head = at }
    :: IN_LAP(h, at) && STATE(h) == ABORTED -> at++
    :: IN_LAP(h, at) && STATE(h) == WRITING ->
#ifdef PROBE_FIRST
        alive = !found_dead[OWNER(h)];
#else
        probe(OWNER(h));
#endif
        if
        :: alive -> (header[at % N] != h || !locked[OWNER(h)])
        :: else -> abort_word(at, h)
        fi;
        alive = false
    :: else ->
        t = tail;
        if
        :: END(t) == at -> (tail != t || ended_count == PROCESSES);
            if
            :: tail == t -> goto ended
            :: else
            fi
        :: END(t) != at && START(t) == at -> help()
        :: else -> assert(IN_LAP(header[at % N], at))
        fi
    fi;
    d_step { h = 0; t = 0; ok = false };
    goto look;
ended:
    skip;
    d_step {
        start = 0;
        do
        :: start == N -> break
        :: else -> assert(received[start] == committed[start]); start++
        od
    }
}

init {
    byte j = 1;
    atomic {
        do
        :: j > PROCESSES -> break
        :: else -> run Process(j); j++
        od;
        run Consumer();
        j = 0
    }
}
