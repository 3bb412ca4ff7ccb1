/* Every byte that processes share: offsets, word formats, limits. README.md beside this folder says who writes which field
 * with which memory order. Little-endian hosts only; a change of anything here is a new FC_ABI_VERSION. */
#ifndef FC_LAYOUT_H
#define FC_LAYOUT_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the shared layout is little-endian");

#define FC_MAGIC 0x6D6D6F6374736166ULL /* "fastcomm" */
#define FC_ABI_VERSION 3u
#define FC_PAGE 4096u

/* ------------------------------------------------------------------------------------------------ segment header -- */

enum { FC_KIND_RING = 1, FC_KIND_BUS = 2, FC_KIND_QUEUE = 3 };
enum { FC_SEGMENT_ACTIVE = 1, FC_SEGMENT_UNLINKED = 2 };
enum { FC_MAX_SECTIONS = 8, FC_MAX_NAME = 192, FC_PARAMETERS = 8 };

typedef struct {
    uint64_t offset, size; /* bytes from the start of the segment; offset a multiple of FC_PAGE */
} fc_section_t;

/*   0 +--------------------------------------------------+
 *     | magic | abi | kind | total_size | ...            |  written once, before magic (release); read-only afterwards
 * 512 +--------------------------------------------------+
 *     | state | mutating | deaths | last_dead | scan_due |  changed while in use
 * 640 +--------------------------------------------------+
 */
typedef struct {
    uint64_t magic;
    uint32_t abi_version;
    uint32_t kind;
    uint64_t total_size;
    uint32_t max_participants;
    uint32_t creator_pid;
    int64_t created_ns; /* CLOCK_REALTIME */
    uint8_t boot_id[16];
    uint32_t name_length; /* bytes of UTF-8 */
    uint32_t section_count;
    fc_section_t sections[FC_MAX_SECTIONS];
    uint64_t parameters[FC_PARAMETERS]; /* what the kind needs to know of its sizes */
    char name[FC_MAX_NAME];
    uint8_t unused0[64];

    uint32_t state;      /* FC_SEGMENT_* */
    uint32_t mutating;   /* 1 while the holder of the gate changes tables: found set, they need repair */
    uint32_t deaths;     /* participants that were found dead since creation */
    uint32_t last_dead;  /* pid of the latest of them */
    uint64_t scan_due;   /* CLOCK_MONOTONIC ns from which the next scan for dead participants is due */
    uint8_t unused2[104];
} fc_header_t;

_Static_assert(offsetof(fc_header_t, sections) == 64, "layout");
_Static_assert(offsetof(fc_header_t, parameters) == 192, "layout");
_Static_assert(offsetof(fc_header_t, name) == 256, "layout");
_Static_assert(offsetof(fc_header_t, state) == 512, "layout");
_Static_assert(sizeof(fc_header_t) == 640, "layout");

/* Locks are taken on bytes of the file far beyond its contents: the gate, then one byte for each participant. */
#define FC_LOCK_GATE (1LL << 60)
#define FC_LOCK_PARTICIPANTS (FC_LOCK_GATE + 1)

/* --------------------------------------------------------------------------------------------------- participants -- */

enum { FC_SLOT_FREE = 0, FC_SLOT_JOINING = 1, FC_SLOT_LIVE = 2, FC_SLOT_LEAVING = 3 };

typedef struct {
    uint32_t state;      /* FC_SLOT_* */
    uint32_t generation; /* one more at each join: names this holder of the slot for ever */
    uint32_t pid;
    uint32_t fd_armed;   /* 1: its doorbell FIFO exists and may have a sleeper */
    int64_t joined_ns;   /* CLOCK_MONOTONIC */
    uint8_t unused[40];
} fc_participant_t;

_Static_assert(sizeof(fc_participant_t) == 64, "a participant is one cache line");

/* ----------------------------------------------------------------------------------------------------------- ring -- */

