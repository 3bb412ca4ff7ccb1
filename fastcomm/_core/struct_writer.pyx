"""Struct instances to messages: the writing half of the format that ``schema.pyx`` describes.

The message's template is copied, then the values are put into their places: an exact float or int on the
short way, all else by put_field(), which says what is wrong with a value and where it is. The tail is
measured first. Conversions of foreign types can run Python code that changes the instance meanwhile, so
values are held, and what no longer fits is an error.
"""

from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_SIMPLE, PyBUF_STRIDES, PyBuffer_Release, PyBuffer_ToContiguous, PyObject_GetBuffer,
)
from cpython.number cimport PyIndex_Check, PyNumber_Index
from libc.math cimport isfinite
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastcomm._core.capi cimport (
    PyObject, PyTypeObject, PyBytes_AS_STRING, PyBytes_GET_SIZE, PyBytes_Type, PyFloat_AS_DOUBLE,
    PyFloat_Type, PyLong_AsLongLongAndOverflow, PyLong_Type, PyUnicode_DATA, PyUnicode_GET_LENGTH,
    PyUnicode_IS_COMPACT_ASCII, PyUnicode_KIND, PyUnicode_READ, PyUnicode_Type, Py_None, Py_TYPE,
)
from fastcomm._core.schema cimport (
    ARRAY, BOOL, BYTES, CHAR_BYTES, CHAR_STR, ENUM_POSITION, ENUM_VALUE, EnumNumbers, F4, F8, Field,
    HEADER_BYTES, Layout, STR, STRUCT, Span, U8, layout_of,
)
from fastcomm._core.utf8 cimport put_code_point, utf8_size

from fastcomm.errors import EncodeError


cdef str path_of(const Writer* writer, const Field* field):
    parts = [<object> field.name]
    cdef const Step* step = writer.step
    if step != NULL and step.index >= 0:
        parts[0] += f"[{step.index}]"
        step = step.outer
    while step != NULL:
        parts.append(<object> step.field.name)
        step = step.outer
    return ".".join(["$", *reversed(parts)])


cdef int refuse(const Writer* writer, const Field* field, str why) except -1:
    path = path_of(writer, field)
    raise EncodeError(f"the value at {path} {why}", path=path)


cdef str shown(object value):
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


cdef int refuse_type(const Writer* writer, const Field* field, object value, str wanted) except -1:
    return refuse(writer, field, f"is {shown(value)}, of type {type(value).__qualname__!r}; {wanted}")


# ---- numbers


cdef inline void store_int(uint8_t* at, int64_t number, Py_ssize_t size) noexcept:
    if size == 8:
        memcpy(at, &number, 8)
    elif size == 4:
        memcpy(at, &number, 4)
    elif size == 2:
        memcpy(at, &number, 2)
    else:
        memcpy(at, &number, 1)


cdef int put_int(
    Writer* writer, Field* field, object value, uint8_t* at, int kind, Py_ssize_t size
) except -1:
    """An int, or what says by __index__ that it is one."""
    cdef int64_t number
    cdef int overflow
    cdef uint64_t word
    if not PyIndex_Check(value):
        return refuse_type(writer, field, value, "the field takes an int")
    value = PyNumber_Index(value)
    number = PyLong_AsLongLongAndOverflow(<PyObject*> value, &overflow)
    if overflow == 0 and field.lowest <= number <= field.highest:
        store_int(at, number, size)
        return 0
    if kind == U8 and overflow > 0 and value < 1 << 64:
        word = value
        memcpy(at, &word, 8)
        return 0
    highest = (1 << 64) - 1 if kind == U8 else field.highest
    return refuse(writer, field, f"is {shown(value)}, out of range: {field.lowest} to {highest}")


