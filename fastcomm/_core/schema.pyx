"""The layout of a ``Struct`` class: where each field lies, how messages of it are recognised.

A message is a header of 16 bytes, the fixed part, the signature and the tail; all numbers little-endian::

     0  u8   0xC1, as every message of the codec
     1  u8   0x11: version 1, flag 0x10 "a Struct"
     2  u16  number of fields, n
     4  u32  type id; 0: the class has none
     8  u32  fingerprint
    12  u32  size of the fixed part, s
    16       fixed part: the fields, each at its place
    16+s     signature: n x u16, one for each field
    ...      tail: the bytes of str and bytes fields, in the order of the fields

In the fixed part fields lie as in a C struct: each at the next multiple of its alignment, which is its size
for numbers, 1 for bool, Char and the byte before an optional field, 4 for str and bytes (u32 offset from the
start of the message, u32 length), the largest of its fields for a nested Struct; the size of the whole is
rounded up to the largest alignment. So a C program can read it, and so can numpy, as ``cls.dtype``.

The fingerprint is a hash of all names and types (FNV-1a, Fowler, Noll and Vo, 32 bits). The signature is what
makes evolution safe: the type of each field (low byte: kind, 0x80 if optional) and 8 bits of the hash of its
name and type. A reader whose fingerprint differs compares it field by field: if one list of fields is the
beginning of the other, the message is of an older or newer version; if not, it is of another class.
"""

cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from fastcomm._core.capi cimport PyObject
from fastcomm._core.wire cimport MAGIC, VERSION

cdef extern from *:
    """
    #include <structmember.h>

    /* Where in an instance the slot of a member descriptor lies; -1: it is none. */
    static Py_ssize_t fc_slot_offset(PyObject *descriptor)
    {
        if (!Py_IS_TYPE(descriptor, &PyMemberDescr_Type))
            return -1;
        return ((PyMemberDescrObject *)descriptor)->d_member->offset;
    }
    """
    Py_ssize_t fc_slot_offset(object) noexcept

cdef enum:
    OPTIONAL_FLAG = 0x80
    MAX_FIELDS = 1024
    MAX_FIXED = 1 << 24

_NUMBERS = {
    "bool": (BOOL, 1, 0, 1, "?"),
    "i1": (I1, 1, -(1 << 7), (1 << 7) - 1, "i1"),
    "i2": (I2, 2, -(1 << 15), (1 << 15) - 1, "<i2"),
    "i4": (I4, 4, -(1 << 31), (1 << 31) - 1, "<i4"),
    "i8": (I8, 8, -(1 << 63), (1 << 63) - 1, "<i8"),
    "u1": (U1, 1, 0, (1 << 8) - 1, "u1"),
    "u2": (U2, 2, 0, (1 << 16) - 1, "<u2"),
    "u4": (U4, 4, 0, (1 << 32) - 1, "<u4"),
    "u8": (U8, 8, 0, (1 << 63) - 1, "<u8"),     # above that the writer looks again
    "f4": (F4, 4, 0, 0, "<f4"),
    "f8": (F8, 8, 0, 0, "<f8"),
}
_KIND_NAMES = {kind: name for name, (kind, *_) in _NUMBERS.items()} | {
    CHAR_STR: "Char", CHAR_BYTES: "Char of bytes", ARRAY: "array", STR: "str", BYTES: "bytes",
    STRUCT: "Struct", ENUM_VALUE: "enum", ENUM_POSITION: "enum by position",
}


cdef uint32_t fnv1a(bytes data) noexcept:
    cdef uint32_t hash = 0x811C9DC5
    cdef uint8_t byte
    for byte in data:
        hash = (hash ^ byte) * 0x01000193
    return hash


cdef Py_ssize_t round_up(Py_ssize_t size, Py_ssize_t alignment) noexcept:
    return (size + alignment - 1) // alignment * alignment


