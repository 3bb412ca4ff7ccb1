"""Bytes to Python objects: the reading half of the codec, whose format docs/wire.md describes.

Each take_* reads the value at reader.p and returns it as a new reference, or NULL with reader.why saying what
is wrong.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from cpython.buffer cimport PyBUF_READ, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.memoryview cimport PyMemoryView_FromMemory

from fastcomm._core.capi cimport (
    PyObject, raise_pending, PyByteArray_FromStringAndSize, PyBytes_AS_STRING, PyBytes_CheckExact,
    PyBytes_FromStringAndSize, PyBytes_GET_SIZE, PyDict_GET_SIZE, PyDict_NewPresized, PyDict_SetItem,
    PyErr_Clear, PyErr_ExceptionMatches, PyExc_Exception, PyExc_MemoryError, PyExc_UnicodeDecodeError, PyFloat_FromDouble,
    PyFrozenSet_New, PyList_GET_ITEM, PyList_GET_SIZE, PyList_New, PyList_SET_ITEM, PyLong_FromLong,
    PyLong_FromUnsignedLongLong, PySequence_GetSlice, PySet_Add, PySet_GET_SIZE, PySet_New, PyTuple_New,
    PyTuple_SET_ITEM, PyUnicode_DATA, PyUnicode_DecodeUTF8, PyUnicode_GET_LENGTH, PyUnicode_InternInPlace,
    PyUnicode_IS_COMPACT_ASCII, PyUnicode_New, Py_DECREF, Py_False, Py_NewRef, Py_None, Py_True, Py_XDECREF,
)
from fastcomm._core.wire cimport (
    MAGIC, VERSION, HEADER, MAX_DEPTH, TINY_NEGATIVE, INT, NEGATIVE, NONE, FALSE, TRUE, FLOAT, BIG_INT,
    STR, BYTES, BYTEARRAY, SHORT_STR, SHORT_BYTES, SHORT_LIST, SHORT_DICT, SHORT_TUPLE, LIST, TUPLE,
    DICT, FAR_REF, NEAR_REF, SHORT_STR_MAX, SET, FROZENSET, SHORT_WORD, SHORT_WORDS, WORD, NEAR_ENTRY,
    FAR_ENTRY, EXTENDED, TIME, DATETIME, TIMEZONE, ZONEINFO, SCALAR, ARRAY, STRUCT, PICKLE, IS_LZ4,
    IS_STRUCT, IS_ZSTD, NO_LIMIT, WITH_TABLE, same_text, set_error,
)
from fastcomm._core.words cimport FC_WORDS, fc_words

from fastcomm.errors import DecodeError

cdef enum:
    MAX_DECOMPRESSED = 16 << 20

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
    A_STRUCT
    OTHER_TABLE
    TOO_LARGE


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


cdef inline bint is_text(PyObject* text, const uint8_t* data, Py_ssize_t size) noexcept:
    return text != NULL and PyUnicode_GET_LENGTH(text) == size and same_text(
        <uint8_t*> PyUnicode_DATA(text), data, size
    )


cdef inline void keep(PyObject** slot, PyObject* text) noexcept:
    if PyUnicode_IS_COMPACT_ASCII(text):
        Py_XDECREF(slot[0])
        slot[0] = Py_NewRef(text)


cdef PyObject* find_key(Reader* reader, const uint8_t* data, Py_ssize_t size) noexcept:
    """A short key as the object that was made of it before, if that is still kept: it has its hash."""
    cdef PyObject** slot = &reader.keys[slot_of(data, size)]
    cdef PyObject* text
    if is_text(slot[0], data, size):
        return Py_NewRef(slot[0])
    text = make_text(reader, data, size)
    if text != NULL:
        keep(slot, text)
    return text


cdef inline PyObject* take_key_text(Reader* reader, const uint8_t* data, Py_ssize_t size) noexcept:
    """Messages come in streams of one kind: what is most likely here is the key of the message before."""
    cdef PyObject** said = reader.script
    cdef PyObject* text
    if size < 2 or reader.keys == NULL:
        return make_text(reader, data, size)
    if said == reader.script_end:
        return find_key(reader, data, size)
    reader.script += 1
    if is_text(said[0], data, size):
        return Py_NewRef(said[0])
    text = find_key(reader, data, size)
    if text != NULL:
        keep(said, text)
    return text


cdef inline PyObject* take_text(Reader* reader, Py_ssize_t size) noexcept:
    cdef const uint8_t* data = reader.p
    cdef PyObject** said = reader.script
    cdef PyObject* text
    if size < 0 or not has(reader, size):
        return NULL
    reader.p += size
    if size < 2 or size > SHORT_STR_MAX or said == reader.script_end:
        return make_text(reader, data, size)
    reader.script += 1
    if is_text(said[0], data, size):
        return Py_NewRef(said[0])
    text = make_text(reader, data, size)
    if text != NULL:
        keep(said, text)
    return text


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
    if offset < reader.header or offset >= where - reader.start:
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


cdef PyObject* static_words[512]        # made when first asked for; 512 is FC_WORDS


cdef PyObject* make_word(Reader* reader, int number, const uint8_t* where) noexcept:
    cdef PyObject* text
    if number >= FC_WORDS:
        return stop(reader, BAD_WORD, where, number)
    text = static_words[number]
    if text == NULL:
        text = PyUnicode_DecodeUTF8(fc_words[number].text, fc_words[number].length, NULL)
        if text == NULL:
            return pending(reader)
        PyUnicode_InternInPlace(&text)
        static_words[number] = text
    return Py_NewRef(text)


cdef PyObject* take_interned(Reader* reader, int tag, const uint8_t* where) noexcept:
    """Tags D0..EF."""
    cdef int low
    if tag < WORD:
        return make_word(reader, tag - SHORT_WORD, where)
    if not has(reader, 1):
        return NULL
    low = reader.p[0]
    reader.p += 1
    if tag >= NEAR_ENTRY:
        return take_entry(reader, (tag - NEAR_ENTRY) << 8 | low, where)
    return make_word(reader, SHORT_WORDS + ((tag - WORD) << 8 | low), where)


cdef PyObject* take_entry(Reader* reader, Py_ssize_t number, const uint8_t* where) noexcept:
    """A string of the string table, whose list grows when other handles of it have learned more."""
    if number < 0:
        return NULL
    if reader.entries == NULL:
        return stop(reader, BAD_ENTRY, where, number)
    if number >= PyList_GET_SIZE(reader.entries):
        try:
            (<Decoder> reader.decoder).table.refresh()
        except BaseException as error:
            set_error(error)
            return pending(reader)
        if number >= PyList_GET_SIZE(reader.entries):
            return stop(reader, BAD_ENTRY, where, number)
    return Py_NewRef(PyList_GET_ITEM(reader.entries, number))


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
    cdef Py_ssize_t _
    if not enter(reader, length, 2):
        return NULL
    result = PyDict_NewPresized(length)
    if result == NULL:
        return pending(reader)
    for _ in range(length):
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
    """What can't be hashed or compared, by whatever error a registered type raises then."""
    if PyErr_ExceptionMatches(PyExc_MemoryError) or not PyErr_ExceptionMatches(PyExc_Exception):
        return pending(reader)
    PyErr_Clear()
    return stop(reader, UNHASHABLE, where, 0)


