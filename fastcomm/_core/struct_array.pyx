"""Messages of one Struct class to rows of a numpy array and back, without a Python object for each.

A row is the fixed part of a message. The tails' str and bytes lie one after the other in a heap beside the
rows, and a row's offsets count from its start. Neither numpy nor its headers are needed here: rows and heap
are bytearrays that an array is laid over.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

from fastcomm._core.capi cimport PyObject, PyTypeObject, Py_DECREF
from fastcomm._core.schema cimport (
    ENUM_POSITION, ENUM_VALUE, EnumNumbers, Field, HEADER_BYTES, Layout, STRUCT, Span, known_layout,
    layout_of,
)
from fastcomm._core.struct_reader cimport Reader, check_flag, open_message, take_number, take_span
from fastcomm._core.struct_writer cimport Writer, field_tail_size, put_field

from fastcomm.errors import EncodeError

cdef enum:
    FIRST_HEAP = 256


cdef uint8_t* bytes_of(bytearray memory) noexcept:
    return <uint8_t*> PyByteArray_AS_STRING(memory)


@cython.final
cdef class Rows:
    """Rows and heap that grow message by message; one caller at a time."""

    def __init__(self, object cls, Py_ssize_t expected = 16) -> None:
        """`expected`: how many messages to have room for at first."""
        self.layout = known_layout(cls)
        self.row_bytes = bytearray(max(1, expected) * self.layout.fixed_size)
        self.heap_bytes = bytearray(FIRST_HEAP if self.layout.variable else 0)

    def add(self, object buffer) -> None:
        """Append the message in `buffer`. Raises DecodeError; then nothing was appended."""
        cdef Py_buffer view
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
        try:
            self.add_message(<uint8_t*> view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    def take(self) -> tuple[bytearray, bytearray]:
        """Rows and heap, cut to what is in them."""
        PyByteArray_Resize(self.row_bytes, self.count * self.layout.fixed_size)
        PyByteArray_Resize(self.heap_bytes, self.heap_size)
        return self.row_bytes, self.heap_bytes

    cdef int add_message(self, const uint8_t* data, Py_ssize_t length) except -1:
        cdef Reader reader
        cdef Layout layout = self.layout
        cdef Py_ssize_t size = layout.fixed_size, known
        cdef uint8_t* row
        open_message(&reader, layout, data, length)
        if (self.count + 1) * size > PyByteArray_GET_SIZE(self.row_bytes):
            PyByteArray_Resize(self.row_bytes, 2 * (self.count + 1) * size)
        row = bytes_of(self.row_bytes) + self.count * size
        known = layout.prefix_size(reader.fields)
        memcpy(row, data + HEADER_BYTES, known)
        memset(row + known, 0, size - known)
        if layout.checked or reader.fields < layout.count:
            self.complete(&reader, row)
        self.count += 1
        return 0

    cdef int complete(self, Reader* reader, uint8_t* row) except -1:
        """Check what was copied into the row, move its text to the heap, add defaults."""
        cdef Py_ssize_t i, heap_size = self.heap_size
        reader.fixed = row
        try:
            for i in range(reader.fields):
                if self.layout.fields[i].checked:
                    settle_field(self, reader, &self.layout.fields[i], row)
            for i in range(reader.fields, self.layout.count):
                self.put_default(i, row)
        except BaseException:
            self.heap_size = heap_size
            raise
        return 0

    cdef int put_default(self, Py_ssize_t index, uint8_t* row) except -1:
        cdef Field* field = &self.layout.fields[index]
        cdef Py_ssize_t size = field_tail_size(field, field.default)
        cdef uint8_t* room = self.heap_room(size)
        cdef Writer writer = Writer(bytes_of(self.heap_bytes), room, room + size, NULL)
        put_field(&writer, field, field.default, row)
        self.heap_size += size
        return 0

    cdef uint8_t* heap_room(self, Py_ssize_t size) except NULL:
        """Where the next `size` bytes go."""
        cdef Py_ssize_t needed = self.heap_size + size
        if needed > <Py_ssize_t> 0xFFFFFFFF:
            raise ValueError("the str and bytes of so many messages are more than 4 GiB: gather fewer")
        if needed > PyByteArray_GET_SIZE(self.heap_bytes):
            PyByteArray_Resize(self.heap_bytes, max(2 * needed, FIRST_HEAP))
        return bytes_of(self.heap_bytes) + self.heap_size


cdef int settle_field(Rows rows, Reader* reader, Field* field, uint8_t* fixed) except -1:
    """One field of a row that has been copied and still speaks of its message."""
    cdef uint8_t* at = fixed + field.offset
    cdef Layout inner
    cdef Py_ssize_t i
    if field.optional and not check_flag(reader, field, fixed + field.present):
        memset(at, 0, field.size)
        return 0
    if field.kind == STRUCT:
        inner = layout_of(<PyTypeObject*> field.detail)
        for i in range(inner.count):
            if inner.fields[i].checked:
                settle_field(rows, reader, &inner.fields[i], at)
    elif field.variable:
        move_to_heap(rows, reader, field, at)
    elif field.checked and not field.optional:
        check_flag(reader, field, at)
    return 0


cdef int move_to_heap(Rows rows, Reader* reader, Field* field, uint8_t* at) except -1:
    cdef Span span = take_span(reader, field, at)
    memcpy(rows.heap_room(span.length), reader.start + span.offset, span.length)
    span.offset = <uint32_t> rows.heap_size
    memcpy(at, &span, sizeof(Span))
    rows.heap_size += span.length
    return 0


# ---- rows to messages


cdef struct Source:
    const uint8_t* heap
    Py_ssize_t heap_size
    Py_ssize_t row          # its number


cdef int refuse(Source* source, Field* field, str why) except -1:
    path = f"$[{source.row}].{<object> field.name}"
    raise EncodeError(f"the value at {path} {why}", path=path)


cdef Span span_of(Source* source, Field* field, const uint8_t* at) except *:
    cdef Span span
    memcpy(&span, at, sizeof(Span))
    if span.offset > source.heap_size or span.length > source.heap_size - span.offset:
        refuse(source, field, f"is {span.length} bytes at {span.offset}, and the heap has "
                              f"{source.heap_size}: is it that of this array?")
    return span


cdef int check_number(Source* source, Field* field, const uint8_t* at) except -1:
    cdef PyObject* made = take_number(field.item, at)
    number = <object> made
    Py_DECREF(made)
    try:
        (<EnumNumbers> field.detail).member(number)
    except (KeyError, ValueError):
        refuse(source, field, f"is {number}, a number that no member has")
    return 0


cdef Py_ssize_t row_tail_size(Source* source, Layout layout, const uint8_t* fixed) except -1:
    """Bytes of the tail that a row makes, whose offsets and numbers are checked."""
    cdef Py_ssize_t i, size = 0
    cdef Field* field
    for i in range(layout.count):
        field = &layout.fields[i]
        if field.optional and not fixed[field.present]:
            continue
        if field.kind == STRUCT:
            size += row_tail_size(source, layout_of(<PyTypeObject*> field.detail), fixed + field.offset)
        elif field.variable:
            size += span_of(source, field, fixed + field.offset).length
        elif field.kind == ENUM_VALUE or field.kind == ENUM_POSITION:
            check_number(source, field, fixed + field.offset)
    return size


cdef int move_to_tail(Source* source, Layout layout, uint8_t* fixed, Writer* writer) except -1:
    """The reverse of settle_field(), in a message that holds a copy of the row."""
    cdef Py_ssize_t i
    cdef Field* field
    cdef Span span
    for i in range(layout.count):
        field = &layout.fields[i]
        if not field.variable or (field.optional and not fixed[field.present]):
            continue
        if field.kind == STRUCT:
            move_to_tail(source, layout_of(<PyTypeObject*> field.detail), fixed + field.offset, writer)
            continue
        span = span_of(source, field, fixed + field.offset)
        if writer.limit - writer.tail < span.length:
            refuse(source, field, "changed while it was packed")
        memcpy(writer.tail, source.heap + span.offset, span.length)
        span.offset = <uint32_t> (writer.tail - writer.start)
        memcpy(fixed + field.offset, &span, sizeof(Span))
        writer.tail += span.length
    return 0


cdef bytes row_message(Layout layout, const uint8_t* row, Source* source):
    cdef Py_ssize_t size = layout.bare_size + row_tail_size(source, layout, row)
    cdef bytes message = PyBytes_FromStringAndSize(NULL, size)
    cdef uint8_t* out = <uint8_t*> PyBytes_AS_STRING(message)
    cdef Writer writer = Writer(out, out + layout.bare_size, out + size, NULL)
    memset(out + layout.bare_size, 0, size - layout.bare_size)
    memcpy(out, PyBytes_AS_STRING(layout.template), layout.bare_size)
    memcpy(out + HEADER_BYTES, row, layout.fixed_size)
    move_to_tail(source, layout, out + HEADER_BYTES, &writer)
    return message


def pack_rows(cls: object, rows: object, heap: object) -> list[bytes]:
    """The messages of the rows that lie one after the other in `rows`, their text in `heap`."""
    cdef Layout layout = known_layout(cls)
    cdef Py_buffer row_view, heap_view
    cdef Source source
    cdef list messages = []
    PyObject_GetBuffer(heap, &heap_view, PyBUF_SIMPLE)
    try:
        PyObject_GetBuffer(rows, &row_view, PyBUF_SIMPLE)
        try:
            source = Source(<uint8_t*> heap_view.buf, heap_view.len, 0)
            for source.row in range(row_view.len // max(1, layout.fixed_size)):
                messages.append(
                    row_message(layout, <uint8_t*> row_view.buf + source.row * layout.fixed_size, &source)
                )
        finally:
            PyBuffer_Release(&row_view)
    finally:
        PyBuffer_Release(&heap_view)
    return messages
