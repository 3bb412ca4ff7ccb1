"""An agent's end of the bus."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from fastcomm._core.codec cimport Codec
from fastcomm._core.layout cimport fc_envelope_t
from fastcomm._core.message cimport Receiver
from fastcomm._core.protocol cimport ring_t
from fastcomm._core.ring cimport Ring
from fastcomm._core.tables cimport SubscriptionTable
from fastcomm._core.turn cimport Turn
from fastcomm._core.wait cimport spin_t


# Where a message goes: the inbox of `owner` as long as it has this epoch.
cdef struct target_t:
    uint32_t owner
    uint32_t epoch
    uint32_t subscription          # of a group: which of the agent's; 0: all that are of no group


# Members of which one gets each message.
cdef struct group_t:
    int first                      # in Route.members
    int count
    int turn                       # where to begin to look for the one with the least backlog
    int waits_for                  # the one with the least backlog when all were full


# What we have sent to an inbox while it had this epoch.
cdef struct sent_t:
    uint32_t epoch
    uint32_t count


cdef class Route:
    cdef bytes subject
    cdef int count
    cdef target_t *targets
    cdef int group_count
    cdef group_t *groups
    cdef target_t *members         # of one group after the other

    cdef const target_t *waited_for(self, int place)


# The pieces of a message's record, in their order.
cdef struct parts_t:
    fc_envelope_t envelope
    const char *sender
    const char *subject
    const char *headers
    const char *data
    uint64_t data_length
    uint64_t total


# Of a place: so many of the messages have been delivered to it. The places of a route are its targets, then
# its groups.
cdef struct rest_t:
    int place
    size_t done


cdef class Delivery:
    cdef Ring inbox                # of the agent as it began
    cdef Route route
    cdef object owned              # what the messages' pieces point into
    cdef parts_t *parts            # of each message
    cdef size_t count
    cdef rest_t *remaining         # the places that lack some of them
    cdef int left
    cdef readonly Py_ssize_t reached
    cdef int64_t deadline          # CLOCK_MONOTONIC ns; -1: never
    cdef object timeout
    cdef uint64_t watched_head     # of the inbox that is waited for, and since when it has stood there
    cdef int64_t watched_since

    cdef uint32_t owner(self)
    cdef const parts_t *next_parts(self)
    cdef Py_ssize_t missing(self)


cdef class Port(Receiver):
    cdef object memory
    cdef unsigned char *inboxes
    cdef size_t stride
    cdef int inbox_count
    cdef ring_t **outboxes
    cdef sent_t *sent              # by slot
    cdef uint16_t slot_generation  # of ours, the low bits
    cdef SubscriptionTable subscriptions
    cdef object registry
    cdef dict known                # index in the table -> (pattern, as the registry has it; group)
    cdef target_t *targets         # by index in the table
    cdef dict routes               # subject -> Route, good for `generation`
    cdef uint64_t generation
    cdef bytes sender_name
    cdef uint64_t sequence
    cdef spin_t spin
    cdef int64_t next_housekeeping
    cdef Turn turn
    cdef int last_reached
    cdef uint64_t delivered, bytes_out, misdirected, dropped

    cdef Route find_route(self, str subject)
    cdef int refresh(self) except -1
    cdef int apply_change(self, uint32_t index) except -1
    cdef Route make_route(self, str subject)
    cdef int add_groups(self, Route route, dict groups) except -1
    cdef int drop(self, const target_t *target) except -1
    cdef int deliver_to_group(self, Route route, group_t *group, const parts_t *parts, list rung) except -1
    cdef int least_backlog(self, Route route, const group_t *group, const unsigned char *tried) except -2
    cdef int deliver_to_place(self, Delivery delivery, rest_t *rest, list rung) except -1
    cdef ring_t *outbox(self, uint32_t owner) except? NULL
    cdef int deliver(self, const target_t *target, const parts_t *parts, size_t count,
                     size_t *taken) except -1
    cdef int deliver_all(self, const target_t *target, const parts_t *parts, size_t count,
                         size_t *taken, size_t *done) except -1
    cdef int refused(self, uint32_t owner, int status) except -1
    cdef int raise_turn_taken(self, object timeout, Py_ssize_t count) except -1
    cdef Delivery begin(self, str subject, object data, int priority, object headers)
    cdef Delivery begin_many(self, str subject, list messages, int priority, object headers)
    cdef object finish(self, Delivery delivery, object timeout, int64_t deadline)
    cdef bytes encode_headers(self, object headers)
    cdef int describe(self, Route route, object data, bytes head, int priority, Codec codec,
                      parts_t *parts) except -1
    cdef Codec idle_codec(self)
    cdef bint advance(self, Delivery delivery) except -1
    cdef int wait_room(self, Delivery delivery) except -1
    cdef bint spin_for_room(self, ring_t *ring, uint32_t cells, int64_t now, int64_t limit)
    cdef int check_progress(self, Delivery delivery, ring_t *ring, int64_t now) except -1
    cdef int raise_full(self, Delivery delivery, ring_t *ring, int64_t now, str when) except -1
