"""Messages of a bus, and Receiver: the end of an agent that takes them out of its inbox.

A message is one record in the inbox of each agent that it reaches: an envelope (fc_envelope_t), the sender's
name, the subject, the data. bytes travel as they are, anything else encoded (codec).

A publish that waits takes what its agent's own inbox has into private memory (`pending`, bounded; port.pyx
says why). receive() takes from there first.

Thread safety: under the GIL, which is given up only while waiting.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcmp, memcpy

from fastcomm._core.layout cimport FC_DATA_ENCODED, FC_MAX_AGENT_NAME, FC_MAX_PATTERN, fc_envelope_t
from fastcomm._core.protocol cimport record_t
from fastcomm._core.ring cimport Ring
from fastcomm._core.ring_handle cimport check_limit
from fastcomm._core.subjects cimport c_matches

from collections import deque

from fastcomm.errors import CorruptSegmentError


@cython.final
cdef class Message:
    """What an agent received.

    subject (str); data (decoded by its agent's codec when first asked for: DecodeError if a peer sent what
    can't be decoded, say a Struct of a class that this process does not have); payload, the bytes that
    travelled: the data if that is bytes, else what the sender's codec made of it, so that
    ``Quote.view(message.payload)`` reads one field of a Struct; sender, the name of the agent; sequence, the
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

    def __repr__(self):
        shown = repr(self.data)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return f"<Message {self.subject!r} from {self.sender!r} #{self.sequence}: {shown}>"


@cython.final
cdef class LastText:
    """UTF-8 to str; the last one is kept, since messages of one sender or subject come in streams."""

    cdef str decode(self, const char *source, int length):
        """`length` is at most the size of the buffer: the caller has checked it.

        Decoded is the copy: Python's decoder looks at a byte more than once.
        """
        if self.value is None or length != self.length or memcmp(self.encoded, source, length) != 0:
            self.value = None
            self.length = length
            memcpy(self.encoded, source, length)
            self.value = PyUnicode_DecodeUTF8(self.encoded, length, "replace")
        return self.value


cdef class Receiver:
    """An agent's inbox as messages; Port adds publishing to it."""

    def __cinit__(self):
        self.last_subject = LastText()
        self.last_sender = LastText()

    cdef int take_inbox(self, Ring inbox) except -1:
        """The agent has joined, for the first time or anew after a fork: `inbox` is its own."""
        self.inbox = inbox
        self.pending = deque()
        self.own_patterns = []
        self.filtering = False
        return 0

    # ---------------------------------------------------------------------------- what Agent adds, in Python

    def _not_usable(self):
        """Called before an agent is used that can't be as it is: raise, or join anew."""
        self.inbox._not_usable()

    def _describe_agent(self, int owner):
        return f"agent {owner}"

    def _rest(self):
        """Called when nothing is there for an agent whose fileno() is watched: rest it; whether something
        came meanwhile.
        """
        return False

    # ----------------------------------------------------------------------------------------------- receive

    cdef Message take(self, record_t *record):
        """Copy a message out of the inbox into `spare`; publish_position() is next.

        Nothing here or in between may run Python code, or another thread would take the same record.
        """
        cdef Message message = self.spare
        cdef fc_envelope_t envelope
        cdef const char *at = <const char *>record.payload + ENVELOPE
        cdef int64_t length
        if record.nbytes >= ENVELOPE:
            memcpy(&envelope, record.payload, ENVELOPE)
            length = <int64_t>record.nbytes - ENVELOPE - envelope.sender_length - envelope.subject_length
        else:
            length = -1
        if (length < 0 or envelope.sender_length > FC_MAX_AGENT_NAME
                or envelope.subject_length > FC_MAX_PATTERN):
            self.inbox.advance(record)
            raise CorruptSegmentError(
                f"{self._describe_agent(record.owner)} sent a record of {record.nbytes} bytes that is no "
                "message; it was dropped"
            )
        message.sender = self.last_sender.decode(at, envelope.sender_length)
        at += envelope.sender_length
        message.subject = self.last_subject.decode(at, envelope.subject_length)
        at += envelope.subject_length
        message.payload = PyBytes_FromStringAndSize(at, length)
        if envelope.data_kind == FC_DATA_ENCODED:
            message.encoded = True
        else:
            message.value = message.payload
        message.sequence = envelope.sequence
        message.sent_ns = envelope.sent_ns
        self.spare = None
        self.inbox.advance(record)
        self.received += 1
        self.bytes_in += record.nbytes
        return message

    cdef bint wanted(self, Message message) except -1:
        """After an unsubscribe: whether a subscription is left that the message came by."""
        cdef bytes subject = message.subject.encode()
        cdef bytes pattern
        for pattern in self.own_patterns:
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
        """The next wanted message, from `pending` or else from the inbox, or None."""
        cdef record_t record
        cdef Message message
        while True:
            # Again after looking at the inbox, which can let another thread run: what that one put there
            # comes first.
            if self.pending or not self.look_inbox(&record):
                if not self.pending:
                    return None
                message = self.take_pending()
            elif self.pending:
                continue
            else:
                try:
                    message = self.take(&record)
                finally:
                    self.inbox.publish_position()
            if not self.filtering or self.wanted(message):
                return message

    cdef Message take_pending(self):
        item = self.pending.popleft()
        if not self.pending:
            self.inbox.nudge(False)
        if type(item) is not Message:
            raise item
        return item

    cdef Py_ssize_t drain(self) except -1:
        """Take what the inbox has into `pending`, up to its bound; returns how many."""
        cdef record_t record
        cdef Py_ssize_t count = 0
        while len(self.pending) < self.max_pending and self.look_inbox(&record):
            try:
                self.pending.append(self.take(&record))
            except CorruptSegmentError as error:
                self.pending.append(error)    # for receive() to raise: it is no concern of a publish
            count += 1
            self.inbox.publish_position()
        if self.pending:
            self.inbox.nudge(True)    # another thread may sleep in receive(), and the inbox won't wake it
        return count

    def try_receive(self):
        """The next Message, or None if there is none now. Never waits. Thread safety: yes."""
        return self.receive_now()

    cdef Message receive_now(self):
        """try_receive(), without the price of a call by name."""
        cdef Message message
        if not self.inbox.usable:
            self._not_usable()
        message = self.look()
        if message is None and self.inbox.watched and self._rest():
            message = self.look()
        return message

    def receive(self, timeout=None):
        """The next Message; waits at most `timeout` seconds (None: for ever), then raises Empty.

        PeerDiedError when the last other agent of the bus was killed; the next call waits for new ones.
        ClosedError when another thread closes the agent. The GIL is free while it waits, Ctrl-C works. Thread
        safety: yes.
        """
        cdef record_t record
        cdef int64_t deadline = 0
        cdef Message message
        while True:
            if self.pending or not self.inbox.spin_first():
                message = self.receive_now()
                if message is not None:
                    return message
            self.inbox.wait_record(&record, timeout, &deadline)

    def receive_many(self, Py_ssize_t limit=1024, timeout=None):
        """A list of 1 to `limit` messages: waits for the first as receive() does, then takes what else is
        there.
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

    def _set_patterns(self, list patterns, bint filtering):
        self.own_patterns = patterns
        self.filtering = filtering

    @property
    def depth(self):
        """Bytes of cells that wait in the inbox."""
        return self.inbox.depth
