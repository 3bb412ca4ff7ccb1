/* Copies of table entries, with store buffers and loads that pass loads (tables.pxd: begin_write, end_write, read_entry,
 * generation_bump).
 *
 * The machine is in sb.inc. A writer changes an entry of two words twice, and announces each change by the generation; a
 * reader loads the generation, and copies the entry. The words are relaxed: the writer's leave its buffer in any order; the
 * reader's are loaded in any order, and a second look that is no release comes before any of them.
 * Checked: a copy that passes for whole is whole, and at least as new as the generation that the reader has seen.
 *
 * 9,057 states. Nothing here is seq_cst.
 * Must fail: BEGIN_STORE, the version becomes odd by a store and not by a read-modify-write (even a seq_cst one);
 * SECOND_LOOK_LOAD, the reader's second look is a load (even a seq_cst one); END_RELAXED, the version becomes even without
 * release; FIRST_LOOK_RELAXED, the reader's first look is no acquire; GENERATION_RELAXED, the generation is no release;
 * GENERATION_LOOK_RELAXED, the reader's load of it is no acquire.
 */
#define WRITER 0
#define READER 1
#define WRITERS 2

#define VERSION 0
#define GENERATION 1
#define WORD 2
#define PLACES 4
#include "sb.inc"

#ifdef END_RELAXED
#define END RELAXED
#else
#define END RELEASE
#endif
#ifdef GENERATION_RELAXED
#define ANNOUNCE RELAXED
#else
#define ANNOUNCE RELEASE
#endif

proctype Writer() {
    REGISTERS;
    byte me = WRITER, change = 1, old;
    do
    :: change == 3 -> break
    :: else ->
#ifdef BEGIN_STORE
        store(VERSION, 2 * change - 1, SEQ_CST);
#else
        exchange(VERSION, old, 2 * change - 1, ACQ_REL);
#endif
        store(WORD, change, RELAXED);
        store(WORD + 1, change, RELAXED);
        store(VERSION, 2 * change, END);
        store(GENERATION, change, ANNOUNCE);
        change++
    od
}

#define ALL 15
#define READ_GENERATION 1
#define LOOKED 2
#define READ_FIRST 4
#define READ_SECOND 8
#define BOTH (READ_FIRST | READ_SECOND)

#ifdef GENERATION_LOOK_RELAXED
#define GENERATION_COMES_FIRST
#else
#define GENERATION_COMES_FIRST && (done & READ_GENERATION)
#endif
#ifdef FIRST_LOOK_RELAXED
#define FIRST_LOOK_COMES_FIRST GENERATION_COMES_FIRST
#else
#define FIRST_LOOK_COMES_FIRST && (done & LOOKED)
#endif
#ifdef SECOND_LOOK_LOAD
#define COPIED_BEFORE && (done & LOOKED)
#else
#define COPIED_BEFORE && (done == ALL)
#endif

/* The loads of one try, in any order that their orders allow. */
proctype Reader() {
    REGISTERS;
    byte me = READER, generation, seen, again, done, copy[2];
    bool looked_again;
    do
    :: !(done & READ_GENERATION) -> load(GENERATION, generation, ACQUIRE); done = done | READ_GENERATION
    :: !(done & LOOKED) GENERATION_COMES_FIRST -> load(VERSION, seen, ACQUIRE); done = done | LOOKED
    :: !(done & READ_FIRST) FIRST_LOOK_COMES_FIRST -> load(WORD, copy[0], ACQUIRE); done = done | READ_FIRST
    :: !(done & READ_SECOND) FIRST_LOOK_COMES_FIRST -> load(WORD + 1, copy[1], ACQUIRE); done = done | READ_SECOND
    :: !looked_again COPIED_BEFORE ->
#ifdef SECOND_LOOK_LOAD
        load(VERSION, again, SEQ_CST);
#else
        exchange(VERSION, again, again, ACQ_REL);
#endif
        looked_again = true
    :: done == ALL && looked_again -> break
    od;
    assert(seen >= 2 * generation);    /* an entry that is being written is passed over: its change is to be announced yet */
    if
    :: seen % 2 == 0 && seen == again ->
        assert(copy[0] == copy[1]);
        assert(copy[0] * 2 == seen)
    :: else
    fi
}

init {
    atomic {
        run Drain(WRITER);
        run Drain(READER);
        run Writer();
        run Reader()
    }
}
