/* What a member of a group left unread goes to the others (Heirs, Bus._retire, _reap, Ring._retire_inbox, Port.deliver_to_group).
 *
 * Bounds: 3 members, A, B and C, their inboxes of K cells, 3; 2 publishers of one message each, which try A, B and C, the first of
 * them being in the middle of a message to A. A and B may leave, B receives before; who leaves reaps too. DEATHS, 2: of both at any
 * step that writes, so of a member, and of who passes on what it or another left. A last process, which lives, reaps at some time
 * and in the end.
 * Checked: what counts as delivered is received, or discarded when no other member had room; twice only what its publisher passed
 * on too, as it found the epoch moved behind its commit, or what a killed reaper had in hand, one for each.
 * Not here: the words of a ring, of which a claim is one step (inbox.inc, reap.pml); slots that are used again; several groups.
 *
 * More than 30 million states, also with DEATHS=1: bitstate only.
 * Must fail: STOP_AT_CLAIM, who retires an inbox stops at a claim in progress, as it may for who is in no group; RELEASE_LAST, the
 * cells are given back when all is passed on; RELEASE_FIRST, before it is; NO_SECOND_LOAD, the publisher does not look at the
 * epoch after its commit; DROP_FIRST, the subscriptions go first. And NO_RETRY (with NO_LEAVE, A and B only die), a claim that a
 * receiver gave up, as it was made under the number of the dead, is not made again: after 8,198,470 states, so not in each run.
 */
#ifndef K
#define K 3
#endif
#ifndef DEATHS
#define DEATHS 2
#endif
#define MEMBERS 3
#define A 0
#define B 1
#define C 2
#define IDS 3               /* the message of publisher 1 and of 2 */

#define NEVER 0
#define WRITING 1
#define COMMITTED 2
#define ABORTED 3

/* who: 1, 2 publishers; 3, 4 the agents A and B; 5 who reaps in the end, which is C as well. A claim is by a publisher, or
 * by a member's number: OF(A), OF(B). */
#define OF(member) ((member) + 3)
#define LAST 5
#define MORTAL(who) ((who) != 2 && (who) != LAST && deaths < DEATHS)
bool dead[6];
byte deaths, gate, ended;


byte state[MEMBERS * K];    /* cell i of member m is at m * K + i */
byte by[MEMBERS * K], id_of[MEMBERS * K];
byte tail[MEMBERS], head[MEMBERS];
bool moved[MEMBERS];        /* the epoch */
bool closed[MEMBERS];
bool listed[MEMBERS] = true;    /* the subscription is in the table */
bool gone[MEMBERS];         /* it has left, or was reaped */

/* for assertions alone */
bool delivered[IDS], discarded[IDS], excused[IDS];
byte received[IDS];
byte reaping;               /* who is between putting a record and giving back its cells, and which one */
byte in_hand;
byte excuses;

#define AT(m, i) ((m) * K + (i))

inline die() {
    d_step {
        dead[who] = true; deaths++;
        if
        :: gate == who -> gate = 0
        :: else
        fi;
        if
        :: reaping == who -> excused[in_hand] = true; excuses++; reaping = 0; in_hand = 0
        :: else
        fi
    }
}
#define OR_DIE :: MORTAL(who) -> die(); goto over

inline enter_gate() {
    if
    :: atomic { gate == 0 -> gate = who }
    OR_DIE
    fi
}

/* In one step: a claim of one cell of m's inbox: `at`, or K if there is none. */
inline claim(m, number, id) {
    if
    :: closed[m] || tail[m] == K -> at = K
    :: else -> at = tail[m]; tail[m]++; state[AT(m, at)] = WRITING; by[AT(m, at)] = number; id_of[AT(m, at)] = id
    fi
}

/* Commit, then look at the epoch of m. */
inline commit_and_look(m) {
    if
    :: d_step { assert(state[AT(m, at)] == WRITING); state[AT(m, at)] = COMMITTED }
    OR_DIE
    fi;
#ifdef NO_SECOND_LOAD
    delivered[who] = true
#else
    d_step {
        if
        :: moved[m] -> excused[who] = true    /* and it goes to another, too */
        :: else -> delivered[who] = true
        fi
    }
#endif
}

/* `m`: the first member that it tries, in whose inbox the first publisher has a claim already. */
proctype Publisher(byte who) {
    byte m = A, at;
    if
    :: who == 1 -> commit_and_look(A); m = B
    :: else
    fi;
    do
    :: m == MEMBERS || delivered[who] -> break
    :: else ->
        if
        :: moved[m]
        :: else ->
            if
            :: d_step { claim(m, who, who) }
            OR_DIE
            fi;
            if
            :: at == K
            :: else -> commit_and_look(m)
            fi
        fi;
        m++
    od;
over:
    skip;
    d_step { ended++; m = 0; at = 0 }
}

/* The next of m's inbox, for its agent: one step, as moving the head is. */
#define HAS_NEXT(m) (head[m] < tail[m] && !(state[AT(m, head[m])] == WRITING && !dead[by[AT(m, head[m])]]))
inline receive(m) {
    if
    :: state[AT(m, head[m])] == COMMITTED -> received[id_of[AT(m, head[m])]]++; head[m]++
    :: state[AT(m, head[m])] == ABORTED -> head[m]++
    :: state[AT(m, head[m])] == WRITING -> state[AT(m, head[m])] = ABORTED
    fi
}