cdef str signature_text(bytes signature, Layout layout):
    """The types of a message of another class, with the names of fields that it shares with `layout`."""
    cdef Py_ssize_t index
    ours = {layout.signature(index): layout.names[index] for index in range(layout.count)}
    types = []
    for index in range(0, len(signature), 2):
        entry = int.from_bytes(signature[index:index + 2], "little")
        kind = _KIND_NAMES.get(entry & 0x7F, f"unknown kind {entry & 0x7F}")
        types.append(f"{ours.get(entry, '?')}: {kind}{' | None' if entry & OPTIONAL_FLAG else ''}")
    return ", ".join(types)


@cython.final
cdef class EnumNumbers:
    """What stands for the members of an Enum: their values if all are ints, else their positions from 0."""

    def __init__(self, object enum, bint by_position) -> None:
        self.enum = enum
        members = list(enum)
        self.by_name = {member._name_: index for index, member in enumerate(members)} if by_position else None
        self.members = {
            index if by_position else member._value_: member for index, member in enumerate(members)
        }

    cdef object number(self, object member):
        return member._value_ if self.by_name is None else self.by_name[member._name_]

    cdef object member(self, object number):
        """KeyError or ValueError if there is none."""
        found = self.members.get(number)
        if found is not None:
            return found
        if self.by_name is not None:
            raise KeyError(number)
        return self.enum(number)    # a combination of flags


