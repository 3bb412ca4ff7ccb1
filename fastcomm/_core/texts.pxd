"""Strings from bytes: made, or for keys found among those that were made before.

The keys of a stream of messages are few and come again and again: one that is found needs no memory and has
its hash. Values are made anew each time; docs/wire.md has what looking for them cost.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastcomm._core.capi cimport (
    ascii_text, Py_DECREF, Py_NewRef, Py_XDECREF, PyErr_Clear, PyErr_ExceptionMatches,
    PyExc_UnicodeDecodeError, PyObject, PyUnicode_DecodeUTF8, PyUnicode_GET_LENGTH,
    PyUnicode_IS_COMPACT_ASCII, PyUnicode_New,
)
from fastcomm._core.input cimport BAD_TEXT, has, pending, Reader, stop
from fastcomm._core.utf8 cimport copy_ascii
from fastcomm._core.wire cimport byte_once, same_text


cdef inline PyObject* make_text(Reader* reader, const uint8_t* data, Py_ssize_t size) noexcept:
    """What is not all ASCII is decoded from the copy: Python's decoder looks at a byte more than once."""
    cdef PyObject* copy
    cdef PyObject* text
    cdef uint8_t only
    if size > 1:
        copy = PyUnicode_New(size, 127)
        if copy == NULL:
            return pending(reader)
        if copy_ascii(ascii_text(copy), data, size):
            return copy
        text = PyUnicode_DecodeUTF8(<const char*> ascii_text(copy), size, NULL)
        Py_DECREF(copy)
    else:       # a singleton of the interpreter
        only = byte_once(data) if size else 0
        text = PyUnicode_DecodeUTF8(<const char*> &only, size, NULL)
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
    return text != NULL and PyUnicode_GET_LENGTH(text) == size and same_text(ascii_text(text), data, size)


cdef inline PyObject* take_key_text(Reader* reader, const uint8_t* data, Py_ssize_t size) noexcept:
    """A short key as the object that was made of it before, if that is still kept."""
    cdef PyObject** slot
    cdef PyObject* text
    if size < 2 or reader.keys == NULL:
        return make_text(reader, data, size)
    slot = &reader.keys[slot_of(data, size)]
    if is_text(slot[0], data, size):
        return Py_NewRef(slot[0])
    text = make_text(reader, data, size)
    if text != NULL and PyUnicode_IS_COMPACT_ASCII(text):
        Py_XDECREF(slot[0])
        slot[0] = Py_NewRef(text)
    return text


cdef inline PyObject* take_text(Reader* reader, Py_ssize_t size) noexcept:
    cdef const uint8_t* data = reader.p
    if size < 0 or not has(reader, size):
        return NULL
    reader.p += size
    return make_text(reader, data, size)
