"""Strings from bytes: made, or found among those that were made before.

Messages come in streams of one kind: a short ASCII str is compared with what stood at its place in the
message before; a key that is not that one is looked for by a hash of its bytes. Those found need no memory
and have their hash.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastcomm._core.capi cimport (
    Py_DECREF, Py_NewRef, Py_XDECREF, PyErr_Clear, PyErr_ExceptionMatches, PyExc_UnicodeDecodeError,
    PyObject, PyUnicode_DATA, PyUnicode_DecodeUTF8, PyUnicode_GET_LENGTH, PyUnicode_IS_COMPACT_ASCII,
    PyUnicode_New,
)
from fastcomm._core.input cimport (
    BAD_TEXT, has, pending, Reader, stop,
)
from fastcomm._core.wire cimport SHORT_STR_MAX, same_text


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


cdef inline PyObject* make_text(Reader* reader, const uint8_t* data, Py_ssize_t size) noexcept:
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


cdef inline PyObject* find_key(Reader* reader, const uint8_t* data, Py_ssize_t size) noexcept:
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
