"""Python objects to bytes: the writing half of the codec, whose format is described in ``codec.pyx``.

Each put_* appends one value at p and returns where the next one goes, or NULL with writer.why saying what is
wrong; nothing is raised before the top, so the way to the culprit is put together only when there is one.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Realloc

from fastcomm._core.capi cimport (
    ready_hash,
    PyObject, PyTypeObject, PyBool_Type, PyLong_Type, PyFloat_Type, PyUnicode_Type, PyBytes_Type,
    PyByteArray_Type, PyMemoryView_Type, PyList_Type, PyTuple_Type, PyDict_Type, raise_pending,
    PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyBytes_AS_STRING, PyBytes_GET_SIZE, PyDict_GET_SIZE,
    PyDict_Next, PyErr_NoMemory, PyFloat_AS_DOUBLE, PyList_GET_ITEM, PyList_GET_SIZE,
    PyLong_AsLongLongAndOverflow, PyLong_AsUnsignedLongLongMask, PyLong_FromUnsignedLongLong,
    PyObject_RichCompareBool, PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyUnicode_DATA, PyUnicode_GET_LENGTH,
    PyUnicode_IS_COMPACT_ASCII, PyUnicode_KIND, PyUnicode_READ, Py_DECREF, Py_EQ, Py_INCREF, Py_NewRef,
    Py_None, Py_TYPE, Py_True, Py_XDECREF,
)
from fastcomm._core.utf8 cimport put_code_point, utf8_size
from fastcomm._core.wire cimport (
    MAGIC, VERSION, HEADER, MAX_DEPTH, SMALL_INT, TINY_NEGATIVE, INT, NEGATIVE, NONE, FALSE, TRUE, FLOAT,
    BIG_INT, STR, BYTES, BYTEARRAY, SHORT_STR, SHORT_BYTES, SHORT_LIST, SHORT_DICT, SHORT_TUPLE, LIST,
    TUPLE, DICT, FAR_REF, NEAR_REF, SHORT_STR_MAX, NEAR_REF_MAX, SHORT_BYTES_MAX, SHORT_LIST_MAX,
    SHORT_DICT_MAX, SHORT_TUPLE_MAX, same_text, set_error,
)

from fastcomm.errors import EncodeError

cdef extern from *:
    int count_leading_zeros "__builtin_clzll"(uint64_t) noexcept nogil

cdef enum:
    HEAD_ROOM = 16          # the longest head of a value is 10 bytes; words are stored whole and then cut
    FIRST_SCRATCH = 1024
    KEPT_SCRATCH = 256 * 1024

cdef enum Why:
    FINE
    PENDING             # a Python error is set; it is raised as it is
    UNSUPPORTED
    TOO_DEEP
    SURROGATE
    NOT_CONTIGUOUS
    CHANGED


cdef uint8_t* grow(Writer* writer, uint8_t* p, Py_ssize_t need) noexcept:
    cdef Py_ssize_t used = p - writer.start
    cdef Py_ssize_t size = max(2 * (writer.limit - writer.start), used + need, FIRST_SCRATCH)
    cdef uint8_t* start = <uint8_t*> PyMem_Realloc(writer.start, size)
    if start == NULL:
        PyErr_NoMemory()
        writer.why = PENDING
        return NULL
    writer.start = start
    writer.limit = start + size
    return start + used


cdef inline uint8_t* room(Writer* writer, uint8_t* p, Py_ssize_t need) noexcept:
    if writer.limit - p >= need:
        return p
    return grow(writer, p, need)


cdef uint8_t* refuse(Writer* writer, Why why, PyObject* culprit) noexcept:
    writer.why = why
    writer.culprit = Py_NewRef(culprit)
    writer.depth = 0
    return NULL


cdef uint8_t* add_step(Writer* writer, int depth, PyObject* key, Py_ssize_t index) noexcept:
    """On the way out of a failure: the container at `depth` was at this key or index."""
    if writer.steps == NULL:
        writer.steps = <Step*> PyMem_Calloc(MAX_DEPTH + 1, sizeof(Step))
        if writer.steps == NULL:
            return NULL
    if key != NULL:
        Py_INCREF(key)
    writer.steps[depth] = Step(key, index)
    writer.depth = max(writer.depth, depth + 1)
    return NULL


cdef inline uint8_t* put_size(uint8_t* p, uint64_t size) noexcept:
    while size >= 0x80:
        p[0] = <uint8_t> (size | 0x80)
        size >>= 7
        p += 1
    p[0] = <uint8_t> size
    return p + 1


cdef inline uint8_t* put_head(
    uint8_t* p, int short_tag, Py_ssize_t short_max, int tag, Py_ssize_t size
) noexcept:
    if size <= short_max:
        p[0] = <uint8_t> (short_tag + size)
        return p + 1
    p[0] = <uint8_t> tag
    return put_size(p + 1, size)


cdef inline uint8_t* put_byte(Writer* writer, uint8_t* p, int byte) noexcept:
    p = room(writer, p, HEAD_ROOM)
    if p != NULL:
        p[0] = <uint8_t> byte
        p += 1
    return p


cdef inline uint8_t* put_block(
    Writer* writer, uint8_t* p, int short_tag, Py_ssize_t short_max, int tag,
    const void* data, Py_ssize_t size
) noexcept:
    p = room(writer, p, size + HEAD_ROOM)
    if p == NULL:
        return NULL
    p = put_head(p, short_tag, short_max, tag, size)
    memcpy(p, data, size)
    return p + size


cdef inline uint8_t* put_word(uint8_t* p, int tag, uint64_t bits) noexcept:
    cdef int last = 7 - (count_leading_zeros(bits | 1) >> 3)
    p[0] = <uint8_t> (tag + last)
    memcpy(p + 1, &bits, 8)
    return p + 2 + last


cdef uint8_t* put_big_int(Writer* writer, uint8_t* p, PyObject* obj) noexcept:
    cdef bytes raw
    try:
        number = <object> obj
        raw = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    except BaseException as error:
        set_error(error)
        writer.why = PENDING
        return NULL
    return put_block(writer, p, 0, -1, BIG_INT, <const char*> raw, len(raw))


cdef uint8_t* put_wide_int(Writer* writer, uint8_t* p, PyObject* obj, int overflow) noexcept:
    """Beyond int64. An unsigned 64-bit number (a hash, an id) still goes as a word."""
    cdef uint64_t bits = PyLong_AsUnsignedLongLongMask(obj)
    cdef PyObject* same
    cdef bint fits = False
    if overflow > 0:
        same = PyLong_FromUnsignedLongLong(bits)
        if same == NULL:
            writer.why = PENDING
            return NULL
        fits = PyObject_RichCompareBool(same, obj, Py_EQ)
        Py_DECREF(same)
    if fits:
        return put_word(p, INT, bits)
    return put_big_int(writer, p, obj)


cdef inline uint8_t* put_int(Writer* writer, uint8_t* p, PyObject* obj) noexcept:
    cdef int overflow
    cdef int64_t value = PyLong_AsLongLongAndOverflow(obj, &overflow)
    p = room(writer, p, HEAD_ROOM)
    if p == NULL:
        return NULL
    if 0 <= value < SMALL_INT:
        p[0] = <uint8_t> value
        return p + 1
    if overflow:
        return put_wide_int(writer, p, obj, overflow)
    if value >= 0:
        return put_word(p, INT, value)
    if value >= -8:
        p[0] = <uint8_t> (TINY_NEGATIVE + value)
        return p + 1
    return put_word(p, NEGATIVE, ~value)


cdef inline uint8_t* put_float(Writer* writer, uint8_t* p, PyObject* obj) noexcept:
    cdef double value = PyFloat_AS_DOUBLE(obj)
    p = room(writer, p, HEAD_ROOM)
    if p == NULL:
        return NULL
    p[0] = FLOAT
    memcpy(p + 1, &value, 8)
    return p + 9


cdef inline uint8_t* put_utf8(Writer* writer, uint8_t* p, PyObject* obj, int kind) noexcept:
    cdef void* data = PyUnicode_DATA(obj)
    cdef Py_ssize_t i, length = PyUnicode_GET_LENGTH(obj)
    cdef Py_ssize_t size = utf8_size(kind, data, length)
    if size < 0:
        return refuse(writer, SURROGATE, obj)
    p = room(writer, p, size + HEAD_ROOM)
    if p == NULL:
        return NULL
    p = put_head(p, SHORT_STR, SHORT_STR_MAX, STR, size)
    for i in range(length):
        p = put_code_point(p, PyUnicode_READ(kind, data, i))
    return p


cdef uint8_t* put_wide_str(Writer* writer, uint8_t* p, PyObject* obj) noexcept:
    """Not ASCII. PyUnicode_AsUTF8AndSize would leave a copy of the text in the caller's object for good."""
    cdef int kind = PyUnicode_KIND(obj)
    if kind == 1:
        return put_utf8(writer, p, obj, 1)
    if kind == 2:
        return put_utf8(writer, p, obj, 2)
    return put_utf8(writer, p, obj, 4)


