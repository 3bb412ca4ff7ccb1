"""A second decoder, in plain Python, written from docs/wire.md alone: slow, short, and without options.

And what it means that two values are alike: more than that they are equal.
"""

import dataclasses
import datetime as dt
import decimal
import re
import struct
import uuid
import zoneinfo
from pathlib import Path
from typing import ClassVar

import fastcomm

WORDS_HEADER = Path(fastcomm.__file__).parent / "_core" / "include" / "fc_words.h"
WORDS = re.findall(r'\{\d+, "(\w+)"\}', WORDS_HEADER.read_text())


class Oracle:
    def __init__(self, message, types=None, strings=()):
        self.message, self.at = message, 0
        self.types = types or {}
        self.strings = strings

    def take(self, size):
        data = self.message[self.at : self.at + size]
        assert len(data) == size
        self.at += size
        return data

    def number(self, size):
        return int.from_bytes(self.take(size), "little")

    def varint(self):
        size = shift = 0
        while True:
            byte = self.number(1)
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return size

    def text_at(self, offset):
        assert 0x60 <= self.message[offset] <= 0x7F
        return self.message[offset + 1 : offset + 1 + self.message[offset] - 0x60].decode()

    def pairs(self, count):
        return {self.value(): self.value() for _ in range(count)}

    def values(self, count):
        return [self.value() for _ in range(count)]

    def value(self):
        tag = self.number(1)
        if tag < 0x40:
            return tag
        if tag < 0x48:
            return tag - 0x48
        if tag < 0x50:
            return self.number(tag - 0x48 + 1)
        if tag < 0x58:
            return -1 - self.number(tag - 0x50 + 1)
        if tag < 0x5B:
            return (None, False, True)[tag - 0x58]
        if tag == 0x5B:
            return struct.unpack("<d", self.take(8))[0]
        if tag < 0x60:
            data = self.take(self.varint())
            return (lambda d: int.from_bytes(d, "little", signed=True), bytes.decode, bytes, bytearray)[
                tag - 0x5C
            ](data)
        if tag < 0x80:
            return self.take(tag - 0x60).decode()
        if tag < 0x90:
            return self.take(tag - 0x80)
        if tag < 0xA0:
            return self.values(tag - 0x90)
        if tag < 0xB0:
            return self.pairs(tag - 0xA0)
        if tag < 0xB8:
            return tuple(self.values(tag - 0xB0))
        return self.rarer(tag)

    def rarer(self, tag):
        if tag == 0xB8:
            return self.values(self.varint())
        if tag == 0xB9:
            return tuple(self.values(self.varint()))
        if tag == 0xBA:
            return self.pairs(self.varint())
        if tag == 0xBB:
            return self.text_at(self.varint())
        if tag == 0xBC:
            return set(self.values(self.varint()))
        if tag == 0xBD:
            return frozenset(self.values(self.varint()))
        if tag == 0xBE:
            return self.strings[self.varint()]
        if 0xC0 <= tag < 0xD0:
            return self.text_at((tag - 0xC0) << 8 | self.number(1))
        if 0xD0 <= tag < 0xE0:
            return WORDS[tag - 0xD0]
        if 0xE0 <= tag < 0xE8:
            return WORDS[16 + ((tag - 0xE0) << 8 | self.number(1))]
        if 0xE8 <= tag < 0xF0:
            return self.strings[(tag - 0xE8) << 8 | self.number(1)]
        return self.EXTENDED[tag](self)

    def date(self):
        return dt.date(self.number(2), self.number(1), self.number(1))

    def clock(self):
        hour, minute, second, fold = (self.number(1) for _ in range(4))
        return dt.time(hour, minute, second, self.number(4), fold=fold)

    def time(self):
        return self.clock().replace(tzinfo=self.value())

    def datetime(self):
        date, clock = self.date(), self.clock()
        return dt.datetime.combine(date, clock, self.value())

    def timedelta(self):
        return dt.timedelta(*struct.unpack("<iII", self.take(12)))

    def timezone(self):
        micros, name = self.value(), self.value()
        return dt.timezone(dt.timedelta(microseconds=micros), *([] if name is None else [name]))

    def registered(self):
        name, content = self.value(), self.value()
        cls = self.types[name]
        if isinstance(content, dict):
            return cls(**content)
        if isinstance(content, tuple):
            return cls(*content)
        return cls[content] if isinstance(content, str) else cls(content)

    def dtype(self, spec):
        import numpy as np

        if isinstance(spec, str):
            return np.dtype(spec)
        if isinstance(spec, tuple):
            return np.dtype((self.dtype(spec[0]), spec[1]))
        return np.dtype({**spec, "formats": [self.dtype(format) for format in spec["formats"]]})

    def scalar(self):
        import numpy as np

        spec, data = self.value(), self.value()
        if spec in ("U", "S"):
            return (np.str_ if spec == "U" else np.bytes_)(data)
        return np.ndarray((), self.dtype(spec), data)[()]

    def array(self):
        import numpy as np

        spec, shape, fortran = self.values(3)
        size = self.varint()
        self.take(self.number(1))
        data = self.take(size)
        return np.ndarray(shape, self.dtype(spec), data or None, order="F" if fortran else "C")

    def message_of_struct(self):
        from fastcomm import structs

        cls, message = structs.registry[self.number(4)], self.value()
        return cls.unpack(message)

    EXTENDED: ClassVar = {
        0xF0: date,
        0xF1: time,
        0xF2: datetime,
        0xF3: timedelta,
        0xF4: timezone,
        0xF5: lambda self: zoneinfo.ZoneInfo(self.value()),
        0xF6: lambda self: uuid.UUID(bytes=self.take(16)),
        0xF7: lambda self: decimal.Decimal(self.value()),
        0xF8: registered,
        0xF9: registered,
        0xFA: registered,
        0xFB: scalar,
        0xFC: array,
        0xFD: message_of_struct,
    }


def oracle_decode(message, types=None, strings=()):
    """The value of an uncompressed message."""
    oracle = Oracle(message, types, strings)
    assert oracle.take(1) == b"\xc1"
    head = oracle.number(1)
    assert head in (0x01, 0x81)
    if head & 0x80:
        oracle.take(4)  # the string table's id
    value = oracle.value()
    assert oracle.at == len(message)
    return value


def alike(a, b):
    """Equal, of the same types at every level, floats by their bits, dicts in one order; a view as bytes."""
    if type(a) is memoryview:
        a = bytes(a)
    if type(a) is not type(b):
        return False
    if type(a) is float:
        return struct.pack("<d", a) == struct.pack("<d", b)
    if type(a) is dict:
        return alike(list(a.items()), list(b.items()))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(alike, a, b))
    if type(a) in (set, frozenset):  # whose == would not find a NaN again
        return len(a) == len(b) and (a == b or all(any(alike(x, y) for y in b) for x in a))
    if hasattr(a, "dtype"):  # of numpy, which is not to be imported for this
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if type(a) is decimal.Decimal:
        return str(a) == str(b)
    if dataclasses.is_dataclass(a):
        return all(alike(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a))
    if hasattr(a, "pack"):  # a Struct
        return a.pack() == b.pack()
    return a == b
