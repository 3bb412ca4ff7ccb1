"""Codec: an encoder and a decoder with the same options. The format is described in docs/wire.md."""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from fastcomm._core.decoder import decode
from fastcomm._core.encoder import encode, encode_into
from fastcomm.errors import EncodeError

from fastcomm._core.encoder cimport check_room
from fastcomm._core.output cimport put_size
from fastcomm._core.wire cimport MAGIC, NO_LIMIT, VERSION

__all__ = ["Codec", "decode", "encode", "encode_into"]

cdef enum:
    MAX_DECOMPRESSED = 16 << 20
    THRESHOLD = 4096


@cython.final
cdef class Codec:
    """encode(), encode_into() and decode() with options; both ends need the same types, fallback and strings.

    `types`: Enum, dataclass and namedtuple classes, or a dict of names and classes; see register().
    `fallback="pickle"`: what else can't be encoded is pickled, and pickles are read, which runs any code that
    a message brings: for peers that are trusted with that.
    `compression`: "lz4" or "zstd", of messages from `threshold` bytes on, kept if smaller; at `level`. Every
    codec decompresses, up to `max_decompressed` bytes. A compressor that fails leaves the message as it is,
    which `compression_failures` counts; `compressed` counts the messages that were sent smaller.
    `max_size`: of a message in bytes; EncodeError or DecodeError beyond.
    `interning`: False writes every key out, and remembers none when decoding.
    `strings`: a StringTable to share and to learn keys into.

    Raises ImportError if the package of a compression is missing, TypeError and ValueError for an option that
    can't be. Thread safety: yes; see CodecPool for threads that encode what runs Python code. Not for other
    processes: make one there.
    """

    def __init__(
        self, *, object types=(), object fallback=None, object compression=None, object level=None,
        Py_ssize_t threshold=THRESHOLD, object max_size=None, Py_ssize_t max_decompressed=MAX_DECOMPRESSED,
        bint interning=True, object strings=None,
    ) -> None:
        """The options are those of the class."""
        if fallback is not None and fallback != "pickle":
            raise ValueError(f"fallback is {fallback!r}; it must be None or 'pickle'")
        self.threshold = threshold
        self.max_size = NO_LIMIT if max_size is None else max_size
        self.max_decompressed = max_decompressed
        if threshold < 0 or self.max_size < 1 or max_decompressed < 1:
            raise ValueError(
                f"threshold is {threshold}, max_size {max_size}, max_decompressed {max_decompressed}; the "
                "first must be at least 0, the others at least 1"
            )
        if compression is not None:
            from fastcomm._core.compression import compressor
            self.flag, self.compress = compressor(compression, level)
        self.strings = strings
        self.encoder = Encoder(table=strings, interning=interning)
        self.decoder = Decoder(
            table=strings, max_size=self.max_size, max_decompressed=max_decompressed, interning=interning,
        )
        self.options = {
            "fallback": fallback, "compression": compression, "level": level, "threshold": threshold,
            "max_size": max_size, "max_decompressed": max_decompressed, "interning": interning,
            "strings": strings,
        }
        for entry in types.items() if isinstance(types, dict) else ((None, cls) for cls in types):
            self.register(entry[1], entry[0])
        if fallback is not None:
            self.type_table()

    cdef object type_table(self):
        """Made when it is needed: its module is loaded then."""
        if self.types is None:
            from fastcomm._core.extended import TypeTable
            self.use_types(TypeTable(pickles=self.options["fallback"] is not None))
        return self.types

    def register(self, cls, name=None):
        """Know an Enum, dataclass or namedtuple; returns `cls`, so it may stand above it as a decorator.

        Messages bear `name`, by default the ``__qualname__``. Decoding sets the fields of a dataclass without
        calling ``__init__`` or ``__post_init__``, makes a namedtuple without ``__new__``, and takes an Enum's
        member by its name, a composite Flag by its value; keys of dicts and sets are hashed. TypeError for
        another class, ValueError for a name in use.
        """
        self.type_table().register(cls, name)
        return cls

    def twin(self) -> Codec:
        """A codec with the same options, registered types and string table, for another thread."""
        cdef Codec twin = Codec(**self.options)
        twin.use_types(self.type_table())
        return twin

    def _without(self, bint interning, bint compression):
        """A codec like this but for what is true: that is left out."""
        cdef Codec plain
        options = dict(self.options)
        if interning:
            options["interning"] = False
        if compression:
            options["compression"] = None
        plain = Codec(**options)
        plain.use_types(self.type_table())
        return plain

    cdef int use_types(self, object types) except -1:
        self.types = types
        self.encoder.use_types(types)
        self.decoder.use_types(types)
        return 0

    def encode(self, obj: object, /) -> bytes:
        """The message that holds `obj`. EncodeError with the path to what can't be encoded, or if it is
        larger than max_size.
        """
        cdef bytes message = self.encoder.message(obj)
        cdef bytes smaller
        cdef Py_ssize_t length = PyBytes_GET_SIZE(message)
        if self.compress is not None and length >= self.threshold:
            smaller = self.shrunk(<const uint8_t*> PyBytes_AS_STRING(message), length)
            if smaller is not None:
                message = smaller
        self.check_size(PyBytes_GET_SIZE(message))
        return message

    def encode_into(self, obj: object, buffer: object, offset: int = 0) -> int:
        """Write the message into the writable, contiguous `buffer` at `offset`; return the bytes written.

        EncodeError, also if the buffer is too small (the text says what is needed); BufferError or TypeError
        for an unfit buffer. Nothing is written then.
        """
        cdef bytes message
        if self.compress is None and self.max_size == NO_LIMIT:
            return self.encoder.encode_into(obj, buffer, offset)
        message = self.encode(obj)
        return copy_into(message, buffer, offset)

    def decode(self, buffer: object, /, *, copy: bool = True) -> object:
        """The value of the one message that fills `buffer`; as fastcomm.decode, with the types, strings and
        limits of this codec.
        """
        return self.decoder.message(buffer, copy, None)

    cdef const uint8_t* c_encode(self, object obj, Py_ssize_t* length) except NULL:
        cdef const uint8_t* data = self.encoder.c_encode(obj, length)
        if self.compress is not None and length[0] >= self.threshold:
            # Compressors give up the GIL: nobody else may use the encoder, whose memory `data` is.
            self.encoder.busy = True
            try:
                self.kept = self.shrunk(data, length[0])
            finally:
                self.encoder.busy = False
            if self.kept is not None:
                data = <const uint8_t*> PyBytes_AS_STRING(self.kept)
                length[0] = PyBytes_GET_SIZE(self.kept)
        self.check_size(length[0])
        return data

    cdef object c_decode(self, const uint8_t* data, Py_ssize_t length, StringTable shared):
        return self.decoder.span(data, length, NULL, shared)

    cdef int check_size(self, Py_ssize_t length) except -1:
        if length > self.max_size:
            raise EncodeError(f"the message has {length} bytes; this codec's max_size is {self.max_size}")
        return 0

    cdef bytes shrunk(self, const uint8_t* data, Py_ssize_t length):
        """The message compressed, or None if that is not smaller or did not work."""
        cdef Codec counted
        if length > self.max_decompressed:
            return None
        try:
            body = self.compress((<const char*> data)[:length])
        except Exception:
            counted = self if self.counts_for is None else self.counts_for
            counted.compression_failures += 1
            return None
        message = bytes((MAGIC, VERSION | self.flag)) + varint(length) + body
        if len(message) >= length:
            return None
        self.compressed += 1
        return message


cdef bytes varint(Py_ssize_t size):
    cdef uint8_t digits[9]
    return (<char*> digits)[:put_size(digits, size) - digits]


cdef Py_ssize_t copy_into(bytes message, object buffer, Py_ssize_t offset) except -1:
    cdef Py_buffer view
    cdef Py_ssize_t length = PyBytes_GET_SIZE(message)
    PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
    try:
        check_room(length, offset, view.len)
        memcpy(<uint8_t*> view.buf + offset, PyBytes_AS_STRING(message), length)
    finally:
        PyBuffer_Release(&view)
    return length
