"""The compiled layout of a Struct class, for the modules that write and read by it."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from fastcomm._core.capi cimport PyObject, PyTypeObject

cdef extern from *:
    """
    /* A new instance of a class, its slots empty. */
    #define FC_ALLOC(cls) (((PyTypeObject *)(cls))->tp_alloc((PyTypeObject *)(cls), 0))
    """
    PyObject* FC_ALLOC(PyObject*) except NULL

cdef enum Kind:
    BOOL = 1
    I1
    I2
    I4
    I8
    U1
    U2
    U4
    U8
    F4
    F8
    CHAR_STR
    CHAR_BYTES
    ARRAY
    STR
    BYTES
    STRUCT
    ENUM_VALUE
    ENUM_POSITION

cdef enum:
    HEADER_BYTES = 16
    STRUCT_FLAG = 0x10          # in the second byte of a message, beside the version


cdef struct Header:
    uint8_t magic
    uint8_t version
    uint16_t fields
    uint32_t type_id
    uint32_t fingerprint
    uint32_t fixed_size


cdef struct Field:
    int kind
    int item                # kind of an array's items or of an enum's number
    bint optional
    bint plain              # a number that is always there: the short way
    bint variable           # has bytes in the tail
    bint checked            # not every pattern of bytes is a value, in a row of an array
    Py_ssize_t offset       # in the fixed part
    Py_ssize_t size         # there
    Py_ssize_t present      # offset of the byte that says whether an optional field has a value
    Py_ssize_t slot         # of the value, in bytes from the start of the instance
    Py_ssize_t count        # items of an array
    int64_t lowest          # of an integer, an enum's number included
    int64_t highest
    PyObject* name          # borrowed from the layout, as are the next two
    PyObject* detail        # array: (dtype, shape); struct: its class; enum: its EnumNumbers
    PyObject* default       # NULL: none


# Two numbers that lie one after the other in the fixed part.
cdef struct Span:
    uint32_t offset         # in the message, or in the heap of an array
    uint32_t length


@cython.final
cdef class EnumNumbers:
    cdef object enum
    cdef dict by_name       # name -> number; None if a member's own value is the number
    cdef dict members       # number -> member

    cdef object number(self, object member)
    cdef object member(self, object number)


@cython.final
cdef class Layout:
    cdef readonly str name
    cdef readonly uint32_t type_id
    cdef readonly uint32_t fingerprint
    cdef readonly tuple names
    cdef readonly Py_ssize_t fixed_size
    cdef readonly Py_ssize_t alignment
    cdef Py_ssize_t count
    cdef readonly Py_ssize_t bare_size       # of a message with an empty tail
    cdef bint variable              # any of the fields is, as below
    cdef bint checked
    cdef Field* fields
    cdef bytes template             # a message with zeros in its fixed part and an empty tail
    cdef list kept                  # what the fields borrow
    cdef object cached_dtype

    cdef int place(self, Field* field, tuple spec) except -1
    cdef Py_ssize_t describe(self, Field* field, object kind) except -1
    cdef Py_ssize_t describe_array(self, Field* field, str item, tuple shape) except -1
    cdef Py_ssize_t describe_enum(self, Field* field, object enum, object number) except -1
    cdef bytes make_template(self)
    cdef object make_dtype(self)
    cdef object item_format(self, Field* field)
    cdef str field_text(self, Py_ssize_t index)
    cdef int signature(self, Py_ssize_t index) except -1
    cdef object field_default(self, Py_ssize_t index)
    cdef int bind_slots(self, object cls) except -1
    cdef Py_ssize_t prefix_size(self, Py_ssize_t fields) noexcept
    cdef Py_ssize_t index_of(self, str name) except -1
    cdef str field_type(self, Py_ssize_t index)


cdef class StructMeta(type):
    cdef Layout compiled
    cdef object view_type


# The layout of a class that is known to be derived from Struct.
cdef inline Layout layout_of(PyTypeObject* cls):
    return (<StructMeta> <object> <PyObject*> cls).compiled

cdef str signature_text(bytes signature, Layout layout)
cdef int refuse_base() except -1


cdef inline Layout known_layout(object cls):
    """The layout of a Struct class."""
    cdef Layout layout = (<StructMeta?> cls).compiled
    if layout is None:
        refuse_base()
    return layout