cdef PyObject* take_set(Reader* reader, int tag, Py_ssize_t length, const uint8_t* start) noexcept:
    cdef PyObject* result
    cdef Py_ssize_t _
    if not enter(reader, length, 1):
        return NULL
    result = PySet_New(NULL) if tag == SET else PyFrozenSet_New(NULL)
    if result == NULL:
        return pending(reader)
    for _ in range(length):
        if not take_member(reader, result):
            Py_DECREF(result)
            return NULL
    if PySet_GET_SIZE(result) != length:
        Py_DECREF(result)
        return stop(reader, DUPLICATE_KEY, start, length)
    reader.depth -= 1
    return result


cdef bint take_member(Reader* reader, PyObject* target) noexcept:
    cdef const uint8_t* start = reader.p
    cdef PyObject* item
    cdef int failed
    reader.owed -= 1
    item = take_key(reader)
    if item == NULL:
        return False
    failed = PySet_Add(target, item)
    Py_DECREF(item)
    if failed:
        key_refused(reader, start)
    return not failed


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
        size += SHORT_STR
        if SHORT_WORD <= size < EXTENDED:
            reader.p = data
            return take_interned(reader, <int> size, data - 1)
    reader.view = NULL
    key = take(reader)
    reader.view = view
    return key


cdef PyObject* take_sized(Reader* reader, int tag, const uint8_t* where) noexcept:
    """Tags that a varint follows: 5C..5F and B8..BE."""
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
    if tag == SET or tag == FROZENSET:
        return take_set(reader, tag, take_size(reader), where)
    if tag == FAR_ENTRY:
        return take_entry(reader, take_size(reader), where)
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
    elif kind == 13 or kind == 14:
        return take_interned(reader, tag, where)
    return take_extended(reader, tag, where)