cdef inline uint8_t* put_str(Writer* writer, uint8_t* p, PyObject* obj) noexcept:
    if not PyUnicode_IS_COMPACT_ASCII(obj):
        return put_wide_str(writer, p, obj)
    return put_block(writer, p, SHORT_STR, SHORT_STR_MAX, STR, PyUnicode_DATA(obj), PyUnicode_GET_LENGTH(obj))


cdef inline uint8_t* put_ref(uint8_t* p, uint32_t offset) noexcept:
    if offset <= NEAR_REF_MAX:
        p[0] = <uint8_t> (NEAR_REF + (offset >> 8))
        p[1] = <uint8_t> offset
        return p + 2
    p[0] = FAR_REF
    return put_size(p + 1, offset)


cdef inline RefSlot* next_slot(Writer* writer, RefSlot* slot) noexcept:
    return slot + 1 if slot + 1 < &writer.refs[REF_SLOTS] else &writer.refs[0]


cdef inline bint says(Writer* writer, uint8_t* p, uint32_t offset, PyObject* key, Py_ssize_t size) noexcept:
    """Is the string at `offset` this one? Read from the message, so no pointer to a key is kept."""
    cdef uint8_t* said = writer.start + offset
    if said + size >= p or said[0] != SHORT_STR + size:
        return False
    return same_text(said + 1, <uint8_t*> PyUnicode_DATA(key), size)


