/* An inbox that changes hands: epochs, ring_close(), ring_reopen() (Ring._retire_inbox, Ring._open_inbox,
 * Port.deliver).
 *
 * Bounds: 2 publishers of one record each, with a route that is as old as it may be; N = 2 cells; two agents, one
 * after the other, in one slot; the first leaves or is killed at any moment; who retires it may die once, after any
 * step, and another begins anew; publishers may die at each step that writes.
 * Checked: nobody receives what was meant for a former agent; a publish that counts as delivered was committed before
 * the last look of the drain, and was received by its agent or discarded by its leaving, or, if the drain met a claim
 * in progress, dropped and counted by the next agent; no committed record is lost uncounted or met twice; nobody
 * writes into pages that were given back; who lives is never fenced; no dead end.
 * A publish may also count as not delivered although its agent received it, and left before the publisher looked:
 * that is the protocol, and not a violation here.
 * Not here: the subscription table, the copy of a record that its receiver had in hand when it was killed.
 *
 * 5,341,787 states, 15 s.
 * PUNCH_HEADERS, the pages of header words are given back too, so that they read as 0 (the code keeps them, for other
 *   reasons): 5,682,677 states, 18 s.
 * Must fail: NO_CLOSE; CLOSE_WITHOUT_HELP; EPOCH_LAST, the epoch is stored after the drain; NO_SECOND_LOAD, the
 * publisher does not load the epoch after its commit; NO_STALE_CHECK, the receiver does not compare epochs.
 */
#ifndef N
#define N 2
#endif
#define P 2
#ifndef K
#define K 1
#endif
#define ERAS 3      /* epochs 0 .. ERAS - 1 may have an agent or not; see Slot */
#define IDS (P * K + 1)
#define ID(who, which) (((who) - 1) * K + (which) + 1)

#define GONE 1
#define DELIVERED 2
#define RECEIVED 1
#define DISCARDED 2
#define MISDIRECTED 3

byte epoch;                 /* of the ring */
byte data[N];               /* the record's number; its epoch is meant_for[number] */
bool punched;               /* the pages of the inbox have been given back */

/* for assertions alone */
byte meant_for[IDS];
bool committed[IDS];
byte fate[IDS];
bool drained[ERAS + 1];     /* the leaving of the agent with this epoch has had its last look at the ring */
bool left_behind;           /* and it met a claim in progress */
byte gone;

#define SETTLED(state) committed[id] = true; late = drained[e]
#include "words.inc"

/* Port.deliver(), again and again while there is no room. */
inline deliver() {
    do
    :: if
        :: epoch != e -> outcome = GONE; break
        :: else
        fi;
        t = tail;
        if
        :: BY(t) == CLOSED -> outcome = GONE; break
        :: else
        fi;
        help();
        start = END(t);
        seen = head;
        if
        :: start + 1 - seen > N -> (tail != t || head != seen || epoch != e)    /* NO_ROOM */
        :: else ->
            cas_tail(TAIL(start + 1, me, 1));
            if
            :: !ok
            :: else ->
                ok = false; t = 0;
                if
                :: d_step { assert(!punched); data[start % N] = id }
                OR_DIE
                fi;
                settle(start, 1, COMMITTED);
                assert(ok);    /* who lives is never fenced */
#ifdef NO_SECOND_LOAD
                outcome = DELIVERED;
#else
                outcome = (epoch == e -> DELIVERED : GONE);
#endif
                break
            fi
        fi;
        d_step { t = 0; start = 0; seen = 0; ok = false }
    od;
    t = 0; start = 0; seen = 0; ok = false
}

proctype Publisher(byte me) {
    REGISTERS;
    byte k, e, id, seen, outcome;
    bool late;
    do
    :: k == K -> break
    :: else ->
        /* the route is as old as it may be */
        e = epoch;
        do
        :: e > 0 -> e--
        :: break
        od;
        skip;
        d_step { id = ID(me, k); meant_for[id] = e };
        deliver();
        /* What was committed after the agent's drain does not count as delivered. */
        assert(!(outcome == DELIVERED && late));
        d_step {
            if
            :: outcome == DELIVERED -> assert(!(fate[id] == MISDIRECTED && !left_behind))
            :: else
            fi;
            k++; e = 0; id = 0; outcome = 0; late = false
        }
    od;
ended:
    gone++
}

#define NOTHING_THERE 1
#define BUSY 2
#define RECORD 3

