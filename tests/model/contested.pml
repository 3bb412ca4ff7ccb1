/* A ring that drops its oldest record for the newest: the head moves by CAS, over one record at a time, by the consumer
 * or by a producer that finds no room (contested.pyx).
 *
 * Bounds: P = 2 producers of K = 2 records, of 1 and of 2 cells (ANY_SIZE: each of 1 or 2), N = 4 cells; either may die
 * at each step that writes; one consumer that lives, copies cell by cell, and takes as long as it likes.
 * Checked: each committed record is taken or dropped, and that once; what is taken is whole, and each producer's in
 * their order; nothing is dropped for which there was room; who lives is never fenced; nobody waits for room, though
 * the other be stopped anywhere: a record that finds no room and nothing that can be dropped is dropped itself.
 * Not here: the bits of the head above the position (it does not wrap), closing, sleeping, memory orders.
 *
 * 9,252,696 states, 40 s. NO_CRASH: 1,833,968 states.
 * Must fail: STORE_HEAD, the consumer stores the head; MOVE_FIRST, it moves the head and then copies; DROP_WRITING, a
 * record that is being written is dropped; NO_SECOND_LOOK_AT_ROOM, a dropper does not look at the room again.
 */
#ifndef N
#define N 4
#endif
#ifndef P
#define P 2
#endif
#ifndef K
#define K 2
#endif
#define SETTLED(state) if :: (state) == COMMITTED -> committed[me]++ :: else fi
#include "words.inc"

byte gone = 0;           /* producers that have ended, one way or the other */
byte data[N];            /* who wrote the cell, and its how-many-th record it is of */
byte committed[P + 1];
byte settled[P + 1];     /* taken or dropped */
byte latest[P + 1];      /* the last that was taken */

#define BYTES(who, which) (((who) << 4) | (which))

inline write_cells(size) {
    i = 0;
    do
    :: i == size -> break
    :: i < size -> d_step { data[(start + i) % N] = BYTES(me, k + 1); i++ }
    OR_DIE
    od;
    i = 0
}

inline tag_interior(size) {
    i = 1;
    do
    :: i >= size -> break
    :: i < size -> d_step { header[(start + i) % N] = HEADER((start + i) / N, me, 0, INTERIOR); i++ }
    OR_DIE
    od;
    i = 0
}

/* CAS of the head from `at` over the claim whose header is h. */
inline move_head() {
    d_step {
        if
        :: head == at -> head = at + LEN(h); ok = true
        :: else -> ok = false
        fi
    }
}

#define ROOM(n) (END(t) + (n) + ((n) > N - END(t) % N -> N - END(t) % N : 0) - head <= N)

#define MOVED 0
#define FOUND 1
#define BUSY 2
#define NOTHING 3

/* contested_peek(): `got` is FOUND with a COMMITTED header in h, BUSY with a WRITING one, or NOTHING. */
inline peek() {
    got = MOVED;
    do
    :: got != MOVED -> break
    :: else ->
        at = head;
        h = header[at % N];
        if
        :: IN_LAP(h, at) && STATE(h) == COMMITTED -> got = FOUND
        :: IN_LAP(h, at) && (STATE(h) == PAD || STATE(h) == ABORTED) -> move_head(); ok = false
        :: IN_LAP(h, at) && STATE(h) == WRITING ->
            t = tail;
            if
            :: END(t) == at -> got = NOTHING
            :: END(t) != at && START(t) == at && (BY(t) != OWNER(h) || SIZE(t) != LEN(h)) -> help()
            :: else -> got = BUSY
            fi
        :: IN_LAP(h, at) && (STATE(h) == INTERIOR || STATE(h) == NEVER) ->
            assert(head != at)    /* corrupt, unless the head has moved on */
        :: else ->
            t = tail;
            if
            :: END(t) == at -> got = NOTHING
            :: END(t) != at && START(t) == at -> help()
            :: else
            fi
        fi
    od
}

inline forget() {
    d_step { t = 0; h = 0; at = 0; start = 0; seen = 0; want = 0; rest = 0; got = 0; ok = false }
}

