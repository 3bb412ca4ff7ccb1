"""Values to bytes, for the modules that make messages of them."""

from libc.stdint cimport uint8_t

from fastcomm._core.capi cimport PyObject
from fastcomm._core.output cimport Writer


# A message from writer.start on; its end, or NULL with writer.why saying what is wrong.
cdef uint8_t* put_message(Writer* writer, PyObject* obj) noexcept
