"""What decoding allocates: bounded by the input for any bytes, and by how much for each kind of value."""

import tracemalloc

import pytest
from fuzz.limits import limit_of

from fastcomm import Codec, DecodeError, decode
from fastcomm._core import compression

HEAD = b"\xc1\x01"


def varint(n):
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes([*out, n])


def peak_of(read, *arguments, **options):
    """Call it, whatever comes of it, and return the most memory that was held."""
    tracemalloc.start()
    try:
        result = read(*arguments, **options)
    except DecodeError:
        result = None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    del result
    return peak


def many(value, count):
    """A list of that value again and again."""
    return HEAD + b"\xb8" + varint(count) + value * count


def nested(opening, count=60):
    return many(opening * 500 + b"\x00", count)


def declared_again_and_again(total, tag, least):
    """Containers one in another, each declared as large as the rest of the message could hold."""
    out = bytearray(HEAD)
    while len(out) < total and len(out) < 3000:
        out += bytes([tag]) + varint((total - len(out) - 10) // least)
    return bytes(out) + bytes(total - len(out))


def distinct(count):
    return b"".join(b"\x4a" + number.to_bytes(3, "little") for number in range(count))


REFERRED = HEAD + b"\xb8" + varint(20_000)
SMALL_SET = b"\xbc\x14" + bytes(range(20))
# What a message takes in memory, copied and as views, in bytes for each of its own, rounded up; docs/wire.md
# says how much exactly.
GREEDY = {
    "empty lists": (many(b"\x90", 30_000), 64, 64),
    "lists of one, nested": (nested(b"\x91"), 64, 64),
    "tuples of one, nested": (nested(b"\xb1"), 56, 56),
    "empty dicts": (many(b"\xa0", 30_000), 80, 80),
    "dicts of one": (many(b"\xa1\x00\x00", 10_000), 88, 88),
    "dicts of one, nested": (nested(b"\xa1\x00"), 120, 120),
    "empty sets": (many(b"\xbc\x00", 20_000), 120, 120),
    "frozensets of one, nested": (nested(b"\xbd\x01"), 120, 120),
    "sets of five": (many(b"\xbc\x05\x00\x01\x02\x03\x04", 5000), 120, 120),
    "sets of twenty": (many(SMALL_SET, 2000), 120, 120),
    "a large set": (HEAD + b"\xbc" + varint(80_000) + distinct(80_000), 40, 40),
    "a large dict": (HEAD + b"\xba" + varint(20_000) + distinct(40_000), 40, 40),
    "empty bytes": (many(b"\x80", 30_000), 8, 200),
    "bytes of one": (many(b"\x81\x00", 20_000), 16, 104),
    "bytearrays": (many(b"\x5f\x00", 20_000), 40, 40),
    "references to a wide str": (REFERRED + b"\x7c" + "😀".encode() * 7 + b"\xc0\x06" * 19_999, 112, 112),
    "references to a mixed str": (
        REFERRED + b"\x7f" + "😀".encode() + b"a" * 27 + b"\xc0\x06" * 19_999,
        120,
        120,
    ),
    "ints": (many(b"\x49\xff\xff", 20_000), 16, 16),
    "floats": (many(b"\x5b" + bytes(8), 10_000), 8, 8),
    "Decimals": (many(b"\xf7\x611", 10_000), 48, 48),
    "zones": (many(b"\xf4\x01\x58", 10_000), 48, 48),
    "arrays of one": (many(b"\xfc\x63|u1\xb1\x01\x59\x01\x00\x00", 3000), 40, 80),
    "lists declared within lists": (declared_again_and_again(200_000, 0xB8, 1), 16, 16),
    "tuples declared within tuples": (declared_again_and_again(200_000, 0xB9, 1), 16, 16),
    "dicts declared within dicts": (declared_again_and_again(200_000, 0xBA, 2), 40, 40),
    "a text": (HEAD + b"\x5d" + varint(100_004) + "😀".encode() + b"a" * 100_000, 16, 16),
    "a large int": (HEAD + b"\x5c" + varint(100_000) + b"\x7f" * 100_000, 16, 16),
}


@pytest.mark.parametrize(("message", "copied", "viewed"), GREEDY.values(), ids=GREEDY.keys())
def test_memory_for_each_byte_of_a_message(message, copied, viewed):
    for copy, most in ((True, copied), (False, viewed)):
        peak_of(decode, message, copy=copy)  # imports what it needs
        peak = peak_of(decode, message, copy=copy)
        assert peak <= most * len(message) + 10_000
        assert peak <= limit_of(message, views=not copy), "the fuzzer's bound is too low"


@pytest.mark.parametrize("tag", [0x5C, 0x5D, 0x5E, 0x5F, 0xB8, 0xB9, 0xBA, 0xBB, 0xBC, 0xBD])
@pytest.mark.parametrize("size", [100, 2**31, 2**60, 2**62, 2**63 - 1])
def test_a_size_beyond_the_input_fails_before_anything_is_allocated(tag, size):
    assert peak_of(decode, HEAD + bytes([tag]) + varint(size)) < 10_000


@pytest.mark.parametrize(("kind", "package"), [("lz4", "lz4"), ("zstd", "zstandard")])
def test_a_size_that_can_not_have_been_compressed_fails_before_it_is_allocated(kind, package):
    pytest.importorskip(package)
    codec = Codec(compression=kind, threshold=1, max_decompressed=1 << 28)
    flag = compression.FLAGS[kind]
    body = bytes(20)
    expanded = compression.EXPANSION[flag] * len(body)
    message = bytes([0xC1, 0x01 | flag]) + varint(expanded + 1) + body
    assert peak_of(codec.decode, message) < 100_000
    with pytest.raises(DecodeError, match=f"{expanded + 1} bytes, which can't have been compressed to 20"):
        codec.decode(message)
    for value in (bytes(1 << 26), bytes(1 << 20), ["a"] * 100_000):  # which shrink the most
        assert codec.decode(codec.encode(value)) == value
