"""Caller: an agent's end of the bus with requests to others, and their replies.

A request is a published message that says where its reply goes (fc_call_t): the inbox of an owner number as
long as it has that epoch, so that no later agent of the slot gets it; and a number, by which who asks knows
what is answered. The reply is put straight into that inbox, without a subscription. Whichever thread or
coroutine of the agent takes it out gives it to who waits for it, and no receive() ever sees it; if nobody
waits any more it is counted.

Who waits takes all that its inbox has into private memory meanwhile (Receiver.drain()), since the reply lies
behind it: two agents that ask each other, or a handler that asks, hold up nobody's publishing. Handlers are
not called there: a handler that asks is not interrupted by others.

A request that was delivered is with the agents in Call.targets. One that left or died is gone: the epoch of
its inbox has moved, and the gate, which whoever leaves or reaps holds till its end, has been passed since.
What it sent before is in our inbox by then; and of a request into a group that lay unread there, word that
another member has it (FC_CALL_MOVED).

Thread safety: under the GIL, which is given up only while waiting.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy, memset

from fastcomm._core.atomics cimport fc_load_relaxed_u32
from fastcomm._core.clock cimport deadline_of
from fastcomm._core.delivery cimport Delivery
from fastcomm._core.futex cimport fc_monotonic_ns
from fastcomm._core.layout cimport (
    FC_CALL_ERROR,
    FC_CALL_MOVED,
    FC_CALL_REPLY,
    FC_CALL_REQUEST,
    FC_NORMAL,
    fc_call_t,
    fc_wait_t,
)
from fastcomm._core.message cimport Message, Request
from fastcomm._core.outboxes cimport parts_t
from fastcomm._core.port cimport Port
from fastcomm._core.protocol cimport record_t
from fastcomm._core.ring cimport Ring
from fastcomm._core.routes cimport Route, target_t
from fastcomm._core.turn cimport TURN_TAKEN, TURN_TIMED_OUT, Turn
from fastcomm._core.wait cimport SLICE_NS, bell_read

from fastcomm.errors import CorruptSegmentError, ForkedError, Full, RespondError

CALL_REPLY = <int>FC_CALL_REPLY
CALL_ERROR = <int>FC_CALL_ERROR


@cython.final
cdef class Call:
    """A request that somebody waits for."""

    def __init__(self):
        raise TypeError("calls are made by Agent.request()")


cdef Route route_back(const fc_call_t *call, bytes subject):
    """To the inbox of who asked, and nobody else's."""
    cdef Route route = Route.__new__(Route)
    route.targets = <target_t *>malloc(sizeof(target_t))
    if route.targets == NULL:
        raise MemoryError
    route.subject = subject
    route.count = 1
    route.targets.owner = call.owner
    route.targets.epoch = call.epoch
    route.targets.subscription = 0
    return route