/* Heirs.__call__: put the record into the inbox of another member; `passed` says whether one has got it. */
inline pass_on(k) {
    do
    :: if
        :: d_step {
            at = K; h = 0;
            do
            :: h == MEMBERS || at != K -> break
            :: else ->
                if
                :: mine && h != k && listed[h] && !moved[h] -> claim(h, OF(k), id)
                :: else
                fi;
                if
                :: at == K -> h++
                :: else
                fi
            od;
            skip }
        OR_DIE
        fi;
        if
        :: at == K -> break    /* nobody has room */
        :: else
        fi;
        if
        :: d_step {
            if
            :: state[AT(h, at)] == WRITING -> state[AT(h, at)] = COMMITTED; passed = true; reaping = who; in_hand = id
            :: else
            fi;
            at = 0; h = 0 }
        OR_DIE
        fi;
#ifdef NO_RETRY
        break
#else
        if
        :: passed -> break
        :: else
        fi
#endif
    od;
    skip;
    d_step { at = 0; h = 0 }
}

/* Whether somebody else could have got it: for an assertion alone. */
#define COULD(h) (h != k && listed[h] && !moved[h] && tail[h] < K)

/* _retire(k), under the gate */
inline retire(k) {
    if
    :: moved[k] = true
    OR_DIE
    fi;
    if
    :: closed[k] = true
    OR_DIE
    fi;
    i = head[k];
    do
    :: i == tail[k] -> break
    :: i != tail[k] && state[AT(k, i)] == ABORTED -> i++
    :: i != tail[k] && state[AT(k, i)] == WRITING && dead[by[AT(k, i)]] -> state[AT(k, i)] = ABORTED
    :: i != tail[k] && state[AT(k, i)] == WRITING && !dead[by[AT(k, i)]] ->
#ifdef STOP_AT_CLAIM
        break
#else
        if
        :: behind
        :: else -> behind = true; stop = i
        fi;
        i++
#endif
    :: i != tail[k] && state[AT(k, i)] == COMMITTED ->
        id = id_of[AT(k, i)];
#ifdef RELEASE_FIRST
        if
        :: head[k] = i + 1
        OR_DIE
        fi;
#endif
        pass_on(k);
        if
        :: passed && behind ->
            if
            :: d_step { state[AT(k, i)] = ABORTED; reaping = 0; in_hand = 0 }
            OR_DIE
            fi
        :: passed && !behind ->
#ifdef RELEASE_LAST
            d_step { reaping = 0; in_hand = 0 }
#else
            if
            :: d_step { head[k] = i + 1; reaping = 0; in_hand = 0 }
            OR_DIE
            fi
#endif
        :: !passed ->
            d_step { assert(!COULD(A) && !COULD(B) && !COULD(C)); discarded[id] = true }
        fi;
        d_step { passed = false; id = 0; i++ }
    od;
    if
    :: d_step { if :: behind -> head[k] = stop :: else -> head[k] = i fi; stop = 0; behind = false }
    OR_DIE
    fi;
    i = 0
}

inline drop(k) {
    if
    :: listed[k] = false
    OR_DIE
    fi
}

#ifdef DROP_FIRST
#define BEFORE(k) mine = listed[k]; drop(k)
#define AFTER(k) skip
#else
#define BEFORE(k) mine = listed[k]
#define AFTER(k) drop(k)
#endif

/* Give up the claims that were made under the number of k, in all inboxes. */
inline resolve(k) {
    d_step {
        i = 0;
        do
        :: i == MEMBERS * K -> break
        :: else ->
            if
            :: state[i] == WRITING && by[i] == OF(k) -> state[i] = ABORTED
            :: else
            fi;
            i++
        od;
        i = 0
    }
}

inline reap() {
    if
    :: dead[OF(A)] && !gone[A] -> resolve(A); BEFORE(A); retire(A); AFTER(A); gone[A] = true
    :: else
    fi;
    if
    :: dead[OF(B)] && !gone[B] -> resolve(B); BEFORE(B); retire(B); AFTER(B); gone[B] = true
    :: else
    fi
}

#define REGISTERS byte i, h, at, id, stop; bool passed, behind, mine    /* mine: the subscription of who is retired was found in the table */

proctype Member(byte who) {
    REGISTERS;
    byte me = who - 3;
    do
    :: d_step { me == B && HAS_NEXT(B) -> receive(B) }
    :: break
    OR_DIE
    od;
    if
    :: skip -> goto over    /* stays */
#ifndef NO_LEAVE
    :: enter_gate();
        BEFORE(me);
        retire(me);
        AFTER(me);
        gone[me] = true;
        reap();
        gate = 0
#endif
    fi;
over:
    skip;
    d_step { ended++; i = 0; h = 0; at = 0; id = 0; stop = 0; passed = false; behind = false; mine = false; me = 0 }
}

/* Lives: reaps at some time, and after all the others; then who lives takes what it has. */
proctype Last() {
    REGISTERS;
    byte who = LAST;
    enter_gate();
    reap();
    gate = 0;
    ended == 4;
    enter_gate();
    reap();
    gate = 0;
    do
    :: !gone[A] && head[A] < tail[A] -> d_step { receive(A) }
    :: !gone[B] && head[B] < tail[B] -> d_step { receive(B) }
    :: head[C] < tail[C] -> d_step { receive(C) }
    :: else -> break
    od;
    skip;
    d_step {
        id = 1;
        do
        :: id == IDS -> break
        :: else ->
            assert(!delivered[id] || received[id] > 0 || discarded[id]);
            assert(received[id] <= 1 || excused[id]);
            id++
        od;
        assert(excuses <= deaths)
    };
over:
    skip
}

init {
    byte at;
    atomic {
        claim(A, 1, 1);
        run Publisher(1); run Publisher(2); run Member(3); run Member(4); run Last()
    }
}
