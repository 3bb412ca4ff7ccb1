"""Bytes to Python objects: the reading half of the codec, whose format is described in ``codec.pyx``.

Each take_* reads the value at reader.p and returns it as a new reference, or NULL with reader.why saying what
is wrong.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer

from fastcomm._core.capi cimport (
    PyObject, raise_pending, PyByteArray_FromStringAndSize, PyBytes_AS_STRING, PyBytes_CheckExact,
    PyBytes_FromStringAndSize, PyDict_GET_SIZE, PyDict_NewPresized, PyDict_SetItem, PyErr_Clear,
    PyErr_ExceptionMatches, PyExc_TypeError, PyExc_UnicodeDecodeError, PyFloat_FromDouble, PyList_New,
    PyList_SET_ITEM, PyLong_FromLong, PyLong_FromUnsignedLongLong,
    PySequence_GetSlice, PyTuple_New, PyTuple_SET_ITEM, PyUnicode_DATA, PyUnicode_DecodeUTF8,
    PyUnicode_GET_LENGTH, PyUnicode_IS_COMPACT_ASCII, PyUnicode_New, Py_DECREF, Py_False, Py_NewRef,
    Py_None, Py_True, Py_XDECREF,
)
from fastcomm._core.wire cimport (
    MAGIC, VERSION, HEADER, MAX_DEPTH, TINY_NEGATIVE, INT, NEGATIVE, NONE, FALSE, TRUE, FLOAT, BIG_INT,
    STR, BYTES, BYTEARRAY, SHORT_STR, SHORT_BYTES, SHORT_LIST, SHORT_DICT, SHORT_TUPLE, LIST, TUPLE,
    DICT, FAR_REF, NEAR_REF, SHORT_STR_MAX, same_text, set_error,
)

from fastcomm.errors import DecodeError

cdef enum:
    KEY_SLOTS = 512

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
    TRAILING
    NOT_A_MESSAGE
    BAD_VERSION
    BAD_FLAGS


@cython.final
cdef class KeyCache:
    """Short ASCII keys seen lately, found by their bytes: those are neither allocated nor hashed."""

    cdef PyObject* slots[KEY_SLOTS]

    def __cinit__(self) -> None:
        memset(self.slots, 0, sizeof(self.slots))

    def __dealloc__(self) -> None:
        cdef int i
        for i in range(KEY_SLOTS):
            Py_XDECREF(self.slots[i])


cdef struct Reader:
    const uint8_t* start
    const uint8_t* p
    const uint8_t* end
    Py_ssize_t owed         # values declared by the containers around and not yet read: at least a byte each
    PyObject** keys
    PyObject* view          # memoryview over the message to slice bytes from; NULL: copy them
    int depth
    int why
    Py_ssize_t where
    Py_ssize_t number       # what the text of `why` needs


cdef PyObject* stop(Reader* reader, Why why, const uint8_t* where, Py_ssize_t number) noexcept:
    reader.why = why
    reader.where = where - reader.start
    reader.number = number
    return NULL


cdef PyObject* pending(Reader* reader) noexcept:
    reader.why = PENDING
    return NULL


cdef inline bint has(Reader* reader, Py_ssize_t size) noexcept:
    """Are there `size` bytes beside those that the containers around still need?"""
    if reader.end - reader.p - reader.owed >= size:
        return True
    stop(reader, TRUNCATED, reader.p, size)
    return False


cdef Py_ssize_t take_size(Reader* reader) noexcept:
    """A varint, or -1."""
    cdef uint64_t size = 0
    cdef int shift
    cdef uint8_t byte
    cdef const uint8_t* start = reader.p
    for shift in range(0, 63, 7):
        if not has(reader, 1):
            return -1
        byte = reader.p[0]
        reader.p += 1
        size |= <uint64_t> (byte & 0x7F) << shift
        if byte < 0x80:
            return <Py_ssize_t> size
    stop(reader, BAD_SIZE, start, 0)
    return -1


cdef inline bint copy_ascii(uint8_t* target, const uint8_t* source, Py_ssize_t size) noexcept:
    """Copy, and say whether all of it was ASCII. What is tested is the copy: the source may be changing."""
    cdef uint64_t word, seen = 0
    cdef Py_ssize_t i = 0
    while i + 8 <= size:
        memcpy(&word, source + i, 8)
        memcpy(target + i, &word, 8)
        seen |= word
        i += 8
    while i < size:
        target[i] = source[i]
        seen |= target[i]
        i += 1
    return (seen & 0x8080808080808080ULL) == 0


cdef PyObject* make_text(Reader* reader, const uint8_t* data, Py_ssize_t size) noexcept:
    cdef PyObject* text
    if size > 1 and data[0] < 0x80:     # shorter ones are singletons of the interpreter
        text = PyUnicode_New(size, 127)
        if text == NULL:
            return pending(reader)
        if copy_ascii(<uint8_t*> PyUnicode_DATA(text), data, size):
            return text
        Py_DECREF(text)
    text = PyUnicode_DecodeUTF8(<const char*> data, size, NULL)
    if text != NULL:
        return text
    if not PyErr_ExceptionMatches(PyExc_UnicodeDecodeError):
        return pending(reader)
    PyErr_Clear()
    return stop(reader, BAD_TEXT, data, size)


cdef inline uint32_t slot_of(const uint8_t* data, Py_ssize_t size) noexcept:
    """From the first and last bytes and the length; keys that differ in the middle alone share a slot."""
    cdef uint64_t first = 0, last = 0
    if size >= 8:
        memcpy(&first, data, 8)
        memcpy(&last, data + size - 8, 8)
    elif size >= 4:
        memcpy(&first, data, 4)
        memcpy(&last, data + size - 4, 4)
    else:
        first = data[0] | data[size >> 1] << 8
        last = data[size - 1]
    first = (first * 0x9E3779B97F4A7C15ULL ^ last + size) * 0xD6E8FEB86659FD93ULL
    return first >> 55


cdef PyObject* take_key_text(Reader* reader, const uint8_t* data, Py_ssize_t size) noexcept:
    cdef PyObject** slot
    cdef PyObject* text
    if size < 2:
        return make_text(reader, data, size)
    slot = &reader.keys[slot_of(data, size)]
    text = slot[0]
    if text != NULL and PyUnicode_GET_LENGTH(text) == size:
        if same_text(<uint8_t*> PyUnicode_DATA(text), data, size):
            return Py_NewRef(text)
    text = make_text(reader, data, size)
    if text != NULL and PyUnicode_IS_COMPACT_ASCII(text):
        Py_XDECREF(slot[0])
        slot[0] = Py_NewRef(text)
    return text


cdef PyObject* take_text(Reader* reader, Py_ssize_t size) noexcept:
    cdef const uint8_t* data = reader.p
    if size < 0 or not has(reader, size):
        return NULL
    reader.p += size
    return make_text(reader, data, size)


cdef PyObject* take_bytes(Reader* reader, Py_ssize_t size) noexcept:
    cdef const uint8_t* data = reader.p
    cdef PyObject* result
    if size < 0 or not has(reader, size):
        return NULL
    reader.p += size
    if reader.view == NULL:
        result = PyBytes_FromStringAndSize(<const char*> data, size)
    else:
        result = PySequence_GetSlice(reader.view, data - reader.start, data - reader.start + size)
    return result if result != NULL else pending(reader)


cdef PyObject* take_bytearray(Reader* reader, Py_ssize_t size) noexcept:
    cdef PyObject* result
    if size < 0 or not has(reader, size):
        return NULL
    result = PyByteArray_FromStringAndSize(<const char*> reader.p, size)
    reader.p += size
    return result if result != NULL else pending(reader)


cdef PyObject* take_float(Reader* reader) noexcept:
    cdef double value
    cdef PyObject* result
    if not has(reader, 8):
        return NULL
    memcpy(&value, reader.p, 8)
    reader.p += 8
    result = PyFloat_FromDouble(value)
    return result if result != NULL else pending(reader)


cdef inline uint64_t take_word(Reader* reader, int size) noexcept:
    cdef uint64_t word = 0
    if reader.end - reader.p >= 8:
        memcpy(&word, reader.p, 8)
        word &= <uint64_t> -1 >> (64 - 8 * size)
    else:
        memcpy(&word, reader.p, size)
    reader.p += size
    return word


cdef PyObject* take_int(Reader* reader, int tag) noexcept:
    """Tags 40..57."""
    cdef int size = (tag & 7) + 1
    cdef uint64_t word
    cdef PyObject* result
    if tag < INT:
        return PyLong_FromLong(tag - TINY_NEGATIVE)
    if not has(reader, size):
        return NULL
    word = take_word(reader, size)
    if tag < NEGATIVE:
        result = PyLong_FromLong(word) if word >> 63 == 0 else PyLong_FromUnsignedLongLong(word)
    elif word >> 63 == 0:
        result = PyLong_FromLong(~<int64_t> word)
    else:
        result = make_wide_negative(word)
    return result if result != NULL else pending(reader)


cdef PyObject* make_wide_negative(uint64_t word) noexcept:
    """Our encoder never writes these: -1 - word below int64."""
    try:
        value = -1 - <object> word
        return Py_NewRef(<PyObject*> value)
    except BaseException as error:
        set_error(error)
        return NULL


cdef PyObject* take_big_int(Reader* reader, Py_ssize_t size) noexcept:
    if size < 0 or not has(reader, size):
        return NULL
    try:
        value = int.from_bytes((<const char*> reader.p)[:size], "little", signed=True)
        reader.p += size
        return Py_NewRef(<PyObject*> value)
    except BaseException as error:
        set_error(error)
        return pending(reader)


cdef PyObject* take_ref(Reader* reader, Py_ssize_t offset, const uint8_t* where) noexcept:
    """The string whose tag is at `offset`, which must lie before the reference at `where`."""
    cdef Py_ssize_t size
    if offset < 0:
        return NULL
    if offset < HEADER or offset >= where - reader.start:
        return stop(reader, BAD_REFERENCE, where, offset)
    size = <Py_ssize_t> reader.start[offset] - SHORT_STR
    if size < 0 or size > SHORT_STR_MAX or offset + 1 + size > where - reader.start:
        return stop(reader, BAD_REFERENCE, where, offset)
    return take_key_text(reader, reader.start + offset + 1, size)


cdef inline PyObject* take_near_ref(Reader* reader, int tag, const uint8_t* where) noexcept:
    cdef int low
    if not has(reader, 1):
        return NULL
    low = reader.p[0]
    reader.p += 1
    return take_ref(reader, (tag - NEAR_REF) << 8 | low, where)


cdef inline bint enter(Reader* reader, Py_ssize_t count, Py_ssize_t least) noexcept:
    """Begin a container of `count` items of at least `least` bytes each."""
    if count < 0:
        return False
    if reader.depth >= MAX_DEPTH:
        stop(reader, TOO_DEEP, reader.p, 0)
        return False
    if count > (reader.end - reader.p - reader.owed) // least:
        stop(reader, TOO_MANY, reader.p, count * least)
        return False
    reader.depth += 1
    reader.owed += count * least
    return True


cdef PyObject* take_list(Reader* reader, Py_ssize_t length) noexcept:
    cdef PyObject* result
    cdef PyObject* item
    cdef Py_ssize_t i
    if not enter(reader, length, 1):
        return NULL
    result = PyList_New(length)
    if result == NULL:
        return pending(reader)
    for i in range(length):
        reader.owed -= 1
        item = take(reader)
        if item == NULL:
            Py_DECREF(result)
            return NULL
        PyList_SET_ITEM(result, i, item)
    reader.depth -= 1
    return result


cdef PyObject* take_tuple(Reader* reader, Py_ssize_t length) noexcept:
    cdef PyObject* result
    cdef PyObject* item
    cdef Py_ssize_t i
    if not enter(reader, length, 1):
        return NULL
    result = PyTuple_New(length)
    if result == NULL:
        return pending(reader)
    for i in range(length):
        reader.owed -= 1
        item = take(reader)
        if item == NULL:
            Py_DECREF(result)
            return NULL
        PyTuple_SET_ITEM(result, i, item)
    reader.depth -= 1
    return result


cdef PyObject* take_dict(Reader* reader, Py_ssize_t length) noexcept:
    cdef PyObject* result
    cdef const uint8_t* start = reader.p
    cdef Py_ssize_t _i
    if not enter(reader, length, 2):
        return NULL
    result = PyDict_NewPresized(length)
    if result == NULL:
        return pending(reader)
    for _i in range(length):
        if not take_pair(reader, result):
            Py_DECREF(result)
            return NULL
    if PyDict_GET_SIZE(result) != length:
        Py_DECREF(result)
        return stop(reader, DUPLICATE_KEY, start, length)
    reader.depth -= 1
    return result


cdef inline bint take_pair(Reader* reader, PyObject* target) noexcept:
    cdef const uint8_t* start = reader.p
    cdef PyObject* key
    cdef PyObject* value
    cdef int failed
    reader.owed -= 1
    key = take_key(reader)
    if key == NULL:
        return False
    reader.owed -= 1
    value = take(reader)
    if value == NULL:
        Py_DECREF(key)
        return False
    failed = PyDict_SetItem(target, key, value)
    Py_DECREF(key)
    Py_DECREF(value)
    if failed:
        key_refused(reader, start)
    return not failed


cdef PyObject* key_refused(Reader* reader, const uint8_t* where) noexcept:
    if not PyErr_ExceptionMatches(PyExc_TypeError):
        return pending(reader)
    PyErr_Clear()
    return stop(reader, UNHASHABLE, where, 0)


cdef inline PyObject* take_key(Reader* reader) noexcept:
    """Bytes in keys are always copied: hashing a memoryview would ask the object under it."""
    cdef PyObject* view = reader.view
    cdef PyObject* key
    cdef const uint8_t* data = reader.p + 1
    cdef Py_ssize_t size
    if reader.p < reader.end:
        size = <Py_ssize_t> reader.p[0] - SHORT_STR
        if 0 <= size <= SHORT_STR_MAX and reader.end - data >= size:
            reader.p = data + size
            return take_key_text(reader, data, size)
    reader.view = NULL
    key = take(reader)
    reader.view = view
    return key


cdef PyObject* take_sized(Reader* reader, int tag, const uint8_t* where) noexcept:
    """Tags that a varint follows: 5C..5F and B8..BB."""
    if tag == STR:
        return take_text(reader, take_size(reader))
    if tag == BYTES:
        return take_bytes(reader, take_size(reader))
    if tag == LIST:
        return take_list(reader, take_size(reader))
    if tag == DICT:
        return take_dict(reader, take_size(reader))
    if tag == TUPLE:
        return take_tuple(reader, take_size(reader))
    if tag == BYTEARRAY:
        return take_bytearray(reader, take_size(reader))
    if tag == BIG_INT:
        return take_big_int(reader, take_size(reader))
    if tag == FAR_REF:
        return take_ref(reader, take_size(reader), where)
    return stop(reader, BAD_TAG, where, tag)


cdef inline PyObject* take_scalar(Reader* reader, int tag, const uint8_t* where) noexcept:
    """Tags 50..5F."""
    if tag < NONE:
        return take_int(reader, tag)
    if tag == NONE:
        return Py_NewRef(Py_None)
    if tag == TRUE:
        return Py_NewRef(Py_True)
    if tag == FALSE:
        return Py_NewRef(Py_False)
    if tag == FLOAT:
        return take_float(reader)
    return take_sized(reader, tag, where)


cdef PyObject* take(Reader* reader) noexcept:
    cdef const uint8_t* where = reader.p
    cdef int tag, kind
    if not has(reader, 1):
        return NULL
    tag = where[0]
    kind = tag >> 4
    reader.p += 1
    if kind == 6 or kind == 7:
        return take_text(reader, tag - SHORT_STR)
    elif kind == 0 or kind == 1 or kind == 2 or kind == 3:
        return PyLong_FromLong(tag)
    elif kind == 4:
        return take_int(reader, tag)
    elif kind == 5:
        return take_scalar(reader, tag, where)
    elif kind == 8:
        return take_bytes(reader, tag - SHORT_BYTES)
    elif kind == 9:
        return take_list(reader, tag - SHORT_LIST)
    elif kind == 10:
        return take_dict(reader, tag - SHORT_DICT)
    elif kind == 11:
        return take_tuple(reader, tag - SHORT_TUPLE) if tag < LIST else take_sized(reader, tag, where)
    elif kind == 12:
        return take_near_ref(reader, tag, where)
    return stop(reader, BAD_TAG, where, tag)


cdef PyObject* take_message(Reader* reader) noexcept:
    cdef PyObject* result
    cdef int head
    if not has(reader, 1):
        return NULL
    if reader.p[0] != MAGIC:
        return stop(reader, NOT_A_MESSAGE, reader.p, reader.p[0])
    if not has(reader, HEADER):
        return NULL
    head = reader.p[1]
    if head & 0x0F != VERSION:
        return stop(reader, BAD_VERSION, reader.p + 1, head & 0x0F)
    if head >> 4:
        return stop(reader, BAD_FLAGS, reader.p + 1, head >> 4)
    reader.p += HEADER
    result = take(reader)
    if result != NULL and reader.p != reader.end:
        Py_DECREF(result)
        return stop(reader, TRAILING, reader.p, reader.end - reader.p)
    return result


cdef str fault_text(Reader* reader):
    number = reader.number
    why = reader.why
    left = reader.end - reader.start - reader.where
    if why == TRUNCATED:
        return f"cut short: {number} bytes are needed here and {left} follow"
    if why == TOO_MANY:
        return f"{number} values can't be in the {left} bytes that follow"
    if why == BAD_SIZE:
        return "a size of more than nine bytes"
    if why == BAD_TAG:
        return f"unknown tag 0x{number:02X}; was it written by a newer version?"
    if why == BAD_TEXT:
        return f"a str of {number} bytes that are not UTF-8"
    if why == BAD_REFERENCE:
        return f"a reference to offset {number}, where no short str begins"
    if why == UNHASHABLE:
        return "a dictionary key that can't be hashed"
    if why == DUPLICATE_KEY:
        return f"a dict of {number} pairs with a key that occurs twice"
    return header_fault_text(why, number)


cdef str header_fault_text(int why, Py_ssize_t number):
    if why == TOO_DEEP:
        return f"nested deeper than {MAX_DEPTH} levels"
    if why == TRAILING:
        return f"{number} bytes follow the value"
    if why == NOT_A_MESSAGE:
        return f"not a fastcomm message: the first byte is 0x{number:02X}, not 0x{MAGIC:02X}"
    if why == BAD_VERSION:
        return f"format version {number} is unknown; this build reads version {VERSION}"
    return f"flags 0x{number:X} are unknown; was it written by a newer version?"


cdef object raise_fault(Reader* reader):
    if reader.why == PENDING:
        raise_pending()
    raise DecodeError(f"{fault_text(reader)} (at offset {reader.where})", offset=reader.where)


cdef object decode_span(const uint8_t* data, Py_ssize_t length, PyObject* view):
    cdef Reader reader
    cdef PyObject* result
    cdef object value
    reader.start = reader.p = data
    reader.end = data + length
    reader.owed = 0
    reader.keys = recent_keys.slots
    reader.view = view
    reader.depth = 0
    result = take_message(&reader)
    if result == NULL:
        raise_fault(&reader)
    value = <object> result
    Py_DECREF(result)
    return value


cdef object c_decode(const uint8_t* data, Py_ssize_t length):
    """Decode with bytes copied. Raises DecodeError."""
    return decode_span(data, length, NULL)


cdef KeyCache recent_keys = KeyCache()


def decode(buffer: object, *, copy: bool = True) -> object:
    """Decode the one message that fills the contiguous `buffer`.

    With ``copy=False`` bytes come back as read-only memoryviews into `buffer`, which they keep exported;
    those in dictionary keys are copied all the same. Raises DecodeError, with the `offset` at which the
    message is wrong, and BufferError or TypeError if `buffer` is not contiguous or no buffer. Safe in any
    thread.
    """
    cdef Py_buffer view
    cdef object window = None
    if PyBytes_CheckExact(buffer) and copy:
        return decode_span(<const uint8_t*> PyBytes_AS_STRING(<PyObject*> buffer), len(<bytes> buffer), NULL)
    if not copy:
        window = window_on(buffer)
        buffer = window
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        return decode_span(<const uint8_t*> view.buf, view.len, NULL if copy else <PyObject*> window)
    finally:
        PyBuffer_Release(&view)


cdef object window_on(object buffer):
    """A read-only memoryview of the bytes of `buffer`, whatever its format and shape."""
    view = memoryview(buffer).toreadonly()
    return view.cast("B") if view.nbytes else memoryview(b"")
