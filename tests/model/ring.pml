/* The ring: claim, help, commit, consume, and recovery from a death at any step (protocol.pyx).
 *
 * Bounds: P = 2 producers of K = 2 records of 1 or 2 cells, N = 4 cells, so records wrap and are padded; either may
 * die at each step that writes; one consumer that lives.
 * Checked: each committed record is received once, whole, in its producer's order; a claim that is not the last one
 * bears its header; who lives is never fenced; no dead end.
 * Not here: batches, roles, numbers that get another holder, closing, sleeping; see the other models.
 *
 * 15,481,684 states, 40 s.
 * P=3, K=1: 99,645,057 states, 5.0 GB; in `make model-full`, and bitstate otherwise.
 * STRAY, K = 1: besides, once, a helper that slept for a whole period of positions writes WRITING of anybody into a
 *   cell whose header is not of this lap (protocol.pyx, "Why a helper may sleep at its worst place"), with this lap's
 *   tag or the last one's: 15,360,832 states, 40 s.
 * Must fail: NO_HELP, a claimer does not help; NO_SECOND_LOOK, a helper does not look at the tail again (a committed
 * record is overwritten); STRAY and HELP_ONCE, a helper whose CAS failed goes on (a later claim hides the last one's
 * wrong header).
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

#include "consumer.inc"

proctype Producer(byte me) {
    REGISTERS;
    byte k, n, i, rest, want, seen;
    do
    :: k == K -> break
    :: else ->
        if
        :: n = 1
        :: n = 2
        fi;
again:
        t = tail;
#ifndef NO_HELP
        help();
#endif
        d_step { start = END(t); rest = N - start % N };
        seen = head;
        if
        :: start + n + (n > rest -> rest : 0) - seen > N ->
            (tail != t || head != seen);    /* full: sleeps until one of them moves; see wait.pml */
            d_step { t = 0; seen = 0; start = 0; rest = 0 };
            goto again
        :: else -> seen = 0
        fi;
        want = (n > rest -> rest : n);
        cas_tail(TAIL(start + want, me, want));
        d_step { t = 0; want = 0 };
        if
        :: !ok -> d_step { start = 0; rest = 0 }; goto again
        :: ok && n > rest ->
            tag_interior(rest);
            settle(start, rest, PAD);
            assert(ok);
            d_step { start = 0; rest = 0; ok = false };
            goto again
        :: else -> d_step { rest = 0; ok = false }
        fi;
        write_cells(n);
        tag_interior(n);
        settle(start, n, COMMITTED);
        assert(ok);    /* who lives is never fenced */
        d_step { start = 0; ok = false; n = 0; k++ }
    od
ended:
    gone++
}

#ifdef STRAY
/* A helper that slept for a whole period of positions, so that the word it has read stands there again: writes WRITING of
 * anybody, of any length, into a cell whose header is not of this lap, claimed or not. */
proctype Stray() {
    byte p, who, size, lap;
    atomic {
        p = head;
        do
        :: p < head + N - 1 -> p++
        :: break
        od;
        if :: who = 1 :: who = P fi;
        if :: lap = p / N :: lap = p / N - 1 fi;
        if :: size = 1 :: p % N < N - 1 -> size = 2 fi;
        if
        :: !IN_LAP(header[p % N], p) -> header[p % N] = HEADER(lap, who, size, WRITING)
        :: else
        fi
    }
}
#endif

init {
    byte j = 1;
    atomic {
        do
        :: j > P -> break
        :: else -> run Producer(j); j++
        od;
        run Consumer();
#ifdef STRAY
        run Stray();
#endif
        j = 0
    }
}
