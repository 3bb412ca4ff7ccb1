"""Messages to Struct instances: the reading half of the format that ``schema.pyx`` describes.

The memory that is read may belong to others and change at any time. So the header is copied and the copy
checked; of the tail each offset and length is copied, checked against the message and against the fields
before it, and only then used; text is checked to be what a str can hold in the copy that the str keeps.
Each field's bytes of the tail must follow those of the fields before it: what is made of a message is never
larger than a small multiple of it.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memcmp, memcpy

from cpython.unicode cimport PyUnicode_DecodeUTF8

from fastcomm._core.capi cimport (
    ascii_text, PyObject, PyTypeObject, PyBytes_AS_STRING, PyUnicode_New, Py_DECREF, Py_NewRef,
)
from fastcomm._core.schema cimport (
    ARRAY, BOOL, BYTES, CHAR_BYTES, CHAR_STR, ENUM_POSITION, ENUM_VALUE, EnumNumbers, FC_ALLOC, Field,
    HEADER_BYTES, Header, Layout, STR, STRUCT, STRUCT_FLAG, Span, layout_of, signature_text,
)
from fastcomm._core.utf8 cimport copy_ascii
from fastcomm._core.wire cimport byte_once, MAGIC, VERSION, word_once

from fastcomm.errors import DecodeError


cdef int fault(Py_ssize_t offset, str why) except -1:
    raise DecodeError(f"{why} (at offset {offset})", offset=offset)


cdef int field_fault(Field* field, Py_ssize_t offset, str why) except -1:
    return fault(offset, f"field {<object> field.name!r} {why}")


cdef inline Py_ssize_t offset_of(Reader* reader, const uint8_t* at) noexcept:
    """Of a place in the fixed part, in the message."""
    return HEADER_BYTES + (at - reader.fixed)


# ---- header and signature


cdef Header read_header(const uint8_t* start, Py_ssize_t length) except *:
    """A copy of the header, of a message whose fixed part and signature are there."""
    cdef Header header
    if length:
        memcpy(&header, start, min(length, <Py_ssize_t> HEADER_BYTES))
    if length and header.magic != MAGIC:
        fault(0, f"not a fastcomm message: the first byte is 0x{header.magic:02X}, not 0x{<int> MAGIC:02X}")
    if length < HEADER_BYTES:
        fault(length, f"cut short: a Struct's header has {<int> HEADER_BYTES} bytes, and there are {length}")
    if header.version & 0x0F != VERSION:
        fault(1, f"format version {header.version & 0x0F} is unknown; this build reads {<int> VERSION}")
    if header.version != VERSION | STRUCT_FLAG:
        fault(1, f"the flags are 0x{header.version >> 4:X}, not those of a Struct")
    if length - HEADER_BYTES - 2 * header.fields < header.fixed_size:
        fault(12, f"cut short: {header.fields} fields in {header.fixed_size} bytes can't be in "
                  f"{length - HEADER_BYTES}")
    return header


cdef int open_message(Reader* reader, Layout layout, const uint8_t* start, Py_ssize_t length) except -1:
    """Check header and signature against the class; what can be read of the fixed part is then there."""
    cdef Header header
    cdef const char* template = PyBytes_AS_STRING(<PyObject*> layout.template)
    reader.start = start
    reader.fixed = start + HEADER_BYTES
    reader.length = length
    if length >= layout.bare_size and memcmp(start, template, HEADER_BYTES) == 0:
        reader.fields = layout.count
        reader.cursor = layout.bare_size
        return 0
    header = read_header(start, length)
    if header.type_id != layout.type_id:
        fault(4, f"the message has type id {header.type_id}; {layout.name} has {layout.type_id}")
    reader.fields = min(layout.count, <Py_ssize_t> header.fields)
    reader.cursor = HEADER_BYTES + header.fixed_size + 2 * header.fields
    check_evolution(reader, layout, &header)
    return 0


cdef int check_evolution(Reader* reader, Layout layout, Header* header) except -1:
    """Is one list of fields the beginning of the other, and has what is missing a default?"""
    cdef Py_ssize_t i
    cdef bytes signature = (<const char*> reader.start + HEADER_BYTES + header.fixed_size)[:2 * header.fields]
    cdef bytes ours = layout.template[HEADER_BYTES + layout.fixed_size:]
    cdef bint same = signature[:2 * reader.fields] == ours[:2 * reader.fields]
    cdef bint versions = header.fields != layout.count or header.fingerprint == layout.fingerprint
    if not same or not versions or header.fixed_size < layout.prefix_size(reader.fields):
        return fault(8, f"another layout under type id {layout.type_id}: the message has "
                        f"{header.fields} fields in {header.fixed_size} bytes, fingerprint "
                        f"{header.fingerprint:08X} ({signature_text(signature, layout)}); {layout.name} here "
                        f"has {layout.count} in {layout.fixed_size}, fingerprint {layout.fingerprint:08X} "
                        f"({layout.text()})")
    for i in range(reader.fields, layout.count):
        if layout.fields[i].default == NULL:
            return fault(2, f"the message, of an older {layout.name}, ends before the field "
                            f"{layout.names[i]!r}, which has no default")
    return 0


# ---- values


cdef Span take_span(Reader* reader, Field* field, const uint8_t* at) except *:
    """Where the bytes of a field are: copied once, checked, and no part of the tail given twice."""
    cdef Span span
    cdef uint64_t word = word_once(at)
    memcpy(&span, &word, sizeof(Span))
    if span.offset < reader.cursor or span.offset > reader.length:
        field_fault(field, offset_of(reader, at),
                    f"begins at {span.offset}, outside of {reader.cursor} to {reader.length}")
    if span.length > reader.length - span.offset:
        field_fault(field, offset_of(reader, at),
                    f"ends {<Py_ssize_t> span.offset + span.length - reader.length} bytes after the message")
    reader.cursor = <Py_ssize_t> span.offset + span.length
    return span


cdef int check_flag(Reader* reader, Field* field, const uint8_t* at) except -1:
    """A byte that is 0 or 1."""
    cdef uint8_t flag = byte_once(at)
    if flag > 1:
        return field_fault(field, offset_of(reader, at), f"has the byte {flag} where 0 or 1 has to be")
    return flag


cdef str text_at(Reader* reader, Field* field, const uint8_t* at, Py_ssize_t size):
    """A str of `size` bytes of UTF-8. Other than ASCII is decoded from the copy, which nobody changes."""
    cdef PyObject* ascii
    cdef object text
    if size == 0:
        return ""
    ascii = PyUnicode_New(size, 127)
    if ascii == NULL:
        raise MemoryError()
    text = <object> ascii
    Py_DECREF(ascii)
    if copy_ascii(ascii_text(ascii), at, size):
        return text
    try:
        return PyUnicode_DecodeUTF8(<const char*> ascii_text(ascii), size, NULL)
    except UnicodeDecodeError:
        field_fault(field, at - reader.start, f"has {size} bytes that are not UTF-8")


cdef Py_ssize_t char_size(const uint8_t* at, Py_ssize_t size) noexcept:
    while size and at[size - 1] == 0:
        size -= 1
    return size


cdef object take_enum(Reader* reader, Field* field, const uint8_t* at):
    cdef object number = <object> take_number(field.item, at)
    Py_DECREF(<PyObject*> number)
    try:
        return (<EnumNumbers> field.detail).member(number)
    except (KeyError, ValueError):
        field_fault(field, offset_of(reader, at), f"has the number {number}, which no member has")


cdef object take_array(Field* field, const uint8_t* at):
    """A numpy array of its own."""
    from numpy import ndarray
    dtype, shape = <tuple> field.detail
    return ndarray(shape, dtype, bytearray((<const char*> at)[:field.size]))


cdef object take_field(Reader* reader, Field* field, const uint8_t* fixed):
    """The value of any field."""
    cdef const uint8_t* at = fixed + field.offset
    cdef Span span
    cdef Layout inner
    cdef PyObject* made
    cdef int kind = field.kind
    if field.optional and not check_flag(reader, field, fixed + field.present):
        return None
    if kind == STR:
        span = take_span(reader, field, at)
        return text_at(reader, field, reader.start + span.offset, span.length)
    if kind == BYTES:
        span = take_span(reader, field, at)
        return (<const char*> reader.start + span.offset)[:span.length]
    if kind == CHAR_STR:    # cut again: it may have changed since its size was looked for
        return text_at(reader, field, at, char_size(at, field.size)).rstrip("\0")
    if kind == CHAR_BYTES:
        return (<const char*> at)[:char_size(at, field.size)].rstrip(b"\0")
    if kind == BOOL:
        return check_flag(reader, field, at) == 1
    if kind == ENUM_VALUE or kind == ENUM_POSITION:
        return take_enum(reader, field, at)
    if kind == ARRAY:
        return take_array(field, at)
    if kind == STRUCT:
        inner = layout_of(<PyTypeObject*> field.detail)
        return take_struct(reader, inner, field.detail, at, inner.count)
    made = take_number(kind, at)
    value = <object> made
    Py_DECREF(made)
    return value


cdef object take_struct(
    Reader* reader, Layout layout, PyObject* cls, const uint8_t* fixed, Py_ssize_t present
):
    """A new instance, without a call of its __init__.

    `present`: how many of its fields are there; the others, of which an older message knows nothing, have
    their defaults.
    """
    cdef PyObject* made = FC_ALLOC(cls)
    instance = <object> made
    Py_DECREF(made)
    take_values(reader, layout, made, fixed, present)
    return instance


cdef int take_values(
    Reader* reader, Layout layout, PyObject* made, const uint8_t* fixed, Py_ssize_t present
) except -1:
    cdef Field* field = layout.fields
    cdef Field* end = field + present
    cdef Py_ssize_t i
    cdef PyObject** slot
    while field < end:
        slot = <PyObject**> (<char*> made + field.slot)
        if field.plain:
            slot[0] = take_number(field.kind, fixed + field.offset)
        else:
            value = take_field(reader, field, fixed)
            slot[0] = Py_NewRef(<PyObject*> value)
        field += 1
    for i in range(present, layout.count):
        value = layout.field_default(i)
        slot = <PyObject**> (<char*> made + layout.fields[i].slot)
        slot[0] = Py_NewRef(<PyObject*> value)
    return 0
