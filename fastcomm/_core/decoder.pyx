"""Decoder: the value of a message, its header and flags, and the errors that say what is wrong and where."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.pycapsule cimport PyCapsule_GetName, PyCapsule_GetPointer

from fastcomm._core.capi cimport (
    Py_DECREF, Py_NewRef, Py_XDECREF, PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE, PyObject,
    raise_pending,
)
from fastcomm._core.input cimport (
    BAD_ENTRY, BAD_FLAGS, BAD_REFERENCE, BAD_SIZE, BAD_TAG, BAD_TEXT, BAD_VALUE, BAD_VERSION,
    BAD_WORD, DUPLICATE_KEY, has, KEY_SLOTS, NOT_A_MESSAGE, OTHER_TABLE, PENDING, pending, Reader,
    stop, take_size, TOO_DEEP, TOO_LARGE, TOO_MANY, TRAILING, TRUNCATED, UNHASHABLE,
)
from fastcomm._core.reader cimport take_value
from fastcomm._core.strings cimport StringTable
from fastcomm._core.wire cimport (
    byte_once, HEADER, IS_LZ4, IS_STRUCT, IS_ZSTD, MAGIC, MAX_DEPTH, NO_LIMIT, set_error, VERSION,
    WITH_TABLE,
)
from fastcomm._core.words cimport FC_WORDS

from fastcomm.errors import DecodeError

cdef enum:
    MAX_DECOMPRESSED = 16 << 20

ctypedef object (*decode_struct_t)(const uint8_t*, Py_ssize_t)

cdef decode_struct_t decode_struct = NULL


cdef int take_header(Reader* reader) noexcept:
    """The second byte, flags and version; -1 if this is no message that can be read here."""
    cdef int magic, head
    if not has(reader, 1):
        return -1
    magic = byte_once(reader.p)
    if magic != MAGIC:
        stop(reader, NOT_A_MESSAGE, reader.p, magic)
        return -1
    if not has(reader, HEADER):
        return -1
    head = byte_once(reader.p + 1)
    if head & 0x0F != VERSION:
        stop(reader, BAD_VERSION, reader.p + 1, head & 0x0F)
        return -1
    reader.p += HEADER
    return head


cdef PyObject* take_message(Reader* reader, int head) noexcept:
    """What follows the header."""
    cdef PyObject* result
    if head == VERSION | IS_STRUCT:
        return take_struct_alone(reader)
    if head != VERSION and not take_flags(reader, head & 0xF0):
        return NULL
    reader.header = reader.p - reader.start
    result = take_value(reader)
    if result != NULL and reader.p != reader.end:
        Py_DECREF(result)
        return stop(reader, TRAILING, reader.p, reader.end - reader.p)
    return result


cdef int load_structs() except -1:
    """What cimport would have taken when this module was loaded: most processes never meet a Struct."""
    global decode_struct
    from fastcomm._core import struct_base
    capsule = struct_base.__pyx_capi__["decode_struct"]
    decode_struct = <decode_struct_t> PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule))
    return 0


cdef PyObject* take_struct_alone(Reader* reader) noexcept:
    """The message of a Struct, which is the whole one, as an instance of the class with its type id."""
    try:
        if decode_struct == NULL:
            load_structs()
        value = decode_struct(reader.start, reader.end - reader.start)
        return Py_NewRef(<PyObject*> value)
    except BaseException as error:
        set_error(error)
        return pending(reader)


cdef bint take_flags(Reader* reader, int flags) noexcept:
    """Of a message that is not compressed."""
    cdef uint32_t id
    if flags != WITH_TABLE:
        stop(reader, BAD_FLAGS, reader.start + 1, flags >> 4)
        return False
    if not has(reader, 4):
        return False
    memcpy(&id, reader.p, 4)
    if not set_entries(reader, id):
        stop(reader, OTHER_TABLE, reader.p, id)
        return False
    reader.p += 4
    return True


cdef bint set_entries(Reader* reader, uint32_t id) noexcept:
    """Is it the string table of this decoder, or of the channel that the message came by?"""
    if reader.table == NULL or (<StringTable> reader.table).id != id:
        if reader.shared == NULL or (<StringTable> reader.shared).id != id:
            return False
        reader.table = reader.shared
    reader.entries = <PyObject*> (<StringTable> reader.table).texts
    return True


cdef str fault_text(Reader* reader):
    number = reader.number
    why = reader.why
    left = reader.end - reader.start - reader.where
    if why == TRUNCATED:
        return f"cut short: {number} bytes are needed here and {left} follow"
    if why == TOO_MANY:
        return f"{number} values can't be in the {left} bytes that follow"
    if why == BAD_SIZE:
        return "a size of more than nine bytes"
    if why == BAD_TAG:
        return f"unknown tag 0x{number:02X}; was it written by a newer version?"
    if why == BAD_TEXT:
        return f"a str of {number} bytes that are not UTF-8"
    if why == BAD_REFERENCE:
        return f"a reference to offset {number}, where no short str begins"
    if why == UNHASHABLE:
        return "a dictionary key that can't be hashed"
    if why == DUPLICATE_KEY:
        return f"a dict of {number} pairs with a key that occurs twice"
    if why == BAD_WORD:
        return f"word {number} of a table that has {FC_WORDS}; was it written by a newer version?"
    if why == BAD_ENTRY:
        return f"entry {number} of a string table that has no such entry, or of none"
    if why == BAD_VALUE:
        return <object> reader.detail
    return header_fault_text(why, number)


cdef str header_fault_text(int why, Py_ssize_t number):
    if why == TOO_DEEP:
        return f"nested deeper than {MAX_DEPTH} levels"
    if why == TRAILING:
        return f"{number} bytes follow the value"
    if why == NOT_A_MESSAGE:
        return f"not a fastcomm message: the first byte is 0x{number:02X}, not 0x{MAGIC:02X}"
    if why == BAD_VERSION:
        return f"format version {number} is unknown; this build reads version {VERSION}"
    if why == OTHER_TABLE:
        return f"written with the string table {number:#010x}, which this codec was not given"
    if why == TOO_LARGE:
        return f"{number} bytes, more than this codec takes; see max_size and max_decompressed of Codec"
    return f"flags 0x{number:X} are unknown; was it written by a newer version?"


cdef object raise_fault(Reader* reader):
    if reader.why == PENDING:
        raise_pending()
    text = fault_text(reader)
    Py_XDECREF(reader.detail)
    raise DecodeError(f"{text} (at offset {reader.where})", offset=reader.where)


@cython.final
cdef class Decoder:
    """Decodes messages; keeps short ASCII keys by their bytes: one that comes again is neither allocated nor
    hashed. `table`: a StringTable; `types`: a TypeTable. Any thread may use it.
    """

    def __init__(
        self, *, object types=None, object table=None, Py_ssize_t max_size=NO_LIMIT,
        Py_ssize_t max_decompressed=MAX_DECOMPRESSED, bint interning=True,
    ) -> None:
        """`max_size`, `max_decompressed`: bytes; without `interning` no keys are kept."""
        if types is not None:
            self.use_types(types)
        self.table = table
        self.max_size = max_size
        self.max_decompressed = max_decompressed
        self.interning = interning

    def __dealloc__(self) -> None:
        cdef int i
        for i in range(KEY_SLOTS):
            Py_XDECREF(self.keys[i])
        Py_XDECREF(self.types)

    cdef int use_types(self, object types) except -1:
        Py_XDECREF(self.types)
        self.types = Py_NewRef(<PyObject*> types)
        return 0

    cdef object span(self, const uint8_t* data, Py_ssize_t length, PyObject* view, StringTable shared):
        cdef Reader reader
        cdef PyObject* result = NULL
        cdef object value
        cdef int head
        reader.start = reader.p = data
        reader.end = data + length
        reader.owed = 0
        reader.keys = self.keys if self.interning else NULL
        reader.types = &self.types
        reader.table = NULL if self.table is None else <PyObject*> self.table
        reader.shared = NULL if shared is None else <PyObject*> shared
        reader.memo = reader.detail = reader.entries = NULL
        reader.view = view
        reader.depth = 0
        if length > self.max_size:
            stop(&reader, TOO_LARGE, data, length)
            raise_fault(&reader)
        head = take_header(&reader)
        if head >= 0 and (head & (IS_LZ4 | IS_ZSTD)):
            return self.compressed_span(&reader, head & 0xF0, shared)
        if head >= 0:
            result = take_message(&reader, head)
        Py_XDECREF(reader.memo)
        if result == NULL:
            raise_fault(&reader)
        value = <object> result
        Py_DECREF(result)
        return value

    cdef object compressed_span(self, Reader* reader, int flags, StringTable shared):
        """The message within is private memory by then, so views into it are of a bytes object."""
        cdef Py_ssize_t size
        if flags != IS_LZ4 and flags != IS_ZSTD:
            stop(reader, BAD_FLAGS, reader.start + 1, flags >> 4)
            raise_fault(reader)
        size = take_size(reader)
        if size < 0:
            raise_fault(reader)
        if size > self.max_decompressed:
            stop(reader, TOO_LARGE, reader.start + HEADER, size)
            raise_fault(reader)
        from fastcomm._core.compression import decompress
        offset = reader.p - reader.start
        try:
            plain = decompress(flags, (<const char*> reader.p)[:reader.end - reader.p], size)
        except ValueError as error:
            raise DecodeError(f"{error} (at offset {offset})", offset=offset) from None
        if len(plain) > 1 and plain[1] & (IS_LZ4 | IS_ZSTD):
            raise DecodeError(
                f"a compressed message in a compressed one (at offset {offset})", offset=offset
            )
        try:
            return self.message(plain, reader.view == NULL, shared)
        except DecodeError as error:
            raise DecodeError(f"in the decompressed message: {error}", offset=offset) from None

    cdef object message(self, object buffer, bint copy, StringTable shared):
        cdef Py_buffer view
        cdef object window = None
        if PyBytes_CheckExact(buffer) and copy:
            return self.span(
                <const uint8_t*> PyBytes_AS_STRING(<PyObject*> buffer),
                PyBytes_GET_SIZE(<PyObject*> buffer), NULL, shared,
            )
        if not copy:
            window = window_on(buffer)
            buffer = window
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
        try:
            return self.span(
                <const uint8_t*> view.buf, view.len, NULL if copy else <PyObject*> window, shared
            )
        finally:
            PyBuffer_Release(&view)


cdef Decoder shared_decoder = Decoder()


cdef object c_decode(const uint8_t* data, Py_ssize_t length):
    """Decode with bytes copied. Raises DecodeError."""
    return shared_decoder.span(data, length, NULL, None)


def decode(buffer: object, /, *, copy: bool = True) -> object:
    """Decode the one message that fills the contiguous `buffer`, of any released version of the format.

    With ``copy=False`` bytes come back as read-only memoryviews and numpy arrays as read-only views into
    `buffer`, which they keep exported; bytes in dictionary keys are copied all the same. A compressed message
    may have 16 MiB when decompressed. Raises DecodeError, with the `offset` at which the message is wrong,
    and BufferError or TypeError if `buffer` is not contiguous or no buffer. Nothing is imported but the
    modules of the standard types and numpy, and only if the message has values of them. Safe in any thread;
    if `buffer` changes meanwhile the value may be wrong, or a DecodeError be raised.
    """
    return shared_decoder.message(buffer, copy, None)


cdef object window_on(object buffer):
    """A read-only memoryview of the bytes of `buffer`, whatever its format and shape."""
    view = memoryview(buffer).toreadonly()
    return view.cast("B") if view.nbytes else memoryview(b"")
