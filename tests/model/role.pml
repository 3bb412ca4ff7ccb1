/* The consumer's role: taken, dropped, taken over from the dead (Ring._take_role, RingBuffer._reap_owner).
 *
 * Bounds: 3 numbers; 3 processes, two of which have joined, the third joins through the gate and may get a dead one's
 * number; each makes a claim, tries to become the consumer, takes what there is of 2 records, commits its claim,
 * leaves; two may die at each step that writes.
 * Checked: at most one live process takes itself for the consumer; who lives is never fenced; each record is
 * delivered, and once more for each consumer that died between taking it and publishing the head, but not otherwise;
 * no dead end.
 * So a record is delivered again if its consumer is killed before the call that took it has returned (or, of
 * get_many(), the whole list): the ring can't know what the dead one still did with it.
 * Not here: the record's cells; the role of a single producer, which is passed in the same way.
 *
 * 662,266 states, 1 s.
 * Must fail: UNGATED, who finds the holder dead resolves its claims and takes its role at once, outside the gate:
 * between probe and CAS it may have been reaped, and its number be a live newcomer's, whose claim is given up and
 * whose role is taken from it.
 */
#define PROCESSES 3
#define NUMBERS 3
#ifndef DEATHS
#define DEATHS 2
#endif
#define MORTAL deaths < DEATHS
#ifndef RECORDS
#define RECORDS 2
#endif

#define AT_DEATH if :: consumer == who -> consumer = 0 :: else fi
byte consumer;                   /* for assertions alone: the live process that takes itself for the consumer */
#include "slots.inc"

byte role;                       /* number of the consumer, 0: none */
byte head;                       /* records before it have been given back */
byte delivered[RECORDS];         /* how often */
byte excused[RECORDS];           /* how many consumers died with it in their hands */
byte claim[PROCESSES + 1];       /* the number in the header of the open claim of each process; 0: none, GIVEN_UP */
byte ended_count;
#define GIVEN_UP 99

/* ring_resolve_dead() */
inline resolve_claims(number) {
    i = 1;
    do
    :: i > PROCESSES -> break
    :: i <= PROCESSES && claim[i] == number ->
        if
        :: d_step {
            if
            :: claim[i] == number -> claim[i] = GIVEN_UP
            :: else
            fi }
        OR_DIE
        fi;
        i++
    :: else -> i++
    od;
    i = 0
}

/* Ring._resolve_dead(), of a reaper */
inline resolve(number) {
    resolve_claims(number);
    if
    :: d_step {
        if
        :: role == number -> role = 0
        :: else
        fi }
    OR_DIE
    fi
}

inline cas_role(expected) {
    if
    :: d_step {
        if
        :: role == expected -> role = me; assert(consumer == 0); consumer = who; holder = me
        :: else -> holder = role
        fi }
    OR_DIE
    fi
}

/* Ring._take_role(). holder == me at the end, or a live one has it. */
inline take_role() {
    holder = role;
    do
    :: holder == me -> break
    :: holder == 0 -> cas_role(0)
    :: else ->
        if
        :: slot[holder] == FREE -> alive = false
        :: else -> alive = locked[holder]
        fi;
        if
        :: alive -> break    /* RoleTakenError */
        :: else ->
#ifdef UNGATED
            resolve_claims(holder);
            cas_role(holder)
#else
            enter_gate();
            reap();
            leave_gate();
            holder = role
#endif
        fi
    od;
    alive = false
}

inline consume() {
    at = head;
    do
    :: at == RECORDS -> break
    :: else ->
        d_step { delivered[at]++; holding = true };    /* copied out */
        if
        :: d_step { at++; head = at; holding = false }
        OR_DIE
        fi
    od
}

proctype Process(byte who) {
    PARTICIPANT;
    byte me = 0, holder, i, at;
    bool alive, holding;
    if
    :: who <= 2 -> d_step { me = who; locks = true }    /* joined before */
    :: else ->
        enter_gate();
        reap();
        join();
        leave_gate();
        if
        :: me == 0 -> goto ended
        :: else
        fi
    fi;
    claim[who] = me;
    do
    :: take_role();
        if
        :: holder == me -> break
        :: else ->
            /* it is told who has the role, and asks again when that one has gone, or it needs no more */
            if
            :: head == RECORDS -> break
            :: role != holder || !locked[holder] -> holder = 0
            OR_DIE
            fi
        fi
    od;
    if
    :: holder == me -> consume()
    :: else
    fi;
    if
    :: d_step { assert(claim[who] == me); claim[who] = 0 }    /* who lives is never fenced */
    OR_DIE
    fi;
    if
    :: holder == me ->
        if
        :: d_step { assert(role == me); role = 0; consumer = 0 }
        OR_DIE
        fi
    :: else
    fi;
    enter_gate();
    leave();
    leave_gate();
ended:
    skip;
    d_step {
        if
        :: dead[who] && holding -> excused[at]++
        :: else
        fi;
        ended_count++; n = 0; corpses = 0; locks = false; me = 0; holder = 0; i = 0; at = 0; alive = false; holding = false
    }
}

init {
    byte j = 1;
    atomic {
        locked[1] = true; slot[1] = TAKEN;
        locked[2] = true; slot[2] = TAKEN;
        do
        :: j > PROCESSES -> break
        :: else -> run Process(j); j++
        od;
        j = 0
    };
    ended_count == PROCESSES;
    do
    :: j == RECORDS -> break
    :: else ->
        assert(delivered[j] <= 1 + excused[j]);
        assert(delivered[j] >= 1 || head <= j);
        j++
    od
}
