"""Values to bytes, in the format of docs/wire.md; ``encoder.pyx`` makes messages of them.

Each put_* appends one value at p and returns where the next one goes, or NULL with writer.why saying what is
wrong; nothing is raised before the top, so the way to the culprit is put together only when there is one.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Calloc, PyMem_Realloc
from cpython.pycapsule cimport PyCapsule_GetName, PyCapsule_GetPointer

from fastcomm._core.capi cimport (
    ascii_text, likely, Py_DECREF, Py_EQ, Py_INCREF, Py_NewRef, Py_None, Py_REFCNT, Py_True, Py_TYPE,
    PyBool_Type, PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Type, PyBytes_AS_STRING,
    PyBytes_GET_SIZE, PyBytes_Resize, PyBytes_Type, PyDict_GET_SIZE, PyDict_Next, PyDict_Type,
    PyErr_NoMemory, PyFloat_AS_DOUBLE, PyFloat_Type, PyFrozenSet_Type, PyList_GET_ITEM, PyList_GET_SIZE,
    PyList_Type, PyLong_AsLongLongAndOverflow, PyLong_AsUnsignedLongLongMask, PyLong_FromUnsignedLongLong,
    PyLong_Type, PyMemoryView_Type, PyObject, PyObject_RichCompareBool, PySequence_Tuple, PySet_Type,
    PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyTuple_Type, PyType_IsSubtype, PyType_Type, PyTypeObject,
    PyUnicode_DATA, PyUnicode_GET_LENGTH, PyUnicode_IS_COMPACT_ASCII, PyUnicode_KIND, PyUnicode_READ,
    PyUnicode_Type, unlikely,
)
from fastcomm._core.keys cimport find_key, known_key, put_known
from fastcomm._core.output cimport (
    CHANGED, copy_short, FIRST_SCRATCH, HEAD_ROOM, KeySlot, NOT_CONTIGUOUS, PENDING, put_head, put_size,
    put_word, SHARED, Step, SURROGATE, TOO_DEEP, UNFIT, UNSUPPORTED, Why, Writer,
)
from fastcomm._core.utf8 cimport put_code_point, utf8_size
from fastcomm._core.wire cimport (
    ARRAY, BIG_INT, BYTEARRAY, BYTES, DICT, ENUM, FALSE, FLOAT, FROZENSET, HEADER, INT, LIST, MAGIC,
    MAX_DEPTH, NAMEDTUPLE, NEGATIVE, NONE, SET, set_error, SHORT_BYTES, SHORT_BYTES_MAX, SHORT_DICT,
    SHORT_DICT_MAX, SHORT_LIST, SHORT_LIST_MAX, SHORT_STR, SHORT_STR_MAX, SHORT_TUPLE, SHORT_TUPLE_MAX,
    SMALL_DICT, SMALL_INT, STR, TINY_NEGATIVE, TRUE, TUPLE, VERSION, WITH_TABLE,
)

import sys

cdef enum:
    ARRAY_ALIGNMENT = 16

ctypedef object (*pack_struct_t)(object, int)

cdef PyTypeObject* struct_base = NULL       # what all Structs are derived from; NULL: none was looked for
cdef pack_struct_t pack_struct = NULL


cdef uint8_t* grow(Writer* writer, uint8_t* p, Py_ssize_t need) noexcept:
    """Room for `need` bytes more behind what was written, which moves."""
    cdef Py_ssize_t used = p - writer.start
    cdef Py_ssize_t size = max(2 * used, used + need, FIRST_SCRATCH)
    cdef uint8_t* start
    if writer.target != NULL:
        size = used + max(used >> 1, need)
        start = NULL if PyBytes_Resize(&writer.target, size) else <uint8_t*> PyBytes_AS_STRING(writer.target)
    else:
        start = <uint8_t*> PyMem_Realloc(writer.scratch, size)
        if start != NULL:
            writer.scratch = start
            writer.scratch_size = size
        else:
            PyErr_NoMemory()
    if start == NULL:
        writer.why = PENDING
        return NULL
    writer.start = start
    writer.limit = start + size
    return start + used


cdef inline uint8_t* room(Writer* writer, uint8_t* p, Py_ssize_t need) noexcept:
    if likely(writer.limit - p >= need):
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


cdef uint8_t* put_big_int(Writer* writer, uint8_t* p, PyObject* obj) noexcept:
    cdef bytes raw
    try:
        number = <object> obj
        raw = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    except BaseException as error:
        return fail(writer, error)
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
    if unlikely(not PyUnicode_IS_COMPACT_ASCII(obj)):
        return put_wide_str(writer, p, obj)
    size = PyUnicode_GET_LENGTH(obj)
    if size > SHORT_STR_MAX:
        return put_block(writer, p, 0, -1, STR, ascii_text(obj), size)
    p = room(writer, p, SHORT_STR_MAX + HEAD_ROOM)
    if p == NULL:
        return NULL
    p[0] = <uint8_t> (SHORT_STR + size)
    copy_short(p + 1, ascii_text(obj), size)
    return p + 1 + size


cdef inline uint8_t* put_key(Writer* writer, uint8_t* p, PyObject* key) noexcept:
    cdef KeySlot* known = known_key(writer, key)
    if known == NULL:
        return put_str(writer, p, key)
    p = room(writer, p, SHORT_STR_MAX + HEAD_ROOM)
    return put_known(writer, p, known) if p != NULL else NULL


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
    cdef bytes message
    try:
        if p - writer.start == writer.header and is_struct(obj):
            message = pack_struct(<object> obj, 0)
            if has_type_id(message):
                return put_whole(writer, message)
        reduced = reduce_object(writer, obj)
        if reduced is None:
            return refuse(writer, UNSUPPORTED, obj)
        if type(reduced) is str:
            return refuse_unfit(writer, obj, reduced)
        tag = reduced[0]
        p = put_fixed(writer, p, tag, reduced[1])
        content = reduced[2]
        data = reduced[3]
    except BaseException as error:
        return fail(writer, error)
    values = <PyObject*> content
    for i in range(PyTuple_GET_SIZE(values)):
        if p == NULL:
            return NULL
        value = PyTuple_GET_ITEM(values, i)
        if i == 0 and ENUM <= tag <= NAMEDTUPLE and writer.interning:
            p = put_name(writer, p, value)
        else:
            p = put(writer, p, value, depth)
    return p if p == NULL or tag != ARRAY else put_array_data(writer, p, <PyObject*> data)


cdef bint is_struct(PyObject* obj) except -1:
    """Their module is loaded by the first class that is made, and not here: most processes have none. So what
    cimport would take from it is taken when it is needed."""
    global struct_base, pack_struct
    if Py_TYPE(<PyObject*> Py_TYPE(obj)) == &PyType_Type:
        return False
    if struct_base == NULL:
        module = sys.modules.get("fastcomm._core.struct_base")
        base = getattr(module, "StructBase", None)
        if base is None:
            return False
        capsule = module.__pyx_capi__["encode_struct"]
        pack_struct = <pack_struct_t> PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule))
        struct_base = <PyTypeObject*> <PyObject*> base
    return PyType_IsSubtype(Py_TYPE(obj), struct_base)


cdef bint has_type_id(bytes message) noexcept:
    """The message of a Struct: else its class is not to be found by receivers."""
    cdef uint32_t type_id
    memcpy(&type_id, PyBytes_AS_STRING(<PyObject*> message) + 4, 4)
    return type_id != 0


cdef uint8_t* put_whole(Writer* writer, bytes message) noexcept:
    """A message with a header of its own, instead of what was begun."""
    cdef Py_ssize_t length = PyBytes_GET_SIZE(<PyObject*> message)
    cdef uint8_t* p = room(writer, writer.start, length)
    if p == NULL:
        return NULL
    memcpy(p, PyBytes_AS_STRING(<PyObject*> message), length)
    return p + length


cdef uint8_t* put_name(Writer* writer, uint8_t* p, PyObject* name) noexcept:
    """Of a type: a key of the table of types, so it has its hash. Comes again like a key of a dict."""
    cdef KeySlot* known = find_key(writer, name)
    if known == NULL:
        return put_str(writer, p, name)
    p = room(writer, p, SHORT_STR_MAX + HEAD_ROOM)
    return put_known(writer, p, known) if p != NULL else NULL


cdef object reduce_object(Writer* writer, PyObject* obj):
    if writer.types == NULL:
        from fastcomm._core.extended import NO_TYPES
        writer.types = Py_NewRef(<PyObject*> NO_TYPES)
    return (<object> writer.types).reduce(<object> obj)


cdef uint8_t* fail(Writer* writer, object error) noexcept:
    """Of an exception that Python code raised: it is raised as it is."""
    set_error(error)
    writer.why = PENDING
    return NULL


cdef uint8_t* refuse_unfit(Writer* writer, PyObject* obj, str why) noexcept:
    writer.detail = Py_NewRef(<PyObject*> why)
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
        return fail(writer, error)
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


cdef uint8_t* put_message(Writer* writer, PyObject* obj) noexcept:
    cdef uint8_t* p = room(writer, writer.start, HEAD_ROOM)
    if p == NULL:
        return NULL
    p[0] = MAGIC
    p[1] = VERSION if writer.header == HEADER else VERSION | WITH_TABLE
    memcpy(p + HEADER, &writer.table_id, 4)
    return put(writer, p + writer.header, obj, 0)