cdef int put_float(Writer* writer, Field* field, object value, uint8_t* at, int kind) except -1:
    """A float, or a number that says by __float__ or __index__ that it can be one."""
    cdef double number
    cdef float narrow
    if type(value) is not float and not hasattr(value, "__float__") and not PyIndex_Check(value):
        return refuse_type(writer, field, value, "the field takes a float")
    try:
        number = value
    except OverflowError:
        return refuse(writer, field, f"is {shown(value)}, out of range of a float")
    if kind == F8:
        memcpy(at, &number, 8)
        return 0
    narrow = <float> number
    if isfinite(number) and not isfinite(narrow):
        return refuse(writer, field, f"is {shown(value)}, out of range of f4, which ends at 3.4028235e+38")
    memcpy(at, &narrow, 4)
    return 0


cdef int put_bool(Writer* writer, Field* field, object value, uint8_t* at) except -1:
    if type(value) is not bool:
        return refuse_type(writer, field, value, "the field takes True or False")
    at[0] = value is True
    return 0


cdef int put_enum(Writer* writer, Field* field, object value, uint8_t* at) except -1:
    cdef EnumNumbers numbers = <EnumNumbers> field.detail
    if type(value) is not numbers.enum:
        return refuse_type(writer, field, value, f"the field takes a member of {numbers.enum.__qualname__}")
    return put_int(writer, field, numbers.number(value), at, field.item, field.size)


# ---- text and bytes


cdef Py_ssize_t text_size(PyObject* text) noexcept:
    """Bytes of UTF-8, or -1 for a lone surrogate."""
    cdef int kind
    if PyUnicode_IS_COMPACT_ASCII(text):
        return PyUnicode_GET_LENGTH(text)
    kind = PyUnicode_KIND(text)
    return utf8_size(kind, PyUnicode_DATA(text), PyUnicode_GET_LENGTH(text))


cdef void store_text(uint8_t* at, PyObject* text, Py_ssize_t size) noexcept:
    cdef Py_ssize_t i
    if PyUnicode_IS_COMPACT_ASCII(text):
        memcpy(at, PyUnicode_DATA(text), size)
        return
    for i in range(PyUnicode_GET_LENGTH(text)):
        at = put_code_point(at, PyUnicode_READ(PyUnicode_KIND(text), PyUnicode_DATA(text), i))


cdef uint8_t* take_tail(Writer* writer, Field* field, Py_ssize_t size, uint8_t* at) except NULL:
    """Room for `size` bytes of the tail, noted in the fixed part."""
    cdef Span span
    cdef uint8_t* room = writer.tail
    if writer.limit - room < size:
        refuse(writer, field, "changed its size while it was packed")
    if room - writer.start + size > <Py_ssize_t> 0xFFFFFFFF:
        refuse(writer, field, f"of {size} bytes is too long: offsets end at 4 GiB")
    span = Span(<uint32_t> (room - writer.start), <uint32_t> size)
    memcpy(at, &span, sizeof(Span))
    writer.tail = room + size
    return room


cdef int put_text(Writer* writer, Field* field, object value, uint8_t* at) except -1:
    cdef Py_ssize_t size
    if type(value) is not str:
        return refuse_type(writer, field, value, "the field takes a str")
    size = text_size(<PyObject*> value)
    if size < 0:
        return refuse(writer, field, f"is {shown(value)}: UTF-8 has no bytes for a lone surrogate")
    if field.kind == STR:
        at = take_tail(writer, field, size, at)
    else:
        check_char(writer, field, value, size, value.endswith("\0"))
    store_text(at, <PyObject*> value, size)
    return 0


cdef int check_char(Writer* writer, Field* field, object value, Py_ssize_t size, bint ends_in_nul) except -1:
    if size > field.size:
        return refuse(writer, field, f"is {shown(value)}, too long: {size} bytes for Char({field.size})")
    if ends_in_nul:
        return refuse(writer, field, f"is {shown(value)}: zeros at the end of a Char would be lost")
    return 0