# Of the tags F0..FE: bytes of fixed size, then values.
cdef int *FIXED = [4, 8, 12, 12, 0, 0, 16, 0, 0, 0, 0, 0, 0, 4, 0]
cdef int *VALUES = [0, 1, 1, 0, 2, 1, 0, 1, 2, 2, 2, 2, 3, 1, 1]


cdef PyObject* take_extended(Reader* reader, int tag, const uint8_t* where) noexcept:
    """Nothing lies directly in such a value but a time zone: the depth of containers bounds the recursion."""
    cdef const uint8_t* fixed = reader.p
    cdef PyObject* values
    cdef PyObject* value
    cdef int i, count
    if tag > PICKLE:
        return stop(reader, BAD_TAG, where, tag)
    count = VALUES[tag - EXTENDED]
    if not has(reader, FIXED[tag - EXTENDED] + count):
        return NULL
    reader.p += FIXED[tag - EXTENDED]
    values = PyTuple_New(count)
    if values == NULL:
        return pending(reader)
    reader.owed += count
    for i in range(count):
        reader.owed -= 1
        value = take_part(reader, tag)
        if value == NULL:
            Py_DECREF(values)
            return NULL
        PyTuple_SET_ITEM(values, i, value)
    if tag == ARRAY:
        value = take_array(reader, values, where)
    else:
        value = restore(reader, tag, fixed, values, where)
    Py_DECREF(values)
    return value


cdef PyObject* take_part(Reader* reader, int tag) noexcept:
    cdef PyObject* view = reader.view
    cdef PyObject* value
    cdef int inner
    if not has(reader, 1):
        return NULL
    inner = reader.p[0]
    if inner >= EXTENDED and not (TIMEZONE <= inner <= ZONEINFO and TIME <= tag <= DATETIME):
        return stop(reader, BAD_TAG, reader.p, inner)
    if tag == SCALAR or tag == PICKLE or tag == STRUCT:
        reader.view = NULL      # what is read from these bytes is no view of them
    value = take(reader)
    reader.view = view
    return value


cdef PyObject* restore(
    Reader* reader, int tag, const uint8_t* fixed, PyObject* values, const uint8_t* where
) noexcept:
    cdef object memo, result
    try:
        memo = message_memo(reader)
        result = type_table(reader).restore(
            tag, (<const char*> fixed)[:FIXED[tag - EXTENDED]], <object> values, memo
        )
        return Py_NewRef(<PyObject*> result)
    except BaseException as error:
        return refuse_value(reader, error, where)


cdef object message_memo(Reader* reader):
    if reader.memo == NULL:
        memo = {}
        reader.memo = Py_NewRef(<PyObject*> memo)
    return <object> reader.memo


cdef object type_table(Reader* reader):
    decoder = <Decoder> reader.decoder
    if decoder.types is None:
        decoder.types = default_types()
    return decoder.types


cdef PyObject* refuse_value(Reader* reader, object error, const uint8_t* where) noexcept:
    cdef PyObject* text
    if isinstance(error, MemoryError) or not isinstance(error, Exception):
        set_error(error)
        return pending(reader)
    try:
        detail = str(error)
    except Exception:
        detail = type(error).__name__
    text = <PyObject*> detail
    reader.detail = Py_NewRef(text)
    return stop(reader, BAD_VALUE, where, 0)


