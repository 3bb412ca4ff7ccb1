"""Encoder: messages of values, and the errors that say what can't be encoded and where."""

cimport cython
from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Free

from fastcomm._core.capi cimport (
    Py_NewRef, Py_XDECREF, PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_Resize, PyObject,
    raise_pending,
)
from fastcomm._core.output cimport (
    CHANGED, FINE, KEY_SLOTS, NOT_CONTIGUOUS, PENDING, Step, SURROGATE, TOO_DEEP, UNFIT,
    Writer,
)
from fastcomm._core.wire cimport HEADER, MAX_DEPTH
from fastcomm._core.writer cimport put_message

from fastcomm.errors import EncodeError

cdef extern from *:
    """
    /* Of a bytes object that nobody else has seen: shorter, in place, without giving memory back. */
    static inline void fc_cut_bytes(PyObject *bytes, Py_ssize_t length)
    {
        PyBytes_AS_STRING(bytes)[length] = 0;
        Py_SET_SIZE((PyVarObject *)bytes, length);
    }
    """
    void cut_bytes "fc_cut_bytes"(PyObject*, Py_ssize_t) noexcept

cdef enum:
    KEPT_SCRATCH = 256 * 1024
    LARGEST_GUESS = 64 * 1024
    SLACK = 64              # more than a message's size was guessed to be; what is left of it at most


cdef str step_text(Step* step):
    if step.key == NULL:
        return f"[{step.index}]"
    key = <object> step.key
    if type(key) is str and key.isidentifier():
        return f".{key}"
    text = repr(key)
    return f"[{text if len(text) <= 60 else text[:60] + '...'}]"


cdef str path_text(Writer* writer):
    """``$.tasks[3].owner``; of a very deep path the first and last steps."""
    cdef int depth, shown = 16
    parts = ["$"]
    if writer.steps != NULL:
        for depth in range(writer.depth):
            if depth < shown or depth >= writer.depth - shown:
                parts.append(step_text(&writer.steps[depth]))
            elif depth == shown:
                parts.append(" ... ")
    return "".join(parts)


cdef str surrogate_text(str text):
    for index, c in enumerate(text):
        if "\ud800" <= c <= "\udfff":
            return f"has the lone surrogate U+{ord(c):04X} at index {index}, which UTF-8 has no bytes for"
    return ""


cdef str base_text(object culprit):
    if is_registrable(type(culprit)):
        return "; register its class: Codec(types=[...])"
    for base in (int, float, str, bytes, bytearray, list, tuple, dict, set, frozenset):
        if isinstance(culprit, base):
            name = base.__name__
            return f"; as a subclass it would come back as {name}: convert it with {name}(...) first"
    return "; convert it, or use Codec(fallback='pickle') among peers that trust each other"


cdef bint is_registrable(object kind):
    """Is it an Enum, dataclass or namedtuple?"""
    return hasattr(kind, "__members__") or hasattr(kind, "__dataclass_fields__") or (
        issubclass(kind, tuple) and hasattr(kind, "_fields")
    )


cdef str refusal_text(int why, object culprit):
    name = type(culprit).__qualname__
    if why == TOO_DEEP:
        return f"is nested deeper than {MAX_DEPTH} levels; does it contain itself?"
    if why == SURROGATE:
        return surrogate_text(culprit)
    if why == NOT_CONTIGUOUS:
        return "is a memoryview that is released or not C-contiguous; encode bytes(view) instead"
    if why == CHANGED:
        return f"({name}) changed its size while it was encoded"
    return f"is of type {name!r}, which can't be encoded{base_text(culprit)}"


cdef int forget_failure(Writer* writer) except -1:
    cdef int depth
    Py_XDECREF(writer.culprit)
    Py_XDECREF(writer.detail)
    writer.culprit = NULL
    writer.detail = NULL
    if writer.steps != NULL:
        for depth in range(MAX_DEPTH + 1):
            Py_XDECREF(writer.steps[depth].key)
        PyMem_Free(writer.steps)
        writer.steps = NULL
    return 0


