"""StringTable: strings that encoder and decoder have learned, so that a message names them by number.

Append-only and flat, so that it can lie in memory that processes share:

     0  u32 magic, u32 version
     8  u32 id, u32 max_strings, u32 max_bytes
    64  u32 count           strings; only grows
   128  u32 end[max_strings]    string i is text[end[i - 1]:end[i]], string 0 begins at 0
        u8  text[max_bytes]     UTF-8

A writer writes text and end, then the count; a reader loads the count, and then reads what it had not yet
seen into private objects (SYNC entry-learned). Readers take no lock. To begin a table and to learn must be
serialised by whoever shares the memory; within one process the GIL does it.
"""

cimport cython
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

import os
import sys

from fastcomm.errors import CorruptSegmentError

cdef enum:
    MAGIC = 0x74536346      # "FcSt"
    LAYOUT = 1
    ENDS = 128
    LONGEST = 255           # bytes of a string that is worth learning
    MOST = 1 << 20


@cython.final
cdef class StringTable:
    """Up to `max_strings` strings of together `max_bytes` bytes of UTF-8, learned once and never forgotten.

    A codec with ``strings=table`` learns the keys that it meets again, and writes a learned one as two to
    four bytes; when the table is full, new ones are written out. Encoder and decoder need the same table: its
    `id` is in each message, and another table is a DecodeError. `memory`: a writable buffer of ``nbytes`` to
    lie in, all zero to begin a table there, or one that was begun before; private memory if none is given.

    Thread safety: yes. Processes may share the memory if one at a time learns; a handle sees what others have
    learned when a message names it. CorruptSegmentError if the memory holds no table.
    """

    cdef uint8_t[::1] memory
    cdef string_table_t* head
    cdef uint32_t* ends
    cdef uint8_t* text
    cdef readonly list texts
    cdef dict numbers
    cdef readonly uint32_t id
    cdef uint32_t max_strings, max_bytes

    def __init__(self, int max_strings=4096, int max_bytes=65536, *, memory=None):
        nbytes = StringTable.nbytes(max_strings, max_bytes)
        self.memory = bytearray(nbytes) if memory is None else memory
        if self.memory.shape[0] < nbytes or <size_t> &self.memory[0] % 4:
            raise ValueError(
                f"{self.memory.shape[0]} bytes of memory; a table needs {nbytes}, 4-byte aligned"
            )
        self.head = <string_table_t*> &self.memory[0]
        self.ends = <uint32_t*> &self.memory[ENDS]
        self.text = &self.memory[0] + ENDS + 4 * max_strings
        self.max_strings = max_strings
        self.max_bytes = max_bytes
        self.texts = []
        self.numbers = {}
        self.begin()
        self.id = self.head.id
        self.refresh()

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
        cdef string_table_t* head = self.head
        if head.magic == 0:
            head.version = LAYOUT
            head.id = int.from_bytes(os.urandom(4), "little")
            head.max_strings = self.max_strings
            head.max_bytes = self.max_bytes
            head.magic = MAGIC
        if (head.magic != MAGIC or head.version != LAYOUT
                or head.max_strings != self.max_strings or head.max_bytes != self.max_bytes):
            raise CorruptSegmentError(
                f"no string table of {self.max_strings} strings and {self.max_bytes} bytes in this memory"
            )
        return 0

    def __len__(self):
        self.refresh()
        return len(self.texts)

    def refresh(self):
        """Take in what other handles have learned."""
        cdef uint32_t i, start, end
        cdef uint32_t count = strings_seen(self.head)
        if count > self.max_strings:
            raise CorruptSegmentError(
                f"a string table of {self.max_strings} strings that says it has {count}"
            )
        for i in range(<uint32_t> len(self.texts), count):
            start = self.ends[i - 1] if i else 0
            end = self.ends[i]
            if not start <= end <= self.max_bytes:
                raise CorruptSegmentError(f"string {i} of a table is at {start} to {end} of {self.max_bytes}")
            text = sys.intern(PyUnicode_DecodeUTF8(<char*> self.text + start, end - start, "replace"))
            self.texts.append(text)
            self.numbers[text] = i

    def find(self, str text not None):
        """Number of a string, or -1 if it was not learned."""
        number = self.numbers.get(text, -1)
        if number < 0 and strings_seen(self.head) != len(self.texts):
            self.refresh()
            number = self.numbers.get(text, -1)
        return number

    def learn(self, str text not None):
        """Number of a string, which is appended if it is new; -1 if there is no room or it is too long."""
        cdef uint32_t used, count
        cdef bytes encoded
        number = self.find(text)
        if number >= 0:
            return number
        encoded = text.encode()
        count = <uint32_t> len(self.texts)
        used = self.ends[count - 1] if count else 0
        if count >= self.max_strings or len(encoded) > LONGEST or len(encoded) > self.max_bytes - used:
            return -1
        memcpy(self.text + used, <const char*> encoded, len(encoded))
        self.ends[count] = used + <uint32_t> len(encoded)
        strings_learned(self.head, count + 1)
        self.refresh()
        return count

    @property
    def is_full(self):
        """Whether it has `max_strings` strings, or no room for one of 255 bytes."""
        self.refresh()
        count = len(self.texts)
        used = self.ends[count - 1] if count else 0
        return count >= self.max_strings or self.max_bytes - used < LONGEST

    def __repr__(self):
        return f"<StringTable {self.id:#010x}: {len(self)} of {self.max_strings} strings>"
