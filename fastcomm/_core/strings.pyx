"""StringTable: strings that encoder and decoder have learned, so that a message names them by number.

Append-only and flat, so that it can lie in memory that processes share (fc_strings_t):

     0  u32 magic, u32 version
     8  u32 id, u32 max_strings, u32 max_bytes
    64  u32 count           strings; only grows
   128  u32 end[max_strings]    string i is text[end[i - 1]:end[i]], string 0 begins at 0
        u8  text[max_bytes]     UTF-8

A writer writes text and end, then the count; a reader loads the count, and then copies what it had not yet
seen into private objects (SYNC entry-learned). Readers take no lock.

Writers are serialised by a gate, which they try and never wait for: who finds it taken writes the string out
once more. Killed before the count, a writer leaves bytes behind the last entry, which the next one writes
over; killed after it, an entry. The kernel frees the gate of a segment when its holder dies. A claim without
a lock, entry by entry, was weighed: what a dead writer claimed would stay a hole for ever, and every reader
would have to know of holes; and the gate costs once for each string.

What a peer wrote is checked before it is used: each end is loaded once, a text is decoded from a copy, and
where the next one goes is what this handle has checked, not what the memory says.
"""

cimport cython
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from fastcomm._core.atomics cimport fc_load_relaxed_u32
from fastcomm._core.hooks cimport (
    FC_HOOK_STRING_BEFORE_COUNT,
    FC_HOOK_STRING_BEFORE_END,
    arm_hook,
    fc_hook,
)
from fastcomm._core.layout cimport FC_STRINGS_LAYOUT, FC_STRINGS_MAGIC, fc_strings_t

import os
import sys

from fastcomm.errors import CorruptSegmentError, FastCommError

cdef enum:
    ENDS = sizeof(fc_strings_t)
    LONGEST = 255           # bytes of a string that is worth learning
    MOST = 1 << 20

    # Instead of a number.
    NOT_LEARNED = -1
    TAKEN = -2