cdef inline uint8_t* put_key(Writer* writer, uint8_t* p, PyObject* key) noexcept:
    """A str key within a list, where it is likely to repeat: as a reference if the message has it already.

    Found by contents, not by identity, so that equal objects give equal messages. Keys of a dict have their
    hash ready.
    """
    cdef Py_ssize_t size = PyUnicode_GET_LENGTH(key)
    cdef Py_hash_t hash = ready_hash(key)
    cdef RefSlot* slot = &writer.refs[hash & (REF_SLOTS - 1)]
    if not PyUnicode_IS_COMPACT_ASCII(key) or size < 2 or size > SHORT_STR_MAX:
        return put_str(writer, p, key)
    p = room(writer, p, SHORT_STR_MAX + HEAD_ROOM)
    if p == NULL:
        return NULL
    while slot.generation == writer.generation:
        if slot.hash == hash and says(writer, p, slot.offset, key, size):
            return put_ref(p, slot.offset)
        slot = next_slot(writer, slot)
    if writer.known < REF_SLOTS // 2 and p - writer.start <= <Py_ssize_t> 0xFFFFFFFF:
        slot[0] = RefSlot(hash, writer.generation, <uint32_t> (p - writer.start))
        writer.known += 1
    p[0] = <uint8_t> (SHORT_STR + size)
    memcpy(p + 1, PyUnicode_DATA(key), size)
    return p + 1 + size


cdef inline uint8_t* put_bytes(Writer* writer, uint8_t* p, const void* data, Py_ssize_t size) noexcept:
    return put_block(writer, p, SHORT_BYTES, SHORT_BYTES_MAX, BYTES, data, size)


cdef uint8_t* put_memoryview(Writer* writer, uint8_t* p, PyObject* obj) noexcept:
    cdef Py_buffer view
    try:
        PyObject_GetBuffer(<object> obj, &view, PyBUF_SIMPLE)
    except (BufferError, ValueError):
        return refuse(writer, NOT_CONTIGUOUS, obj)
    p = put_bytes(writer, p, view.buf if view.len else <void*> writer, view.len)
    PyBuffer_Release(&view)
    return p


cdef inline uint8_t* put_item(Writer* writer, uint8_t* p, PyObject* obj, int depth) noexcept:
    """What put does, with the two commonest types handled at the place of the call."""
    cdef PyTypeObject* kind = Py_TYPE(obj)
    if kind == &PyUnicode_Type:
        return put_str(writer, p, obj)
    if kind == &PyLong_Type:
        return put_int(writer, p, obj)
    return put(writer, p, obj, depth)


cdef uint8_t* put_list(Writer* writer, uint8_t* p, PyObject* obj, int depth) noexcept:
    cdef Py_ssize_t i, length = PyList_GET_SIZE(obj)
    p = put_head(p, SHORT_LIST, SHORT_LIST_MAX, LIST, length)
    writer.lists += length > 1
    for i in range(length):
        if PyList_GET_SIZE(obj) != length:
            return refuse(writer, CHANGED, obj)
        p = put_item(writer, p, PyList_GET_ITEM(obj, i), depth + 1)
        if p == NULL:
            return add_step(writer, depth, NULL, i)
    writer.lists -= length > 1
    return p