cdef int put_bytes(Writer* writer, Field* field, object value, uint8_t* at) except -1:
    cdef Py_buffer view
    if not isinstance(value, (bytes, bytearray, memoryview)):
        return refuse_type(writer, field, value, "the field takes bytes, a bytearray or a memoryview")
    try:
        PyObject_GetBuffer(value, &view, PyBUF_SIMPLE)
    except (BufferError, ValueError) as error:
        return refuse(writer, field, f"is a memoryview that can't be read in one piece: {error}")
    try:
        if field.kind == BYTES:
            at = take_tail(writer, field, view.len, at)
        else:
            check_char(writer, field, value, view.len, view.len and (<uint8_t*> view.buf)[view.len - 1] == 0)
        memcpy(at, view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
    return 0


# ---- arrays and nested structs


cdef bint is_format_of(const char* text, int item) noexcept:
    """Whether a buffer's format, with an item size that fits, is that of an array's item."""
    cdef int c = ord("B") if text == NULL else text[0]
    if text != NULL and (c == ord("<") or c == ord("=") or c == ord("@")):
        text += 1
        c = text[0]
    if text != NULL and (c == 0 or text[1] != 0):
        return False
    if item == F4 or item == F8:
        return c in (ord("f"), ord("d"))
    if item <= 5:     # I8, the last of the signed ones
        return c in (ord("b"), ord("h"), ord("i"), ord("l"), ord("q"))
    return c in (ord("B"), ord("H"), ord("I"), ord("L"), ord("Q"))


cdef bint has_shape(Py_buffer* view, tuple shape) noexcept:
    if view.ndim != len(shape):
        return False
    for axis in range(view.ndim):
        if view.shape[axis] != shape[axis]:
            return False
    return True


cdef int put_array(Writer* writer, Field* field, object value, uint8_t* at) except -1:
    cdef Py_buffer view
    dtype, shape = <tuple> field.detail
    if type(value) is list or type(value) is tuple:
        return put_items(writer, field, value, at)
    try:
        PyObject_GetBuffer(value, &view, PyBUF_STRIDES | PyBUF_FORMAT)
    except (TypeError, BufferError, ValueError):
        return refuse_type(writer, field, value, f"the field takes an array of {dtype} and shape {shape}")
    try:
        if not is_format_of(view.format, field.item) or view.itemsize * field.count != field.size:
            found = (<bytes> view.format).decode() if view.format else "B"
            refuse(writer, field, f"has items of format {found!r}; the field takes {dtype}: convert it, as "
                                  f"in .astype({dtype!r})")
        if not has_shape(&view, shape):
            found = tuple([view.shape[axis] for axis in range(view.ndim)])
            refuse(writer, field, f"has the shape {found}; the field has {shape}")
        PyBuffer_ToContiguous(at, &view, view.len, c"C")
    finally:
        PyBuffer_Release(&view)
    return 0


cdef int put_items(Writer* writer, Field* field, object values, uint8_t* at) except -1:
    """Numbers from a list or tuple, each checked; one dimension."""
    cdef Step step = Step(writer.step, field, 0)
    cdef Py_ssize_t size = field.size // field.count
    dtype, shape = <tuple> field.detail
    if len(shape) != 1:
        return refuse_type(writer, field, values, f"the field takes an array of {dtype} and shape {shape}")
    values = tuple(values)
    if len(values) != field.count:
        return refuse(writer, field, f"has {len(values)} items; the field has {field.count}")
    writer.step = &step
    for step.index in range(field.count):
        if field.item == F4 or field.item == F8:
            put_float(writer, field, values[step.index], at, field.item)
        else:
            put_int(writer, field, values[step.index], at, field.item, size)
        at += size
    writer.step = step.outer
    return 0


cdef int put_struct(Writer* writer, Field* field, object value, uint8_t* at) except -1:
    cdef Step step = Step(writer.step, field, -1)
    if type(value) is not <object> field.detail:
        wanted = (<object> field.detail).__qualname__
        return refuse_type(writer, field, value, f"the field takes a {wanted}, and no subclass of it")
    writer.step = &step
    put_values(writer, layout_of(Py_TYPE(<PyObject*> value)), <PyObject*> value, at)
    writer.step = step.outer
    return 0


# ---- a message


cdef int put_field(Writer* writer, Field* field, PyObject* value, uint8_t* fixed) except -1:
    """Any value of any type into its place in the fixed part, which is all zeros."""
    cdef uint8_t* at = fixed + field.offset
    cdef int kind = field.kind
    if value == NULL:
        return refuse(writer, field, "is missing")
    if field.optional:
        if value == Py_None:
            return 0
        fixed[field.present] = 1
    held = <object> value
    if kind == STR or kind == CHAR_STR:
        return put_text(writer, field, held, at)
    if kind == BYTES or kind == CHAR_BYTES:
        return put_bytes(writer, field, held, at)
    if kind == BOOL:
        return put_bool(writer, field, held, at)
    if kind == F4 or kind == F8:
        return put_float(writer, field, held, at, kind)
    if kind == ARRAY:
        return put_array(writer, field, held, at)
    if kind == STRUCT:
        return put_struct(writer, field, held, at)
    if kind == ENUM_VALUE or kind == ENUM_POSITION:
        return put_enum(writer, field, held, at)
    return put_int(writer, field, held, at, kind, field.size)


cdef int put_values(Writer* writer, Layout layout, PyObject* obj, uint8_t* fixed) except -1:
    """All fields of `obj`. Exact floats and ints, the commonest, without a call for each."""
    cdef Field* field = layout.fields
    cdef Field* end = field + layout.count
    cdef PyObject* value
    cdef double real
    cdef int64_t number
    cdef int overflow
    while field < end:
        value = (<PyObject**> (<char*> obj + field.slot))[0]
        if field.plain and value != NULL:
            if field.kind == F8 and Py_TYPE(value) == &PyFloat_Type:
                real = PyFloat_AS_DOUBLE(value)
                memcpy(fixed + field.offset, &real, 8)
                field += 1
                continue
            if field.kind <= U8 and Py_TYPE(value) == &PyLong_Type:
                number = PyLong_AsLongLongAndOverflow(value, &overflow)
                if overflow == 0 and field.lowest <= number <= field.highest:
                    store_int(fixed + field.offset, number, field.size)
                    field += 1
                    continue
        put_field(writer, field, value, fixed)
        field += 1
    return 0


cdef Py_ssize_t field_tail_size(Field* field, PyObject* value) except -1:
    """Bytes of the tail that a value takes; of one that is wrong anything: putting it tells."""
    cdef PyTypeObject* kind
    if value == NULL or not field.variable:
        return 0
    kind = Py_TYPE(value)
    if field.kind == STRUCT:
        if <PyObject*> kind == field.detail:
            return tail_size(layout_of(kind), value)
        return 0
    if kind == &PyUnicode_Type:
        return max(0, text_size(value))
    if kind == &PyBytes_Type:
        return PyBytes_GET_SIZE(value)
    held = <object> value
    if isinstance(held, memoryview):
        return held.nbytes
    return len(held) if isinstance(held, (bytes, bytearray)) else 0


cdef Py_ssize_t tail_size(Layout layout, PyObject* obj) except -1:
    cdef Py_ssize_t i, size = 0
    if layout.variable:
        for i in range(layout.count):
            size += field_tail_size(
                &layout.fields[i], (<PyObject**> (<char*> obj + layout.fields[i].slot))[0]
            )
    return size


cdef Py_ssize_t message_size(Layout layout, PyObject* obj) except -1:
    return layout.bare_size + tail_size(layout, obj)


cdef Py_ssize_t write_message(Layout layout, PyObject* obj, uint8_t* out, Py_ssize_t size) except -1:
    """The message into `out`, which has room for the `size` bytes that were measured; bytes written."""
    cdef Writer writer = Writer(out, out + layout.bare_size, out + size, NULL)
    memcpy(out, PyBytes_AS_STRING(<PyObject*> layout.template), layout.bare_size)
    put_values(&writer, layout, obj, out + HEADER_BYTES)
    return writer.tail - out
