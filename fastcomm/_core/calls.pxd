"""Requests to other agents and their replies."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastcomm._core.delivery cimport Delivery
from fastcomm._core.layout cimport fc_call_t
from fastcomm._core.message cimport Message, Request
from fastcomm._core.port cimport Port
from fastcomm._core.routes cimport Route


cdef class Call:
    cdef readonly uint32_t number
    cdef readonly str subject
    cdef readonly list targets     # (owner, epoch) of the inboxes that have the request
    cdef readonly bint done
    cdef readonly object outcome   # the reply, or the exception that ended it
    cdef public object future      # of the event loop that waits; None: a thread does


cdef class Caller(Port):
    cdef dict calls                # number -> Call, of those that somebody waits for
    cdef uint32_t last_number
    cdef int64_t next_look         # when it is to be seen next whether somebody is left to answer
    cdef uint64_t requests, responses, late_responses, unsent_responses, expired_requests

    cdef Delivery begin_call(self, Route route, object data, int priority, object headers, int kind,
                             const fc_call_t *call)
    cdef int reach(self, Call call, Delivery delivery) except -1
    cdef int wait_reply(self, Call call, int64_t deadline) except -1
    cdef int wait_slice(self, Call call, int64_t deadline, uint32_t stirs) except -1
    cdef int finish_call(self, Call call, object outcome) except -1
    cdef bint gone(self, Call call) except -1
    cdef int check_request(self, Request request) except -1
