"""Messages of a bus, and Receiver: the end of an agent that takes them out of its inbox.

A message is one record in the inbox of each agent that it reaches: an envelope (fc_envelope_t), the sender's
name, the subject, the headers, the data. bytes travel as they are, anything else encoded (codec).

Messages are received by priority, in the order of the inbox within one. As long as they are NORMAL they are
taken from the inbox one by one. If not, what the inbox has is taken into private memory first (`backlog`,
bounded), and from there by priority: when its publishers have told of urgent messages (CRITICAL or HIGH, by a
count beside the ring that they raise after the commit, SYNC urgent-told), when the next one is LOW, and when
a publish of this agent waits (port.pyx says why). A publisher that is killed between commit and count leaves
an urgent message that comes in its turn.

A message bears its number among those of its publisher into this inbox. Who publishes counts also what the
inbox did not get, and the inbox has them in that order, so a number that is left out is a lost message. The
count starts anew when a slot has another publisher, which its generation tells, or the inbox another agent.

Thread safety: under the GIL, which is given up only while waiting.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from fastcomm._core.atomics cimport fc_store_relaxed_u32
from fastcomm._core.contested cimport contested_take
from fastcomm._core.futex cimport fc_monotonic_ns
from fastcomm._core.layout cimport (
    FC_CELL,
    FC_CRITICAL_SHARE,
    FC_CALL_ERROR,
    FC_CALL_MASK,
    FC_CALL_MOVED,
    FC_CALL_REQUEST,
    FC_DATA_ENCODED,
    FC_DATA_MASK,
    FC_LOW,
    FC_MAX_AGENT_NAME,
    FC_MAX_PATTERN,
    FC_NORMAL,
    FC_PRIORITIES,
    fc_call_t,
    fc_envelope_t,
)
from fastcomm._core.protocol cimport record_t, urgent_told
from fastcomm._core.ring cimport Ring
from fastcomm._core.ring_handle cimport check_limit
from fastcomm._core.subjects cimport c_matches

from collections import deque

from fastcomm._core.tables import RESERVED as _RESERVED
from fastcomm.errors import CorruptSegmentError, DecodeError, RespondError


@cython.final
cdef class Message:
    """What an agent received.

    subject (str); data (decoded by its agent's codec when first asked for: DecodeError if a peer sent what
    can't be decoded, say a Struct of a class that this process does not have); payload, the bytes that
    travelled: the data if that is bytes, else what the sender's codec made of it, so that
    ``Quote.view(message.payload)`` reads one field of a Struct; headers (dict, empty if it was sent without;
    decoded as data is); priority, one of Priority's; sender, the name of the agent; sequence, the
    number of the message among its sender's; sent_ns, CLOCK_MONOTONIC nanoseconds when it was sent, as
    time.monotonic_ns() gives in every process of the host. A message is private memory: it outlives its
    sender and the bus.
    """

    def __init__(self):
        raise TypeError("messages are made by Agent.receive() and its like")

    @property
    def data(self):
        if self.encoded:
            self.value = self.codec.c_decode(
                <const uint8_t *>PyBytes_AS_STRING(self.payload), PyBytes_GET_SIZE(self.payload), self.strings
            )
            self.encoded = False
        return self.value

    @property
    def headers(self):
        cdef bytes encoded
        if self.head is None:
            self.head = {}
        elif type(self.head) is bytes:
            encoded = self.head
            head = self.codec.c_decode(
                <const uint8_t *>PyBytes_AS_STRING(encoded), PyBytes_GET_SIZE(encoded), self.strings
            )
            if type(head) is not dict:
                raise DecodeError(f"{self.sender!r} sent a {type(head).__name__} as headers, not a dict")
            self.head = head
        return self.head

    def _with_data(self, data):
        """This message with other data."""
        cdef Message other = Message.__new__(Message)
        other.subject, other.sender, other.sequence = self.subject, self.sender, self.sequence
        other.sent_ns, other.priority, other.head = self.sent_ns, self.priority, self.head
        other._subscription = self._subscription
        other.codec, other.strings, other.payload = self.codec, self.strings, self.payload
        other.call_kind, other.call = self.call_kind, self.call
        other.value = data
        return other

    # ------------------------------------------------------------------------------------------------- calls

    cdef Request request(self):
        if self.call_kind != FC_CALL_REQUEST:
            raise RespondError(
                f"{self!r} was published, not requested: nobody waits for an answer to it; is_request tells"
            )
        return <Request>self.call

    @property
    def is_request(self):
        """Whether its sender waits for an answer: it called request(), and respond() gives it one."""
        return self.call_kind == FC_CALL_REQUEST

    @property
    def time_left(self):
        """Seconds for which its sender still waits for an answer, 0.0 if no longer; None: for ever, or it is
        no request.
        """
        cdef int64_t deadline
        if self.call_kind != FC_CALL_REQUEST:
            return None
        deadline = self.request().call.deadline_ns
        return None if deadline < 0 else max(0, deadline - fc_monotonic_ns()) / 1e9

    def respond(self, data, *, priority=None, headers=None, timeout=None):
        """Answer a request: `data` becomes what the sender's request() returns. True: the answer is in its
        inbox. False: nobody waits for it any more, as the sender has left, was killed, or its time is over.

        `data`, `headers`: as publish() takes them; priority: the request's unless said. If the sender's inbox
        is full it waits for room, for `timeout` seconds and no longer than the sender waits for it; Full when
        the former ends first, and then it can be tried again, as after EncodeError and MessageTooLargeError.
        RespondError: the message is no request, or has been answered. ClosedError, ForkedError: the agent
        that received it is closed, or the parent's. Thread safety: any thread, once.
        """
        return self.request().agent._respond(self, data, priority, headers, timeout)

    async def respond_async(self, data, *, priority=None, headers=None, timeout=None):
        """respond() for asyncio."""
        return await self.request().agent._respond_async(self, data, priority, headers, timeout)

    def respond_error(self, error, *, timeout=None):
        """Answer a request with an exception or a text, for the sender's request() to raise as
        ResponderError; otherwise as respond().

        An exception that a handler raises is sent so unless the request has been answered.
        """
        return self.request().agent._respond_error(self, error, timeout)

    async def respond_error_async(self, error, *, timeout=None):
        """respond_error() for asyncio."""
        return await self.request().agent._respond_error_async(self, error, timeout)

    @property
    def _is_error(self):
        """Of a reply: whether it is what the responder raised."""
        return self.call_kind == FC_CALL_ERROR

    @property
    def _unanswered(self):
        return self.call_kind == FC_CALL_REQUEST and not self.request().answered

    def __repr__(self):
        shown = repr(self.data)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return f"<Message {self.subject!r} from {self.sender!r} #{self.sequence}: {shown}>"


@cython.final
cdef class Request:
    pass


@cython.final
cdef class Backlog:
    """Messages by priority, in the order of arrival within one: a queue for each of the four is all it takes.

    An item is a Message, or an exception for receive() to raise.
    """

    def __cinit__(self):
        self.levels = [deque() for _ in range(FC_PRIORITIES)]

    cdef int best(self) noexcept:
        """The most urgent priority that waits; FC_PRIORITIES: nothing does."""
        cdef int priority = 0
        if self.size == 0:
            return FC_PRIORITIES
        while not self.levels[priority]:
            priority += 1
        return priority

    cdef int push(self, object item, int priority) except -1:
        self.levels[priority].append(item)
        self.size += 1
        return 0

    cdef object pop(self):
        """There must be one."""
        item = self.levels[self.best()].popleft()
        self.size -= 1
        return item


@cython.final
cdef class LastText:
    """UTF-8 to str; the last one is kept, since messages of one sender or subject come in streams."""

    cdef str decode(self, const char *source, int length):
        """`length` is at most the size of the buffer: the caller has checked it.

        Decoded is the copy: Python's decoder looks at a byte more than once.
        """
        if (self.forgets or self.value is None or length != self.length
                or memcmp(self.encoded, source, length) != 0):
            self.value = None
            self.length = length
            memcpy(self.encoded, source, length)
            self.value = PyUnicode_DecodeUTF8(self.encoded, length, "replace")
        return self.value


cdef inline uint32_t follow(publisher_t *publisher, const fc_envelope_t *envelope) noexcept nogil:
    """How many numbers are missing before the message's; they wrap."""
    cdef int32_t ahead
    if publisher.generation != envelope.generation:
        publisher.generation = envelope.generation
        publisher.inbox_sequence = 0
    ahead = <int32_t>(envelope.inbox_sequence - publisher.inbox_sequence)
    if ahead <= 0:    # what a publisher never does can't be counted
        return 0
    publisher.inbox_sequence = envelope.inbox_sequence
    return <uint32_t>ahead - 1


cdef class Receiver:
    """An agent's inbox as messages; Port adds publishing to it."""

    def __cinit__(self):
        self.last_subject = LastText()
        self.last_sender = LastText()

    def __dealloc__(self):
        free(self.publishers)
        free(self.copy)

    cdef int expect_publishers(self, uint32_t count) except -1:
        """Once: how many slots the bus has."""
        self.publishers = <publisher_t *>calloc(count, sizeof(publisher_t))
        if self.publishers == NULL:
            raise MemoryError
        self.publisher_count = count
        return 0

    cdef int take_inbox(self, Ring inbox) except -1:
        """The agent has joined, for the first time or anew after a fork: `inbox` is its own."""
        if inbox.contested and self.copy == NULL:
            self.copy = <unsigned char *>malloc(<size_t>inbox.ring.max_cells * FC_CELL)
            if self.copy == NULL:
                raise MemoryError
        self.inbox = inbox
        memset(self.publishers, 0, self.publisher_count * sizeof(publisher_t))
        self.backlog = Backlog()
        self.urgent_seen = urgent_told(&inbox.ring)
        inbox.ring.reserve = inbox.ring.cells // FC_CRITICAL_SHARE    # of room for others, not CRITICAL ones
        self.own_patterns = []
        self.own_groups = set()
        self.filtering = self.sorting = False
        self.sorted_away = 0
        self.tell_backlog()
        self.waiting = 0
        return 0

    # ---------------------------------------------------------------------------- what Agent adds, in Python

    def _not_usable(self):
        """Called before an agent is used that can't be as it is: raise, or join anew."""
        self.inbox._not_usable()

    def _rest(self):
        """Called when nothing is there for an agent whose fileno() is watched: rest it; whether something
        came meanwhile.
        """
        return False

    def _sorted(self):
        """The next message for receive(), of an agent that sorts: see _set_sorting()."""

    # ----------------------------------------------------------------------------------------------- receive

    cdef Message take(self, record_t *record):
        """Copy a message out of the inbox into `spare`; publish_position() is next.

        None: a publisher has just dropped it.

        Nothing here or in between may run Python code, or another thread would take the same record.
        """
        cdef Message message = self.spare
        cdef fc_envelope_t envelope
        cdef const char *at
        cdef int64_t length = -1
        cdef int call_kind = 0
        if self.inbox.contested:
            if not contested_take(&self.inbox.ring, self.inbox.head, record, self.copy):
                return None
            record.payload = self.copy
        at = <const char *>record.payload + ENVELOPE
        if record.nbytes >= ENVELOPE:
            copy_envelope(&envelope, <const fc_envelope_t *>record.payload)
            call_kind = envelope.kind & FC_CALL_MASK
            length = (<int64_t>record.nbytes - ENVELOPE - envelope.sender_length - envelope.subject_length
                      - envelope.headers_length - (<int64_t>sizeof(fc_call_t) if call_kind else 0))
        if (length < 0 or envelope.sender_length > FC_MAX_AGENT_NAME
                or envelope.subject_length > FC_MAX_PATTERN or envelope.priority >= FC_PRIORITIES
                or call_kind > FC_CALL_MOVED):
            self.inbox.advance(record)
            raise CorruptSegmentError(
                f"{self.describe_owner(record.owner)} sent a record of {record.nbytes} bytes that is no "
                "message; it was dropped"
            )
        if call_kind:
            message.call_kind = call_kind
            message.call = PyBytes_FromStringAndSize(at, sizeof(fc_call_t))
            at += sizeof(fc_call_t)
        message.sender = self.last_sender.decode(at, envelope.sender_length)
        at += envelope.sender_length
        message.subject = self.last_subject.decode(at, envelope.subject_length)
        at += envelope.subject_length
        if envelope.headers_length:
            message.head = PyBytes_FromStringAndSize(at, envelope.headers_length)
            at += envelope.headers_length
        message.payload = PyBytes_FromStringAndSize(at, length)
        if envelope.kind & FC_DATA_MASK == FC_DATA_ENCODED:
            message.encoded = True
        else:
            message.value = message.payload
        message.sequence = envelope.sequence
        message.sent_ns = envelope.sent_ns
        message.priority = envelope.priority
        message._subscription = envelope.subscription
        if envelope.inbox_sequence and 1 <= record.owner <= self.publisher_count:
            self.lost += follow(&self.publishers[record.owner - 1], &envelope)
        self.spare = None
        self.inbox.advance(record)
        self.received += 1
        self.bytes_in += record.nbytes
        return message

    cdef bint admit(self, Message message) except -1:
        """A request is about to be handed out: whether it is to be."""
        return True

    cdef int end_call(self, Message reply) except -1:
        """A reply came; it is handed to nobody but who waits for it."""
        return 0

    cdef bint wanted(self, Message message) except -1:
        """After an unsubscribe: whether a subscription is left that the message came by."""
        cdef bytes subject
        cdef bytes pattern
        if message._subscription:
            if message._subscription in self.own_groups:
                return True
            self.unwanted += 1
            return False
        subject = message.subject.encode()
        for pattern in self.own_patterns:
            if subject.startswith(_RESERVED) and not pattern.startswith(_RESERVED):
                continue
            if c_matches(pattern, len(pattern), subject, len(subject)):
                return True
        self.unwanted += 1
        return False

    cdef bint look_inbox(self, record_t *record) except -1:
        """Whether `record` is the inbox's next; take() can follow then."""
        while self.inbox.look(record):
            if self.spare is not None:
                return True
            # this can run the garbage collector, thus another thread: look again
            self.spare = Message.__new__(Message)
            self.spare.codec = self.codec
            self.spare.strings = self.strings
        return False

    cdef Message look(self):
        """The next wanted message, from the backlog or else from the inbox, or None."""
        cdef record_t record
        cdef Message message
        cdef uint32_t told
        while True:
            told = urgent_told(&self.inbox.ring)
            if told != self.urgent_seen:
                self.drain_urgent(told)
            if self.backlog.size and self.backlog.best() < FC_LOW or not self.look_inbox(&record):
                if self.backlog.size == 0:
                    return None
                message = self.take_backlog()
            elif self.backlog.size and self.backlog.best() < FC_LOW:
                continue    # looking at the inbox let another thread run: what that one put there comes first
            else:
                try:
                    message = self.take(&record)
                finally:
                    self.inbox.publish_position()
                if message is None:
                    continue
                if message.call_kind > FC_CALL_REQUEST:
                    self.end_call(message)
                    continue
                if message.priority == FC_LOW:
                    message = self.best_after(message)
                    if message is None:
                        continue
            if self.filtering and not self.wanted(message):
                continue
            if message.call_kind == 0 or self.admit(message):
                return message

    cdef Message best_after(self, Message low):
        """The inbox's next was LOW: what it has behind that comes first, if it is more urgent."""
        self.backlog.push(low, FC_LOW)
        self.drain()
        return self.take_backlog() if self.backlog.size else None    # None: another thread was faster

    cdef Message take_backlog(self):
        item = self.backlog.pop()
        self.tell_backlog()
        if self.backlog.size:
            self.wake_others()
        if type(item) is not Message:
            raise item
        return item

    cdef int drain_urgent(self, uint32_t told) except -1:
        """`told`: how many urgent messages were committed, as read before."""
        self.drain()
        if self.backlog.size < self.max_pending:    # else some may still be in the inbox
            self.urgent_seen = told
        return 0

    cdef Py_ssize_t drain(self) except -1:
        """Take what the inbox has into the backlog, up to its bound; returns how many that were."""
        cdef record_t record
        cdef Message message
        cdef Py_ssize_t taken = 0    # the size of the backlog does not tell: another thread may take from it
        while self.backlog.size < self.max_pending and self.look_inbox(&record):
            try:
                # Publishing the position can ring FIFOs, which lets another thread run: it must find this one
                # in the backlog before it finds the next in the inbox.
                try:
                    message = self.take(&record)
                    if message is not None and message.call_kind <= FC_CALL_REQUEST:
                        self.backlog.push(message, message.priority)
                        taken += 1
                finally:
                    self.inbox.publish_position()
                if message is not None and message.call_kind > FC_CALL_REQUEST:
                    self.end_call(message)
            except CorruptSegmentError as error:
                self.backlog.push(error, FC_NORMAL)    # for receive() to raise
                taken += 1
        self.tell_backlog()
        return taken

    cdef int tell_backlog(self) noexcept:
        """For publishers to a group, which choose the member with the least."""
        if self.inbox.usable:    # else the inbox may have another agent
            fc_store_relaxed_u32(
                &self.inbox.ring.shared.backlog, <uint32_t>self.backlog.size + self.sorted_away
            )
        return 0

    cdef int wake_others(self) except -1:
        """What was taken from the inbox may be for a thread that sleeps in receive(), which won't hear of it
        from there.
        """
        if self.waiting:
            self.inbox.stir()
        return 0

    def try_receive(self):
        """The next Message, or None if there is none now. Never waits. Thread safety: yes."""
        return self.receive_now()

    cdef Message receive_now(self):
        """try_receive(), without the price of a call by name."""
        cdef Message message
        if not self.inbox.usable:
            self._not_usable()
        message = self._sorted() if self.sorting else self.look()
        if message is None and self.inbox.watched and self._rest():
            message = self._sorted() if self.sorting else self.look()
        return message

    def receive(self, timeout=None):
        """The next Message; waits at most `timeout` seconds (None: for ever), then raises Empty.

        PeerDiedError when the last other agent of the bus was killed; the next call waits for new ones.
        ClosedError when another thread closes the agent. The GIL is free while it waits, Ctrl-C works. Thread
        safety: yes.
        """
        cdef int64_t deadline = 0
        cdef uint32_t stirs
        cdef Message message
        while True:
            stirs = self.inbox.stirs    # before looking: who takes something out after that stirs us
            if self.backlog.size or self.sorting or not self.inbox.spin_first():
                message = self.receive_now()
                if message is not None:
                    return message
            self.wait_message(timeout, &deadline, stirs)

    cdef int wait_message(self, object timeout, int64_t *deadline, uint32_t stirs) except -1:
        cdef record_t record
        self.waiting += 1
        try:
            self.inbox.wait_record(&record, timeout, deadline, stirs)
        finally:
            self.waiting -= 1
        return 0

    def _receive_by(self, look, timeout):
        """receive() of what look() returns when it is not None."""
        cdef int64_t deadline = 0
        cdef uint32_t stirs
        while True:
            stirs = self.inbox.stirs
            message = look()
            if message is not None:
                return message
            self.wait_message(timeout, &deadline, stirs)

    def receive_many(self, Py_ssize_t limit=1024, timeout=None):
        """A list of 1 to `limit` messages: waits for the first as receive() does, then takes what else is
        there, by priority.
        """
        cdef list messages
        check_limit(limit)
        messages = [self.receive(timeout)]
        while len(messages) < limit:
            message = self.receive_now()
            if message is None:
                break
            messages.append(message)
        return messages

    def _lost_messages(self):
        return self.lost

    def _set_sorting(self):
        """From now on receive() asks _sorted(), which gets what came from _next_unsorted()."""
        self.sorting = True

    def _next_unsorted(self):
        return self.look()

    def _wake_others(self):
        self.wake_others()

    def _count_unwanted(self, Py_ssize_t count):
        self.unwanted += count

    def _note_sorted(self, uint32_t count):
        """So many messages were taken by Agent, in Python, and wait or are being handled."""
        self.sorted_away = count
        self.tell_backlog()

    def _set_patterns(self, list patterns, set groups):
        """A subscription was cancelled; there are these patterns of no group, and the others' numbers."""
        self.own_patterns = patterns
        self.own_groups = groups
        self.filtering = True

    @property
    def depth(self):
        """Bytes of cells that wait in the inbox."""
        return self.inbox.depth