cdef PyObject* take_array(Reader* reader, PyObject* values, const uint8_t* where) noexcept:
    cdef Py_ssize_t padding, size = take_size(reader)
    cdef const uint8_t* data
    cdef object window, result
    if size < 0 or not has(reader, 1):
        return NULL
    padding = reader.p[0]
    reader.p += 1
    if not has(reader, padding) or size > reader.end - reader.p - reader.owed - padding:
        return stop(reader, TRUNCATED, reader.p, size)
    data = reader.p + padding
    reader.p = data + size
    try:
        if reader.view != NULL:
            window = (<object> reader.view)[data - reader.start:data - reader.start + size]
            result = type_table(reader).restore_array(<object> values, window, False)
        else:
            window = PyMemoryView_FromMemory(<char*> data, size, PyBUF_READ)
            try:
                result = type_table(reader).restore_array(<object> values, window, True)
            finally:
                window.release()
        return Py_NewRef(<PyObject*> result)
    except BaseException as error:
        return refuse_value(reader, error, where)


cdef int take_header(Reader* reader) noexcept:
    """The second byte, flags and version; -1 if this is no message that can be read here."""
    cdef int head
    if not has(reader, 1):
        return -1
    if reader.p[0] != MAGIC:
        stop(reader, NOT_A_MESSAGE, reader.p, reader.p[0])
        return -1
    if not has(reader, HEADER):
        return -1
    head = reader.p[1]
    if head & 0x0F != VERSION:
        stop(reader, BAD_VERSION, reader.p + 1, head & 0x0F)
        return -1
    reader.p += HEADER
    return head


cdef PyObject* take_message(Reader* reader, int head) noexcept:
    """What follows the header."""
    cdef PyObject* result
    if head != VERSION and not take_flags(reader, head & 0xF0):
        return NULL
    reader.header = reader.p - reader.start
    result = take(reader)
    if result != NULL and reader.p != reader.end:
        Py_DECREF(result)
        return stop(reader, TRAILING, reader.p, reader.end - reader.p)
    return result


cdef bint take_flags(Reader* reader, int flags) noexcept:
    """Of a message that is not compressed."""
    cdef uint32_t id
    if flags == IS_STRUCT:
        stop(reader, A_STRUCT, reader.start + 1, 0)
        return False
    if flags != WITH_TABLE:
        stop(reader, BAD_FLAGS, reader.start + 1, flags >> 4)
        return False
    if not has(reader, 4):
        return False
    memcpy(&id, reader.p, 4)
    if not set_entries(reader, id):
        stop(reader, OTHER_TABLE, reader.p, id)
        return False
    reader.p += 4
    return True


cdef bint set_entries(Reader* reader, uint32_t id) noexcept:
    """Is it the string table of this decoder?"""
    cdef Decoder decoder = <Decoder> reader.decoder
    if decoder.table is None or decoder.table_id != id:
        return False
    reader.entries = <PyObject*> decoder.entries
    return True


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
    if why == BAD_WORD:
        return f"word {number} of a table that has {FC_WORDS}; was it written by a newer version?"
    if why == BAD_ENTRY:
        return f"entry {number} of a string table that has no such entry, or of none"
    if why == BAD_VALUE:
        return <object> reader.detail
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
    if why == A_STRUCT:
        return "the message of a Struct; unpack it by its class"
    if why == OTHER_TABLE:
        return f"written with the string table {number:#010x}, which this codec was not given"
    if why == TOO_LARGE:
        return f"{number} bytes, more than this codec takes; see max_size and max_decompressed of Codec"
    return f"flags 0x{number:X} are unknown; was it written by a newer version?"


cdef object raise_fault(Reader* reader):
    if reader.why == PENDING:
        raise_pending()
    text = fault_text(reader)
    Py_XDECREF(reader.detail)
    raise DecodeError(f"{text} (at offset {reader.where})", offset=reader.where)


cdef object no_types = None


cdef object default_types():
    """A table without registered types. The module is loaded by the first message that needs it."""
    global no_types
    if no_types is None:
        from fastcomm._core.extended import TypeTable
        no_types = TypeTable()
    return no_types