proctype Producer(byte me) {
    REGISTERS;
    byte k, n, i, rest, want, seen, at, got;
    do
    :: k == K -> break
    :: else ->
#ifdef ANY_SIZE
        if
        :: n = 1
        :: n = 2
        fi;
#else
        n = 1 + (me + k) % 2;
#endif
again:
        forget();
        t = tail;
        help();
        d_step { start = END(t); rest = N - start % N };
        seen = head;
        if
        :: start + n + (n > rest -> rest : 0) - seen > N ->
            if
            :: tail != t -> goto again
            :: else -> goto no_room
            fi
        :: else -> seen = 0
        fi;
        want = (n > rest -> rest : n);
        cas_tail(TAIL(start + want, me, want));
        d_step { t = 0; want = 0 };
        if
        :: !ok -> goto again
        :: ok && n > rest ->
            tag_interior(rest);
            settle(start, rest, PAD);
            assert(ok);
            goto again
        :: else -> d_step { rest = 0; ok = false }
        fi;
        write_cells(n);
        tag_interior(n);
        settle(start, n, COMMITTED);
        assert(ok);    /* who lives is never fenced */
        forget();
        d_step { n = 0; k++ };
        goto next;

no_room:
        forget();
        peek();
        if
        :: got == BUSY -> goto writing
        :: got == NOTHING -> goto again
        :: else -> got = 0
        fi;
        t = tail;
#ifndef NO_SECOND_LOOK_AT_ROOM
        if
        :: ROOM(n) -> goto again
        :: else
        fi;
#endif
        if
        :: d_step {
            if
            :: head == at ->
                t = tail;
                assert(!ROOM(n));    /* nothing is dropped for which there was room */
                head = at + LEN(h);
                settled[OWNER(h)]++
            :: else
            fi }
        OR_DIE
        fi;
        goto again;
writing:
        if
        :: dead[OWNER(h)] -> abort_word(at, h); goto no_room
        :: else
        fi;
#ifdef DROP_WRITING
        move_head();
        goto again;
#endif
        forget();    /* the newest is dropped */
        d_step { n = 0; k++ };
next:
        skip
    od
ended:
    d_step { forget(); gone++ }
}

proctype Consumer() {
    REGISTERS;
    byte at, i, me = 0, seen, want, rest, got, copy[2];
look:
    forget();
    peek();
    if
    :: got == BUSY -> goto writing
    :: got == NOTHING -> goto nothing
    :: else -> got = 0
    fi;
#ifdef MOVE_FIRST
    move_head();
    if
    :: !ok -> goto look
    :: else
    fi;
#endif
    do
    :: i == LEN(h) -> i = 0; break
    :: else -> copy[i] = data[(at + i) % N]; i++
    od;
#ifdef STORE_HEAD
    head = at + LEN(h);
    ok = true;
#else
#ifndef MOVE_FIRST
    move_head();
#endif
#endif
    skip;
    d_step {
        if
        :: ok ->
            do
            :: i == LEN(h) -> break
            :: else -> assert(copy[i] >> 4 == OWNER(h) && copy[i] == copy[0]); i++
            od;
            assert((copy[0] & 15) > latest[OWNER(h)]);
            latest[OWNER(h)] = copy[0] & 15;
            settled[OWNER(h)]++
        :: else
        fi;
        i = 0; copy[0] = 0; copy[1] = 0
    };
    goto look;
writing:
    if
    :: dead[OWNER(h)] -> abort_word(at, h)
    :: else -> (header[at % N] != h || dead[OWNER(h)])
    fi;
    goto look;
nothing:
    if
    :: tail != t || head != at -> goto look
    :: gone == P && tail == t && head == at ->
        i = 1;
        do
        :: i > P -> break
        :: else -> assert(settled[i] == committed[i]); i++
        od
    fi;
ended:
    skip
}

init {
    byte j = 1;
    atomic {
        do
        :: j > P -> break
        :: else -> run Producer(j); j++
        od;
        run Consumer();
        j = 0
    }
}
