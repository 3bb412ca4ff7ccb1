"""Views for the base class of Structs."""

from fastcomm._core.schema cimport Layout


cdef object make_view(object cls, object buffer, Py_ssize_t offset)
