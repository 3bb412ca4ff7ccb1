"""Views: the fields of a message read in place, one by one, as attributes.

Each Struct class has a view class of its own, made at the first view, with a FieldReader for each field. A
view checks the header once and holds the buffer exported, so that the fixed part stays where it is; what it
reads may change from one look to the next.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t

from fastcomm._core.capi cimport PyObject, PyTypeObject, Py_DECREF
from fastcomm._core.schema cimport (
    ARRAY, Field, HEADER_BYTES, Layout, STRUCT, StructMeta,
)
from fastcomm._core.struct_reader cimport Reader, check_flag, open_message, take_field, take_number

cdef extern from "Python.h":
    ctypedef struct CallableType "PyTypeObject":
        PyObject* (*tp_new)(PyTypeObject*, PyObject*, PyObject*) except NULL


cdef class StructView:
    """A message of a Struct in a buffer; made by ``Type.view(buffer)``.

    An attribute is read from the buffer when it is asked for: numbers, str, bytes and members of an Enum as
    in the instance, an array as a read-only numpy array in place, a nested Struct as a view. DecodeError if
    the bytes are none of the field's. The buffer stays exported as long as the view, or a nested view or an
    array in place that came from it, is there; ``with`` ends a view and its nested ones (ValueError
    afterwards). A view in memory that others write shows what is there at that moment; it never reads
    outside of the message. Safe in any thread.
    """

    cdef Py_buffer buffer
    cdef bint exported
    cdef StructView whole       # of a nested one: the message's view; else None
    cdef Layout layout
    cdef Reader reader
    cdef const uint8_t* fixed
    cdef Py_ssize_t fields      # that are there

    def __dealloc__(self) -> None:
        if self.exported:
            PyBuffer_Release(&self.buffer)

    def __enter__(self) -> StructView:
        return self

    def __exit__(self, *_: object) -> None:
        """Let the buffer go; arrays in place keep hold of it themselves."""
        if self.exported:
            self.exported = False
            PyBuffer_Release(&self.buffer)

    def __repr__(self) -> str:
        if has_ended(self):
            return f"<{type(self).__name__}, ended>"
        shown = ", ".join([f"{name}={getattr(self, name)!r}" for name in self.layout.names])
        return f"<{type(self).__name__} {shown}>"


@cython.final
cdef class FieldReader:
    """One field of a view class."""

    cdef Layout layout
    cdef Field* field
    cdef Py_ssize_t index

    def __get__(self, instance: object, owner: object) -> object:
        cdef StructView view
        cdef PyObject* made
        if instance is None:
            return self
        view = <StructView?> instance
        if self.layout is None or view.layout is not self.layout or has_ended(view):
            raise ValueError("this view has ended, or is of another class")
        if self.index >= view.fields:
            return self.layout.field_default(self.index)
        if self.field.plain:
            made = take_number(self.field.kind, view.fixed + self.field.offset)
            value = <object> made
            Py_DECREF(made)
            return value
        return read(view, self.field)

    def __set__(self, instance: object, value: object) -> None:
        raise AttributeError("a view is for reading")


cdef inline bint has_ended(StructView view) noexcept:
    return not (view.exported if view.whole is None else view.whole.exported)


cdef object read(StructView view, Field* field):
    cdef Reader reader = view.reader
    cdef const uint8_t* at = view.fixed + field.offset
    if (field.kind == ARRAY or field.kind == STRUCT) and field.optional:
        if not check_flag(&reader, field, view.fixed + field.present):
            return None
    if field.kind == STRUCT:
        return nested_view(view, <object> field.detail, at)
    if field.kind == ARRAY:
        return array_in_place(view, field, at)
    return take_field(&reader, field, view.fixed)


cdef object array_in_place(StructView view, Field* field, const uint8_t* at):
    from numpy import frombuffer
    cdef StructView whole = view if view.whole is None else view.whole
    dtype, shape = <tuple> field.detail
    if has_ended(view):     # by another thread, during the import
        raise ValueError("this view has ended")
    array = frombuffer(<object> whole.buffer.obj, dtype, field.count, at - <uint8_t*> whole.buffer.buf)
    array.flags.writeable = False
    return array.reshape(shape)


cdef StructView new_view(object cls):
    """Of a class that has a layout."""
    cdef StructMeta meta = <StructMeta> cls
    cdef StructView view
    if meta.view_type is None:
        meta.view_type = make_view_type(cls)
    made = (<CallableType*> meta.view_type).tp_new(<PyTypeObject*> meta.view_type, <PyObject*> (), NULL)
    view = <StructView> <object> made
    Py_DECREF(made)
    view.layout = meta.compiled
    return view


cdef object make_view_type(object cls):
    cdef Layout layout = (<StructMeta> cls).compiled
    cdef FieldReader reader
    namespace = {"__slots__": (), "__module__": cls.__module__, "__doc__": f"A {cls.__name__} in a buffer."}
    for index, name in enumerate(layout.names):
        reader = FieldReader.__new__(FieldReader)
        reader.layout = layout
        reader.field = &layout.fields[index]
        reader.index = index
        namespace[name] = reader
    return type(f"{cls.__name__}View", (StructView,), namespace)


cdef object nested_view(StructView outer, object cls, const uint8_t* fixed):
    cdef StructView view = new_view(cls)
    view.whole = outer if outer.whole is None else outer.whole
    view.reader = outer.reader
    view.fixed = fixed
    view.fields = view.layout.count
    return view


cdef object make_view(object cls, object buffer, Py_ssize_t offset):
    """A view of the message at `offset` of the buffer."""
    cdef StructView view = new_view(cls)
    PyObject_GetBuffer(buffer, &view.buffer, PyBUF_SIMPLE)
    view.exported = True
    if offset < 0 or offset > view.buffer.len:
        raise ValueError(f"offset is {offset}; the buffer has {view.buffer.len} bytes")
    open_message(&view.reader, view.layout, <uint8_t*> view.buffer.buf + offset, view.buffer.len - offset)
    view.fixed = view.reader.start + HEADER_BYTES
    view.fields = view.reader.fields
    return view
