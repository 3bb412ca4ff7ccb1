"""Messages of a bus, and the end of an agent that takes them out of its inbox."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from fastcomm._core.codec cimport Codec
from fastcomm._core.layout cimport fc_call_t, fc_envelope_t
from fastcomm._core.protocol cimport record_t
from fastcomm._core.ring cimport Ring
from fastcomm._core.strings cimport StringTable

cdef enum:
    ENVELOPE = 32                  # bytes of fc_envelope_t


cdef inline void copy_envelope(fc_envelope_t *to, const fc_envelope_t *source) noexcept nogil:
    """Field by field: a wide load of what narrow stores have just written would wait for them."""
    to.sequence = source.sequence
    to.sent_ns = source.sent_ns
    to.inbox_sequence = source.inbox_sequence
    to.generation = source.generation
    to.sender_length = source.sender_length
    to.subject_length = source.subject_length
    to.headers_length = source.headers_length
    to.kind = source.kind
    to.priority = source.priority
    to.subscription = source.subscription


cdef class Message:
    cdef readonly str subject
    cdef readonly str sender
    cdef readonly uint64_t sequence
    cdef readonly int64_t sent_ns
    cdef readonly int priority
    cdef readonly uint32_t _subscription    # of a group, that it is for; 0: all that are of no group
    cdef object head               # the headers: as bytes, then as a dict; None: none
    cdef readonly bytes payload
    cdef object value              # of the data, once it is decoded
    cdef Codec codec
    cdef StringTable strings       # of the bus
    cdef bint encoded              # and not decoded yet
    cdef int call_kind             # FC_CALL_*; 0: of no call
    cdef object call               # a request's or reply's fc_call_t as bytes, then of a request a Request

    cdef Request request(self)


# What a request that was handed out says of who waits for its answer.
cdef class Request:
    cdef object agent              # that it was handed out by, while `inbox` was its own
    cdef Ring inbox
    cdef fc_call_t call
    cdef bint answered


cdef class LastText:
    cdef str value
    cdef int length
    cdef bint forgets              # do without it
    cdef char encoded[192]         # FC_MAX_PATTERN, the longer of the two

    cdef str decode(self, const char *source, int length)


cdef class Backlog:
    cdef list levels               # a deque for each priority
    cdef readonly Py_ssize_t size

    cdef int best(self) noexcept
    cdef int push(self, object item, int priority) except -1
    cdef object pop(self)


# The publisher in a slot, as its last message showed it.
cdef struct publisher_t:
    uint16_t generation
    uint32_t inbox_sequence        # 0: none came yet


cdef class Receiver:
    cdef Ring inbox
    cdef object describe_owner     # owner -> str, for errors
    cdef publisher_t *publishers   # by slot
    cdef uint32_t publisher_count
    cdef uint64_t lost
    cdef Backlog backlog           # messages that were taken from the inbox and not received yet
    cdef Py_ssize_t max_pending
    cdef uint32_t urgent_seen      # of the urgent messages that were told of, so many have been taken
    cdef Codec codec
    cdef StringTable strings       # of the bus
    cdef unsigned char *copy       # of the record in hand, if the inbox is contested
    cdef Message spare             # for the next message to be taken
    cdef LastText last_subject, last_sender
    cdef uint64_t received, bytes_in, unwanted
    cdef int waiting               # threads in wait_record()
    cdef bint sorting              # Agent, in Python, says who gets what
    cdef uint32_t sorted_away      # messages that Agent, in Python, has taken and not handed out
    cdef bint filtering
    cdef object own_groups         # numbers of the subscriptions of groups
    cdef object own_patterns

    cdef int expect_publishers(self, uint32_t count) except -1
    cdef int take_inbox(self, Ring inbox) except -1
    cdef Message take(self, record_t *record)
    cdef bint admit(self, Message message) except -1
    cdef int end_call(self, Message reply) except -1
    cdef bint wanted(self, Message message) except -1
    cdef bint look_inbox(self, record_t *record) except -1
    cdef Message look(self)
    cdef Message best_after(self, Message low)
    cdef Message receive_now(self)
    cdef Message take_backlog(self)
    cdef Py_ssize_t drain(self) except -1
    cdef int drain_urgent(self, uint32_t told) except -1
    cdef int tell_backlog(self) noexcept
    cdef int wake_others(self) except -1
    cdef int wait_message(self, object timeout, int64_t *deadline, uint32_t stirs) except -1
