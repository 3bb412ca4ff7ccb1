"""Port: an agent's end of a bus, from subject and data to records in the inboxes of others.

Publishing takes no lock. A subject leads to inboxes (routes.pyx); each is tried without waiting
(outboxes.pyx), then the full ones are waited for (delivery.pyx has what is left to do).

Two agents that publish into each other's full inboxes: before it sleeps, and whenever it wakes, a publisher
takes what its own inbox has into private memory (Receiver.drain()), so one of the two always finds room.

Thread safety: under the GIL, which is given up only while waiting; a publish copies its data before it waits.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastcomm._core.atomics cimport fc_load_relaxed_u32, fc_load_relaxed_u64
from fastcomm._core.clock cimport deadline_of
from fastcomm._core.codec cimport Codec
from fastcomm._core.delivery cimport Delivery, rest_t
from fastcomm._core.futex cimport fc_monotonic_ns
from fastcomm._core.layout cimport (
    FC_CELL,
    FC_DATA_BYTES,
    FC_DATA_ENCODED,
    FC_NORMAL,
    FC_OVERFLOW_ERROR,
    FC_PRIORITIES,
    FC_SLEEP_FD,
    fc_call_t,
    fc_wait_t,
)
from fastcomm._core.message cimport ENVELOPE, Receiver
from fastcomm._core.outboxes cimport DROPPED, MAX_INBOXES, NO_ROOM, RUNG, Outboxes, parts_t, reserve_for
from fastcomm._core.protocol cimport *
from fastcomm._core.ring cimport Ring
from fastcomm._core.routes cimport Route, Routes
from fastcomm._core.strings cimport StringTable
from fastcomm._core.tables cimport SubscriptionTable
from fastcomm._core.turn cimport TURN_TAKEN, TURN_TIMED_OUT, Turn
from fastcomm._core.wait cimport (
    SLICE_NS,
    announce_sleep,
    bell_read,
    spin_budget_ns,
    spin_missed,
    spin_rewarded,
)

from fastcomm.errors import ForkedError, Full, MessageTooLargeError

cdef enum:
    MAX_HEADERS = 0xFFFF   # bytes, as their length has to fit into the envelope


cdef class Port(Receiver):
    """An agent's end of a bus: publish and receive.

    Agent, in Python, adds joining, subscribing, housekeeping and asyncio.
    """

    def __init__(self, Ring inbox not None, memory, size_t stride,
                 SubscriptionTable subscriptions not None, describe, str name,
                 uint32_t generation, Py_ssize_t max_pending, Codec codec not None,
                 StringTable strings not None):
        """`memory`: of all inboxes, `stride` bytes each; `describe(owner)`: a str for errors; generation: of
        the agent's slot; `strings`: of the bus, messages may name them.
        """
        self.memory = memory
        self.stride = stride
        self.max_owner = len(memory) // stride
        self.expect_publishers(self.max_owner)
        self.subscriptions = subscriptions
        self.describe_owner = describe
        self.codec = codec
        self.strings = strings
        self.max_pending = max_pending
        self._attach(inbox, name, generation)

    def _attach(self, Ring inbox not None, str name not None, uint32_t generation):
        """The agent has joined, for the first time or anew after a fork: `inbox` is its own, and it knows
        nothing yet.
        """
        cdef uint32_t owner = inbox.ring.owner
        self.take_inbox(inbox)
        self.spin.limit_ns = inbox.spin_put.limit_ns
        self.sender_name = name.encode()
        self.slot_generation = generation & 0xFFFF
        self.routes = Routes(self.subscriptions, self.max_owner, owner)
        self.outboxes = Outboxes(self.memory, self.stride, owner, self.describe_owner)
        self.sequence = 0
        self.turn = Turn()
        self._do_without(self.forgets, self.singly)

    def _do_without(self, bint caches, bint batches):
        """From now on, and after a fork: keep no routes and texts, and claim for one message at a time."""
        self.forgets, self.singly = caches, batches
        self.routes.forgets = self.last_subject.forgets = self.last_sender.forgets = caches
        self.outboxes.singly = batches

    # ----------------------------------------------------------------------------------------------- publish

    def publish(self, str subject not None, data, *, int priority=FC_NORMAL, headers=None, timeout=None):
        """Send `data` to every agent that subscribed to a pattern matching `subject`; returns how many it
        reached.

        `data`: bytes, which travel as they are, or anything that encode() takes; a Struct is sent with its
        type id. priority: one of Priority's; receivers take the lowest number first, and CRITICAL messages
        have the last eighth of an inbox for themselves. headers: a dict of what the codec takes, by str, up
        to 65,535 bytes.

        When it returns the message is committed in each of these inboxes: it survives this process, arrives
        once, in the order of this publisher's messages of its priority. 0: nobody subscribed. If inboxes are
        full it delivers to the others first, then waits for room, at most `timeout` seconds (None: for ever),
        and raises Full(delivered, missing) naming whom it waits for. An agent that dies meanwhile no longer
        counts. InvalidSubjectError, EncodeError, MessageTooLargeError, ValueError (nothing is sent then).
        Thread safety: yes.
        """
        cdef Delivery delivery
        cdef int64_t deadline = -1 if timeout is None else deadline_of(timeout)
        cdef Turn turn
        cdef int taken
        if not self.inbox.usable:
            self._not_usable()
        turn = self.turn    # after that: an agent that joins anew in the child of a fork has another
        taken = turn.take(deadline)
        if taken == TURN_TIMED_OUT:
            self.raise_turn_taken(timeout, 1)
        try:
            delivery = self.begin(subject, data, priority, headers)
            if delivery is None:
                return self.last_reached
            return self.finish(delivery, timeout, deadline)
        finally:
            if taken == TURN_TAKEN:
                turn.give_back()

    def publish_many(self, str subject not None, items, *, int priority=FC_NORMAL, headers=None,
                     timeout=None):
        """publish() for each of `items`, in their order: encoded first, then put into each inbox with one
        claim and one wake-up as far as they fit. Returns the sum of the inboxes that they reached.

        What can't be encoded or is too large raises before anything is sent. In Full, `delivered` and
        `missing` count pairs of a message and an inbox. Otherwise as publish().
        """
        cdef list messages = list(items)
        cdef int64_t deadline = -1 if timeout is None else deadline_of(timeout)
        cdef Turn turn
        cdef int taken
        if not self.inbox.usable:
            self._not_usable()
        turn = self.turn
        taken = turn.take(deadline)
        if taken == TURN_TIMED_OUT:
            self.raise_turn_taken(timeout, len(messages))
        try:
            return self.finish(self.begin_many(subject, messages, priority, headers), timeout, deadline)
        finally:
            if taken == TURN_TAKEN:
                turn.give_back()

    cdef int raise_turn_taken(self, object timeout, Py_ssize_t count) except -1:
        raise Full(
            f"another thread's publish waits for room, and has for {timeout} s; nothing was sent",
            missing=count,
        )

    cdef object finish(self, Delivery delivery, object timeout, int64_t deadline):
        """Deliver what is left, waiting for room; how many were reached in all."""
        delivery.timeout = timeout
        delivery.deadline = deadline
        while not self.advance(delivery):
            self.wait_room(delivery)
        return delivery.reached

    cdef Delivery begin(self, str subject, object data, int priority, object headers):
        """Try every inbox. None: done, last_reached says how many; else what is left."""
        cdef Route route
        cdef parts_t parts
        cdef unsigned char outcome[MAX_INBOXES]
        cdef int i, full = 0, rung = 0, reached = 0
        cdef size_t taken
        cdef bytes head = None
        cdef bytes copy = None
        cdef Ring inbox
        cdef Codec codec
        cdef Outboxes outboxes
        if headers is not None:
            head = self.encode_headers(headers)
        while True:
            if not self.inbox.usable:
                self._not_usable()
            inbox = self.inbox
            route = self.routes.find(subject)
            if route.group_count:
                return self.begin_many(subject, [data], priority, headers)
            codec = self.idle_codec()
            # Encoding runs Python code for types beyond the built-in ones; another thread may close the agent
            # meanwhile. From its end to the last delivery nothing may, not even the garbage collector, so
            # nothing that it tracks is allocated: other threads of this agent use the same codec.
            self.describe(route, data, head, priority, 0, codec, &parts)
            if self.inbox is inbox and inbox.usable:
                break
        self.sequence += 1
        outboxes = self.outboxes
        for i in range(route.count):
            outcome[i] = outboxes.deliver(&route.targets[i], &parts, 1, &taken, True)
            if outcome[i] == NO_ROOM and outboxes.drop(&route.targets[i]):
                outcome[i] = DROPPED
            reached += taken
            rung += outcome[i] == RUNG
            full += outcome[i] == NO_ROOM
        if full:
            copy = PyBytes_FromStringAndSize(parts.data, parts.data_length)
        if rung:
            self._ring_consumers([
                route.targets[i].owner for i in range(route.count) if outcome[i] == RUNG
            ])
        if outboxes.held_up_by:
            self.see_to_holdup()
        self.last_reached = reached
        if not full:
            return None
        parts.data = PyBytes_AS_STRING(copy)
        delivery = Delivery(self.inbox, route, 1)
        delivery.parts[0] = parts
        delivery.owned = (copy, head)
        delivery.reached = reached
        for i in range(route.count):
            if outcome[i] == NO_ROOM:
                delivery.remaining[delivery.left].place = i
                delivery.left += 1
        return delivery

    cdef Delivery begin_many(self, str subject, list messages, int priority, object headers):
        """Encode them; nothing is sent yet."""
        cdef Delivery delivery
        cdef Route route
        cdef Ring inbox
        cdef Codec codec
        cdef bytes head = None
        cdef size_t i
        if headers is not None:
            head = self.encode_headers(headers)
        while True:
            if not self.inbox.usable:
                self._not_usable()
            inbox = self.inbox
            route = self.routes.find(subject)
            delivery = Delivery(inbox, route, len(messages))
            delivery.owned = (owned := []), head
            for i in range(delivery.count):
                codec = self.idle_codec()
                data = messages[i]
                self.describe(route, data, head, priority, 0, codec, &delivery.parts[i])
                if not PyBytes_CheckExact(data):
                    data = bytes((delivery.parts[i].data)[:delivery.parts[i].data_length])
                    delivery.parts[i].data = PyBytes_AS_STRING(data)
                owned.append(data)
            if self.inbox is inbox and inbox.usable:
                break
        for i in range(delivery.count):
            self.sequence += 1
            delivery.parts[i].envelope.sequence = self.sequence
        for i in range(<size_t>(route.count + route.group_count)):
            delivery.remaining[i].place = i
        delivery.left = route.count + route.group_count if delivery.count else 0
        return delivery

    cdef bytes encode_headers(self, object headers):
        """None for an empty dict."""
        cdef bytes head
        if not isinstance(headers, dict) or not all(isinstance(key, str) for key in headers):
            raise TypeError(f"headers are a dict with keys of type str, not {headers!r}")
        if not headers:
            return None
        head = self.idle_codec().encode(headers)
        if PyBytes_GET_SIZE(head) > MAX_HEADERS:
            raise MessageTooLargeError(
                f"the headers take {PyBytes_GET_SIZE(head)} bytes; their limit is {MAX_HEADERS}, send more "
                "in the data",
                size=PyBytes_GET_SIZE(head), limit=MAX_HEADERS,
            )
        return head

    cdef Codec idle_codec(self):
        """The agent's, or its like if a thread is in the middle of encoding with it."""
        cdef Codec twin
        if not self.codec.encoder.busy:
            return self.codec
        twin = self.codec.twin()
        twin.counts_for = self.codec
        return twin

    cdef int describe(self, Route route, object data, bytes head, int priority, int call_kind, Codec codec,
                      parts_t *parts) except -1:
        """The pieces of the record. call_kind: FC_CALL_*, 0 if it is of no call.

        The data lies in `data` or in the codec: valid until that encodes again.
        """
        cdef Py_ssize_t length = 0
        cdef uint64_t limit = <uint64_t>self.inbox.ring.max_cells * FC_CELL - 8
        if not 0 <= priority < FC_PRIORITIES:
            raise ValueError(
                f"priority is {priority}; it must be one of Priority's, 0 to {FC_PRIORITIES - 1}"
            )
        if PyBytes_CheckExact(data):
            parts.data = PyBytes_AS_STRING(data)
            length = PyBytes_GET_SIZE(data)
            parts.envelope.kind = FC_DATA_BYTES | call_kind
        else:
            parts.data = <const char *>codec.c_encode(data, &length)
            parts.envelope.kind = FC_DATA_ENCODED | call_kind
        parts.data_length = length
        parts.sender = PyBytes_AS_STRING(self.sender_name)
        parts.subject = PyBytes_AS_STRING(route.subject)
        parts.envelope.sender_length = PyBytes_GET_SIZE(self.sender_name)
        parts.envelope.subject_length = PyBytes_GET_SIZE(route.subject)
        parts.envelope.headers_length = 0
        parts.envelope.priority = priority
        parts.envelope.generation = self.slot_generation
        parts.envelope.subscription = 0
        parts.envelope.sequence = self.sequence + 1
        parts.envelope.sent_ns = fc_monotonic_ns()
        parts.total = ENVELOPE + parts.envelope.sender_length + parts.envelope.subject_length + length
        if call_kind:
            parts.total += sizeof(fc_call_t)
        if head is not None:
            parts.headers = PyBytes_AS_STRING(head)
            parts.envelope.headers_length = PyBytes_GET_SIZE(head)
            parts.total += parts.envelope.headers_length
        if parts.total > limit:
            raise MessageTooLargeError(
                f"a message of {length} bytes on {route.subject.decode()!r} makes a record of {parts.total} "
                "bytes; the bus's limit "
                f"is {limit}, half an inbox: open it with larger inbox_bytes, or send less at a time",
                size=parts.total, limit=limit,
            )
        return 0

    cdef bint advance(self, Delivery delivery) except -1:
        """Try the places that are left; True: none is."""
        cdef list rung = []
        cdef bint done
        # closed while this waited: its owner number may be another agent's now
        if not delivery.inbox.usable:
            self._not_usable()
            raise ForkedError("a publish that was begun before a fork is the parent's; nothing was sent here")
        done = delivery.advance(self.outboxes, rung)
        if rung:
            self._ring_consumers(rung)
        if self.outboxes.held_up_by:
            self.see_to_holdup()
        return done

    cdef int see_to_holdup(self) except -1:
        """A message was dropped as an unfinished one stood in the way: see whether its owner is dead."""
        cdef uint32_t owner = self.outboxes.held_up_by
        self.outboxes.held_up_by = 0
        self._housekeep_publishing(owner)
        return 0

    cdef int wait_room(self, Delivery delivery) except -1:
        """Return when the first full inbox may have room, or raise Full."""
        cdef uint32_t owner = delivery.owner()
        cdef ring_t *ring = self.outboxes.ring(owner)
        cdef fc_wait_t *wait = &ring.shared.not_full
        cdef const parts_t *parts = delivery.next_parts()
        cdef uint32_t cells = record_cells(parts.total), seen
        cdef int64_t now = fc_monotonic_ns(), slice = SLICE_NS
        self.check_progress(delivery, ring, now)
        if self.drain():
            self.wake_others()
            now = fc_monotonic_ns()
        if delivery.deadline >= 0:
            slice = min(slice, max(<int64_t>0, delivery.deadline - now))
        if self.spin_for_room(ring, cells, now, slice):
            return 0
        if now >= self.next_housekeeping:
            self.next_housekeeping = now + SLICE_NS
            self._housekeep_publishing(owner)
        seen = bell_read(wait)
        self.inbox.announce(wait)
        ring.reserve = reserve_for(ring, parts)    # another thread may have claimed for another message
        if not ring_has_room(ring, cells):
            self.inbox.doze(wait, seen, slice)
            if not self.inbox.usable:
                self._not_usable()
        return 0

    cdef bint spin_for_room(self, ring_t *ring, uint32_t cells, int64_t now, int64_t limit):
        """Spin, if that pays lately; whether there is room."""
        cdef int64_t took, budget = min(spin_budget_ns(&self.spin), limit)
        cdef ring_t view
        if budget == 0:
            return False
        view = ring[0]    # under the GIL: another thread of this agent may change it
        with nogil:
            took = ring_spin_for_room(&view, cells, now, budget)
        if took < 0:
            spin_missed(&self.spin)
            return False
        spin_rewarded(&self.spin, took)
        return True

    cdef int check_progress(self, Delivery delivery, ring_t *ring, int64_t now) except -1:
        """Raise Full when the time is over, or when waiting can't help."""
        cdef uint64_t head = fc_load_relaxed_u64(&ring.shared.head)
        cdef ring_t *other
        cdef rest_t first
        cdef int i
        for i in range(delivery.left):
            other = self.outboxes.ring(delivery.route.waited_for(delivery.remaining[i].place).owner)
            if fc_load_relaxed_u32(&other.shared.overflow) == FC_OVERFLOW_ERROR:
                first = delivery.remaining[0]
                delivery.remaining[0] = delivery.remaining[i]
                delivery.remaining[i] = first
                delivery.watched_since = now
                self.raise_full(delivery, other, now, "at once, as its agent has asked for,")
        if head != delivery.watched_head:
            delivery.watched_head = head
            delivery.watched_since = now
        if 0 <= delivery.deadline <= now:
            self.raise_full(delivery, ring, now, f"within {delivery.timeout} s")
        if self.backlog.size >= self.max_pending and not ring_has_room(&self.inbox.ring, 1):
            self.raise_full(
                delivery, ring, now,
                f"while this agent's own inbox is full and {self.backlog.size} messages wait for receive() "
                "besides",
            )
        return 0

    cdef int raise_full(self, Delivery delivery, ring_t *ring, int64_t now, str when) except -1:
        cdef Py_ssize_t missing = delivery.missing()
        raise Full(
            f"no room for {delivery.next_parts().total} bytes {when} in the inbox of "
            f"{self.describe_owner(delivery.owner())}: "
            f"{ring_depth(ring) * FC_CELL} of {ring.cells * FC_CELL} bytes wait there, none was taken for "
            f"{(now - delivery.watched_since) / 1e9:.3g} s; reached {delivery.reached}, missing {missing}. "
            "Its agent has to receive, or the bus to be opened with larger inbox_bytes",
            delivered=delivery.reached, missing=missing,
        )

    # ---------------------------------------------------------------------------- what Agent adds, in Python

    def _ring_consumers(self, list owners):
        """Write to the doorbell FIFOs of these agents."""

    def _housekeep_publishing(self, int owner):
        """Called once in a slice while a publish waits for the inbox of `owner`, before it sleeps."""

    # ---------------------------------------------------------------------------------------- asyncio's half

    def _begin(self, str subject not None, data, int priority, headers):
        """publish() without waiting: (how many were reached, None or the Delivery of the rest)."""
        cdef Delivery delivery = self.begin(subject, data, priority, headers)
        return self.last_reached, delivery

    def _begin_many(self, str subject not None, items, int priority, headers):
        """publish_many() before it delivers."""
        return self.begin_many(subject, list(items), priority, headers)

    def _advance(self, Delivery delivery not None, timeout):
        """Go on with it; True when it is done. Asks for the doorbell when there is room again."""
        cdef ring_t *ring
        cdef int i
        cdef int64_t now = fc_monotonic_ns()
        delivery.timeout = timeout
        if self.advance(delivery):
            return True
        self.drain()
        self.wake_others()
        ring = self.outboxes.ring(delivery.owner())
        self.check_progress(delivery, ring, now)
        for i in range(delivery.left):
            ring = self.outboxes.ring(delivery.route.waited_for(delivery.remaining[i].place).owner)
            announce_sleep(&ring.shared.not_full, FC_SLEEP_FD)
        return self.advance(delivery)

    def _expire(self, Delivery delivery not None):
        """The time is over."""
        self.raise_full(
            delivery, self.outboxes.ring(delivery.owner()), fc_monotonic_ns(), f"within {delivery.timeout} s"
        )

    # ---------------------------------------------------------------------------------------------- the rest

    def _routes_to(self, str subject not None):
        """(how many inboxes and groups the subject leads to, generation of the subscription table that this
        was read at)
        """
        if not self.inbox.usable:
            self._not_usable()
        cdef Route route = self.routes.find(subject)
        return route.count + route.group_count, self.routes.generation

    def _waits_for_room(self, Delivery delivery not None):
        """The owner of the inbox that it waits for."""
        return delivery.owner()

    def _counters(self):
        return {
            "published": self.sequence, "delivered": self.outboxes.delivered, "received": self.received,
            "bytes_in": self.bytes_in,
            "bytes_out": self.outboxes.bytes_out, "misdirected": self.outboxes.misdirected,
            "dropped": self.outboxes.dropped,
            "unwanted": self.unwanted,
            "pending": self.backlog.size, "lost": self.lost,
        }
