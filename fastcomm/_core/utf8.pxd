"""UTF-8 from the code points of a str."""

from libc.stdint cimport uint8_t, uint32_t

from fastcomm._core.capi cimport PyUnicode_READ


cdef inline Py_ssize_t utf8_size(int kind, void* data, Py_ssize_t length) noexcept:
    """Bytes of UTF-8, or -1 for a lone surrogate. With `kind` a constant the loop is vectorised."""
    cdef Py_ssize_t i, size = length
    cdef uint32_t c
    cdef bint surrogate = False
    for i in range(length):
        c = PyUnicode_READ(kind, data, i)
        size += (c >= 0x80) + (c >= 0x800) + (c >= 0x10000)
        surrogate |= c - 0xD800 < 0x800
    return -1 if surrogate else size


cdef inline uint8_t* put_code_point(uint8_t* p, uint32_t c) noexcept:
    if c < 0x80:
        p[0] = <uint8_t> c
        return p + 1
    if c < 0x800:
        p[0] = <uint8_t> (0xC0 | c >> 6)
        p[1] = <uint8_t> (0x80 | c & 0x3F)
        return p + 2
    if c < 0x10000:
        p[0] = <uint8_t> (0xE0 | c >> 12)
        p[1] = <uint8_t> (0x80 | c >> 6 & 0x3F)
        p[2] = <uint8_t> (0x80 | c & 0x3F)
        return p + 3
    p[0] = <uint8_t> (0xF0 | c >> 18)
    p[1] = <uint8_t> (0x80 | c >> 12 & 0x3F)
    p[2] = <uint8_t> (0x80 | c >> 6 & 0x3F)
    p[3] = <uint8_t> (0x80 | c & 0x3F)
    return p + 4
