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
    Py_None, Py_REFCNT, Py_TYPE, Py_True, Py_XDECREF, PyFrozenSet_Type, PySequence_Tuple,
    PySet_Type, PyBytes_FromStringAndSize,
)
from fastcomm._core.utf8 cimport put_code_point, utf8_size
from fastcomm._core.wire cimport (
    MAGIC, VERSION, HEADER, MAX_DEPTH, SMALL_INT, TINY_NEGATIVE, INT, NEGATIVE, NONE, FALSE, TRUE, FLOAT,
    BIG_INT, STR, BYTES, BYTEARRAY, SHORT_STR, SHORT_BYTES, SHORT_LIST, SHORT_DICT, SHORT_TUPLE, LIST,
    TUPLE, DICT, FAR_REF, NEAR_REF, SHORT_STR_MAX, NEAR_REF_MAX, SHORT_BYTES_MAX, SHORT_LIST_MAX,
    SHORT_DICT_MAX, SHORT_TUPLE_MAX, SET, FROZENSET, SHORT_WORD, SHORT_WORDS, WORD, ENUM, NAMEDTUPLE, ARRAY,
    NEAR_ENTRY, FAR_ENTRY, WITH_TABLE, same_text, set_error,
)
from fastcomm._core.words cimport FC_WORD_INDEX, fc_word_hash, fc_word_index, fc_words

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
    int count_leading_zeros "__builtin_clzll"(uint64_t) noexcept nogil

cdef enum:
    HEAD_ROOM = 16          # the longest head of a value is 10 bytes; words are stored whole and then cut
    FIRST_SCRATCH = 1024
    KEPT_SCRATCH = 256 * 1024
    LARGEST_GUESS = 400     # beyond it the allocator is malloc, and a copy costs little beside the rest
    SLACK = 64              # more than a message's size was guessed to be; what is left of it at most
    SMALL_DICT = 64         # keys of larger ones are hardly a shape that comes again
    ARRAY_ALIGNMENT = 16
    LEARNED_AT = 2          # times that a key is met before the string table learns it
    NEAR_ENTRIES = 2048

cdef enum Why:
    FINE
    PENDING             # a Python error is set; it is raised as it is
    UNSUPPORTED
    TOO_DEEP
    SURROGATE
    NOT_CONTIGUOUS
    SHARED
    CHANGED
    UNFIT               # writer.detail says why


cdef uint8_t* grow(Writer* writer, uint8_t* p, Py_ssize_t need) noexcept:
    """Room in the scratch buffer for `need` bytes more, what was written copied into it if it isn't there."""
    cdef Py_ssize_t used = p - writer.start
    cdef Py_ssize_t size = max(2 * used, used + need, FIRST_SCRATCH)
    cdef uint8_t* scratch = writer.scratch
    if size > writer.scratch_size:
        scratch = <uint8_t*> PyMem_Realloc(scratch, size)
        if scratch == NULL:
            PyErr_NoMemory()
            writer.why = PENDING
            return NULL
        writer.scratch = scratch
        writer.scratch_size = size
    if writer.lent:
        memcpy(scratch, writer.start, used)
        writer.lent = False
    writer.start = scratch
    writer.limit = scratch + writer.scratch_size
    return scratch + used


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


cdef inline void copy_short(uint8_t* target, const uint8_t* source, Py_ssize_t size) noexcept:
    """Up to 32 bytes, by overlapping words: for so few a call of memcpy costs more."""
    if size >= 16:
        memcpy(target, source, 16)
        memcpy(target + size - 16, source + size - 16, 16)
    elif size >= 8:
        memcpy(target, source, 8)
        memcpy(target + size - 8, source + size - 8, 8)
    elif size >= 4:
        memcpy(target, source, 4)
        memcpy(target + size - 4, source + size - 4, 4)
    elif size:
        target[0] = source[0]
        target[size >> 1] = source[size >> 1]
        target[size - 1] = source[size - 1]


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
    cdef Py_ssize_t size
    if not PyUnicode_IS_COMPACT_ASCII(obj):
        return put_wide_str(writer, p, obj)
    size = PyUnicode_GET_LENGTH(obj)
    if size > SHORT_STR_MAX:
        return put_block(writer, p, 0, -1, STR, PyUnicode_DATA(obj), size)
    p = room(writer, p, SHORT_STR_MAX + HEAD_ROOM)
    if p == NULL:
        return NULL
    p[0] = <uint8_t> (SHORT_STR + size)
    copy_short(p + 1, <const uint8_t*> PyUnicode_DATA(obj), size)
    return p + 1 + size


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


