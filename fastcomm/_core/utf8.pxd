"""UTF-8 from the code points of a str, and ASCII into one."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

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


cdef inline bint copy_ascii(uint8_t* target, const uint8_t* source, Py_ssize_t size) noexcept:
    """Copy, and say whether all of it was ASCII. What is tested is the copy: the source may be changing."""
    cdef uint64_t word, seen = 0
    cdef Py_ssize_t i = 0
    while i + 8 <= size:
        memcpy(&word, source + i, 8)
        memcpy(target + i, &word, 8)
        seen |= word
        i += 8
    while i < size:
        target[i] = source[i]
        seen |= target[i]
        i += 1
    return (seen & 0x8080808080808080ULL) == 0
