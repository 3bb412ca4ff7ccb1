"""Python objects to bytes and back.

Thread and process safety: the functions may be called from any thread; an ``Encoder`` belongs to one caller
at a time. A buffer that changes while it is decoded gives wrong values or a ``DecodeError``, never a crash.

Only exact types are encoded. A subclass (namedtuple, IntEnum, OrderedDict) would come back as its base, so it
is refused. No Python code is called on behalf of a message.

A message is two bytes of header and one value. All numbers are little-endian::

    C1 | version (low nibble, 1) and flags (high nibble, none defined yet) | value

A value begins with a tag byte. ``size`` is a LEB128 varint of at most nine bytes, seven bits each, lowest
first.

    00nnnnnn             int 0..63
    01000nnn             int -8..-1, as tag - 0x48
    01001nnn             int >= 0 in n+1 bytes
    01010nnn             int < 0, as -1 - (the n+1 bytes)
    58 59 5A             None, False, True
    5B                   float: the 8 bytes of its IEEE 754 double, NaN payload and all
    5C size              int of any size: two's complement in `size` bytes
    5D size              str: `size` bytes of UTF-8
    5E size              bytes
    5F size              bytearray
    011nnnnn             str of 0..31 bytes of UTF-8
    1000nnnn             bytes, 0..15 of them
    1001nnnn             list of 0..15 values
    1010nnnn             dict of 0..15 pairs: key, value, key, value...
    10110nnn             tuple of 0..7 values
    B8 B9 BA size        list, tuple, dict
    BB size              str said before: its tag is `size` bytes from the message's start, and is 011nnnnn
    BC..BF               reserved: set, frozenset, ...
    1100hhhh llllllll    str said before, as BB, at offset 0xhll
    D0..EF               reserved: strings of shared tables (common words, the bus's table)
    F0..FE               reserved: datetime, UUID, Decimal, Enum, dataclass, numpy, Struct, ...
    FF type              reserved: 256 more types

Within lists and tuples of two or more items the encoder writes an ASCII key of 2..31 bytes that came before
as a reference, for the first 64 keys; elsewhere the search costs more than it saves. A decoder takes
references wherever a value may be. Only strings of up to 31 bytes can be referred to, so that a reference
stands for at most a small multiple of its size.

``encode([{"id": 7, "tag": "a"}, {"id": -300, "tag": None}])``::

    [C1 01] [92] [A2] [62 69 64] [07] [63 74 61 67] [61 61] [A2] [C0 04] [51 2B 01] [C0 08] [58]
       |     |    |       |       |         |          |     |      |        |         |     |
    version  | dict of 2 "id"     7       "tag"       "a"    |    "id" at    |     "tag" at  None
       1   list of 2                                     dict of 2  4    -1 - 299      8

The decoder counts the values that it still owes to the containers around: each takes at least one byte, so a
size that the rest of the input can't hold is refused before anything is allocated for it. A byte of input
makes at most about 128 bytes of objects.
"""

from fastcomm._core.decoder import decode
from fastcomm._core.encoder import encode, encode_into

__all__ = ["decode", "encode", "encode_into"]