@cython.final
cdef class Decoder:
    """Decodes messages; keeps short ASCII strings, keys by their bytes and the others by their place in the
    message before: those that come again are neither allocated nor hashed. `table`: a StringTable; `types`: a TypeTable. Any thread may use it.
    """

    def __init__(
        self, *, object types=None, object table=None, Py_ssize_t max_size=NO_LIMIT,
        Py_ssize_t max_decompressed=MAX_DECOMPRESSED, bint interning=True,
    ) -> None:
        self.types = types
        self.table = table
        self.max_size = max_size
        self.max_decompressed = max_decompressed
        self.interning = interning
        if table is not None:
            self.entries = table.texts
            self.table_id = table.id

    def __dealloc__(self) -> None:
        cdef int i
        for i in range(KEY_SLOTS):
            Py_XDECREF(self.keys[i])
        for i in range(SCRIPT_SLOTS):
            Py_XDECREF(self.script[i])

    cdef object span(self, const uint8_t* data, Py_ssize_t length, PyObject* view):
        cdef Reader reader
        cdef PyObject* result = NULL
        cdef object value
        cdef int head
        reader.start = reader.p = data
        reader.end = data + length
        reader.owed = 0
        reader.keys = self.keys if self.interning else NULL
        reader.script = self.script
        reader.script_end = self.script + (SCRIPT_SLOTS if self.interning else 0)
        reader.decoder = <PyObject*> self
        reader.memo = reader.detail = reader.entries = NULL
        reader.view = view
        reader.depth = 0
        if length > self.max_size:
            stop(&reader, TOO_LARGE, data, length)
            raise_fault(&reader)
        head = take_header(&reader)
        if head >= 0 and (head & (IS_LZ4 | IS_ZSTD)):
            return self.compressed_span(&reader, head & 0xF0)
        if head >= 0:
            result = take_message(&reader, head)
        Py_XDECREF(reader.memo)
        if result == NULL:
            raise_fault(&reader)
        value = <object> result
        Py_DECREF(result)
        return value

    cdef object compressed_span(self, Reader* reader, int flags):
        """The message within is private memory by then, so views into it are of a bytes object."""
        cdef Py_ssize_t size
        if flags != IS_LZ4 and flags != IS_ZSTD:
            stop(reader, BAD_FLAGS, reader.start + 1, flags >> 4)
            raise_fault(reader)
        size = take_size(reader)
        if size < 0:
            raise_fault(reader)
        if size > self.max_decompressed:
            stop(reader, TOO_LARGE, reader.start + HEADER, size)
            raise_fault(reader)
        from fastcomm._core.compression import decompress
        offset = reader.p - reader.start
        try:
            plain = decompress(flags, (<const char*> reader.p)[:reader.end - reader.p], size)
        except ValueError as error:
            raise DecodeError(f"{error} (at offset {offset})", offset=offset) from None
        if len(plain) > 1 and plain[1] & (IS_LZ4 | IS_ZSTD):
            raise DecodeError(
                f"a compressed message in a compressed one (at offset {offset})", offset=offset
            )
        try:
            return self.message(plain, reader.view == NULL)
        except DecodeError as error:
            raise DecodeError(f"in the decompressed message: {error}", offset=offset) from None

    cdef object message(self, object buffer, bint copy):
        cdef Py_buffer view
        cdef object window = None
        if PyBytes_CheckExact(buffer) and copy:
            return self.span(
                <const uint8_t*> PyBytes_AS_STRING(<PyObject*> buffer),
                PyBytes_GET_SIZE(<PyObject*> buffer), NULL,
            )
        if not copy:
            window = window_on(buffer)
            buffer = window
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
        try:
            return self.span(<const uint8_t*> view.buf, view.len, NULL if copy else <PyObject*> window)
        finally:
            PyBuffer_Release(&view)


cdef Decoder shared_decoder = Decoder()


cdef object c_decode(const uint8_t* data, Py_ssize_t length):
    """Decode with bytes copied. Raises DecodeError."""
    return shared_decoder.span(data, length, NULL)


def decode(buffer: object, /, *, copy: bool = True) -> object:
    """Decode the one message that fills the contiguous `buffer`, of any released version of the format.

    With ``copy=False`` bytes come back as read-only memoryviews and numpy arrays as read-only views into
    `buffer`, which they keep exported; bytes in dictionary keys are copied all the same. A compressed message
    may have 16 MiB when decompressed. Raises DecodeError, with the `offset` at which the message is wrong,
    and BufferError or TypeError if `buffer` is not contiguous or no buffer. Nothing is imported but the
    modules of the standard types and numpy, and only if the message has values of them. Safe in any thread;
    if `buffer` changes meanwhile the value may be wrong, or a DecodeError be raised.
    """
    return shared_decoder.message(buffer, copy)


cdef object window_on(object buffer):
    """A read-only memoryview of the bytes of `buffer`, whatever its format and shape."""
    view = memoryview(buffer).toreadonly()
    return view.cast("B") if view.nbytes else memoryview(b"")