#define FC_CELL 64u
#define FC_CELL_LOG2 6u
#define FC_MIN_CELLS 16u
#define FC_MAX_CELLS (1u << 26)
#define FC_MAX_RECORD_CELLS 65535u
#define FC_CRITICAL_SHARE 8u /* the last of so many parts of an inbox takes CRITICAL messages only */

/* tail word: pos:36 | owner:12 | len:16, the last claim: `owner` took cells [pos - len, pos) */
#define FC_POS_BITS 36
#define FC_POS_MASK ((1ULL << FC_POS_BITS) - 1)
#define FC_MAX_OWNER 4094u
#define FC_OWNER_CLOSED 4095u /* with len 0: the ring takes no more claims until it is reopened */

/* header word, one for each cell: tag:32 | owner:12 | len:16 | state:4; tag = lap of that cell = pos / cells */
enum {
    FC_NEVER = 0,
    FC_WRITING = 1,
    FC_COMMITTED = 2,
    FC_PAD = 3,
    FC_ABORTED = 4,
    FC_INTERIOR = 5,
};

/* Before the payload of a record, in its first cell. */
typedef struct {
    uint32_t nbytes; /* of the payload */
    uint32_t epoch;  /* of the ring, as the sender knew it */
} fc_record_prefix_t;

/* A place to sleep. One wait is one cache line, apart from everything that is written without sleeping. */
typedef struct {
    uint32_t bell;     /* the futex word: changes at every ring */
    uint32_t sleeping; /* FC_SLEEP_* bits: who has to be rung */
} fc_wait_t;

enum { FC_SLEEP_FUTEX = 1, FC_SLEEP_FD = 2 };

/* Words that different sides write stand 128 bytes apart: two lines, as adjacent lines are fetched in pairs. */
typedef struct {
    uint32_t cells; /* power of two; read-only after creation, as is the rest of this line */
    uint32_t one_producer;
    uint8_t unused0[120];
    uint64_t tail; /* 128: written by claimers */
    uint8_t unused1[120];
    uint64_t head; /* 256: written by the consumer: first cell that it has not yet released, pos:36 */
    uint64_t aborted; /*   claims of dead producers that it skipped */
    uint32_t backlog; /*   of an inbox: messages that were taken out and not received yet */
    uint8_t unused2[108];
    fc_wait_t not_empty; /* 384: the consumer sleeps here */
    uint8_t unused3[120];
    fc_wait_t not_full; /* 512: producers sleep here */
    uint8_t unused4[120];
    uint32_t consumer; /* 640: owner number of the consumer, 0: none */
    uint32_t producer; /* the same for the producer of a one_producer ring */
    uint32_t epoch;    /* whom records are meant for; a record with another epoch is dropped by the receiver */
    uint32_t consumer_deaths; /* consumers that were found dead */
    uint64_t misdirected; /* records dropped for that reason */
    uint64_t discarded;   /* committed records that their receiver left unread when it went */
    uint32_t urgent;      /* of an inbox: how many messages above NORMAL priority were committed in it */
    uint32_t overflow;    /* of an inbox: FC_OVERFLOW_*, what a publisher does that finds it full */
    uint64_t dropped;     /* of an inbox: messages that were dropped for that */
    uint8_t unused6[80];
} fc_ring_t;

_Static_assert(offsetof(fc_ring_t, tail) == 128, "layout");
_Static_assert(offsetof(fc_ring_t, head) == 256, "layout");
_Static_assert(offsetof(fc_ring_t, backlog) == 272, "layout");
_Static_assert(offsetof(fc_ring_t, not_empty) == 384, "layout");
_Static_assert(offsetof(fc_ring_t, not_full) == 512, "layout");
_Static_assert(offsetof(fc_ring_t, consumer) == 640, "layout");
_Static_assert(sizeof(fc_ring_t) == 768, "layout");

enum { FC_OVERFLOW_BLOCK = 0, FC_OVERFLOW_ERROR = 1, FC_OVERFLOW_DROP_NEWEST = 2, FC_OVERFLOW_DROP_OLDEST = 3 };

