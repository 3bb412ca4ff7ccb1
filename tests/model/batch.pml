/* One claim for several records: inner headers first, the first header flips last (Ring.write_run, ring_store_inner).
 *
 * Bounds: 2 producers, each sends a record of 1 or 2 cells and one of 1 cell, in one claim if both fit, else one
 * after the other (what ring_claim_run does); N = 4 cells; either may die at each step that writes.
 * Checked: as in ring.pml; a batch is received whole or, its owner dead, not at all; no inner record is reached
 * before the first.
 * Not here: batches of three and more.
 *
 * 812,090 states, 1 s.
 * Must fail: FIRST_FIRST, the first header flips before the inner one is stored.
 */
#ifndef N
#define N 4
#endif
#define P 2
#ifndef K
#define K 1
#endif
#define SETTLED(outcome) if :: (outcome) == COMMITTED -> committed[me] = committed[me] + taken :: else fi
#include "words.inc"
#include "consumer.inc"

/* ring_store_inner() */
inline store_inner(pos, size) {
    if
    :: header[(pos) % N] = HEADER((pos) / N, me, size, COMMITTED)
    OR_DIE
    fi
}

/* Sends K times two records, of 1 or 2 cells and of 1 cell, in one claim if both fit. */
proctype Producer(byte me) {
    REGISTERS;
    byte k, n, i, rest, room, want, seen, taken;
    do
    :: k == 2 * K -> break
    :: else ->
        if
        :: k % 2 == 1 -> n = 1
        :: k % 2 == 0 -> n = 1
        :: k % 2 == 0 -> n = 2
        fi;
again:
        t = tail;
        help();
        d_step { start = END(t); rest = N - start % N };
        seen = head;
        d_step { room = N - (start - seen); want = 0; taken = 0 };
        if
        :: n > rest && rest + n <= room -> want = rest
        :: n <= rest && n <= room ->
            d_step {
                taken = 1; want = n;
                if
                :: k % 2 == 0 && n + 1 <= rest && n + 1 <= room -> taken = 2; want = n + 1
                :: else
                fi
            }
        :: else ->
            (tail != t || head != seen);    /* full */
            d_step { t = 0; seen = 0; start = 0; rest = 0; room = 0 };
            goto again
        fi;
        d_step { seen = 0; rest = 0; room = 0 };
        cas_tail(TAIL(start + want, me, want));
        t = 0;
        if
        :: !ok -> d_step { start = 0; taken = 0; want = 0 }; goto again
        :: ok && taken == 0 ->
            tag_interior(want);
            settle(start, want, PAD);
            assert(ok);
            d_step { start = 0; want = 0; ok = false };
            goto again
        :: else -> d_step { want = 0; ok = false }
        fi;
#ifdef FIRST_FIRST
        write_cells(n);
        tag_interior(n);
        settle(start, n, COMMITTED);
        assert(ok);
#endif
        if
        :: taken == 2 ->
            d_step { start = start + n; k++ };
            write_cells(1);
            store_inner(start, 1);
            d_step { start = start - n; k-- }
        :: else
        fi;
#ifndef FIRST_FIRST
        write_cells(n);
        tag_interior(n);
        settle(start, n, COMMITTED);
        assert(ok);    /* who lives is never fenced */
#endif
        d_step { start = 0; ok = false; n = 0; k = k + taken; taken = 0 }
    od;
ended:
    gone++
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
