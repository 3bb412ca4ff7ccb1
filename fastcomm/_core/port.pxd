"""An agent's end of the bus."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from fastcomm._core.codec cimport Codec
from fastcomm._core.delivery cimport Delivery
from fastcomm._core.message cimport Receiver
from fastcomm._core.outboxes cimport Outboxes, parts_t
from fastcomm._core.protocol cimport ring_t
from fastcomm._core.ring cimport Ring
from fastcomm._core.routes cimport Route, Routes
from fastcomm._core.tables cimport SubscriptionTable
from fastcomm._core.turn cimport Turn
from fastcomm._core.wait cimport spin_t


cdef class Port(Receiver):
    cdef object memory             # of all inboxes
    cdef size_t stride
    cdef uint32_t max_owner
    cdef SubscriptionTable subscriptions
    cdef Routes routes
    cdef Outboxes outboxes
    cdef uint16_t slot_generation  # of ours, the low bits
    cdef bytes sender_name
    cdef uint64_t sequence
    cdef spin_t spin
    cdef int64_t next_housekeeping
    cdef Turn turn
    cdef bint forgets, singly      # no caches; one message a claim
    cdef int last_reached

    cdef int raise_turn_taken(self, object timeout, Py_ssize_t count) except -1
    cdef Delivery begin(self, str subject, object data, int priority, object headers)
    cdef Delivery begin_many(self, str subject, list messages, int priority, object headers)
    cdef object finish(self, Delivery delivery, object timeout, int64_t deadline)
    cdef bytes encode_headers(self, object headers)
    cdef int describe(self, Route route, object data, bytes head, int priority, int call_kind, Codec codec,
                      parts_t *parts) except -1
    cdef Codec idle_codec(self)
    cdef bint advance(self, Delivery delivery) except -1
    cdef int see_to_holdup(self) except -1
    cdef int wait_room(self, Delivery delivery) except -1
    cdef bint spin_for_room(self, ring_t *ring, uint32_t cells, int64_t now, int64_t limit)
    cdef int check_progress(self, Delivery delivery, ring_t *ring, int64_t now) except -1
    cdef int raise_full(self, Delivery delivery, ring_t *ring, int64_t now, str when) except -1