@cython.final
cdef class Layout:
    """The fields of a class as C descriptors.

    `specs` has one tuple a field: (name, type, optional, default...), where type is "f8" and the like,
    ("char", str or bytes, n), ("array", item, shape), str, bytes, ("enum", class, number or None) or
    ("struct", class), and default is there or not.
    """

    def __cinit__(self, str name, uint32_t type_id, list specs) -> None:
        if len(specs) > MAX_FIELDS:
            raise TypeError(f"{name} has {len(specs)} fields; a Struct has at most {MAX_FIELDS}")
        self.name = name
        self.type_id = type_id
        self.kept = []
        self.count = len(specs)
        self.names = tuple([spec[0] for spec in specs])
        self.fields = <Field*> PyMem_Calloc(max(1, self.count), sizeof(Field))
        if self.fields == NULL:
            raise MemoryError()
        self.alignment = 1
        self.fixed_size = 0
        for index, spec in enumerate(specs):
            self.place(&self.fields[index], spec)
        self.fixed_size = round_up(self.fixed_size, self.alignment)
        if self.fixed_size > MAX_FIXED:
            raise TypeError(f"the fixed part of {name} has {self.fixed_size} bytes; at most {MAX_FIXED}")
        self.fingerprint = fnv1a(self.text().encode())
        self.template = self.make_template()
        self.bare_size = len(self.template)

    def __dealloc__(self) -> None:
        PyMem_Free(self.fields)

    cdef int place(self, Field* field, tuple spec) except -1:
        """Describe the field and give it the next free place."""
        cdef Py_ssize_t alignment
        self.kept.append(spec)
        field.name = <PyObject*> spec[0]
        field.optional = spec[2]
        field.default = <PyObject*> spec[3] if len(spec) > 3 else NULL
        alignment = self.describe(field, spec[1])
        if field.optional:
            field.present = self.fixed_size
            self.fixed_size += 1
        field.offset = round_up(self.fixed_size, alignment)
        self.fixed_size = field.offset + field.size
        self.alignment = max(self.alignment, alignment)
        field.plain = not field.optional and I1 <= field.kind <= F8
        field.checked |= field.optional or field.variable or field.kind == BOOL
        self.variable |= field.variable
        self.checked |= field.checked
        return 0

    cdef Py_ssize_t describe(self, Field* field, object kind) except -1:
        """Fill in what the type says; its alignment."""
        cdef Layout inner
        if kind is str or kind is bytes:
            field.kind = STR if kind is str else BYTES
            field.size = sizeof(Span)
            field.variable = True
            return 4
        if type(kind) is str:
            field.kind, field.size, field.lowest, field.highest, _ = _NUMBERS[kind]
            return field.size
        if kind[0] == "char":
            field.kind = CHAR_STR if kind[1] is str else CHAR_BYTES
            field.size = kind[2]
            return 1
        if kind[0] == "array":
            return self.describe_array(field, kind[1], kind[2])
        if kind[0] == "enum":
            return self.describe_enum(field, kind[1], kind[2])
        field.kind = STRUCT
        field.detail = <PyObject*> kind[1]
        inner = (<StructMeta?> kind[1]).compiled
        field.size = inner.fixed_size
        field.variable = inner.variable
        field.checked = inner.checked
        return inner.alignment

    cdef Py_ssize_t describe_array(self, Field* field, str item, tuple shape) except -1:
        field.kind = ARRAY
        field.item, size, field.lowest, field.highest, dtype = _NUMBERS[item]
        detail = (dtype, shape)
        self.kept.append(detail)
        field.detail = <PyObject*> detail
        field.count = 1
        for length in shape:
            field.count *= min(length, MAX_FIXED + 1)
            if field.count > MAX_FIXED:
                raise TypeError(f"{self.name}.{<object> field.name}: an array has at most {MAX_FIXED} bytes")
        field.size = field.count * <Py_ssize_t> size
        return size

    cdef Py_ssize_t describe_enum(self, Field* field, object enum, object number) except -1:
        """By value, in i4 unless it was said, if all are ints; else by position, in u2."""
        by_value = all([type(member._value_) is int for member in enum])
        field.kind = ENUM_VALUE if by_value else ENUM_POSITION
        number = number if number else "i4" if by_value else "u2"
        field.item, field.size, field.lowest, field.highest, _ = _NUMBERS[number]
        numbers = EnumNumbers(enum, not by_value)
        self.kept.append(numbers)
        field.detail = <PyObject*> numbers
        unfit = [number for number in numbers.members if not field.lowest <= number <= field.highest]
        if unfit:
            raise TypeError(
                f"{self.name}.{<object> field.name}: {enum.__qualname__} has the number {unfit[0]}, outside "
                f"of {number}; say the type that holds it, as in Annotated[{enum.__qualname__}, Number('i8')]"
            )
        return field.size

    cdef bytes make_template(self):
        cdef Header header = Header(
            MAGIC, VERSION | STRUCT_FLAG, <uint16_t> self.count, self.type_id, self.fingerprint,
            <uint32_t> self.fixed_size,
        )
        head = (<const char*> &header)[:sizeof(Header)]
        return head + bytes(self.fixed_size) + b"".join([
            (<object> self.signature(index)).to_bytes(2, "little") for index in range(self.count)
        ])

    cdef int signature(self, Py_ssize_t index) except -1:
        cdef Field* field = &self.fields[index]
        check = fnv1a(self.field_text(index).encode()) & 0xFF
        return check << 8 | (OPTIONAL_FLAG if field.optional else 0) | field.kind

    cdef str field_type(self, Py_ssize_t index):
        cdef Field* field = &self.fields[index]
        text = _KIND_NAMES[field.kind]
        if field.kind == CHAR_STR or field.kind == CHAR_BYTES:
            text = f"{text}({field.size})"
        elif field.kind == ARRAY:
            shape = ", ".join([str(length) for length in (<object> field.detail)[1]])
            text = f"{_KIND_NAMES[field.item]}[{shape}]"
        elif field.kind == ENUM_VALUE or field.kind == ENUM_POSITION:
            text = f"{text} {_KIND_NAMES[field.item]}"
        elif field.kind == STRUCT:
            text = f"{{{(<StructMeta> field.detail).compiled.text()}}}"
        return f"{text} | None" if field.optional else text

    cdef str field_text(self, Py_ssize_t index):
        return f"{self.names[index]}: {self.field_type(index)}"

    def text(self) -> str:
        """Names and types of all fields: what the fingerprint is taken of."""
        return ", ".join([self.field_text(index) for index in range(self.count)])

    def table(self) -> str:
        """A line for each field: offset in the fixed part, bytes, name and type."""
        lines = [
            f"{self.fields[index].offset:6} {self.fields[index].size:6}  {self.field_text(index)}"
            for index in range(self.count)
        ]
        return "\n".join(["offset   size  field", *lines, f"{self.fixed_size:6}         end"])

    @property
    def dtype(self) -> object:
        """The fixed part as a numpy dtype; imports numpy.

        An optional field is preceded by ``name?``, which says whether it has a value; str and bytes are the
        pair ``offset``, ``length``.
        """
        if self.cached_dtype is None:
            self.cached_dtype = self.make_dtype()
        return self.cached_dtype

    cdef object make_dtype(self):
        from numpy import dtype
        names, formats, offsets = [], [], []
        for index in range(self.count):
            if self.fields[index].optional:
                names.append(f"{self.names[index]}?")
                formats.append("?")
                offsets.append(self.fields[index].present)
            names.append(self.names[index])
            formats.append(self.item_format(&self.fields[index]))
            offsets.append(self.fields[index].offset)
        return dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": self.fixed_size})

    cdef object item_format(self, Field* field):
        if field.kind == ARRAY:
            return <object> field.detail
        if field.kind == STR or field.kind == BYTES:
            return [("offset", "<u4"), ("length", "<u4")]
        if field.kind == STRUCT:
            return (<StructMeta> field.detail).compiled.dtype
        if field.kind == CHAR_STR or field.kind == CHAR_BYTES:
            return f"S{field.size}"
        number = field.item if field.item else field.kind
        return _NUMBERS[_KIND_NAMES[number]][4]

    cdef int bind_slots(self, object cls) except -1:
        """Learn where instances keep their values."""
        cdef Py_ssize_t index
        for index, name in enumerate(self.names):
            found = [base.__dict__[name] for base in cls.__mro__ if name in base.__dict__]
            self.fields[index].slot = fc_slot_offset(found[0])
            if self.fields[index].slot < 0:
                raise TypeError(f"{cls.__qualname__}.{name} was replaced by something that is no field")
        return 0

    cdef Py_ssize_t prefix_size(self, Py_ssize_t fields) noexcept:
        """Bytes of the fixed part up to the end of the first so many fields."""
        return self.fields[fields - 1].offset + self.fields[fields - 1].size if fields else 0

    cdef Py_ssize_t index_of(self, str name) except -1:
        if name not in self.names:
            raise AttributeError(f"{self.name} has no field {name!r}; it has {', '.join(self.names)}")
        return self.names.index(name)

    def nested(self, str name) -> Layout:
        """The layout of a field that is a Struct."""
        cdef Field* field = &self.fields[self.index_of(name)]
        if field.kind != STRUCT:
            raise TypeError(f"{self.name}.{name} is no Struct")
        return (<StructMeta> field.detail).compiled

    def text_type(self, str name) -> type:
        """str or bytes, of a field that lies in the tail."""
        cdef Py_ssize_t index = self.index_of(name)
        cdef Field* field = &self.fields[index]
        if field.kind != STR and field.kind != BYTES:
            raise TypeError(f"{self.name}.{name} is {self.field_type(index)}; read it from the array")
        return str if field.kind == STR else bytes

    cdef object field_default(self, Py_ssize_t index):
        """The default of a field that has one, copied if it could be changed."""
        cdef Field* field = &self.fields[index]
        value = <object> field.default
        if (field.kind == ARRAY or field.kind == STRUCT) and value is not None:
            from copy import deepcopy
            return deepcopy(value)
        return value


cdef int refuse_base() except -1:
    raise TypeError("Struct itself has no layout; use a class that is derived from it")


cdef class StructMeta(type):
    """The C part of the metaclass of Struct: a class knows its layout."""

    def _settle(cls, layout: Layout | None) -> None:
        """Called once, right after the class was made."""
        if layout is not None:
            (<Layout> layout).bind_slots(cls)
        cls.compiled = layout

    @property
    def _layout(cls) -> Layout | None:
        return cls.compiled