cdef uint8_t* put_repeated(Writer* writer, uint8_t* p, KeySlot* known) noexcept:
    """A key within a list, where it is likely to repeat: as a reference if the message has it already.

    Found by contents, not by identity, so that equal objects give equal messages.
    """
    cdef Py_ssize_t size = known.size - 1
    cdef RefSlot* slot = &writer.refs[known.hash & (REF_SLOTS - 1)]
    while slot.generation == writer.generation:
        if slot.hash == known.hash and says(writer, p, slot.offset, known.key, size):
            return put_ref(p, slot.offset)
        slot = next_slot(writer, slot)
    if writer.known < REF_SLOTS // 2 and p - writer.start <= <Py_ssize_t> 0xFFFFFFFF:
        slot[0] = RefSlot(known.hash, writer.generation, <uint32_t> (p - writer.start))
        writer.known += 1
    return put_code(p, known)


cdef inline uint8_t* put_code(uint8_t* p, KeySlot* known) noexcept:
    """Whole words: there is head room."""
    memcpy(p, known.code, 16)
    if known.size > 16:
        memcpy(p + 16, known.code + 16, 16)
    return p + known.size


cdef int find_word(const uint8_t* text, Py_ssize_t size) noexcept:
    """Number of a word of the static table, or -1."""
    cdef uint32_t slot = fc_word_hash(text, <int> size) % FC_WORD_INDEX
    cdef int number = fc_word_index[slot] - 1
    while number >= 0:
        if fc_words[number].length == size and same_text(<const uint8_t*> fc_words[number].text, text, size):
            return number
        slot = (slot + 1) % FC_WORD_INDEX
        number = fc_word_index[slot] - 1
    return -1


cdef void learn_key(KeySlot* slot, PyObject* key, Py_hash_t hash, Py_ssize_t size) noexcept:
    """How a key is written depends on its text alone: a table that says it, or its characters."""
    cdef const uint8_t* text = <const uint8_t*> PyUnicode_DATA(key)
    cdef int number = find_word(text, size) if size > 1 else -1
    Py_XDECREF(slot.key)
    slot.key = Py_NewRef(key)
    slot.hash = hash
    slot.uses = 0
    slot.is_text = number < 0
    if number < 0:
        slot.code[0] = <uint8_t> (SHORT_STR + size)
        copy_short(slot.code + 1, text, size)
        slot.size = <int> size + 1
    elif number < SHORT_WORDS:
        slot.code[0] = <uint8_t> (SHORT_WORD + number)
        slot.size = 1
    else:
        name_entry(slot, WORD, number - SHORT_WORDS)


cdef void name_entry(KeySlot* slot, int tag, int number) noexcept:
    slot.is_text = False
    slot.code[0] = <uint8_t> (tag + (number >> 8))
    slot.code[1] = <uint8_t> number
    slot.size = 2


cdef bint learn_entry(Writer* writer, KeySlot* slot) noexcept:
    """A key that was met before goes into the string table, if there is room; it is asked for once."""
    cdef int number
    slot.uses += 1
    if slot.uses != LEARNED_AT or slot.size < 3:
        return True
    try:
        number = (<Encoder> writer.encoder).table.learn(<object> slot.key)
    except BaseException as error:
        set_error(error)
        writer.why = PENDING
        return False
    if 0 <= number < NEAR_ENTRIES:
        name_entry(slot, NEAR_ENTRY, number)
    elif number >= 0:
        slot.is_text = False
        slot.code[0] = FAR_ENTRY
        slot.size = <int> (put_size(slot.code + 1, number) - slot.code)
    return True


cdef inline bint is_known(KeySlot* slot, PyObject* key, Py_hash_t hash, Py_ssize_t size) noexcept:
    if slot.key == NULL or slot.hash != hash or PyUnicode_GET_LENGTH(slot.key) != size:
        return False
    return size < 2 or same_text(<uint8_t*> PyUnicode_DATA(slot.key), <uint8_t*> PyUnicode_DATA(key), size)


