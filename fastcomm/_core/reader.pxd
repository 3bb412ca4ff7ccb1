"""Bytes to values, for the modules that read messages of them."""

from fastcomm._core.capi cimport PyObject
from fastcomm._core.input cimport Reader


# The value at reader.p as a new reference, or NULL with reader.why saying what is wrong.
cdef PyObject* take_value(Reader* reader) noexcept
