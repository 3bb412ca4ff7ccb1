/* Sleeping and waking: flag, second look, bell, futex (wait.pyx; ring_release, ring_wake_consumer).
 *
 * Bounds: a ring of 4 cells that starts full; 2 producers, each waits for room for one record of 1 or 2 cells; one
 * consumer, who waits for records. All three sleep and wake. Claim and commit are one step, ring.pml checks them.
 * CRASH: each may die at each step that writes, wakes or goes to sleep.
 * Checked: no dead end, that is, nobody sleeps while what it waits for is there, or for good.
 *
 * The end of a slice. A slice that may end at any time only lets a sleeper look again early, as a spurious wake-up
 * would: it adds behaviour, and hides every lost wake-up. So:
 *   NO_SLICE, nobody dies: no slice at all, so that a wake-up that gets lost is a dead end.   556,679 states, 1 s
 *   NO_SLICE, QUARTER=2, 6 cells: the consumer wakes only at a quarter free or at empty.   406,192 states, 1 s
 *   CRASH: slices end only when nothing else can happen; then they must be enough.   2,033,666 states, 3 s
 *   CRASH, ALWAYS: slices end whenever they like.   2,954,497 states, 3 s
 * P=3, three producers: NO_SLICE 55,266,093 states, in `make model-full`; CRASH more than 139 million, bitstate only.
 * Must fail: CRASH and NO_SLICE; and, NO_SLICE without deaths: NO_SECOND_LOOK; SEEN_LATE, the bell is read after the
 * flag is set; BUMP_FIRST, the bell moves before the flag is cleared; WAKE_ONE, one sleeper is woken instead of all.
 * Not here: doorbell FIFOs, spinning, time. All four accesses of the argument are seq_cst in the code; so are all
 * accesses here.
 */
#ifndef CELLS
#define CELLS 4
#endif
#ifndef P
#define P 2
#endif
#ifndef K
#define K 1
#endif
#ifndef BACKLOG
#define BACKLOG 4
#endif

#define CONSUMER 0

byte tail = BACKLOG, head;          /* one record of one cell each; a put of n cells is n records in one step */
byte bell[2], sleeping[2];          /* fc_wait_t: who waits for a record, who waits for room */
#define NOT_EMPTY 0
#define NOT_FULL 1
bool asleep[P + 1];                 /* in the kernel's queue of the bell */
bool dead[P + 1];
byte done;

#define ROOM(n) (tail + (n) - head <= CELLS)

#ifdef CRASH
#define MAY_DIE :: dead[me] = true; goto ended
#else
#define MAY_DIE
#endif

/* When nothing else can happen: what the end of a slice gives then is what saves us, or nothing does. ALWAYS: at any time. */
#if defined(NO_SLICE)
#define SLICE_ENDS false
#elif defined(ALWAYS)
#define SLICE_ENDS true
#else
#define SLICE_ENDS timeout
#endif

/* ring_bell() after someone_sleeps(); futex_wake(all) is one step */
inline ring_bell(which) {
    if
    :: sleeping[which] == 0
    :: else ->
#ifdef BUMP_FIRST
        if :: bell[which]++ MAY_DIE fi;
#endif
        if
        :: d_step { waiters = sleeping[which]; sleeping[which] = 0 }
        MAY_DIE
        fi;
#ifndef BUMP_FIRST
        if :: bell[which]++ MAY_DIE fi;
#endif
        if
        :: waiters == 0
        :: waiters != 0 -> wake(which)
        MAY_DIE
        fi;
        waiters = 0
    fi
}

inline wake(which) {
    d_step {
        if
        :: which == NOT_EMPTY -> asleep[CONSUMER] = false
        :: which == NOT_FULL ->
            i = 1;
            do
            :: i > P -> break
#ifdef WAKE_ONE
            :: i <= P && asleep[i] -> asleep[i] = false; break
            :: i <= P && !asleep[i] -> i++
#else
            :: else -> asleep[i] = false; i++
#endif
            od;
            i = 0
        fi
    }
}

#ifdef NO_SECOND_LOOK
#define SECOND_LOOK(condition) false
#else
#define SECOND_LOOK(condition) (condition)
#endif

/* One round of a wait: `condition` is what it waits for. */
inline wait_round(which, condition) {
#ifndef SEEN_LATE
    seen = bell[which];
#endif
    if
    :: sleeping[which] = 1
    MAY_DIE
    fi;
#ifdef SEEN_LATE
    seen = bell[which];
#endif
    if
    :: SECOND_LOOK(condition)
    :: else ->
        /* futex_wait: the kernel compares under its lock, and sleeps */
        if
        :: d_step {
            if
            :: bell[which] == seen -> asleep[me] = true
            :: else
            fi }
        MAY_DIE
        fi;
        if
        :: !asleep[me]
        :: SLICE_ENDS -> asleep[me] = false
        :: me == CONSUMER && done == P && head == tail -> asleep[me] = false    /* the end of the model */
        fi
    fi;
    seen = 0
}
/* Puts K records of 1 or 2 cells. */
proctype Producer(byte me) {
    byte k, n, seen, waiters, i;
    do
    :: k == K -> break
    :: else ->
        if
        :: n = 1
        :: n = 2
        fi;
again:
        if
        :: atomic { ROOM(n) -> tail = tail + n }    /* claim and commit: seq_cst */
        :: atomic { !ROOM(n) && dead[CONSUMER] -> goto ended }    /* PeerDiedError */
        :: !ROOM(n) && !dead[CONSUMER] ->
            wait_round(NOT_FULL, ROOM(n));
            goto again
        MAY_DIE
        fi;
        ring_bell(NOT_EMPTY);
        d_step { k++; n = 0 }
    od;
ended:
    skip;
    d_step { done++; asleep[me] = false; k = 0; n = 0; seen = 0; waiters = 0 }
}

proctype Consumer() {
    byte me = CONSUMER, seen, waiters, i;
    bool rings;
    do
    :: atomic { head < tail -> head++ };    /* release: seq_cst */
#ifdef QUARTER
        rings = (tail == head || CELLS - (tail - head) >= QUARTER);
#else
        rings = true;
#endif
        if
        :: rings -> ring_bell(NOT_FULL)
        :: else
        fi;
        rings = false
    :: atomic { done == P && head == tail -> break }
    :: !(head < tail) -> wait_round(NOT_EMPTY, head < tail)
#ifdef CRASH
    :: dead[me] = true; goto ended
#endif
    od;
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