cdef uint8_t* put_tuple(Writer* writer, uint8_t* p, PyObject* obj, int depth) noexcept:
    cdef Py_ssize_t i, length = PyTuple_GET_SIZE(obj)
    p = put_head(p, SHORT_TUPLE, SHORT_TUPLE_MAX, TUPLE, length)
    writer.lists += length > 1
    for i in range(length):
        p = put_item(writer, p, PyTuple_GET_ITEM(obj, i), depth + 1)
        if p == NULL:
            return add_step(writer, depth, NULL, i)
    writer.lists -= length > 1
    return p


cdef uint8_t* put_dict(Writer* writer, uint8_t* p, PyObject* obj, int depth) noexcept:
    cdef Py_ssize_t position = 0, length = PyDict_GET_SIZE(obj), left = length
    cdef PyObject* key
    cdef PyObject* value
    p = put_head(p, SHORT_DICT, SHORT_DICT_MAX, DICT, length)
    while left and PyDict_Next(obj, &position, &key, &value):
        left -= 1
        Py_INCREF(key)
        Py_INCREF(value)
        p = put_pair(writer, p, key, value, depth)
        Py_DECREF(key)
        Py_DECREF(value)
        if p == NULL:
            return NULL
    if left != 0 or PyDict_GET_SIZE(obj) != length:
        return refuse(writer, CHANGED, obj)
    return p


cdef inline uint8_t* put_pair(Writer* writer, uint8_t* p, PyObject* key, PyObject* value, int depth) noexcept:
    if Py_TYPE(key) == &PyUnicode_Type:
        p = put_key(writer, p, key) if writer.lists else put_str(writer, p, key)
    else:
        p = put(writer, p, key, depth + 1)
    if p == NULL:
        writer.depth = depth    # the path ends at the dict: a key has none of its own
        return NULL
    p = put_item(writer, p, value, depth + 1)
    if p == NULL:
        return add_step(writer, depth, key, 0)
    return p


cdef uint8_t* put_container(
    Writer* writer, uint8_t* p, PyObject* obj, PyTypeObject* kind, int depth
) noexcept:
    """Containers and pairs are held while they are walked: a finalizer may run and drop them from outside."""
    if depth >= MAX_DEPTH:
        return refuse(writer, TOO_DEEP, obj)
    p = room(writer, p, HEAD_ROOM)
    if p == NULL:
        return NULL
    Py_INCREF(obj)
    if kind == &PyDict_Type:
        p = put_dict(writer, p, obj, depth)
    elif kind == &PyList_Type:
        p = put_list(writer, p, obj, depth)
    else:
        p = put_tuple(writer, p, obj, depth)
    Py_DECREF(obj)
    return p


cdef uint8_t* put(Writer* writer, uint8_t* p, PyObject* obj, int depth) noexcept:
    cdef PyTypeObject* kind = Py_TYPE(obj)
    if kind == &PyUnicode_Type:
        return put_str(writer, p, obj)
    if kind == &PyLong_Type:
        return put_int(writer, p, obj)
    if kind == &PyFloat_Type:
        return put_float(writer, p, obj)
    if kind == &PyDict_Type or kind == &PyList_Type or kind == &PyTuple_Type:
        return put_container(writer, p, obj, kind, depth)
    if obj == Py_None:
        return put_byte(writer, p, NONE)
    if kind == &PyBool_Type:
        return put_byte(writer, p, TRUE if obj == Py_True else FALSE)
    return put_buffer(writer, p, obj, kind)


cdef uint8_t* put_buffer(Writer* writer, uint8_t* p, PyObject* obj, PyTypeObject* kind) noexcept:
    if kind == &PyBytes_Type:
        return put_bytes(writer, p, PyBytes_AS_STRING(obj), PyBytes_GET_SIZE(obj))
    if kind == &PyByteArray_Type:
        return put_block(writer, p, 0, -1, BYTEARRAY, PyByteArray_AS_STRING(obj), PyByteArray_GET_SIZE(obj))
    if kind == &PyMemoryView_Type:
        return put_memoryview(writer, p, obj)
    return refuse(writer, UNSUPPORTED, obj)


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
    for base in (int, float, str, bytes, bytearray, list, tuple, dict):
        if isinstance(culprit, base):
            name = base.__name__
            return f"; as a subclass it would come back as {name}: convert it with {name}(...) first"
    return "; supported are None, bool, int, float, str, bytes, bytearray, memoryview, list, tuple and dict"


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
    writer.culprit = NULL
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
        text = refusal_text(writer.why, <object> writer.culprit)
        raise EncodeError(f"the value at {path} {text}", path=path)
    finally:
        forget_failure(writer)