cdef KeySlot* find_key(Writer* writer, KeySlot* said, PyObject* key) noexcept:
    """What is known of a key: found by its hash, which every key of a dict has ready, and its text; learned if
    it is new. NULL: it is not short, or not ASCII."""
    cdef Py_ssize_t size = PyUnicode_GET_LENGTH(key)
    cdef Py_hash_t hash = ready_hash(key)
    cdef KeySlot* ways = &writer.keys[hash & (KEY_SLOTS - KEY_WAYS)]
    cdef int i
    if not PyUnicode_IS_COMPACT_ASCII(key) or <size_t> (size - 1) >= <size_t> SHORT_STR_MAX:
        return NULL
    if is_known(said, key, hash, size):
        return said
    for i in range(KEY_WAYS):
        if is_known(&ways[i], key, hash, size):
            return &ways[i]
    for i in range(KEY_WAYS):
        if ways[i].key == NULL:
            break
    else:
        writer.evicted += 1
        i = writer.evicted & (KEY_WAYS - 1)
    learn_key(&ways[i], key, hash, size)
    return &ways[i]


cdef inline uint8_t* put_key(Writer* writer, uint8_t* p, PyObject* key) noexcept:
    """A str key of a small dict, by what is known of it. Messages come in streams of one kind: it is most
    likely the key that stood here in the message before."""
    cdef KeySlot** said = &writer.script[writer.turn & (SCRIPT_SLOTS - 1)]
    cdef KeySlot* slot = said[0]
    writer.turn += 1
    if slot.key != key:
        slot = find_key(writer, slot, key)
        if slot == NULL:
            return put_str(writer, p, key)
        said[0] = slot
    p = room(writer, p, SHORT_STR_MAX + HEAD_ROOM)
    if p == NULL:
        return NULL
    if slot.is_text and (writer.lists or writer.learns):
        if writer.learns and not learn_entry(writer, slot):
            return NULL
        if writer.lists and slot.is_text and slot.size > 2:
            return put_repeated(writer, p, slot)
    return put_code(p, slot)


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


cdef inline bint is_shared(Writer* writer, PyObject* obj) noexcept:
    """Where a tree is asked for: may this be a container that is in more than one place?"""
    return writer.plain and Py_REFCNT(obj) > 1 and may_alias(obj)


cdef bint may_alias(PyObject* obj) noexcept:
    """Whether two copies of it could be told from one that is in two places, other than by ``is``."""
    cdef PyTypeObject* kind = Py_TYPE(obj)
    cdef Py_ssize_t i
    if kind == &PyTuple_Type:
        for i in range(PyTuple_GET_SIZE(obj)):
            if Py_TYPE(PyTuple_GET_ITEM(obj, i)) == &PyTuple_Type or may_alias(PyTuple_GET_ITEM(obj, i)):
                return True
        return False
    return kind == &PyList_Type or kind == &PyDict_Type or kind == &PySet_Type or kind == &PyByteArray_Type


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
        if is_shared(writer, PyList_GET_ITEM(obj, i)):
            return refuse(writer, SHARED, obj)
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
        if is_shared(writer, PyTuple_GET_ITEM(obj, i)):
            return refuse(writer, SHARED, obj)
        p = put_item(writer, p, PyTuple_GET_ITEM(obj, i), depth + 1)
        if p == NULL:
            return add_step(writer, depth, NULL, i)
    writer.lists -= length > 1
    return p


cdef uint8_t* put_dict(Writer* writer, uint8_t* p, PyObject* obj, int depth) noexcept:
    cdef Py_ssize_t position = 0, length = PyDict_GET_SIZE(obj), left = length
    cdef PyObject* key
    cdef PyObject* value
    cdef bint keyed = writer.interning and length <= SMALL_DICT
    p = put_head(p, SHORT_DICT, SHORT_DICT_MAX, DICT, length)
    while left and PyDict_Next(obj, &position, &key, &value):
        left -= 1
        p = put_pair(writer, p, key, value, depth, keyed)
        if p == NULL:
            return NULL
    if left != 0 or PyDict_GET_SIZE(obj) != length:
        return refuse(writer, CHANGED, obj)
    return p


cdef inline uint8_t* put_pair(
    Writer* writer, uint8_t* p, PyObject* key, PyObject* value, int depth, bint keyed
) noexcept:
    """Strings are written without running any Python code; else the pair is held meanwhile."""
    cdef PyTypeObject* kind = Py_TYPE(value)
    if Py_TYPE(key) == &PyUnicode_Type:
        p = put_key(writer, p, key) if keyed else put_str(writer, p, key)
        if p != NULL and kind == &PyUnicode_Type:
            p = put_str(writer, p, value)
            return p if p != NULL else add_step(writer, depth, key, 0)
        if p != NULL and is_shared(writer, value):
            return refuse(writer, SHARED, value)
        if p == NULL:
            writer.depth = depth    # the path ends at the dict: a key has none of its own
            return NULL
        Py_INCREF(key)
        Py_INCREF(value)
    elif is_shared(writer, value):
        return refuse(writer, SHARED, value)
    else:
        Py_INCREF(key)
        Py_INCREF(value)
        p = put(writer, p, key, depth + 1)
        if p == NULL:
            writer.depth = depth
    if p != NULL:
        p = put_item(writer, p, value, depth + 1)
        if p == NULL:
            add_step(writer, depth, key, 0)
    Py_DECREF(key)
    Py_DECREF(value)
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
    elif kind == &PyTuple_Type:
        p = put_tuple(writer, p, obj, depth)
    else:
        p = put_set(writer, p, obj, kind, depth)
    Py_DECREF(obj)
    return p


