/* A slot and its inbox that both change hands, reaped by two reapers (Bus._enter, _reap, _retire, Agent._join; slots.inc,
 * inbox.inc).
 *
 * Bounds: 2 numbers; the inbox is number 1's, N = 2 cells. Process 1 has joined as number 1, process 2 as number 2.
 * JOINERS more, 2: each enters the gate, reaps who is dead, joins as what is free, so that a number gets up to 3 holders.
 * Who is number 1 receives, and leaves when it likes; who is number 2 publishes one record to the inbox, by a route that
 * is as old as it may be, and leaves. DEATHS, 2, of them die at any step that writes: so an agent, or a publisher between
 * claim and commit; and the first reaper, in the middle of what it does. A last process, which lives, enters the gate
 * after all the others and reaps.
 * Checked: who lives is never fenced; a claim is given up only if who made it is dead, and a dead one's never looks like that
 * of a living holder of its number; nobody gets a former agent's message; what counts as delivered was received by its
 * agent or discarded by its reaper, unless a claim in progress was met before it; nothing committed is lost uncounted;
 * nobody writes into pages given back; no dead end.
 * Not here: the tables, several inboxes, waiting for room.
 *
 * JOINERS=1: 833,596 states, 3 s; the last process is the second reaper then. JOINERS=2: more than 14 million,
 * bitstate only.
 * Must fail: FREE_FIRST (JOINERS=2), slots are freed before what their dead holders had is resolved; NO_RESOLVE, a number
 * is freed without giving up its dead holder's claims in the inbox. TWO_REAPERS breaks nothing: it claims that no second
 * reaper goes on with what a dead one began, and its failing shows that this happens here.
 */
#ifndef N
#define N 2
#endif
#define NUMBERS 2
#ifndef JOINERS
#define JOINERS 2
#endif
#define PROCESSES (JOINERS + 3)
#define LAST PROCESSES
#ifndef DEATHS
#define DEATHS 2
#endif
#define MORTAL (who != LAST && deaths < DEATHS)
#define AT_DEATH died_reaping = died_reaping || reaping == who
byte reaping;               /* for assertions alone: the who that is in the middle of it */
bool died_reaping;
#include "slots.inc"

#define AGENT 1
#define IDS (PROCESSES + 1)         /* the record of each process has its own number */
#define DEAD(number) (slot[number] == FREE || !locked[number])
#define MISTAKEN (!DEAD(OWNER(h)) && header[at % N] == h && dead[claimant[at % N]])
#define WHEN_FULL outcome = GONE; break
#define MAY_END_HERE if :: skip OR_DIE fi
#define AGAIN ((how) == DISCARDED)  /* a reaper that died in the drain, and the next one */
byte claimant[N];           /* for assertions alone: the who that claimed the cell */
#define CLAIMED(word) if :: SIZE(word) != 0 -> claimant[START(word) % N] = who :: else fi
#include "inbox.inc"

byte ended_count;

/* ring_resolve_dead(), then, of the agent, _retire() */
inline resolve(number) {
#ifdef TWO_REAPERS
    assert(!(died_reaping && number == AGENT));
#endif
    reaping = who;
#ifndef NO_RESOLVE
    t = tail;
    if
    :: BY(t) == number -> help()
    :: else
    fi;
    t = 0;
    at = 0;
    do
    :: at == N -> break
    :: else ->
        h = header[at];
        if
        :: STATE(h) == WRITING && OWNER(h) == number ->
            if
            :: d_step {
                if
                :: header[at] == h -> assert(dead[claimant[at]]); header[at] = AS(h, ABORTED)
                :: else
                fi }
            OR_DIE
            fi
        :: else
        fi;
        h = 0;
        at++
    od;
    at = 0;
#endif
    if
    :: number == AGENT -> retire()
    :: else
    fi;
    reaping = 0
}

inline receive() {
    do
    :: peek();
        if
        :: found == RECORD && meant_for[data[at % N]] != own ->
            if
            :: d_step { met(MISDIRECTED); head = at }
            OR_DIE
            fi
        :: found == RECORD && meant_for[data[at % N]] == own ->
            if
            :: d_step { met(RECEIVED); head = at }
            OR_DIE
            fi
        :: found != RECORD -> break
        fi;
        d_step { h = 0; found = 0 }
    od;
    skip;
    d_step { h = 0; found = 0 }
}

inline publish() {
    e = epoch;
    do
    :: e > 0 -> e--
    :: break
    od;
    skip;
    d_step { id = who; meant_for[id] = e };
    deliver();
    assert(!(outcome == DELIVERED && late));
    d_step {
        if
        :: outcome == DELIVERED -> assert(!(fate[id] == MISDIRECTED && !left_behind))
        :: else
        fi;
        e = 0; id = 0; outcome = 0; late = false
    }
}

proctype Process(byte who) {
    REGISTERS;
    PARTICIPANT;
    byte me = 0, at, found, own, e, id, seen, outcome;
    bool late;
    if
    :: who <= 2 -> d_step { me = who; locks = true; at = head }    /* joined before */
    :: else ->
        enter_gate();
        reap();
        join();
        if
        :: me == AGENT -> open_inbox()
        :: else
        fi;
        leave_gate()
    fi;
    if
    :: me == 0 -> goto ended    /* TableFullError */
    :: me == AGENT ->
        receive();
        at = 0
    :: else -> publish()
    fi;
    enter_gate();
    if
    :: me == AGENT -> retire()
    :: else
    fi;
    leave();
    leave_gate();
ended:
    skip;
    d_step {
        ended_count++; t = 0; h = 0; start = 0; ok = false; me = 0; n = 0; corpses = 0; locks = false;
        at = 0; found = 0; own = 0; e = 0; id = 0; seen = 0; outcome = 0; late = false
    }
}

/* Reaps after all the others, then looks at what stands in the inbox behind a claim that was in progress when it was
 * retired. */
proctype Last() {
    REGISTERS;
    PARTICIPANT;
    byte who = LAST, me = 0, at, found, id, e;
    bool late;
    ended_count == PROCESSES - 1;
    enter_gate();
    reap();
    leave_gate();
    assert(slot[1] == FREE && slot[2] == FREE);
    at = head;
    do
    :: peek();
        if
        :: found == RECORD -> met(MISDIRECTED)
        :: else -> break
        fi
    od;
    assert(found == NOTHING_THERE);
    d_step {
        id = 1;
        do
        :: id == IDS -> break
        :: else -> assert(!committed[id] || fate[id] != 0); id++
        od
    };
ended:
    skip
}

init {
    byte j = 1;
    atomic {
        locked[1] = true; slot[1] = TAKEN;
        locked[2] = true; slot[2] = TAKEN;
        do
        :: j == PROCESSES -> break
        :: else -> run Process(j); j++
        od;
        run Last();
        j = 0
    }
}