@cython.final
cdef class Encoder:
    """Encodes message after message through one scratch buffer, which grows; 256 KiB of it are kept.

    One caller at a time. A call on an encoder that is in the middle of a message (from a finalizer) is served
    by a fresh one, so it does no harm.
    """

    def __cinit__(self) -> None:
        memset(&self.writer, 0, sizeof(Writer))

    def __dealloc__(self) -> None:
        PyMem_Free(self.writer.start)

    @property
    def capacity(self) -> int:
        """Bytes of scratch buffer held now."""
        return self.writer.limit - self.writer.start

    cdef int trim(self) except -1:
        if self.writer.limit - self.writer.start > KEPT_SCRATCH:
            PyMem_Free(self.writer.start)
            self.writer.start = NULL
            self.writer.limit = NULL
        return 0

    cdef const uint8_t* c_encode(self, object obj, Py_ssize_t* length) except NULL:
        """Raises EncodeError, or RuntimeError if this encoder is in the middle of a message."""
        cdef Writer* writer = &self.writer
        cdef uint8_t* p
        if self.busy:
            raise RuntimeError("this Encoder is in the middle of a message; use another one")
        self.trim()
        writer.why = FINE
        writer.generation += 1
        writer.known = 0
        writer.lists = 0
        self.busy = True
        p = room(writer, writer.start, HEAD_ROOM)
        if p != NULL:
            p[0] = MAGIC
            p[1] = VERSION
            p = put(writer, p + HEADER, <PyObject*> obj, 0)
        self.busy = False
        if p == NULL:
            raise_refusal(writer)
        length[0] = p - writer.start
        return writer.start

    cdef bytes message(self, object obj):
        cdef Py_ssize_t length
        cdef const uint8_t* data
        cdef bytes message
        if self.busy:
            return Encoder().message(obj)
        data = self.c_encode(obj, &length)
        message = (<const char*> data)[:length]
        self.trim()
        return message

    def encode(self, obj: object) -> bytes:
        """The message that holds `obj`. Raises EncodeError with the path to what can't be encoded."""
        return self.message(obj)

    def encode_into(self, obj: object, buffer: object, offset: int = 0) -> int:
        """Write the message into the writable, contiguous `buffer` at `offset`; return the bytes written.

        Raises EncodeError, also if the buffer is too small (the text says what is needed), and BufferError or
        TypeError for an unfit buffer; nothing is written then.
        """
        cdef Py_buffer view
        if self.busy:
            return Encoder().encode_into(obj, buffer, offset)
        # Before encoding: an exporter written in Python may itself use this encoder.
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            return self.copy_into(obj, &view, offset)
        finally:
            PyBuffer_Release(&view)

    cdef Py_ssize_t copy_into(self, object obj, Py_buffer* view, Py_ssize_t offset) except -1:
        cdef Py_ssize_t length
        cdef const uint8_t* data = self.c_encode(obj, &length)
        if offset < 0 or view.len - offset < length:
            raise EncodeError(
                f"the message needs {length} bytes at offset {offset}; the buffer has {view.len} bytes in all"
            )
        memcpy(<uint8_t*> view.buf + offset, data, length)
        self.trim()
        return length


cdef Encoder shared_encoder = Encoder()


def encode(obj: object) -> bytes:
    """Encode None, bool, int, float, str, bytes, bytearray, memoryview, list, tuple and dict, of exact types.

    A memoryview must be C-contiguous and is encoded as the bytes that it shows; all else comes back equal and
    of the same type. Raises EncodeError, whose `path` leads to what can't be encoded. Safe in any thread.
    """
    return shared_encoder.message(obj)


def encode_into(obj: object, buffer: object, offset: int = 0) -> int:
    """Encode `obj` into the writable, contiguous `buffer` at `offset`; return the number of bytes written.

    Raises EncodeError, also if the buffer is too small (the text says what is needed), and BufferError or
    TypeError for an unfit buffer; nothing is written then. Safe in any thread.
    """
    return shared_encoder.encode_into(obj, buffer, offset)
