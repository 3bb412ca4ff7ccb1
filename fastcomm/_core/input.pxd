"""What is read from, and how its pieces are: bounds, sizes, failures. See ``reader.pyx``."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastcomm._core.capi cimport PyObject
from fastcomm._core.wire cimport byte_once

cdef enum:
    KEY_SLOTS = 512


cdef struct Reader:
    const uint8_t* start
    const uint8_t* p
    const uint8_t* end
    Py_ssize_t owed         # values declared by the containers around and not yet read: at least a byte each
    Py_ssize_t header       # bytes of it
    PyObject** keys         # of the decoder; NULL: don't look there
    PyObject** types        # of the decoder: owned TypeTable; NULL there: not needed yet
    PyObject* table         # borrowed StringTable of the decoder; NULL: none
    PyObject* shared        # the same of the channel that the message came by
    PyObject* entries       # borrowed list of its strings; NULL: the message names no table
    PyObject* memo          # owned dict of this message, for TypeTable; NULL: not needed yet
    PyObject* detail        # owned text of BAD_VALUE
    PyObject* view          # memoryview over the message to slice bytes from; NULL: copy them
    int depth
    int why
    Py_ssize_t where
    Py_ssize_t number       # what the text of `why` needs


cdef enum Why:
    PENDING             # a Python error is set; it is raised as it is
    TOO_DEEP
    TRUNCATED
    TOO_MANY
    BAD_SIZE
    BAD_TAG
    BAD_TEXT
    BAD_REFERENCE
    UNHASHABLE
    DUPLICATE_KEY
    BAD_WORD
    BAD_ENTRY
    BAD_VALUE           # reader.detail says why
    TRAILING
    NOT_A_MESSAGE
    BAD_VERSION
    BAD_FLAGS
    OTHER_TABLE
    TOO_LARGE


cdef inline PyObject* stop(Reader* reader, Why why, const uint8_t* where, Py_ssize_t number) noexcept:
    reader.why = why
    reader.where = where - reader.start
    reader.number = number
    return NULL


cdef inline PyObject* pending(Reader* reader) noexcept:
    reader.why = PENDING
    return NULL


cdef inline bint has(Reader* reader, Py_ssize_t size) noexcept:
    """Are there `size` bytes beside those that the containers around still need?"""
    if reader.end - reader.p - reader.owed >= size:
        return True
    stop(reader, TRUNCATED, reader.p, size)
    return False


cdef inline Py_ssize_t take_size(Reader* reader) noexcept:
    """A varint, or -1."""
    cdef uint64_t size = 0
    cdef int shift
    cdef uint8_t byte
    cdef const uint8_t* start = reader.p
    for shift in range(0, 63, 7):
        if not has(reader, 1):
            return -1
        byte = byte_once(reader.p)
        reader.p += 1
        size |= <uint64_t> (byte & 0x7F) << shift
        if byte < 0x80:
            return <Py_ssize_t> size
    stop(reader, BAD_SIZE, start, 0)
    return -1
