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
 * 5,534,950 states, 15 s. K=2, two records each: bitstate only.
 * PUNCH_HEADERS, the pages of header words are given back too, so that they read as 0 (the code keeps them, for other
 *   reasons): 5,881,210 states, 18 s.
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
#define IDS (P * K + 1)
#define ID(who, which) (((who) - 1) * K + (which) + 1)
#define DEAD(number) dead[number]
#define MISTAKEN false
#define WHEN_FULL (tail != t || head != seen || epoch != e)
/* The next one to retire it begins anew. */
#define MAY_END_HERE if :: skip :: anew -> anew = false; goto retired fi
#define AGAIN false
#include "inbox.inc"

byte gone;

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

/* A slot and all that hold it, one after the other, since the gate lets one in at a time: an agent receives, leaves or dies; it
 * is retired; the next agent joins. The last agent stays until no publisher is left and nothing is in its inbox. */
proctype Slot() {
    REGISTERS;
    byte me = 0, at, found, own, agents, i;
    bool anew = true;
joined:
    open_inbox();
    agents++;
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
            :: agents < 2 -> goto retired
            :: header[at % N] != h
            :: found == NOTHING_THERE && END(tail) != at
            :: found == BUSY && dead[OWNER(h)]
            :: gone == P && found == NOTHING_THERE && END(tail) == at -> goto over
            fi
        fi;
        d_step { h = 0; found = 0 };
        if
        :: agents < 2 -> goto retired
        :: true
        fi
    od;
retired:
    skip;
    d_step { h = 0; found = 0; t = 0; at = 0; ok = false };
    retire();
    own = 0;
    goto joined;
over:
    skip;
    d_step {
        i = 1;
        do
        :: i == IDS -> break
        :: else -> assert(!committed[i] || fate[i] != 0); i++    /* nothing is lost without being counted */
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