cdef uint8_t* put_set(Writer* writer, uint8_t* p, PyObject* obj, PyTypeObject* kind, int depth) noexcept:
    """By a tuple of the items: a set has no public way to be walked while finalizers may change it."""
    cdef PyObject* items = PySequence_Tuple(obj)
    cdef Py_ssize_t i
    if items == NULL:
        writer.why = PENDING
        return NULL
    p = put_head(p, 0, -1, SET if kind == &PySet_Type else FROZENSET, PyTuple_GET_SIZE(items))
    for i in range(PyTuple_GET_SIZE(items)):
        p = put_item(writer, p, PyTuple_GET_ITEM(items, i), depth + 1)
        if p == NULL:
            writer.depth = depth    # the path ends at the set: an item has none of its own
            break
    Py_DECREF(items)
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
    return put_rare(writer, p, obj, kind, depth)


cdef uint8_t* put_rare(Writer* writer, uint8_t* p, PyObject* obj, PyTypeObject* kind, int depth) noexcept:
    if kind == &PyBytes_Type:
        return put_bytes(writer, p, PyBytes_AS_STRING(obj), PyBytes_GET_SIZE(obj))
    if kind == &PyByteArray_Type:
        return put_block(writer, p, 0, -1, BYTEARRAY, PyByteArray_AS_STRING(obj), PyByteArray_GET_SIZE(obj))
    if writer.plain and kind != &PySet_Type and kind != &PyFrozenSet_Type:
        return refuse(writer, UNSUPPORTED, obj)
    if kind == &PyMemoryView_Type:
        return put_memoryview(writer, p, obj)
    if kind == &PySet_Type or kind == &PyFrozenSet_Type:
        return put_container(writer, p, obj, kind, depth)
    Py_INCREF(obj)
    p = put_extended(writer, p, obj, depth)
    Py_DECREF(obj)
    return p


cdef uint8_t* put_extended(Writer* writer, uint8_t* p, PyObject* obj, int depth) noexcept:
    """Runs Python code, which may use any encoder but this one."""
    cdef PyObject* values
    cdef PyObject* value
    cdef Py_ssize_t i
    cdef int tag
    try:
        reduced = reduce_object(writer, obj)
        if reduced is None:
            return refuse(writer, UNSUPPORTED, obj)
        tag = reduced[0]
        p = put_fixed(writer, p, tag, reduced[1])
        content = reduced[2]
        data = reduced[3]
    except BaseException as error:
        return fail(writer, error, obj)
    values = <PyObject*> content
    for i in range(PyTuple_GET_SIZE(values)):
        if p == NULL:
            return NULL
        value = PyTuple_GET_ITEM(values, i)
        if i == 0 and ENUM <= tag <= NAMEDTUPLE and writer.interning:
            p = put_key(writer, p, value)       # the type's name, a key of the table of types
        else:
            p = put(writer, p, value, depth)
    return p if p == NULL or tag != ARRAY else put_array_data(writer, p, <PyObject*> data)


cdef object reduce_object(Writer* writer, PyObject* obj):
    encoder = <Encoder> writer.encoder
    if encoder.types is None:
        encoder.types = default_types()
    return encoder.types.reduce(<object> obj)


cdef uint8_t* fail(Writer* writer, object error, PyObject* obj) noexcept:
    """Of an exception that Python code raised on behalf of `obj`."""
    cdef PyObject* text
    if type(error).__name__ != "Unfit":
        set_error(error)
        writer.why = PENDING
        return NULL
    detail = error.args[0]
    text = <PyObject*> detail
    writer.detail = Py_NewRef(text)
    return refuse(writer, UNFIT, obj)


cdef uint8_t* put_fixed(Writer* writer, uint8_t* p, int tag, bytes fixed) noexcept:
    p = room(writer, p, HEAD_ROOM + PyBytes_GET_SIZE(<PyObject*> fixed))
    if p == NULL:
        return NULL
    p[0] = <uint8_t> tag
    memcpy(p + 1, PyBytes_AS_STRING(<PyObject*> fixed), PyBytes_GET_SIZE(<PyObject*> fixed))
    return p + 1 + PyBytes_GET_SIZE(<PyObject*> fixed)


