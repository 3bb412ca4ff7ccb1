"""Cython's view of include/fc_layout.h; the offsets and the meaning of each field are there."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "fc_layout.h" nogil:
    const uint64_t FC_MAGIC
    const uint32_t FC_ABI_VERSION
    const uint32_t FC_PAGE

    enum:
        FC_KIND_RING
        FC_KIND_BUS
        FC_KIND_QUEUE
        FC_SEGMENT_ACTIVE
        FC_SEGMENT_UNLINKED
        FC_MAX_SECTIONS
        FC_MAX_NAME
        FC_PARAMETERS

    ctypedef struct fc_section_t:
        uint64_t offset
        uint64_t size

    ctypedef struct fc_header_t:
        uint64_t magic
        uint32_t abi_version
        uint32_t kind
        uint64_t total_size
        uint32_t max_participants
        uint32_t creator_pid
        int64_t created_ns
        uint8_t boot_id[16]
        uint32_t name_length
        uint32_t section_count
        fc_section_t sections[8]
        uint64_t parameters[8]
        char name[192]
        uint32_t state
        uint32_t mutating
        uint32_t deaths
        uint32_t last_dead
        uint64_t scan_due

    const long long FC_LOCK_GATE
    const long long FC_LOCK_PARTICIPANTS

    enum:
        FC_SLOT_FREE
        FC_SLOT_JOINING
        FC_SLOT_LIVE
        FC_SLOT_LEAVING

    ctypedef struct fc_participant_t:
        uint32_t state
        uint32_t generation
        uint32_t pid
        uint32_t fd_armed
        int64_t joined_ns

    const uint32_t FC_CELL
    const uint32_t FC_CELL_LOG2
    const uint32_t FC_MIN_CELLS
    const uint32_t FC_MAX_CELLS
    const uint32_t FC_MAX_RECORD_CELLS
    const uint32_t FC_CRITICAL_SHARE
    const uint64_t FC_POS_MASK
    const uint32_t FC_POS_BITS
    const uint32_t FC_MAX_OWNER
    const uint32_t FC_OWNER_CLOSED

    enum:
        FC_NEVER
        FC_WRITING
        FC_COMMITTED
        FC_PAD
        FC_ABORTED
        FC_INTERIOR

    ctypedef struct fc_record_prefix_t:
        uint32_t nbytes
        uint32_t epoch

    ctypedef struct fc_wait_t:
        uint32_t bell
        uint32_t sleeping

    enum:
        FC_SLEEP_FUTEX
        FC_SLEEP_FD

    ctypedef struct fc_ring_t:
        uint32_t cells
        uint32_t one_producer
        uint64_t tail
        uint64_t head
        uint64_t aborted
        uint32_t backlog
        fc_wait_t not_empty
        fc_wait_t not_full
        uint32_t consumer
        uint32_t producer
        uint32_t epoch
        uint32_t consumer_deaths
        uint64_t misdirected
        uint64_t discarded
        uint32_t urgent
        uint32_t overflow
        uint64_t dropped

    enum:
        FC_OVERFLOW_BLOCK
        FC_OVERFLOW_ERROR
        FC_OVERFLOW_DROP_NEWEST
        FC_OVERFLOW_DROP_OLDEST

    uint64_t FC_RING_BYTES(uint64_t cells)

    enum:
        FC_QUEUE_OPEN
        FC_QUEUE_SHUT_DOWN
        FC_QUEUE_SHUT_DOWN_NOW

    ctypedef struct fc_queue_t:
        uint64_t limit
        uint32_t counts_tasks
        uint32_t lock
        uint32_t shut_down
        uint64_t taken
        uint64_t journal_head
        uint64_t journal_taken
        fc_wait_t unlocked
        uint64_t done
        fc_wait_t all_done

    ctypedef struct fc_item_file_t:
        uint32_t mark
        uint32_t slot
        uint32_t generation
        uint32_t unused
        uint64_t number
        uint64_t nbytes

    enum:
        FC_SECTION_PARTICIPANTS
        FC_SECTION_RING
        FC_SECTION_CONTROL
        FC_SECTION_AGENTS
        FC_SECTION_SUBSCRIPTIONS
        FC_SECTION_STRINGS
        FC_SECTION_INBOXES
        FC_MAX_AGENT_NAME
        FC_MAX_PATTERN
        FC_MAX_GROUP

    ctypedef struct fc_agent_t:
        uint32_t version
        uint32_t initialised
        uint32_t name_length
        char name[80]

    const uint32_t FC_CHANGE_LOG

    ctypedef struct fc_subscriptions_t:
        uint32_t capacity
        uint64_t generation
        uint64_t rescan
        uint64_t log[256]

    ctypedef struct fc_subscription_t:
        uint32_t version
        uint32_t owner
        uint32_t epoch
        uint32_t pattern_length
        char pattern[192]
        uint32_t number
        uint32_t group_length
        char group[40]

    enum:
        FC_STRINGS_MAGIC
        FC_STRINGS_LAYOUT

    ctypedef struct fc_strings_t:
        uint32_t magic
        uint32_t version
        uint32_t id
        uint32_t max_strings
        uint32_t max_bytes
        uint32_t count

    enum:
        FC_DATA_BYTES
        FC_DATA_ENCODED
        FC_DATA_MASK

    enum:
        FC_CALL_REQUEST
        FC_CALL_REPLY
        FC_CALL_ERROR
        FC_CALL_MOVED
        FC_CALL_MASK

        FC_CRITICAL
        FC_HIGH
        FC_NORMAL
        FC_LOW
        FC_PRIORITIES

    ctypedef struct fc_envelope_t:
        uint64_t sequence
        int64_t sent_ns
        uint32_t inbox_sequence
        uint16_t generation
        uint8_t sender_length
        uint8_t subject_length
        uint16_t headers_length
        uint8_t kind
        uint8_t priority
        uint32_t subscription

    ctypedef struct fc_call_t:
        int64_t deadline_ns
        uint32_t owner
        uint32_t epoch
        uint32_t number
        uint32_t unused