/* ring_peek() at `at`; padding does not occur with records of one cell. An owner's death is probed after its word was read. */
inline peek() {
    do
    :: h = header[at % N];
        if
        :: IN_LAP(h, at) && STATE(h) == COMMITTED -> found = RECORD; break
        :: IN_LAP(h, at) && STATE(h) == ABORTED -> at++
        :: IN_LAP(h, at) && STATE(h) == WRITING ->
            t = tail;
            if
            :: END(t) == at -> found = NOTHING_THERE; break
            :: END(t) != at && START(t) == at && SIZE(t) != 0 && BY(t) != OWNER(h) -> help()
            :: else ->
                if
                :: dead[OWNER(h)] -> abort_word(at, h)
                :: else -> found = BUSY; break
                fi
            fi
        :: IN_LAP(h, at) && (STATE(h) == INTERIOR || STATE(h) == NEVER) -> assert(false)
        :: else ->
            t = tail;
            if
            :: END(t) == at -> found = NOTHING_THERE; break
            :: END(t) != at && START(t) == at && SIZE(t) != 0 -> help()
            :: else -> assert(IN_LAP(header[at % N], at))
            fi
        fi
    od;
    t = 0
}

inline met(how) {
    d_step {
        assert(fate[data[at % N]] == 0);
        fate[data[at % N]] = how;
        at++
    }
}

/* ring_close() */
inline close_ring() {
    do
    :: t = tail;
        if
        :: BY(t) == CLOSED -> break
        :: else
        fi;
#ifndef CLOSE_WITHOUT_HELP
        help();
#endif
        cas_tail(TAIL(END(t), CLOSED, 0));
        if
        :: ok -> break
        :: else
        fi
    od;
    t = 0; ok = false
}

/* Ring._retire_inbox() and Bus._retire(), under the gate. A reaper may die at any of its steps; the next one begins anew. */
#define OR_ANEW :: anew -> anew = false; goto retire

/* A slot and all that hold it, one after the other, since the gate lets one in at a time: an agent receives, leaves or dies; it
 * is retired; the next agent joins. The last agent stays until no publisher is left and nothing is in its inbox. */
proctype Slot() {
    REGISTERS;
    byte me = 0, at, found, own, agents, j;
    bool anew = true, leaving;
join:
    own = epoch;
    punched = false;
    t = tail;
    if
    :: BY(t) == CLOSED -> cas_tail(TAIL(END(t), 0, 0))
    :: else
    fi;
    d_step { t = 0; ok = false; at = head; agents++ };
    do
    :: peek();
        if
        :: found == RECORD ->
#ifdef NO_STALE_CHECK
            if
            :: true ->
#else
            if
            :: meant_for[data[at % N]] != own -> met(MISDIRECTED)
            :: else ->
#endif
                assert(meant_for[data[at % N]] == own);    /* nobody gets what was meant for a former agent */
                met(RECEIVED);
                head = at
            fi
        :: else ->
            if
            :: at != head -> head = at
            :: else
            fi;
            if
            :: agents < 2 -> goto retire
            :: header[at % N] != h
            :: found == NOTHING_THERE && END(tail) != at
            :: found == BUSY && dead[OWNER(h)]
            :: gone == P && found == NOTHING_THERE && END(tail) == at -> goto over
            fi
        fi;
        d_step { h = 0; found = 0 };
        if
        :: agents < 2 -> goto retire
        :: true
        fi
    od;
retire:
    skip;
    d_step { h = 0; found = 0; t = 0; at = 0; ok = false };
#ifndef EPOCH_LAST
    epoch++;
    if :: skip OR_ANEW fi;
#endif
#ifndef NO_CLOSE
    close_ring();
    if :: skip OR_ANEW fi;
#endif
    at = head;
    do
    :: peek();
        if
        :: found == RECORD -> met(DISCARDED)
        :: else -> break
        fi;
        h = 0
    od;
    skip;
    d_step {
        drained[own] = true;
        if
        :: found == BUSY -> left_behind = true
        :: else
        fi;
        h = 0
    };
#ifdef EPOCH_LAST
    epoch++;
#endif
    head = at;
    if :: skip OR_ANEW fi;
    if
    :: found == NOTHING_THERE -> punched = true;
#ifdef PUNCH_HEADERS
        d_step { j = 0; do :: j == N -> break :: else -> header[j] = 0; j++ od; j = 0 };
#endif
        if :: skip OR_ANEW fi
    :: else
    fi;
    d_step { found = 0; at = 0; own = 0 };
    goto join;
over:
    skip;
    d_step {
        j = 1;
        do
        :: j == IDS -> break
        :: else -> assert(!committed[j] || fate[j] != 0); j++    /* nothing is lost without being counted */
        od
    };
ended:
    skip
}

init {
    byte j = 1;
    atomic {
        do
        :: j > P -> break
        :: else -> run Publisher(j); j++
        od;
        run Slot();
        j = 0
    }
}
