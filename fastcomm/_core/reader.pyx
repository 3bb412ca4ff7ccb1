"""Bytes to values, in the format of docs/wire.md; ``decoder.pyx`` reads messages of them.

Each take_* reads the value at reader.p and returns it as a new reference, or NULL with reader.why saying what
is wrong. Each length is read once, checked, then used: the bytes may be changing.
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from cpython.buffer cimport PyBUF_READ
from cpython.memoryview cimport PyMemoryView_FromMemory

from fastcomm._core.capi cimport (
    Py_DECREF, Py_False, Py_NewRef, Py_None, Py_True, PyByteArray_FromStringAndSize,
    PyBytes_FromStringAndSize, PyDict_GET_SIZE, PyDict_NewPresized, PyDict_SetItem, PyErr_Clear,
    PyErr_ExceptionMatches, PyExc_Exception, PyExc_MemoryError, PyFloat_FromDouble, PyFrozenSet_New,
    PyList_GET_ITEM, PyList_GET_SIZE, PyList_New, PyList_SET_ITEM, PyLong_FromLong,
    PyLong_FromUnsignedLongLong, PyObject, PySequence_GetSlice, PySet_Add, PySet_GET_SIZE, PySet_New,
    PyTuple_New, PyTuple_SET_ITEM, PyUnicode_DecodeUTF8, PyUnicode_InternInPlace,
)
from fastcomm._core.input cimport (
    BAD_ENTRY, BAD_REFERENCE, BAD_TAG, BAD_VALUE, BAD_WORD, DUPLICATE_KEY, has, pending, Reader, stop,
    take_size, TOO_DEEP, TOO_MANY, TRUNCATED, UNHASHABLE,
)
from fastcomm._core.strings cimport StringTable
from fastcomm._core.texts cimport take_key_text, take_text
from fastcomm._core.wire cimport (
    ARRAY, BIG_INT, byte_once, BYTEARRAY, BYTES, DATETIME, DICT, EXTENDED, FALSE, FAR_ENTRY, FAR_REF, FLOAT,
    FROZENSET, INT, LIST, MAX_DEPTH, NEAR_ENTRY, NEAR_REF, NEGATIVE, NONE, PICKLE, SCALAR, SET, set_error,
    SHORT_BYTES, SHORT_DICT, SHORT_LIST, SHORT_STR, SHORT_STR_MAX, SHORT_TUPLE, SHORT_WORD, SHORT_WORDS,
    SMALL_DICT, STR, STRUCT, TIME, TIMEZONE, TINY_NEGATIVE, TRUE, TUPLE, WORD, ZONEINFO,
)
from fastcomm._core.words cimport FC_WORDS, fc_words


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
    size = <Py_ssize_t> byte_once(reader.start + offset) - SHORT_STR
    if size < 0 or size > SHORT_STR_MAX or offset + 1 + size > where - reader.start:
        return stop(reader, BAD_REFERENCE, where, offset)
    return take_key_text(reader, reader.start + offset + 1, size)


cdef inline PyObject* take_near_ref(Reader* reader, int tag, const uint8_t* where) noexcept:
    cdef int low
    if not has(reader, 1):
        return NULL
    low = byte_once(reader.p)
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
    low = byte_once(reader.p)
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
            (<StringTable> reader.table).take_in()
        except BaseException as error:
            return refuse_value(reader, error, where)
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
        if not take_pair(reader, result, length <= SMALL_DICT):
            Py_DECREF(result)
            return NULL
    if PyDict_GET_SIZE(result) != length:
        Py_DECREF(result)
        return stop(reader, DUPLICATE_KEY, start, length)
    reader.depth -= 1
    return result


cdef inline bint take_pair(Reader* reader, PyObject* target, bint keyed) noexcept:
    cdef const uint8_t* start = reader.p
    cdef PyObject* key
    cdef PyObject* value
    cdef int failed
    reader.owed -= 1
    key = take_key(reader) if keyed else take_new_key(reader)
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
        size = <Py_ssize_t> byte_once(reader.p) - SHORT_STR
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


cdef PyObject* take_new_key(Reader* reader) noexcept:
    """One that is not looked for among those seen before."""
    cdef PyObject** keys = reader.keys
    cdef PyObject* key
    reader.keys = NULL
    key = take_key(reader)
    reader.keys = keys
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


cdef inline PyObject* take_tagged(Reader* reader, int tag, const uint8_t* where) noexcept:
    """The value whose tag, at `where`, has been read."""
    cdef int kind = tag >> 4
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


cdef PyObject* take(Reader* reader) noexcept:
    cdef const uint8_t* where = reader.p
    if not has(reader, 1):
        return NULL
    reader.p += 1
    return take_tagged(reader, byte_once(where), where)


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
    cdef const uint8_t* where = reader.p
    cdef int inner
    if not has(reader, 1):
        return NULL
    inner = byte_once(where)
    reader.p += 1
    if inner >= EXTENDED and not (TIMEZONE <= inner <= ZONEINFO and TIME <= tag <= DATETIME):
        return stop(reader, BAD_TAG, where, inner)
    if tag == SCALAR or tag == PICKLE or tag == STRUCT:
        reader.view = NULL      # what is read from these bytes is no view of them
    value = take_tagged(reader, inner, where)
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
    if reader.types[0] == NULL:
        from fastcomm._core.extended import NO_TYPES
        reader.types[0] = Py_NewRef(<PyObject*> NO_TYPES)
    return <object> reader.types[0]


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
    padding = byte_once(reader.p)
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


cdef PyObject* take_value(Reader* reader) noexcept:
    return take(reader)