/* A ring in memory: fc_ring_t | uint64_t header[cells] | data, 64 bytes for each cell. */
#define FC_RING_BYTES(cells) (sizeof(fc_ring_t) + (uint64_t)(cells) * (8 + FC_CELL))

/* ---------------------------------------------------------------------------------------------------------- queue -- */

enum { FC_QUEUE_OPEN = 0, FC_QUEUE_SHUT_DOWN = 1, FC_QUEUE_SHUT_DOWN_NOW = 2 };

/* Beside the ring of a queue: what its many consumers need. */
typedef struct {
    uint64_t limit;     /* items at most, 0: as many as fit; read-only after creation, as is the rest of this line */
    uint32_t counts_tasks;
    uint8_t unused0[116];
    uint32_t lock;      /* 128: owner number of the consumer that is taking an item, 0: nobody */
    uint32_t shut_down; /* FC_QUEUE_SHUT_DOWN*: only grows */
    uint8_t unused1[8];
    uint64_t taken;     /* 144: items that were ever taken, if counts_tasks; written under the lock */
    uint64_t journal_head;  /* what head and `taken` become by the get that is under way */
    uint64_t journal_taken;
    uint8_t unused2[88];
    fc_wait_t unlocked; /* 256: who wants the lock sleeps here */
    uint8_t unused3[120];
    uint64_t done;      /* 384: of the items taken, how many task_done() was called for */
    uint8_t unused4[8];
    fc_wait_t all_done; /* 400: join() sleeps here */
    uint8_t unused5[104];
} fc_queue_t;

_Static_assert(offsetof(fc_queue_t, lock) == 128, "layout");
_Static_assert(offsetof(fc_queue_t, taken) == 144, "layout");
_Static_assert(offsetof(fc_queue_t, unlocked) == 256, "layout");
_Static_assert(offsetof(fc_queue_t, done) == 384, "layout");
_Static_assert(offsetof(fc_queue_t, all_done) == 400, "layout");
_Static_assert(sizeof(fc_queue_t) == 512, "layout");

/* The record of a large item, whose pickle is the file <segment>.item.<slot>.<generation>.<number>. Every other record of a
 * queue is a pickle and begins with 0x80. */
typedef struct {
    uint32_t mark; /* 0 */
    uint32_t slot; /* of the producer, with its generation */
    uint32_t generation;
    uint32_t unused;
    uint64_t number; /* of the file: the large items of one producer are 1, 2, 3... */
    uint64_t nbytes;
} fc_item_file_t;

_Static_assert(sizeof(fc_item_file_t) == 32, "layout");

/* ------------------------------------------------------------------------------------------------------------ bus -- */

enum { FC_SECTION_PARTICIPANTS = 0, FC_SECTION_RING = 1 }; /* of a ring segment */
enum { FC_SECTION_CONTROL = 2 };                           /* besides, of a queue */
enum { /* of a bus */
    FC_SECTION_AGENTS = 1,
    FC_SECTION_SUBSCRIPTIONS = 2,
    FC_SECTION_STRINGS = 3,
    FC_SECTION_INBOXES = 4,
};

enum { FC_MAX_AGENT_NAME = 80, FC_MAX_PATTERN = 192, FC_MAX_GROUP = 40 };

typedef struct {
    uint32_t version;     /* odd while it is written */
    uint32_t initialised; /* 1: the inbox has been laid out once; it is never laid out again */
    uint32_t name_length;
    uint32_t unused0;
    char name[FC_MAX_AGENT_NAME];
    uint8_t unused1[32];
} fc_agent_t;

_Static_assert(sizeof(fc_agent_t) == 128, "layout");

/* The subscription table: fc_subscriptions_t, then fc_subscription_t[capacity]. Written under the gate only. */
#define FC_CHANGE_LOG 256u

