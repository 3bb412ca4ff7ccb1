"""The tags and limits of the format in docs/wire.md, and what both directions share."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastcomm._core.capi cimport PyErr_SetObject, PyObject

cdef extern from *:
    """
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "the codec copies words as they lie in memory and is written for little-endian machines"
    #endif
    """

cdef extern from "fc_once.h":
    uint8_t byte_once "fc_byte_once"(const uint8_t*) noexcept nogil
    uint64_t word_once "fc_word_once"(const uint8_t*) noexcept nogil

cdef extern from "Python.h":
    const Py_ssize_t NO_LIMIT "PY_SSIZE_T_MAX"

cdef enum:
    MAGIC = 0xC1
    VERSION = 1
    HEADER = 2
    MAX_DEPTH = 512

    SMALL_INT = 0x40        # ints 0..63 are their own tag
    TINY_NEGATIVE = 0x48    # -1 is 0x47
    INT = 0x48
    NEGATIVE = 0x50
    NONE = 0x58
    FALSE = 0x59
    TRUE = 0x5A
    FLOAT = 0x5B
    BIG_INT = 0x5C
    STR = 0x5D
    BYTES = 0x5E
    BYTEARRAY = 0x5F
    SHORT_STR = 0x60
    SHORT_BYTES = 0x80
    SHORT_LIST = 0x90
    SHORT_DICT = 0xA0
    SHORT_TUPLE = 0xB0
    LIST = 0xB8
    TUPLE = 0xB9
    DICT = 0xBA
    FAR_REF = 0xBB
    SET = 0xBC
    FROZENSET = 0xBD
    FAR_ENTRY = 0xBE        # an entry of the string table
    NEAR_REF = 0xC0
    SHORT_WORD = 0xD0       # words of the static table
    WORD = 0xE0
    NEAR_ENTRY = 0xE8
    EXTENDED = 0xF0
    DATE = 0xF0
    TIME = 0xF1
    DATETIME = 0xF2
    TIMEDELTA = 0xF3
    TIMEZONE = 0xF4
    ZONEINFO = 0xF5
    UUID = 0xF6
    DECIMAL = 0xF7
    ENUM = 0xF8
    DATACLASS = 0xF9
    NAMEDTUPLE = 0xFA
    SCALAR = 0xFB
    ARRAY = 0xFC
    STRUCT = 0xFD
    PICKLE = 0xFE

    # Flags, in the high nibble of the second byte.
    IS_STRUCT = 0x10        # not a value but the message of a Struct
    IS_LZ4 = 0x20           # compressed: the size of what follows, then a message
    IS_ZSTD = 0x40
    WITH_TABLE = 0x80       # the id of a string table follows, four bytes

    SHORT_STR_MAX = 31
    NEAR_REF_MAX = 0xFFF
    SHORT_BYTES_MAX = 15
    SHORT_LIST_MAX = 15
    SHORT_DICT_MAX = 15
    SHORT_TUPLE_MAX = 7
    SHORT_WORDS = 16

    SMALL_DICT = 64         # keys of larger ones are hardly a shape that comes again


cdef inline void set_error(object error) noexcept:
    """Leave a caught exception as the pending error of a function that returns NULL."""
    kind = type(error)
    PyErr_SetObject(<PyObject*> kind, <PyObject*> error)


cdef inline bint same_word(const uint8_t* a, const uint8_t* b) noexcept nogil:
    cdef uint64_t x, y
    memcpy(&x, a, 8)
    memcpy(&y, b, 8)
    return x == y


cdef inline bint same_half(const uint8_t* a, const uint8_t* b) noexcept nogil:
    cdef uint32_t x, y
    memcpy(&x, a, 4)
    memcpy(&y, b, 4)
    return x == y


cdef inline bint same_text(const uint8_t* a, const uint8_t* b, Py_ssize_t size) noexcept nogil:
    """Two strings of one size >= 2, by overlapping words: for so few bytes a call of memcmp costs more."""
    cdef Py_ssize_t i = 0
    if size >= 8:
        while i + 8 < size:
            if not same_word(a + i, b + i):
                return False
            i += 8
        return same_word(a + size - 8, b + size - 8)
    if size >= 4:
        return same_half(a, b) and same_half(a + size - 4, b + size - 4)
    return a[0] == b[0] and a[1] == b[1] and a[size - 1] == b[size - 1]
