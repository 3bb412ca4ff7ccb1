"""Reading messages of Struct classes, for other compiled modules."""

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastcomm._core.capi cimport PyFloat_FromDouble, PyLong_FromLong, PyLong_FromUnsignedLongLong, PyObject
from fastcomm._core.schema cimport (
    F4, F8, Field, Header, I1, I2, I4, I8, Layout, Span, U2, U4, U8,
)


cdef struct Reader:
    const uint8_t* start
    const uint8_t* fixed    # the fixed part, in the message or copied from it
    Py_ssize_t length
    Py_ssize_t cursor       # where the next bytes of the tail may begin
    Py_ssize_t fields       # how many of the class's fields the message has, of the first


# All raise DecodeError.
cdef int open_message(Reader* reader, Layout layout, const uint8_t* start, Py_ssize_t length) except -1
cdef Header read_header(const uint8_t* start, Py_ssize_t length) except *
cdef object take_struct(
    Reader* reader, Layout layout, PyObject* cls, const uint8_t* fixed, Py_ssize_t present
)
cdef object take_field(Reader* reader, Field* field, const uint8_t* fixed)
cdef Span take_span(Reader* reader, Field* field, const uint8_t* at) except *
cdef int check_flag(Reader* reader, Field* field, const uint8_t* at) except -1
cdef str text_at(Reader* reader, Field* field, const uint8_t* at, Py_ssize_t size)


cdef inline PyObject* take_number(int kind, const uint8_t* at) except NULL:
    """A new reference to the float or int that lies there."""
    cdef double f8
    cdef float f4
    cdef int64_t i8
    cdef int32_t i4
    cdef int16_t i2
    cdef uint64_t u8
    cdef uint32_t u4
    cdef uint16_t u2
    if kind == F8:
        memcpy(&f8, at, 8)
        return PyFloat_FromDouble(f8)
    if kind == I8:
        memcpy(&i8, at, 8)
        return PyLong_FromLong(i8)
    if kind == I4:
        memcpy(&i4, at, 4)
        return PyLong_FromLong(i4)
    if kind == U4:
        memcpy(&u4, at, 4)
        return PyLong_FromLong(u4)
    if kind == U8:
        memcpy(&u8, at, 8)
        return PyLong_FromUnsignedLongLong(u8)
    if kind == F4:
        memcpy(&f4, at, 4)
        return PyFloat_FromDouble(f4)
    if kind == I2:
        memcpy(&i2, at, 2)
        return PyLong_FromLong(i2)
    if kind == U2:
        memcpy(&u2, at, 2)
        return PyLong_FromLong(u2)
    if kind == I1:
        return PyLong_FromLong(<int8_t> at[0])
    return PyLong_FromLong(at[0])
