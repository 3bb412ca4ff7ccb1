"""LZ4 (block format, package lz4) and zstd (compression.zstd of Python 3.14, else package zstandard).

Loaded by the first codec that compresses or message that is compressed. Decompression makes exactly the
stated number of bytes or fails: neither package is left to allocate what a message asks for.
"""

from importlib import import_module

from fastcomm._core.wire cimport IS_LZ4, IS_ZSTD

FLAGS = {"lz4": IS_LZ4, "zstd": IS_ZSTD}

# What a byte becomes at most. LZ4: the byte that lengthens a match. zstd: one of the 4 of a block of 128 KiB.
EXPANSION = {IS_LZ4: 255, IS_ZSTD: 32 << 10}


def compressor(str name not None, level=None):
    """(flag of the header, a function from bytes to compressed bytes). ImportError says what to install."""
    if name == "lz4":
        return IS_LZ4, lz4_compressor(level)
    if name == "zstd":
        return IS_ZSTD, zstd_compressor(level)
    raise ValueError(f"compression is {name!r}; it must be None, 'lz4' or 'zstd'")


cdef object lz4_compressor(object level):
    block = load_lz4()
    if level is None:
        return lambda data: block.compress(data, store_size=False)
    return lambda data: block.compress(data, mode="high_compression", compression=level, store_size=False)


cdef object load_lz4():
    try:
        return import_module("lz4.block")
    except ImportError:
        raise ImportError("LZ4 needs the package lz4: pip install 'fastcomm[lz4]'") from None


cdef object zstd_compressor(object level):
    zstd, is_standard = load_zstd()
    if is_standard:
        return lambda data: zstd.compress(data, level)
    return zstd.ZstdCompressor(level=3 if level is None else level, write_content_size=True).compress


cdef tuple load_zstd():
    """The module, and whether it is the standard library's."""
    try:
        return import_module("compression.zstd"), True
    except ImportError:
        pass
    try:
        return import_module("zstandard"), False
    except ImportError:
        raise ImportError("zstd needs the package zstandard: pip install 'fastcomm[zstd]'") from None


def decompress(int flag, bytes data not None, Py_ssize_t size):
    """The `size` bytes that were compressed to `data`. ValueError if they are not those, or can't be read."""
    if size > len(data) * EXPANSION[flag]:
        raise ValueError(f"{size} bytes, which can't have been compressed to {len(data)}")
    try:
        plain = lz4_plain(data, size) if flag == IS_LZ4 else zstd_plain(data, size)
    except ImportError as error:
        raise ValueError(f"a compressed message: {error}") from None
    if len(plain) != size:
        raise ValueError(f"{len(plain)} bytes decompressed where the message states {size}")
    return plain


cdef object lz4_plain(bytes data, Py_ssize_t size):
    block = load_lz4()
    try:
        return block.decompress(data, uncompressed_size=size)
    except block.LZ4BlockError as error:
        raise ValueError(f"bytes that LZ4 can't decompress: {error}") from None


cdef object zstd_plain(bytes data, Py_ssize_t size):
    zstd, is_standard = load_zstd()
    try:
        if is_standard:
            return zstd.ZstdDecompressor().decompress(data, max_length=size)
        return zstandard_plain(zstd, data, size)
    except zstd.ZstdError as error:
        raise ValueError(f"bytes that zstd can't decompress: {error}") from None


cdef object zstandard_plain(object zstd, bytes data, Py_ssize_t size):
    # The package allocates the size in the frame, whatever max_output_size says.
    stated = zstd.frame_content_size(data)
    if stated != size:
        raise ValueError(f"a zstd frame of {stated} bytes where the message states {size}")
    return zstd.ZstdDecompressor().decompress(data, max_output_size=size)
