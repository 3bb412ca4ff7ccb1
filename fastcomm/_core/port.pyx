"""Port: an agent's end of a bus, from subject and data to records in the inboxes of others.

Publishing takes no lock. A subject leads to a Route, the inboxes that want it, cached as long as the
generation of the subscription table stands still; when it moves, the private registry is brought up to date
from the change log. Each inbox is tried without waiting, then the full ones are waited for. A target is an
owner number and an epoch: an inbox whose epoch has moved on has another agent or none, and is passed over.
Whoever leaves or reaps stores the new epoch, closes the ring, and drains it; a publisher commits, and then
loads the epoch (SYNC epoch-moved). If it sees the old one, the commit came first, and the drain meets the
record; if the new one, the message counts as not delivered. Its record is dropped by the next owner, whose
records bear another epoch.

Two agents that publish into each other's full inboxes: before it sleeps, and whenever it wakes, a publisher
takes what its own inbox has into private memory (Receiver.drain()), so one of the two always finds room.

A group of subscriptions gets each message once: in the inbox of the member with the least backlog that has
room. The record bears the number of that subscription, so that no other of its agent takes it for its own.

An inbox says what becomes of a message that it has no room for: its publisher waits, or raises at once, or
drops it. What was dropped has a number in that inbox, so that the receiver sees the gap, and is counted.

The last eighth of an inbox takes CRITICAL messages only: a claim for any other leaves so many cells free.

Thread safety: under the GIL, which is given up only while waiting; a publish copies its data before it waits.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from fastcomm._core.atomics cimport (
    fc_fetch_add_relaxed_u64,
    fc_load_relaxed_u32,
    fc_load_relaxed_u64,
    fc_load_seqcst_u32,
)
from fastcomm._core.clock cimport deadline_of
from fastcomm._core.codec cimport Codec
from fastcomm._core.futex cimport fc_futex_wait, fc_monotonic_ns
from fastcomm._core.hooks cimport FC_HOOK_BATCH_BETWEEN_HEADERS, fc_arm_hook, fc_hook
from fastcomm._core.layout cimport (
    FC_CELL,
    FC_CRITICAL,
    FC_CRITICAL_SHARE,
    FC_DATA_BYTES,
    FC_DATA_ENCODED,
    FC_NORMAL,
    FC_OVERFLOW_DROP_NEWEST,
    FC_OVERFLOW_ERROR,
    FC_PRIORITIES,
    FC_SLEEP_FD,
    FC_SLEEP_FUTEX,
    fc_envelope_t,
    fc_ring_t,
    fc_wait_t,
)
from fastcomm._core.message cimport ENVELOPE, Receiver, copy_envelope
from fastcomm._core.protocol cimport *
from fastcomm._core.ring cimport Ring
from fastcomm._core.strings cimport StringTable
from fastcomm._core.subjects cimport PATTERN, SOUND, c_check
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

from fastcomm._core.subject_registry import SubjectRegistry
from fastcomm._core.subjects import check_subject
from fastcomm.errors import CorruptSegmentError, FencedError, ForkedError, Full, MessageTooLargeError

cdef enum:
    MAX_ROUTES = 4096      # subjects whose targets are kept; then all are forgotten
    MAX_INBOXES = 4096
    RUN = 256              # messages that one claim is for at most
    MAX_HEADERS = 0xFFFF   # bytes, as their length has to fit into the envelope

# What became of a message in one inbox.
cdef enum:
    DELIVERED = 0
    NO_ROOM = 1
    GONE = 2               # the inbox has another agent, or none
    RUNG = 4               # besides: its agent waits on its doorbell FIFO
    DROPPED = 8            # by an inbox that drops what it has no room for


@cython.final
cdef class Route:
    """The inboxes that a subject leads to, each once, and the groups."""

    def __dealloc__(self):
        free(self.targets)
        free(self.groups)
        free(self.members)

    cdef const target_t *waited_for(self, int place):
        """Of a group that had no room the member that is waited for."""
        cdef group_t *group
        if place < self.count:
            return &self.targets[place]
        group = &self.groups[place - self.count]
        return &self.members[group.first + group.waits_for]


cdef inline void fill(unsigned char *at, const parts_t *parts, uint32_t inbox_sequence,
                      uint32_t subscription) noexcept nogil:
    cdef fc_envelope_t *envelope = <fc_envelope_t *>at
    copy_envelope(envelope, &parts.envelope)
    envelope.inbox_sequence = inbox_sequence
    envelope.subscription = subscription
    at += sizeof(fc_envelope_t)
    memcpy(at, parts.sender, parts.envelope.sender_length)
    at += parts.envelope.sender_length
    memcpy(at, parts.subject, parts.envelope.subject_length)
    at += parts.envelope.subject_length
    if parts.envelope.headers_length:
        memcpy(at, parts.headers, parts.envelope.headers_length)
        at += parts.envelope.headers_length
    memcpy(at, parts.data, parts.data_length)


cdef inline uint32_t reserve_for(const ring_t *ring, const parts_t *parts) noexcept nogil:
    """Cells that a message has to leave free.

    None if it could never fit then, with the padding that may lie before it.
    """
    cdef uint32_t reserve = ring.cells // FC_CRITICAL_SHARE
    if parts.envelope.priority == FC_CRITICAL or 2 * record_cells(parts.total) + reserve > ring.cells:
        return 0
    return reserve


@cython.final
cdef class Delivery:
    """Messages that some inboxes had no room for, or were not tried yet: what is left to do."""

    def __dealloc__(self):
        free(self.parts)
        free(self.remaining)

    cdef uint32_t owner(self):
        """Of the inbox that is waited for."""
        return self.route.waited_for(self.remaining[0].place).owner

    cdef const parts_t *next_parts(self):
        """The message that it has no room for."""
        return self.parts + self.remaining[0].done

    cdef Py_ssize_t missing(self):
        cdef Py_ssize_t total = 0
        cdef int i
        for i in range(self.left):
            total += self.count - self.remaining[i].done
        return total


cdef Delivery make_delivery(Ring inbox, Route route, size_t count):
    """Of `count` messages that are to be described, to places that are to be named."""
    cdef Delivery delivery = Delivery.__new__(Delivery)
    delivery.inbox = inbox
    delivery.route = route
    delivery.count = count
    delivery.parts = <parts_t *>calloc(max(count, <size_t>1), sizeof(parts_t))
    delivery.remaining = <rest_t *>calloc(max(route.count + route.group_count, 1), sizeof(rest_t))
    if delivery.parts == NULL or delivery.remaining == NULL:
        raise MemoryError
    delivery.deadline = -1
    delivery.watched_head = <uint64_t>-1
    return delivery


cdef class Port(Receiver):
    """An agent's end of a bus: publish and receive.

    Agent, in Python, adds joining, subscribing, housekeeping and asyncio.
    """

    def __init__(self, Ring inbox not None, memory, size_t stride,
                 SubscriptionTable subscriptions not None, str name,
                 uint32_t generation, Py_ssize_t max_pending, Codec codec not None,
                 StringTable strings not None):
        """`memory`: of all inboxes, `stride` bytes each; generation: of the agent's slot; `strings`: of the
        bus, messages may name them.
        """
        cdef unsigned char[::1] view = memory
        self.memory = memory
        self.inboxes = &view[0]
        self.stride = stride
        self.inbox_count = view.shape[0] // stride
        self.outboxes = <ring_t **>calloc(self.inbox_count, sizeof(ring_t *))
        self.sent = <sent_t *>calloc(self.inbox_count, sizeof(sent_t))
        self.targets = <target_t *>calloc(subscriptions.capacity, sizeof(target_t))
        if self.outboxes == NULL or self.sent == NULL or self.targets == NULL:
            raise MemoryError
        self.expect_publishers(self.inbox_count)
        self.subscriptions = subscriptions
        self.codec = codec
        self.strings = strings
        self.max_pending = max_pending
        self._attach(inbox, name, generation)

    def __dealloc__(self):
        cdef int i
        free(self.sent)
        free(self.targets)
        if self.outboxes != NULL:
            for i in range(self.inbox_count):
                free(self.outboxes[i])
            free(self.outboxes)

    def _attach(self, Ring inbox not None, str name not None, uint32_t generation):
        """The agent has joined, for the first time or anew after a fork:

        `inbox` is its own, and it knows nothing yet.
        """
        cdef int i
        self.take_inbox(inbox)
        self.spin.limit_ns = inbox.spin_put.limit_ns
        self.sender_name = name.encode()
        self.slot_generation = generation & 0xFFFF
        memset(self.sent, 0, self.inbox_count * sizeof(sent_t))
        self.registry = SubjectRegistry(cache_size=0)
        self.known = {}
        self.routes = {}
        self.generation = self.sequence = 0
        self.turn = Turn()
        for i in range(self.inbox_count):
            free(self.outboxes[i])
            self.outboxes[i] = NULL

    # -------------------------------------------------------------------------------------- subject to route

    cdef Route find_route(self, str subject):
        cdef object route
        if self.subscriptions.c_generation() != self.generation:
            self.refresh()
        route = self.routes.get(subject)
        return <Route>route if route is not None else self.make_route(subject)

    cdef int refresh(self) except -1:
        """Bring the private registry up to the table's generation."""
        cdef uint64_t until = self.subscriptions.c_generation()
        changed = self.subscriptions.changes(self.generation, until)
        if changed is None:
            changed = set(self.known).union(self.subscriptions.entries_in_use())
        for index in changed:
            self.apply_change(index)
        self.routes = {}
        self.generation = until
        return 0

    cdef int apply_change(self, uint32_t index) except -1:
        cdef size_t position
        cdef target_t *target
        entry = self.subscriptions.read(index)
        if entry == ():
            return 0    # being written: what is known holds until that change is announced
        known = self.known.pop(index, None)
        if known is not None:
            self.registry.remove(known[0], index)
        if entry is not None:
            target = &self.targets[index]
            target.owner, target.epoch, encoded, target.subscription, group = entry
            if c_check(encoded, len(encoded), PATTERN, &position) != SOUND:
                raise CorruptSegmentError(f"subscription {index} of the bus has the pattern {encoded!r}")
            pattern = encoded.decode()
            self.registry.insert(pattern, index)
            self.known[index] = pattern, group
        return 0

    cdef Route make_route(self, str subject):
        cdef Route route = Route.__new__(Route)
        cdef target_t target
        cdef uint32_t index
        cdef set owners = set()
        cdef dict groups = {}    # name -> the index of the subscription of each member, by owner
        check_subject(subject)
        found = self.registry.match(subject)
        route.subject = subject.encode()
        route.targets = <target_t *>malloc(max(1, len(found)) * sizeof(target_t))
        if route.targets == NULL:
            raise MemoryError
        for index in found:
            target = self.targets[index]
            if not 1 <= target.owner <= <uint32_t>self.inbox_count:
                continue
            group = self.known[index][1]
            if group:
                groups.setdefault(group, {}).setdefault(target.owner, index)
            elif target.owner not in owners:
                owners.add(target.owner)
                target.subscription = 0
                route.targets[route.count] = target
                route.count += 1
        if groups:
            self.add_groups(route, groups)
        if len(self.routes) >= MAX_ROUTES:
            self.routes = {}
        self.routes[subject] = route
        return route

    cdef int add_groups(self, Route route, dict groups) except -1:
        cdef group_t *group
        cdef int member = 0
        route.groups = <group_t *>calloc(len(groups), sizeof(group_t))
        route.members = <target_t *>calloc(sum(map(len, groups.values())), sizeof(target_t))
        if route.groups == NULL or route.members == NULL:
            raise MemoryError
        for name in sorted(groups):
            group = &route.groups[route.group_count]
            route.group_count += 1
            group.first = member
            group.count = len(groups[name])
            group.turn = self.inbox.ring.owner % group.count    # publishers don't all begin with the same one
            for owner in sorted(groups[name]):
                route.members[member] = self.targets[<uint32_t>groups[name][owner]]
                member += 1
        return 0

    cdef ring_t *outbox(self, uint32_t owner) except? NULL:
        """Our view of the inbox of `owner`."""
        cdef ring_t *ring = self.outboxes[owner - 1]
        cdef unsigned char *memory
        if ring == NULL:
            ring = <ring_t *>malloc(sizeof(ring_t))
            if ring == NULL:
                raise MemoryError
            memory = self.inboxes + (owner - 1) * self.stride
            if not ring_attach(ring, memory, self.stride, self.inbox.ring.owner):
                free(ring)
                raise CorruptSegmentError(
                    f"inbox {owner - 1} of the bus does not begin with the control words of a ring"
                )
            self.outboxes[owner - 1] = ring
        return ring

    # ----------------------------------------------------------------------------------------------- publish

    cdef int deliver(self, const target_t *target, const parts_t *parts, size_t count,
                     size_t *taken) except -1:
        """Try to put messages into one inbox: *taken of them, with one claim and one wake-up; the outcome."""
        cdef ring_t *ring = self.outbox(target.owner)
        cdef sent_t *sent = &self.sent[target.owner - 1]
        cdef claim_t claim
        cdef uint32_t[RUN] cells
        cdef uint64_t position, nbytes
        cdef size_t i
        cdef int status
        taken[0] = 0
        if fc_load_relaxed_u32(&ring.shared.epoch) != target.epoch:
            return GONE
        count = min(count, <size_t>RUN)
        for i in range(count):
            cells[i] = record_cells(parts[i].total)
        ring.reserve = reserve_for(ring, parts)
        status = ring_claim_run(ring, cells, count, &claim, taken)
        if status == RING_OK:
            if sent.epoch != target.epoch:
                sent.epoch = target.epoch
                sent.count = 0
            sent.count += taken[0]
            position = claim.position + claim.cells
            nbytes = 0
            # From the last to the first: the first header makes all of them reachable
            for i in range(taken[0], 0, -1):
                position -= cells[i - 1]
                nbytes += parts[i - 1].total
                ring_write_prefix(ring, position, parts[i - 1].total, target.epoch)
                fill(
                    ring_payload(ring, position), &parts[i - 1], sent.count - (taken[0] - i),
                    target.subscription,
                )
                if i > 1:
                    ring_store_inner(ring, position, cells[i - 1])
                    fc_hook(FC_HOOK_BATCH_BETWEEN_HEADERS)
            status = ring_commit(ring, &claim, cells[0])
            if status == RING_OK:
                if parts.envelope.priority < FC_NORMAL:
                    urgent_tell(ring)
                # SYNC epoch-moved (B): if it is the old one, the leaver's drain meets our record.
                if fc_load_seqcst_u32(&ring.shared.epoch) != target.epoch:
                    self.misdirected += taken[0]
                    taken[0] = 0
                    return GONE
                self.delivered += taken[0]
                self.bytes_out += nbytes
                return RUNG if ring_wake_consumer(ring) & FC_SLEEP_FD else DELIVERED
        taken[0] = 0
        if status == RING_FULL:
            return NO_ROOM
        if status == RING_CLOSED:
            return GONE
        return self.refused(target.owner, status)

    cdef int deliver_all(self, const target_t *target, const parts_t *parts, size_t count,
                         size_t *taken, size_t *done) except -1:
        """deliver() until all of them are there or were dropped, or no more can be.

        *taken were delivered, *done are done with.
        """
        cdef size_t run
        cdef int outcome = DELIVERED
        taken[0] = done[0] = 0
        while done[0] < count and not outcome & (NO_ROOM | GONE):
            outcome = outcome & RUNG | self.deliver(target, parts + done[0], count - done[0], &run)
            taken[0] += run
            done[0] += run
            if outcome & NO_ROOM and self.drop(target):
                outcome ^= NO_ROOM
                done[0] += 1
        return outcome

    cdef int drop(self, const target_t *target) except -1:
        """There is no room for a message: drop and count it, if that is what its inbox wants; whether it is.

        It has a number there, so that its receiver can see the gap.
        """
        cdef fc_ring_t *shared = self.outbox(target.owner).shared
        if fc_load_relaxed_u32(&shared.overflow) != FC_OVERFLOW_DROP_NEWEST:
            return False
        if self.sent[target.owner - 1].epoch != target.epoch:
            self.sent[target.owner - 1].epoch = target.epoch
            self.sent[target.owner - 1].count = 0
        self.sent[target.owner - 1].count += 1
        fc_fetch_add_relaxed_u64(&shared.dropped, 1)
        self.dropped += 1
        return True

    cdef int deliver_to_place(self, Delivery delivery, rest_t *rest, list rung) except -1:
        """What is left for a target or a group; the outcome. `rung` gets whose doorbell is to be rung."""
        cdef Route route = delivery.route
        cdef group_t *group
        cdef size_t taken, done
        cdef int outcome = DELIVERED
        if rest.place < route.count:
            outcome = self.deliver_all(
                &route.targets[rest.place], delivery.parts + rest.done, delivery.count - rest.done, &taken,
                &done,
            )
            rest.done += done
            delivery.reached += taken
            if outcome & RUNG:
                rung.append(route.targets[rest.place].owner)
            return outcome
        group = &route.groups[rest.place - route.count]
        while rest.done < delivery.count and outcome == DELIVERED:
            outcome = self.deliver_to_group(route, group, delivery.parts + rest.done, rung)
            delivery.reached += outcome == DELIVERED
            if outcome == DROPPED:
                outcome = DELIVERED    # that is the end of this one
            rest.done += outcome == DELIVERED
        return outcome

    cdef int deliver_to_group(self, Route route, group_t *group, const parts_t *parts, list rung) except -1:
        """Try to put one message into the inbox of the member with the least backlog that has room.

        If none has, the first of them is asked whether it is to be dropped.
        """
        cdef unsigned char[MAX_INBOXES] tried
        cdef size_t taken
        cdef int member, outcome, first = -1
        memset(tried, 0, group.count)
        while True:
            member = self.least_backlog(route, group, tried)
            if member < 0:
                break
            tried[member] = True
            outcome = self.deliver(&route.members[group.first + member], parts, 1, &taken)
            if outcome & RUNG:
                rung.append(route.members[group.first + member].owner)
            if taken:
                group.turn = (member + 1) % group.count
                return DELIVERED
            if outcome == NO_ROOM and first < 0:
                first = member
        if first < 0:
            return GONE
        if self.drop(&route.members[group.first + first]):
            return DROPPED
        group.waits_for = first
        return NO_ROOM

    cdef int least_backlog(self, Route route, const group_t *group, const unsigned char *tried) except -2:
        """The untried member for which the least waits, in its inbox (cells) and taken out of it (messages);
        -1: all were tried.
        """
        cdef ring_t *ring
        cdef uint64_t backlog, least = ~<uint64_t>0
        cdef int i, member, best = -1
        for i in range(group.count):
            member = (group.turn + i) % group.count
            if not tried[member]:
                ring = self.outbox(route.members[group.first + member].owner)
                backlog = ring_depth(ring) + fc_load_relaxed_u32(&ring.shared.backlog)
                if backlog < least:
                    least, best = backlog, member
        return best

    cdef int refused(self, uint32_t owner, int status) except -1:
        if status == RING_FENCED:
            raise FencedError(
                "this agent was taken for dead (was its lock's file descriptor closed?) as it sent to the "
                "inbox of "
                f"{self._describe_agent(owner)}; close it and join again"
            )
        raise CorruptSegmentError(
            f"the head and the tail of the inbox of {self._describe_agent(owner)} contradict each other; "
            "close every agent of the bus "
            "and unlink it"
        )

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
        if headers is not None:
            head = self.encode_headers(headers)
        while True:
            if not self.inbox.usable:
                self._not_usable()
            inbox = self.inbox
            route = self.find_route(subject)
            if route.group_count:
                return self.begin_many(subject, [data], priority, headers)
            codec = self.idle_codec()
            # Encoding runs Python code for types beyond the built-in ones; another thread may close the agent
            # meanwhile. From its end to the last delivery nothing may, not even the garbage collector, so
            # nothing that it tracks is allocated: other threads of this agent use the same codec.
            self.describe(route, data, head, priority, codec, &parts)
            if self.inbox is inbox and inbox.usable:
                break
        self.sequence += 1
        for i in range(route.count):
            outcome[i] = self.deliver(&route.targets[i], &parts, 1, &taken)
            if outcome[i] == NO_ROOM and self.drop(&route.targets[i]):
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
        self.last_reached = reached
        if not full:
            return None
        parts.data = PyBytes_AS_STRING(copy)
        delivery = make_delivery(self.inbox, route, 1)
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
            route = self.find_route(subject)
            delivery = make_delivery(inbox, route, len(messages))
            delivery.owned = (owned := []), head
            for i in range(delivery.count):
                codec = self.idle_codec()
                data = messages[i]
                self.describe(route, data, head, priority, codec, &delivery.parts[i])
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
        return self.codec.twin() if self.codec.encoder.busy else self.codec

    cdef int describe(self, Route route, object data, bytes head, int priority, Codec codec,
                      parts_t *parts) except -1:
        """The pieces of the record.

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
            parts.envelope.data_kind = FC_DATA_BYTES
        else:
            parts.data = <const char *>codec.c_encode(data, &length)
            parts.envelope.data_kind = FC_DATA_ENCODED
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
        """Try the inboxes that are left; True: none is."""
        cdef list rung = []
        cdef rest_t *rest
        cdef int i, full = 0
        # closed while this waited: its owner number may be another agent's now
        if not delivery.inbox.usable:
            self._not_usable()
            raise ForkedError("a publish that was begun before a fork is the parent's; nothing was sent here")
        for i in range(delivery.left):
            rest = &delivery.remaining[i]
            if self.deliver_to_place(delivery, rest, rung) & NO_ROOM:
                delivery.remaining[full] = rest[0]
                full += 1
        delivery.left = full
        if rung:
            self._ring_consumers(rung)
        return full == 0

    cdef int wait_room(self, Delivery delivery) except -1:
        """Return when the first full inbox may have room, or raise Full."""
        cdef uint32_t owner = delivery.owner()
        cdef ring_t *ring = self.outbox(owner)
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
        announce_sleep(wait, FC_SLEEP_FUTEX)
        ring.reserve = reserve_for(ring, parts)    # another thread may have claimed for another message
        if not ring_has_room(ring, cells):
            with nogil:
                fc_futex_wait(&wait.bell, seen, slice)
            PyErr_CheckSignals()
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
            other = self.outbox(delivery.route.waited_for(delivery.remaining[i].place).owner)
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
            f"{self._describe_agent(delivery.owner())}: "
            f"{ring_depth(ring) * FC_CELL} of {ring.cells * FC_CELL} bytes wait there, none was taken for "
            f"{(now - delivery.watched_since) / 1e9:.3g} s; reached {delivery.reached}, missing {missing}",
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
        ring = self.outbox(delivery.owner())
        self.check_progress(delivery, ring, now)
        for i in range(delivery.left):
            ring = self.outbox(delivery.route.waited_for(delivery.remaining[i].place).owner)
            announce_sleep(&ring.shared.not_full, FC_SLEEP_FD)
        return self.advance(delivery)

    def _expire(self, Delivery delivery not None):
        """The time is over."""
        self.raise_full(
            delivery, self.outbox(delivery.owner()), fc_monotonic_ns(), f"within {delivery.timeout} s"
        )

    # ---------------------------------------------------------------------------------------------- the rest

    def _routes_to(self, str subject not None):
        """(how many inboxes and groups the subject leads to, generation of the subscription table that this
        was read at)
        """
        if not self.inbox.usable:
            self._not_usable()
        cdef Route route = self.find_route(subject)
        return route.count + route.group_count, self.generation

    def _waits_for_room(self, Delivery delivery not None):
        """The owner of the inbox that it waits for."""
        return delivery.owner()

    def _counters(self):
        return {
            "published": self.sequence, "delivered": self.delivered, "received": self.received,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out, "misdirected": self.misdirected, "dropped": self.dropped,
            "unwanted": self.unwanted,
            "pending": self.backlog.size, "lost": self.lost,
        }


def _arm_hook(int hook, int countdown=1):
    """Stop this process the `countdown`-th time it passes that step (FC_HOOK_*).

    The debug build only: else RuntimeError.
    """
    if not fc_arm_hook(hook, countdown):
        raise RuntimeError("fault hooks are compiled into the debug build only (FASTCOMM_DEBUG=1)")