@cython.final
cdef class StringTable:
    """Up to `max_strings` strings of together `max_bytes` bytes of UTF-8, learned once and never forgotten.

    A codec with ``strings=table`` learns the keys that it meets again, and writes a learned one as two to
    four bytes; when the table is full, new ones are written out, and `refused` counts how often this handle
    asked in vain. Encoder and decoder need the same table: its `id` is in each message, and another table is
    a DecodeError.

    `memory`: a writable buffer of ``nbytes`` to lie in, all zero to begin a table there, or one that was
    begun before; private memory if none is given. Processes may share it if one at a time begins the table,
    and learning is serialised by `gate`: what has try_enter_gate(), which does not wait, and leave_gate().
    Who is killed while it learns leaves the table as it was. A handle sees what others have learned when a
    message names it. Thread safety: yes.

    CorruptSegmentError if the memory holds no table, and from what reads entries if they are damaged; a
    message that needs one then is a DecodeError, and an encoder writes its keys out.
    """

    def __init__(self, int max_strings=4096, int max_bytes=65536, *, memory=None, gate=None):
        nbytes = StringTable.nbytes(max_strings, max_bytes)
        self.memory = memoryview(bytearray(nbytes) if memory is None else memory)
        cdef uint8_t[::1] view = self.memory
        if view.shape[0] < nbytes or <size_t> &view[0] % 4:
            raise ValueError(f"{view.shape[0]} bytes of memory; a table needs {nbytes}, 4-byte aligned")
        self.head = <fc_strings_t*> &view[0]
        self.ends = <uint32_t*> &view[ENDS]
        self.text = &view[0] + ENDS + 4 * max_strings
        self.max_strings = max_strings
        self.max_bytes = max_bytes
        self.gate = gate
        self.texts = []
        self.numbers = {}
        self.begin()
        self.id = self.head.id

    @staticmethod
    def nbytes(int max_strings, int max_bytes):
        """Bytes of memory that a table needs."""
        if not (0 < max_strings <= MOST and 0 < max_bytes <= 256 * MOST):
            raise ValueError(
                f"max_strings is {max_strings} and max_bytes {max_bytes}; they must be 1 to {MOST} and 1 to "
                f"{256 * MOST}"
            )
        return ENDS + 4 * max_strings + max_bytes

    cdef int begin(self) except -1:
        cdef fc_strings_t* head = self.head
        if head.magic == 0:
            head.version = FC_STRINGS_LAYOUT
            head.id = int.from_bytes(os.urandom(4), "little")
            head.max_strings = self.max_strings
            head.max_bytes = self.max_bytes
            head.magic = FC_STRINGS_MAGIC
        if (head.magic != FC_STRINGS_MAGIC or head.version != FC_STRINGS_LAYOUT
                or head.max_strings != self.max_strings or head.max_bytes != self.max_bytes):
            raise CorruptSegmentError(
                f"no string table of {self.max_strings} strings and {self.max_bytes} bytes in this memory"
            )
        return 0

    def __len__(self):
        self.take_in()
        return len(self.texts)

    def refresh(self):
        """Take in what other handles have learned."""
        self.take_in()

    cdef int take_in(self) except -1:
        cdef uint32_t i, end
        cdef uint32_t known = <uint32_t> len(self.texts), count = strings_seen(self.head)
        if not known <= count <= self.max_strings:
            raise CorruptSegmentError(
                f"a string table of {self.max_strings} strings, of which {known} were read, says it has "
                f"{count}"
            )
        for i in range(known, count):
            end = fc_load_relaxed_u32(&self.ends[i])
            if not (self.used <= end <= self.max_bytes and end - self.used <= <uint32_t> LONGEST):
                raise CorruptSegmentError(
                    f"string {i} of a table is at {self.used} to {end} of {self.max_bytes}"
                )
            encoded = (<char*> self.text)[self.used:end]
            try:
                text = sys.intern(encoded.decode())
            except UnicodeDecodeError as error:
                raise CorruptSegmentError(f"string {i} of a table is not UTF-8: {error}") from None
            self.texts.append(text)
            self.used = end
            self.numbers[text] = i
        return 0

    def find(self, str text not None):
        """Number of a string, or -1 if it was not learned."""
        number = self.numbers.get(text, NOT_LEARNED)
        if number < 0 and strings_seen(self.head) != <uint32_t> len(self.texts):
            self.take_in()
            number = self.numbers.get(text, NOT_LEARNED)
        return number

    cdef bint has_room(self, Py_ssize_t length):
        return (len(self.texts) < self.max_strings
                and length <= LONGEST and length <= <Py_ssize_t> (self.max_bytes - self.used))

    def learn(self, str text not None):
        """Number of a string, which is appended if it is new.

        -1 if there is no room, it is longer than 255 bytes, or the memory is damaged or its segment closed;
        `refused` counts these. -2 if somebody else is learning: ask again later.
        """
        try:
            number = self.find(text)
            if number < 0:
                number = self.learn_now(text, text.encode())
        except FastCommError:
            number = NOT_LEARNED
        self.refused += number == NOT_LEARNED
        return number

    cdef int learn_now(self, str text, bytes encoded) except? -1:
        if not self.has_room(len(encoded)):
            return NOT_LEARNED
        if self.gate is None:
            return self.append(encoded)
        # No Python code runs while the gate is held: a signal's handler could raise, and it would stay shut.
        if not self.gate.try_enter_gate():
            return TAKEN
        try:
            self.take_in()
            number = self.numbers.get(text, NOT_LEARNED)
            return number if number >= 0 else self.append(encoded)
        finally:
            self.gate.leave_gate()

    cdef int append(self, bytes encoded):
        """After take_in(), which has seen all that there is."""
        cdef uint32_t count = <uint32_t> len(self.texts), end = self.used + <uint32_t> len(encoded)
        if not self.has_room(len(encoded)):
            return NOT_LEARNED
        memcpy(self.text + self.used, <const char*> encoded, len(encoded))
        fc_hook(FC_HOOK_STRING_BEFORE_END)
        self.ends[count] = end
        fc_hook(FC_HOOK_STRING_BEFORE_COUNT)
        strings_learned(self.head, count + 1)
        self.take_in()
        return count

    @property
    def is_full(self):
        """Whether it has `max_strings` strings, or no room for one of 255 bytes."""
        self.take_in()
        return not self.has_room(LONGEST)

    def __repr__(self):
        return f"<StringTable {self.id:#010x}: {len(self)} of {self.max_strings} strings>"


def _arm_hook(int hook, int countdown=1):
    arm_hook(hook, countdown)