cdef uint8_t* put_array_data(Writer* writer, uint8_t* p, PyObject* data) noexcept:
    """size, then how many bytes of padding, then those, so that elements are aligned within the message."""
    cdef Py_buffer view
    cdef Py_ssize_t padding = 0
    try:
        PyObject_GetBuffer(<object> data, &view, PyBUF_SIMPLE)
    except BaseException as error:
        return fail(writer, error, data)
    p = room(writer, p, view.len + HEAD_ROOM + ARRAY_ALIGNMENT)
    if p != NULL:
        p = put_size(p, view.len)
        if view.len >= 4 * ARRAY_ALIGNMENT:
            padding = -(p + 1 - writer.start) & (ARRAY_ALIGNMENT - 1)
        p[0] = <uint8_t> padding
        memset(p + 1, 0, padding)
        p += 1 + padding
        if view.len:
            memcpy(p, view.buf, view.len)
        p += view.len
    PyBuffer_Release(&view)
    return p


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


cdef object no_types = None


cdef object default_types():
    """A table without registered types. The module is loaded by the first message that needs it."""
    global no_types
    if no_types is None:
        from fastcomm._core.extended import TypeTable
        no_types = TypeTable()
    return no_types


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


@cython.final
cdef class Encoder:
    """Encodes message after message through one scratch buffer, which grows; 256 KiB of it are kept.

    One caller at a time. A call on an encoder that is in the middle of a message (from a finalizer) is served
    by a fresh one, so it does no harm.
    """

    def __cinit__(self) -> None:
        cdef int i
        memset(&self.writer, 0, sizeof(Writer))
        for i in range(SCRIPT_SLOTS):
            self.writer.script[i] = &self.writer.keys[0]

    def __init__(self, *, object types=None, object table=None, bint interning=True) -> None:
        """`types`: a TypeTable; `table`: a StringTable; without `interning` every key is written out."""
        self.types = types
        self.table = table
        self.writer.encoder = <PyObject*> self
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
        PyMem_Free(self.writer.scratch)

    cdef Encoder twin(self):
        """A fresh one that writes the same."""
        return Encoder(types=self.types, table=self.table, interning=self.writer.interning)

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
        """The message into `size` bytes at `start`, or, if that is too little, into the scratch buffer:
        writer.start says which. Returns its end; NULL, and no error is set, for what is not plain."""
        cdef Writer* writer = &self.writer
        cdef uint8_t* p = start
        writer.start = start
        writer.limit = start + size
        writer.lent = start != writer.scratch
        writer.why = FINE
        writer.generation += 1
        writer.known = 0
        writer.lists = 0
        writer.turn = 0
        self.busy = True
        p = room(writer, p, HEAD_ROOM)
        if p != NULL:
            p[0] = MAGIC
            p[1] = VERSION if writer.header == HEADER else VERSION | WITH_TABLE
            memcpy(p + HEADER, &writer.table_id, 4)
            p = put(writer, p + writer.header, <PyObject*> obj, 0)
        self.busy = False
        if p == NULL and writer.plain and writer.why != PENDING:
            forget_failure(writer)
        elif p == NULL:
            raise_refusal(writer)
        return p

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
        """Written into the bytes object that is returned, if it has about the size of the one before."""
        cdef Writer* writer = &self.writer
        cdef Py_ssize_t length, guess = writer.last_size
        cdef PyObject* target
        cdef uint8_t* end
        if self.busy:
            return self.twin().message(obj)
        target = PyBytes_FromStringAndSize(NULL, guess + SLACK)
        if target == NULL:
            raise_pending()
        try:
            end = self.write(obj, <uint8_t*> PyBytes_AS_STRING(target), guess + SLACK)
            if end == NULL:
                return None
            length = end - writer.start
            writer.last_size = min(length, LARGEST_GUESS)
            if not writer.lent or guess - length > SLACK:
                return finished(writer, length)
            cut_bytes(target, length)
            return <bytes> target
        finally:
            Py_DECREF(target)
            if writer.scratch_size > KEPT_SCRATCH:
                self.trim()

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
        if offset < 0 or view.len - offset < length:
            raise EncodeError(
                f"the message needs {length} bytes at offset {offset}; the buffer has {view.len} bytes in all"
            )
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


cdef bytes finished(Writer* writer, Py_ssize_t length):
    return (<const char*> writer.start)[:length]


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
