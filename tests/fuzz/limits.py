"""How much memory the values of a message may take: an upper bound, from how often each byte is in it.

A byte of a message may be the tag of a value. What the object of such a tag takes beyond `PER_BYTE` for each
of its bytes is its cost; the bound adds the cost of every byte, be it a tag or not.
"""

PER_BYTE = 32  # 8 for a slot of a list, up to 30 for the table of a dict that is declared and then cut short
PER_BYTE_IN_SETS = 96  # more: a table grows fourfold, and the old one stays until the new one is filled
CONSTANT = 32 << 10  # an error with its text and traceback, what a module caches


def costs() -> list[int]:
    cost = [0] * 256
    cost[0x40:0x58] = [32] * 24  # int
    cost[0x5B] = 24  # float
    cost[0x5C:0x60] = [64] * 4  # sized int, str, bytes, bytearray
    cost[0x60:0x80] = [160] * 32  # str: up to four bytes a character
    cost[0x80:0x90] = [48] * 16  # bytes
    cost[0x90:0xA0] = [64] * 16  # list
    cost[0xA0:0xB0] = [272] * 16  # dict
    cost[0xB0:0xB8] = [56] * 8  # tuple
    cost[0xB8], cost[0xB9], cost[0xBA] = 64, 56, 272
    cost[0xBB] = 200  # a str said before that is not ASCII is made anew
    cost[0xBC] = cost[0xBD] = 240  # set, frozenset
    cost[0xC0:0xD0] = [200] * 16
    cost[0xF0:0xFF] = [512] * 15  # date and the like, with the tuple that their parts are gathered in
    cost[0xF5] = 12 << 10  # ZoneInfo: all changes of a zone; at most 64 zones a message
    cost[0xFB] = cost[0xFC] = 3 << 10  # numpy: the array's object, its dtype, those of the fields
    cost[0xFD] = 2 << 10  # Struct
    return cost


COSTS = costs()
VIEW = 200  # a memoryview, in the place of bytes


def limit_of(message: bytes, *, views: bool) -> int:
    """Bytes of memory that decoding `message`, which is not compressed, takes at most."""
    per_byte = PER_BYTE + (PER_BYTE_IN_SETS if b"\xbc" in message or b"\xbd" in message else 0)
    bound = CONSTANT + per_byte * len(message) + sum(map(COSTS.__getitem__, message))
    if views:
        bound += VIEW * sum(map(message.count, VIEWED))
    return bound


VIEWED = [bytes([tag]) for tag in (0x5E, *range(0x80, 0x90))]