cdef int raise_refusal(Writer* writer) except -1:
    try:
        if writer.why == PENDING:
            raise_pending()
        path = path_text(writer)
        if writer.why == UNFIT:
            text = <object> writer.detail
        else:
            text = refusal_text(writer.why, <object> writer.culprit)
        raise EncodeError(f"the value at {path} {text}", path=path)
    finally:
        forget_failure(writer)


cdef int check_room(Py_ssize_t length, Py_ssize_t offset, Py_ssize_t size) except -1:
    if offset < 0 or size - offset < length:
        raise EncodeError(
            f"the message needs {length} bytes at offset {offset}; the buffer has {size} bytes in all"
        )
    return 0


@cython.final
cdef class Encoder:
    """Encodes message after message through one scratch buffer, which grows; 256 KiB of it are kept.

    One caller at a time. A call on an encoder that is in the middle of a message (from a finalizer) is served
    by a fresh one, so it does no harm.
    """

    def __cinit__(self) -> None:
        memset(&self.writer, 0, sizeof(Writer))

    def __init__(self, *, object types=None, object table=None, bint interning=True) -> None:
        """`types`: a TypeTable; `table`: a StringTable; without `interning` every key is written out."""
        if types is not None:
            self.use_types(types)
        self.table = table
        self.writer.table = <PyObject*> table
        self.writer.interning = interning
        self.writer.learns = interning and table is not None
        self.writer.header = HEADER
        if table is not None:
            self.writer.header += 4
            self.writer.table_id = table.id

    def __dealloc__(self) -> None:
        cdef int i
        for i in range(KEY_SLOTS):
            Py_XDECREF(self.writer.keys[i].key)
        Py_XDECREF(self.writer.types)
        PyMem_Free(self.writer.scratch)

    cdef int use_types(self, object types) except -1:
        Py_XDECREF(self.writer.types)
        self.writer.types = Py_NewRef(<PyObject*> types)
        return 0

    cdef Encoder twin(self):
        """A fresh one that writes the same."""
        types = None if self.writer.types == NULL else <object> self.writer.types
        return Encoder(types=types, table=self.table, interning=self.writer.interning)

    @property
    def capacity(self) -> int:
        """Bytes of scratch buffer held now."""
        return self.writer.scratch_size

    cdef int trim(self) except -1:
        if self.writer.scratch_size > KEPT_SCRATCH:
            PyMem_Free(self.writer.scratch)
            self.writer.scratch = NULL
            self.writer.scratch_size = 0
        return 0

    cdef uint8_t* write(self, object obj, uint8_t* start, Py_ssize_t size) except? NULL:
        """The message into `size` bytes at `start`, which may move: writer.start says where to. Returns its
        end; NULL, and no error is set, for what is not plain."""
        cdef Writer* writer = &self.writer
        cdef uint8_t* p
        writer.start = start
        writer.limit = start + size
        writer.why = FINE
        writer.generation += 1
        writer.known = 0
        writer.lists = 0
        self.busy = True
        p = put_message(writer, <PyObject*> obj)
        if p == NULL:
            self.fail()
        self.busy = False
        return p

    cdef int fail(self) except -1:
        """Still busy: the text of the error shows keys, and their classes' __repr__ may encode."""
        try:
            if self.writer.plain and self.writer.why != PENDING:
                forget_failure(&self.writer)
            else:
                raise_refusal(&self.writer)
        finally:
            self.busy = False
        return 0

    cdef const uint8_t* c_encode(self, object obj, Py_ssize_t* length) except NULL:
        """Raises EncodeError, or RuntimeError if this encoder is in the middle of a message."""
        cdef uint8_t* end
        if self.busy:
            raise RuntimeError("this Encoder is in the middle of a message; use another one")
        self.trim()
        end = self.write(obj, self.writer.scratch, self.writer.scratch_size)
        length[0] = end - self.writer.start
        return self.writer.start

    cdef bytes message(self, object obj):
        """Written into the bytes object that is returned. It is guessed to be as large as the one before."""
        cdef Writer* writer = &self.writer
        cdef Py_ssize_t length, size = writer.last_size + SLACK
        cdef uint8_t* end
        if self.busy:
            return self.twin().message(obj)
        writer.target = PyBytes_FromStringAndSize(NULL, size)
        if writer.target == NULL:
            raise_pending()
        try:
            end = self.write(obj, <uint8_t*> PyBytes_AS_STRING(writer.target), size)
            if end == NULL:
                return None
            length = end - writer.start
            writer.last_size = min(length, LARGEST_GUESS)
            if writer.limit - end <= SLACK:
                cut_bytes(writer.target, length)
            elif PyBytes_Resize(&writer.target, length):
                raise_pending()
            return <bytes> writer.target
        finally:
            Py_XDECREF(writer.target)
            writer.target = NULL

    def encode(self, obj: object, /) -> bytes:
        """The message that holds `obj`. Raises EncodeError with the path to what can't be encoded."""
        return self.message(obj)

    def encode_into(self, obj: object, buffer: object, offset: int = 0) -> int:
        """Write the message into the writable, contiguous `buffer` at `offset`; return the bytes written.

        Raises EncodeError, also if the buffer is too small (the text says what is needed), and BufferError or
        TypeError for an unfit buffer; nothing is written then.
        """
        cdef Py_buffer view
        if self.busy:
            return self.twin().encode_into(obj, buffer, offset)
        # Before encoding: an exporter written in Python may itself use this encoder.
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            return self.copy_into(obj, &view, offset)
        finally:
            PyBuffer_Release(&view)

    cdef Py_ssize_t copy_into(self, object obj, Py_buffer* view, Py_ssize_t offset) except -1:
        cdef Py_ssize_t length
        cdef const uint8_t* data = self.c_encode(obj, &length)
        check_room(length, offset, view.len)
        memcpy(<uint8_t*> view.buf + offset, data, length)
        self.trim()
        return length