typedef struct {
    uint32_t capacity;
    uint32_t unused0;
    uint8_t unused1[120];
    uint64_t generation; /* 128: how many changes there have been; publishers load it at each publish */
    uint64_t rescan;     /* a reader that knows a generation below this one can't use the log */
    uint8_t unused2[112];
    uint64_t log[FC_CHANGE_LOG]; /* 256: change g is at g % FC_CHANGE_LOG: generation:32 (low bits) | entry:32 */
} fc_subscriptions_t;

_Static_assert(offsetof(fc_subscriptions_t, generation) == 128, "layout");
_Static_assert(sizeof(fc_subscriptions_t) == 256 + 8 * FC_CHANGE_LOG, "layout");

typedef struct {
    uint32_t version; /* odd while it is written */
    uint32_t owner;   /* of the inbox: slot + 1; 0: the entry is free */
    uint32_t epoch;   /* of the inbox */
    uint32_t pattern_length;
    char pattern[FC_MAX_PATTERN]; /* UTF-8 */
    uint32_t number; /* of its agent's, which numbers them 1, 2, 3... */
    uint32_t group_length; /* 0: of no group */
    char group[FC_MAX_GROUP]; /* UTF-8 */
} fc_subscription_t;

_Static_assert(sizeof(fc_subscription_t) == 256, "layout");

/* A table of learned strings: fc_strings_t, uint32_t end[max_strings], then max_bytes of UTF-8. String i ends at end[i] in
 * the text and begins where the one before ends. Written by one at a time, under the gate in a segment. */
enum { FC_STRINGS_MAGIC = 0x74536346, FC_STRINGS_LAYOUT = 1 };

typedef struct {
    uint32_t magic;
    uint32_t version;
    uint32_t id; /* random: messages that name strings bear it */
    uint32_t max_strings;
    uint32_t max_bytes;
    uint8_t unused0[44];
    uint32_t count; /* 64: of strings; only grows */
    uint8_t unused1[60];
} fc_strings_t;

_Static_assert(offsetof(fc_strings_t, count) == 64, "layout");
_Static_assert(sizeof(fc_strings_t) == 128, "layout");

/* What a bus message begins with, as the payload of its record: this, fc_call_t if it is of a call, the sender's name, the
 * subject, the headers, the data. The record's owner is the sender. */
enum { FC_DATA_BYTES = 0, FC_DATA_ENCODED = 1, FC_DATA_MASK = 0x0F };
enum {
    FC_CALL_REQUEST = 0x10,
    FC_CALL_REPLY = 0x20,
    FC_CALL_ERROR = 0x30, /* a reply: what the responder raised */
    FC_CALL_MOVED = 0x40, /* the request is now with another member of its group, whose target_t is the data */
    FC_CALL_MASK = 0xF0,
};
enum { FC_CRITICAL = 0, FC_HIGH = 1, FC_NORMAL = 2, FC_LOW = 3, FC_PRIORITIES = 4 };

typedef struct {
    uint64_t sequence; /* of the publisher: its messages are 1, 2, 3... */
    int64_t sent_ns;   /* CLOCK_MONOTONIC */
    uint32_t inbox_sequence; /* of the publisher in this inbox, as long as neither has changed hands; 0: not counted */
    uint16_t generation;     /* of the publisher's slot, the low bits */
    uint8_t sender_length;
    uint8_t subject_length;
    uint16_t headers_length; /* 0: none */
    uint8_t kind; /* FC_DATA_*, and FC_CALL_* of a call */
    uint8_t priority;
    uint32_t subscription; /* that it is for, as the receiver has numbered it: a group's. 0: all that are of no group */
} fc_envelope_t;

_Static_assert(sizeof(fc_envelope_t) == 32, "layout");

typedef struct {
    int64_t deadline_ns; /* CLOCK_MONOTONIC: nobody waits for the reply after that; -1: no end */
    uint32_t owner;      /* who asked: whose inbox the reply goes to */
    uint32_t epoch;      /*   of that inbox */
    uint32_t number;     /* who asks numbers its calls */
    uint32_t unused;
} fc_call_t;

_Static_assert(sizeof(fc_call_t) == 24, "layout");

#endif