cdef class Caller(Port):
    """Port that asks and answers."""

    def _attach(self, Ring inbox not None, str name not None, uint32_t generation):
        Port._attach(self, inbox, name, generation)
        self.calls = {}
        self.requests = self.responses = self.late_responses = 0
        self.unsent_responses = self.expired_requests = 0

    # ------------------------------------------------------------------------------------------------ asking

    def request(self, str subject not None, data, timeout=1.0, *, int priority=FC_NORMAL, headers=None):
        """Ask who subscribed to `subject`: the first answer, a Message. Waits at most `timeout` seconds
        (None: for ever).

        `data`, `priority` and `headers` are as publish() takes them. Every subscriber gets the request, of a
        group one member; what any of them passes to `message.respond()` first is the answer, later ones are
        counted (`late_responses`). While it waits the agent takes what its inbox has into private memory, up
        to 4,096 messages, and calls no handlers; a handler may ask other agents. Asking itself an agent is
        answered only if another of its threads receives.

        NoRespondersError at once if nobody has subscribed: nobody got it. RequestTimeoutError, a
        TimeoutError, says who had it. PeerDiedError when all who had it were killed or have left: whether
        they carried it out is not known; noticed within a fifth of a second. One that lay unread when its
        member of a group went is answered by another member. ResponderError: the responder's handler raised,
        or it called respond_error(). Full: there was no room for the request in time. Otherwise as publish().
        A responder does not get a request whose time is over. Thread safety: yes.
        """
        cdef Call call
        cdef Delivery delivery
        call, delivery = self._open_call(subject, data, priority, headers, timeout)
        try:
            self.reach(call, delivery)
            self.wait_reply(call, delivery.deadline)
            return self._result(call, timeout)
        finally:
            self._close_call(call)

    def _open_call(self, str subject not None, data, int priority, headers, timeout):
        """(Call, the Delivery of its request); nothing is sent yet."""
        cdef fc_call_t wire
        cdef Delivery delivery
        cdef Call call = Call.__new__(Call)
        cdef int64_t deadline = deadline_of(timeout)
        if not self.inbox.usable:
            self._not_usable()
        self.last_number += 1    # wraps after 2^32 calls
        memset(&wire, 0, sizeof(wire))
        wire.deadline_ns = deadline
        wire.owner = self.inbox.ring.owner
        wire.epoch = self.inbox.epoch
        wire.number = call.number = self.last_number
        call.subject = subject
        call.targets = []
        delivery = self.begin_call(self.routes.find(subject), data, priority, headers, FC_CALL_REQUEST, &wire)
        delivery.targets = call.targets
        delivery.deadline = deadline
        delivery.timeout = timeout
        self.calls[call.number] = call
        self.requests += 1
        return call, delivery

    cdef Delivery begin_call(self, Route route, object data, int priority, object headers, int kind,
                             const fc_call_t *call):
        """One message of a call, encoded; nothing is sent yet."""
        cdef Delivery delivery = Delivery(self.inbox, route, 1)
        cdef parts_t *parts = delivery.parts
        cdef bytes head = None if headers is None else self.encode_headers(headers)
        cdef int i
        parts.call = call[0]
        self.describe(route, data, head, priority, kind, self.idle_codec(), parts)
        if not PyBytes_CheckExact(data):
            data = bytes((parts.data)[:parts.data_length])
            parts.data = PyBytes_AS_STRING(data)
        delivery.owned = data, head
        self.sequence += 1
        parts.envelope.sequence = self.sequence
        delivery.left = route.count + route.group_count
        for i in range(delivery.left):
            delivery.remaining[i].place = i
        return delivery

    cdef int reach(self, Call call, Delivery delivery) except -1:
        """Deliver the request. It waits for room only as long as nobody has it: one answer is enough."""
        cdef Turn turn = self.turn
        cdef int taken = turn.take(delivery.deadline)
        if taken == TURN_TIMED_OUT:
            self.raise_turn_taken(delivery.timeout, 1)
        try:
            while not self.advance(delivery) and delivery.reached == 0:
                self.wait_room(delivery)
        finally:
            if taken == TURN_TAKEN:
                turn.give_back()
        if delivery.reached == 0:
            raise self._no_responders(call)
        return 0

    cdef int wait_reply(self, Call call, int64_t deadline) except -1:
        """Return when the call is done, or its time is over."""
        cdef uint32_t stirs
        while not call.done:
            stirs = self.inbox.stirs
            if not self.inbox.spin_first() and self.drain():
                self.wake_others()
            if not call.done:
                if 0 <= deadline <= fc_monotonic_ns():
                    return 0
                self.wait_slice(call, deadline, stirs)
        return 0

    cdef int wait_slice(self, Call call, int64_t deadline, uint32_t stirs) except -1:
        """Return when a record came, the call is done, somebody has stirred us since `stirs` was read, or a
        slice is over.
        """
        cdef record_t record
        cdef fc_wait_t *wait = &self.inbox.ring.shared.not_empty
        cdef bint bounded = self.backlog.size >= self.max_pending    # what came can't be taken
        cdef uint32_t seen
        if not bounded and self.inbox.spin_for_record(fc_monotonic_ns(), deadline):
            return 0
        self._see_to_calls_when_due()
        seen = bell_read(wait)
        self.inbox.announce(wait)
        if bounded or not self.inbox.look(&record):
            # Looking can let another thread run. From here until we sleep none can.
            if not call.done and self.inbox.stirs == stirs:
                self.waiting += 1
                try:
                    self.inbox.sleep(wait, seen, deadline)
                finally:
                    self.waiting -= 1
        return 0

    def _close_call(self, Call call not None):
        """Nobody waits for it any more."""
        self.calls.pop(call.number, None)

    # ------------------------------------------------------------------------------- how a call comes to end

    cdef int end_call(self, Message reply) except -1:
        cdef fc_call_t wire
        cdef Call call
        cdef target_t heir
        memcpy(&wire, PyBytes_AS_STRING(<bytes>reply.call), sizeof(wire))
        reply.call = None
        call = self.calls.get(wire.number)
        if reply.call_kind == FC_CALL_MOVED:
            if call is not None and PyBytes_GET_SIZE(reply.payload) == sizeof(heir):
                memcpy(&heir, PyBytes_AS_STRING(reply.payload), sizeof(heir))
                if 1 <= heir.owner <= self.max_owner:
                    call.targets.append((heir.owner, heir.epoch))
        elif call is None or call.done:
            self.late_responses += 1
        else:
            self.finish_call(call, reply)
        return 0

    cdef int finish_call(self, Call call, object outcome) except -1:
        call.outcome = outcome
        call.done = True
        if call.future is not None:
            self._wake_coroutine(call)
        elif self.waiting:
            self.inbox.stir()
        return 0

    def _end_call(self, Call call not None, error):
        """By an exception."""
        if not call.done:
            self.finish_call(call, error)

    cdef bint gone(self, Call call) except -1:
        """Whether all inboxes that have the request have changed hands, or are about to."""
        for owner, epoch in call.targets:
            if self._has_inbox(owner, epoch):
                return False
        return True

    def _open_calls(self):
        """Those that are not done."""
        return [call for call in self.calls.values() if not (<Call>call).done]

    def _gone(self, Call call not None):
        return self.gone(call)

    def _has_inbox(self, uint32_t owner, uint32_t epoch):
        """Whether the inbox of `owner` still has this epoch."""
        return fc_load_relaxed_u32(&self.outboxes.ring(owner).shared.epoch) == epoch

    def _see_to_calls_when_due(self):
        cdef int64_t now = fc_monotonic_ns()
        if now >= self.next_look:
            self.next_look = now + SLICE_NS
            self._see_to_calls()

    def _at_bound(self):
        """Whether no more can be taken from the inbox before something is received."""
        return self.backlog.size >= self.max_pending

    def _drain_inbox(self):
        """Take what the inbox has into private memory, which ends the calls whose replies are there; how many
        records these were.
        """
        cdef uint64_t before = self.received
        if self.drain():
            self._wake_others()
        return self.received - before

    # --------------------------------------------------------------------------------------------- answering

    cdef bint admit(self, Message message) except -1:
        cdef Request request = Request.__new__(Request)
        memcpy(&request.call, PyBytes_AS_STRING(<bytes>message.call), sizeof(request.call))
        if not 1 <= request.call.owner <= self.max_owner:
            raise CorruptSegmentError(
                f"{message.sender!r} sent a request whose answer is to go to agent {request.call.owner}; it "
                "was dropped"
            )
        request.agent = self
        request.inbox = self.inbox
        message.call = request
        if 0 <= request.call.deadline_ns <= fc_monotonic_ns():
            self.expired_requests += 1
            return False
        return True

    def _count_expired(self):
        self.expired_requests += 1

    cdef int check_request(self, Request request) except -1:
        if request.answered:
            raise RespondError("this request has been answered; it gets one answer")
        if not request.inbox.usable:
            if request.inbox.is_closed:
                self._not_usable()
            raise ForkedError("a request that was received before a fork is the parent's to answer")
        return 0

    def _begin_reply(self, Message message not None, data, priority, headers, timeout, int kind):
        """The Delivery of a reply, or None if nobody waits for it any more."""
        cdef Request request = message.request()
        cdef fc_call_t wire
        cdef Delivery delivery
        cdef int64_t deadline = deadline_of(timeout)
        self.check_request(request)
        if 0 <= request.call.deadline_ns:
            if request.call.deadline_ns <= fc_monotonic_ns():
                request.answered = True
                self.unsent_responses += 1
                return None
            if deadline < 0 or deadline > request.call.deadline_ns:
                deadline = request.call.deadline_ns
        memset(&wire, 0, sizeof(wire))
        wire.number = request.call.number
        delivery = self.begin_call(
            route_back(&request.call, message.subject.encode()), data,
            message.priority if priority is None else priority, headers, kind, &wire,
        )
        self.check_request(request)    # encoding may have run Python code
        request.answered = True
        delivery.deadline = deadline
        delivery.timeout = None if deadline < 0 else max(0, round((deadline - fc_monotonic_ns()) / 1e9, 3))
        return delivery

    def _end_reply(self, Message message not None, Delivery delivery not None, error):
        """Whether who asked has the reply. `error`: what ended the delivery, or None; raised if the request
        can still be answered.
        """
        cdef Request request = message.request()
        if delivery.reached:
            self.responses += 1
            return True
        if error is not None and not (
            isinstance(error, Full) and 0 <= request.call.deadline_ns <= fc_monotonic_ns()
        ):
            request.answered = False
            raise error
        self.unsent_responses += 1
        return False

    def _respond(self, Message message not None, data, priority, headers, timeout, int kind=FC_CALL_REPLY):
        cdef Delivery delivery = self._begin_reply(message, data, priority, headers, timeout, kind)
        cdef Turn turn = self.turn
        cdef int taken = 0
        cdef object error = None
        if delivery is None:
            return False
        try:
            taken = turn.take(delivery.deadline)
            if taken == TURN_TIMED_OUT:
                self.raise_turn_taken(delivery.timeout, 1)
            self.finish(delivery, delivery.timeout, delivery.deadline)
        except BaseException as raised:
            error = raised
        finally:
            if taken == TURN_TAKEN:
                turn.give_back()
        return self._end_reply(message, delivery, error)

    # ---------------------------------------------------------------------------- what Agent adds, in Python

    def _see_to_calls(self):
        """Called once in a slice while a request waits: end those that nobody is left to answer."""

    def _wake_coroutine(self, Call call):
        """Called when a call is done that a coroutine waits for."""

    def _result(self, Call call, timeout):
        """Of a call that is over: return its reply, or raise."""

    def _no_responders(self, Call call):
        """The exception for a request that reached nobody."""

    # ---------------------------------------------------------------------------------------------- the rest

    def _counters(self):
        cdef dict counters = Port._counters(self)
        counters.update(
            requests=self.requests, responses=self.responses, late_responses=self.late_responses,
            unsent_responses=self.unsent_responses, expired_requests=self.expired_requests,
        )
        return counters