cdef Encoder plain_encoder = Encoder()
plain_encoder.writer.plain = True


def encode_plain(obj: object, /) -> bytes | None:
    """The message of a tree of built-in types, or None if decoding it would not make what pickle does.

    A tree: no container but `obj` itself is referred to from elsewhere, so none can occur twice in it. Items
    of tuples, sets and dicts as well; no memoryview, and no lone surrogate. Safe in any thread.
    """
    if plain_encoder.busy:
        return None
    return plain_encoder.message(obj)


cdef Encoder shared_encoder = Encoder()


def encode(obj: object, /) -> bytes:
    """The message that holds `obj`, in the format of docs/wire.md.

    None, bool, int, float, str, bytes, bytearray, memoryview, list, tuple, dict, set, frozenset; date, time,
    datetime, timedelta, timezone, ZoneInfo, UUID, Decimal; numpy scalars and arrays without objects. All come
    back equal and of the same type, but a memoryview (C-contiguous) as the bytes that it shows. A Codec adds
    Enums, dataclasses and namedtuples. Exact types only. Raises EncodeError, whose `path` leads to what can't
    be encoded: an unsupported type, data that contain themselves. Safe in any thread.
    """
    return shared_encoder.message(obj)


def encode_into(obj: object, buffer: object, offset: int = 0) -> int:
    """Encode `obj` into the writable, contiguous `buffer` at `offset`; return the number of bytes written.

    Raises EncodeError, also if the buffer is too small (the text says what is needed), and BufferError or
    TypeError for an unfit buffer; nothing is written then. Safe in any thread.
    """
    return shared_encoder.encode_into(obj, buffer, offset)
