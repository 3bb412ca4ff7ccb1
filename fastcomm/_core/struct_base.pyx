"""The base of ``fastcomm.Struct``: construction, comparison, and the calls that pack and unpack.

An instance is a Python object with slots. Where each lies is read once from the class's member descriptors,
so constructor, writer and reader go from field to field without a look-up (as msgspec's Structs do).
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

from fastcomm._core.capi cimport (
    PyObject, PyTuple_GET_ITEM, Py_DECREF, Py_NewRef, Py_XDECREF,
)
from fastcomm._core.schema cimport ARRAY, FC_ALLOC, HEADER_BYTES, Header, Layout, StructMeta, known_layout
from fastcomm._core.struct_reader cimport Reader, open_message, read_header, take_struct
from fastcomm._core.struct_view cimport make_view
from fastcomm._core.struct_writer cimport message_size, write_message
from fastcomm._core.wire cimport set_error

from types import MethodType

from fastcomm.errors import DecodeError, EncodeError

cdef extern from *:
    """
    /* Called instead of tp_new and tp_init when the class is called. A metaclass written in Python does not
       inherit on 3.11 that calls look for tp_vectorcall; nobody gives it another __call__. */
    static void fc_set_vectorcall(PyObject *cls, vectorcallfunc function)
    {
        ((PyTypeObject *)cls)->tp_vectorcall = function;
        Py_TYPE(cls)->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL;
    }
    """
    ctypedef PyObject* (*vectorcall_t "vectorcallfunc")(
        PyObject*, PyObject* const*, size_t, PyObject*
    ) noexcept
    void fc_set_vectorcall(object, vectorcall_t) noexcept

cdef extern from "Python.h":
    Py_ssize_t PyVectorcall_NARGS(size_t) noexcept
    ctypedef struct TupleItems "PyTupleObject":
        PyObject* ob_item[1]

#: Classes by type id: what a received message is decoded as.
registry = {}


# ---- construction


cdef inline PyObject** slot_of(PyObject* instance, Layout layout, Py_ssize_t index) noexcept:
    return <PyObject**> (<char*> instance + layout.fields[index].slot)


cdef int set_slot(PyObject* instance, Layout layout, Py_ssize_t index, PyObject* value) noexcept:
    cdef PyObject** slot = slot_of(instance, layout, index)
    cdef PyObject* before = slot[0]
    slot[0] = Py_NewRef(value)
    Py_XDECREF(before)
    return 0


cdef Py_ssize_t keyword_index(Layout layout, PyObject* name) except -1:
    cdef Py_ssize_t i
    for i in range(layout.count):
        if layout.fields[i].name == name:
            return i
    text = <str> <object> name
    if text in layout.names:
        return layout.names.index(text)
    raise TypeError(f"{layout.name} has no field {text!r}; it has {', '.join(layout.names)}")


cdef int fill(
    PyObject* instance, Layout layout, PyObject* const* values, Py_ssize_t positional, PyObject* names
) except -1:
    """Positional values, then those of `names`, then defaults."""
    cdef Py_ssize_t i, index, named = len(<tuple> names) if names != NULL else 0
    if positional > layout.count:
        raise TypeError(f"{layout.name} takes at most {layout.count} values; {positional} were given")
    for i in range(positional):
        set_slot(instance, layout, i, values[i])
    for i in range(named):
        index = keyword_index(layout, PyTuple_GET_ITEM(names, i))
        if index < positional:
            raise TypeError(f"{layout.name}.{layout.names[index]} is given twice")
        set_slot(instance, layout, index, values[positional + i])
    if positional + named < layout.count:
        fill_defaults(instance, layout, positional)
    return 0


cdef int fill_defaults(PyObject* instance, Layout layout, Py_ssize_t first) except -1:
    cdef Py_ssize_t i
    for i in range(first, layout.count):
        if slot_of(instance, layout, i)[0] != NULL:
            continue
        if layout.fields[i].default == NULL:
            missing = [
                layout.names[index] for index in range(layout.count)
                if slot_of(instance, layout, index)[0] == NULL and layout.fields[index].default == NULL
            ]
            raise TypeError(f"{layout.name} needs a value for {', '.join(missing)}")
        value = layout.field_default(i)
        set_slot(instance, layout, i, <PyObject*> value)
    return 0


cdef object construct(PyObject* cls, PyObject* const* values, Py_ssize_t positional, PyObject* names):
    cdef Layout layout = known_layout(<object> cls)
    cdef PyObject* made = FC_ALLOC(cls)
    instance = <object> made
    Py_DECREF(made)
    fill(made, layout, values, positional, names)
    return instance


cdef PyObject* call_class(PyObject* cls, PyObject* const* values, size_t flags, PyObject* names) noexcept:
    try:
        instance = construct(cls, values, PyVectorcall_NARGS(flags), names)
        return Py_NewRef(<PyObject*> instance)
    except BaseException as error:
        set_error(error)
        return NULL


def set_up(cls: StructMeta, layout: Layout | None) -> None:
    """Finish a class that was just made."""
    cls._settle(layout)
    if cls.__init__ is StructBase.__init__ and cls.__new__ is StructBase.__new__:
        fc_set_vectorcall(cls, call_class)
    if layout is not None:
        for name in ("unpack", "view"):
            function = vars(StructBase)[name].__func__
            if getattr(getattr(cls, name), "__func__", None) is function:
                setattr(cls, name, BoundMethod(function, cls))


@cython.final
cdef class BoundMethod:
    """A class method that is bound once: to look one up makes an object, a tenth of the time of unpack()."""

    cdef object function, owner, method

    def __cinit__(self, object function, object owner) -> None:
        self.function = function
        self.owner = owner
        self.method = MethodType(function, owner)

    @property
    def __class__(self) -> type:
        """For help() and other tools that tell the kinds of methods apart: isinstance() believes it."""
        return classmethod

    @property
    def __func__(self) -> object:
        return self.function

    def __get__(self, instance: object, owner: object) -> object:
        # Another owner: super() in a class derived from this one.
        return self.method if owner is self.owner else MethodType(self.function, owner)


# ---- messages


cdef int refuse_change(Layout layout) except -1:
    raise EncodeError(f"a value of this {layout.name} changed its size while it was packed")


cpdef bytes encode_struct(object instance):
    """The message of a Struct. Raises EncodeError."""
    cdef Layout layout = known_layout(type(instance))
    cdef Py_ssize_t size = message_size(layout, <PyObject*> instance)
    cdef bytes message = PyBytes_FromStringAndSize(NULL, size)
    if write_message(layout, <PyObject*> instance, <uint8_t*> PyBytes_AS_STRING(message), size) != size:
        refuse_change(layout)
    return message


cdef object decode_struct(const uint8_t* data, Py_ssize_t length):
    """The instance that a message holds, of the class registered for its type id. Raises DecodeError."""
    cdef Header header = read_header(data, length)
    cls = registry.get(header.type_id)
    if cls is None:
        raise DecodeError(
            f"a Struct with type id {header.type_id}, for which no class is known here: import the module "
            "that defines it (at offset 4)",
            offset=4,
        )
    return read_instance(cls, data, length)


def unpack(buffer: object) -> object:
    """The instance whose message the contiguous `buffer` begins with, of the class in `registry`.

    Raises DecodeError, also if no class has that type id, and as the class's unpack() does. Safe in any
    thread.
    """
    cdef Py_buffer view
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        return decode_struct(<uint8_t*> view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


cdef object read_instance(object cls, const uint8_t* data, Py_ssize_t length):
    cdef Layout layout = known_layout(cls)
    cdef Reader reader
    open_message(&reader, layout, data, length)
    return take_struct(&reader, layout, <PyObject*> cls, data + HEADER_BYTES, reader.fields)


cdef class StructBase:
    """What every Struct can do; see fastcomm.Struct."""

    def __init__(self, *values: object, **named: object) -> None:
        """For subclasses whose own __init__ calls this one; else the class is called without it."""
        cdef tuple given = values + tuple(named.values())
        cdef tuple names = tuple(named)
        cdef PyObject** first = &(<TupleItems*> <PyObject*> given).ob_item[0]
        fill(<PyObject*> self, known_layout(type(self)), first, len(values), <PyObject*> names)

    def pack(self) -> bytes:
        """The message: header, fields at fixed offsets, then the bytes of str and bytes.

        Raises EncodeError, with the `path` of the field, for a value of another type, out of range or too
        long. Safe in any thread; what other threads write to the instance meanwhile may be in it or not.
        """
        return encode_struct(self)

    def pack_into(self, buffer: object, offset: int = 0) -> int:
        """Write the message into the writable, contiguous `buffer` at `offset`; return the bytes written.

        Raises EncodeError as pack() does (then the bytes there are undefined), and if the buffer is too small
        (then nothing was written); BufferError or TypeError for an unfit buffer.
        """
        cdef Layout layout = known_layout(type(self))
        cdef Py_ssize_t at = offset, size
        cdef Py_buffer view
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            size = message_size(layout, <PyObject*> self)
            if at < 0 or view.len - at < size:
                raise EncodeError(
                    f"the message needs {size} bytes at offset {at}; the buffer has {view.len} bytes in all"
                )
            return write_message(layout, <PyObject*> self, <uint8_t*> view.buf + at, size)
        finally:
            PyBuffer_Release(&view)

    @classmethod
    def unpack(cls, buffer: object, offset: int = 0) -> object:
        """The instance whose message begins at `offset` of the contiguous `buffer`; more may follow it.

        Raises DecodeError with the `offset` in the message at which it is wrong; also if it is of another
        type id, or of a class with the same id whose fields are not these, those of an older version or
        those of a newer one. Bytes may change meanwhile: then values are wrong, or it is a DecodeError.
        """
        cdef Py_ssize_t at = offset
        cdef Py_buffer view
        if at == 0 and PyBytes_CheckExact(buffer):
            return read_instance(cls, <uint8_t*> PyBytes_AS_STRING(buffer), PyBytes_GET_SIZE(buffer))
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
        try:
            if at < 0 or at > view.len:
                raise ValueError(f"offset is {at}; the buffer has {view.len} bytes")
            return read_instance(cls, <uint8_t*> view.buf + at, view.len - at)
        finally:
            PyBuffer_Release(&view)

    @classmethod
    def view(cls, buffer: object, offset: int = 0) -> object:
        """A view of the message at `offset` of the contiguous `buffer`: each field is read when asked for.

        Raises DecodeError as unpack() does; the fields are checked when they are read.
        """
        known_layout(cls)
        return make_view(cls, buffer, offset)

    # ---- as a Python object

    def __eq__(self, other: object) -> object:
        cdef Py_ssize_t i
        cdef Layout layout
        cdef PyObject* mine
        cdef PyObject* theirs
        if type(self) is not type(other):
            return NotImplemented
        layout = known_layout(type(self))
        for i in range(layout.count):
            mine = slot_of(<PyObject*> self, layout, i)[0]
            theirs = slot_of(<PyObject*> other, layout, i)[0]
            if mine == theirs:
                continue
            if mine == NULL or theirs == NULL or not same_value(layout.fields[i].kind, mine, theirs):
                return False
        return True

    __hash__ = None

    def __repr__(self) -> str:
        layout = known_layout(type(self))
        shown = ", ".join([f"{name}={getattr(self, name, '...')!r}" for name in layout.names])
        return f"{type(self).__qualname__}({shown})"

    def __reduce__(self) -> tuple[object, ...]:
        """For copy and pickle, which finds the class by its name as for any other."""
        return type(self), tuple([getattr(self, name) for name in known_layout(type(self)).names])


cdef bint same_value(int kind, PyObject* mine, PyObject* theirs) except -1:
    a = <object> mine
    b = <object> theirs
    if kind == ARRAY and a is not None and b is not None:
        from numpy import array_equal
        return array_equal(a, b)
    return bool(a == b)
