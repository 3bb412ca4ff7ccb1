"""CPython's C API over borrowed pointers, without the reference counts of Cython's own declarations.

A function that can fail returns NULL (or -1) with the error set; the caller has to look.
"""

from libc.stdint cimport uint8_t, uint32_t

cdef extern from *:
    """
    /* The hash that a str in a dict has been given already; -1 if it has none. */
    #define FC_READY_HASH(text) (((PyASCIIObject *)(text))->hash)
    /* The characters of a str that PyUnicode_IS_COMPACT_ASCII, without asking again. */
    #define FC_ASCII_TEXT(text) ((uint8_t *)((PyASCIIObject *)(text) + 1))
    #define FC_LIKELY(x) __builtin_expect(!!(x), 1)
    #define FC_UNLIKELY(x) __builtin_expect(!!(x), 0)
    """
    ctypedef struct PyObject:
        pass
    Py_hash_t ready_hash "FC_READY_HASH"(PyObject*) noexcept
    uint8_t* ascii_text "FC_ASCII_TEXT"(PyObject*) noexcept
    bint likely "FC_LIKELY"(bint) noexcept
    bint unlikely "FC_UNLIKELY"(bint) noexcept

cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        pass

    PyTypeObject PyBool_Type, PyLong_Type, PyFloat_Type, PyUnicode_Type, PyBytes_Type, PyByteArray_Type
    PyTypeObject PyType_Type
    PyTypeObject PyMemoryView_Type, PyList_Type, PyTuple_Type, PyDict_Type, PySet_Type, PyFrozenSet_Type
    PyObject* Py_None
    PyObject* Py_True
    PyObject* Py_False

    PyTypeObject* Py_TYPE(PyObject*) noexcept
    bint PyType_IsSubtype(PyTypeObject*, PyTypeObject*) noexcept
    Py_ssize_t Py_REFCNT(PyObject*) noexcept
    void Py_INCREF(PyObject*) noexcept
    void Py_DECREF(PyObject*) noexcept
    void Py_XDECREF(PyObject*) noexcept
    PyObject* Py_NewRef(PyObject*) noexcept

    void* raise_pending "PyErr_Occurred"() except *
    int PyErr_ExceptionMatches(PyObject*) noexcept
    void PyErr_Clear() noexcept
    void PyErr_SetObject(PyObject*, PyObject*) noexcept
    PyObject* PyErr_NoMemory() noexcept
    PyObject* PyExc_Exception
    PyObject* PyExc_MemoryError
    PyObject* PyExc_UnicodeDecodeError

    long long PyLong_AsLongLongAndOverflow(PyObject*, int*) noexcept
    unsigned long long PyLong_AsUnsignedLongLongMask(PyObject*) noexcept
    PyObject* PyLong_FromLong(long) noexcept
    PyObject* PyLong_FromUnsignedLongLong(unsigned long long) noexcept
    int PyObject_RichCompareBool(PyObject*, PyObject*, int) noexcept
    int Py_EQ

    double PyFloat_AS_DOUBLE(PyObject*) noexcept
    PyObject* PyFloat_FromDouble(double) noexcept

    bint PyUnicode_IS_COMPACT_ASCII(PyObject*) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(PyObject*) noexcept
    int PyUnicode_KIND(PyObject*) noexcept
    void* PyUnicode_DATA(PyObject*) noexcept
    uint32_t PyUnicode_READ(int, void*, Py_ssize_t) noexcept
    PyObject* PyUnicode_New(Py_ssize_t, uint32_t) noexcept
    void PyUnicode_InternInPlace(PyObject**) noexcept
    PyObject* PyUnicode_DecodeUTF8(const char*, Py_ssize_t, const char*) noexcept

    bint PyBytes_CheckExact(object) noexcept
    char* PyBytes_AS_STRING(PyObject*) noexcept
    Py_ssize_t PyBytes_GET_SIZE(PyObject*) noexcept
    int PyBytes_Resize "_PyBytes_Resize"(PyObject**, Py_ssize_t) noexcept
    PyObject* PyBytes_FromStringAndSize(const char*, Py_ssize_t) noexcept
    char* PyByteArray_AS_STRING(PyObject*) noexcept
    Py_ssize_t PyByteArray_GET_SIZE(PyObject*) noexcept
    PyObject* PyByteArray_FromStringAndSize(const char*, Py_ssize_t) noexcept
    PyObject* PySequence_GetSlice(PyObject*, Py_ssize_t, Py_ssize_t) noexcept

    Py_ssize_t PyList_GET_SIZE(PyObject*) noexcept
    PyObject* PyList_GET_ITEM(PyObject*, Py_ssize_t) noexcept
    PyObject* PyList_New(Py_ssize_t) noexcept
    void PyList_SET_ITEM(PyObject*, Py_ssize_t, PyObject*) noexcept
    PyObject* PySequence_Tuple(PyObject*) noexcept
    Py_ssize_t PySet_GET_SIZE(PyObject*) noexcept
    PyObject* PySet_New(PyObject*) noexcept
    PyObject* PyFrozenSet_New(PyObject*) noexcept
    int PySet_Add(PyObject*, PyObject*) noexcept
    Py_ssize_t PyTuple_GET_SIZE(PyObject*) noexcept
    PyObject* PyTuple_GET_ITEM(PyObject*, Py_ssize_t) noexcept
    PyObject* PyTuple_New(Py_ssize_t) noexcept
    void PyTuple_SET_ITEM(PyObject*, Py_ssize_t, PyObject*) noexcept
    Py_ssize_t PyDict_GET_SIZE(PyObject*) noexcept
    PyObject* PyDict_NewPresized "_PyDict_NewPresized"(Py_ssize_t) noexcept
    int PyDict_SetItem(PyObject*, PyObject*, PyObject*) noexcept
    bint PyDict_Next(PyObject*, Py_ssize_t*, PyObject**, PyObject**) noexcept
