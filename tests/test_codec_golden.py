"""The format held fixed: messages of version 1 that every later version reads; the page that describes it."""

import collections
import dataclasses
import datetime
import decimal
import enum
import json
import math
import pickle
import re
import uuid
import zoneinfo
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle_codec import WORDS, Oracle, alike, oracle_decode

from fastcomm import Codec, DecodeError, StringTable, Struct, decode, encode, structs
from fastcomm.structs import Array, f8, u2

GOLDEN = json.loads((Path(__file__).parent / "golden" / "codec_v1.json").read_text())
WIRE = (Path(__file__).parent.parent / "docs" / "wire.md").read_text()
CONSTANTS = (Path(structs.__file__).parent / "_core" / "wire.pxd").read_text()


class Colour(enum.Enum):
    RED = 1


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass
class Task:
    owner: str


class Quote(Struct, type_id=0x601DE1):
    symbol: str
    price: f8
    book: Annotated[NDArray[np.int16], Array("i2", 2)]
    count: u2 | None
    payload: bytes = b""


NAMES = {
    "inf": math.inf,
    "nan": math.nan,
    "dt": datetime,
    "decimal": decimal,
    "np": np,
    "uuid": uuid,
    "zoneinfo": zoneinfo,
    "Colour": Colour,
    "Rights": Rights,
    "Point": Point,
    "Task": Task,
    "Quote": Quote,
    "words": WORDS,
}
TYPES = {cls.__name__: cls for cls in (Colour, Rights, Point, Task)}


def string_table():
    """One with 300 strings and the id that the golden messages name."""
    memory = bytearray(StringTable.nbytes(300, 4000))
    learner = StringTable(300, 4000, memory=memory)
    for number in range(300):
        learner.learn(f"entry {number}")
    memory[8:12] = b"abcd"
    return StringTable(300, 4000, memory=memory)


# How a message is read and written; "by" of an entry, decode and encode if it has none.
CODECS = {
    "types": Codec(types=TYPES),
    "table": Codec(strings=string_table()),
    "pickle": Codec(fallback="pickle"),
}


def read(entry):
    message = bytes.fromhex(entry["hex"])
    if "by" not in entry:
        return decode(message)
    return structs.unpack(message) if entry["by"] == "struct" else CODECS[entry["by"]].decode(message)


def written(entry, value):
    if "by" not in entry:
        return encode(value)
    return value.pack() if entry["by"] == "struct" else CODECS[entry["by"]].encode(value)


class Recorder(Oracle):
    """The oracle, which keeps the tags that it meets."""

    def __init__(self, message):
        super().__init__(message, TYPES, [f"entry {number}" for number in range(300)])
        self.tags = set()

    def value(self):
        self.tags.add(self.message[self.at])
        if self.message[self.at] == 0xFE:
            self.at += 1
            return pickle.loads(self.value())
        return super().value()


def recorded(entry):
    """The value of an uncompressed message that is no Struct's, and its tags."""
    message = bytes.fromhex(entry["hex"])
    recorder = Recorder(message)
    recorder.at = 6 if message[1] & 0x80 else 2
    value = recorder.value()
    assert recorder.at == len(message)
    return value, recorder.tags


def is_plain(entry):
    return not int(entry["hex"][2:4], 16) & 0x70


@pytest.mark.parametrize("entry", GOLDEN, ids=lambda entry: entry["name"])
def test_golden_message(entry):
    if entry["name"].startswith("compressed by "):
        pytest.importorskip({"lz4": "lz4", "zstd": "zstandard"}[entry["name"].split()[-1]])
    value = eval(entry["value"], dict(NAMES))
    assert alike(read(entry), value)
    if is_plain(entry):
        assert alike(recorded(entry)[0], value)
    if entry["encodes"]:
        assert written(entry, value).hex() == entry["hex"]


def constants_of(part):
    """Names and values of that part of wire.pxd."""
    lines = CONSTANTS.split(part[0])[1].split(part[1])[0]
    return {
        name: int(value, 16) for name, value in re.findall(r"^ +(\w+) = (0x[0-9A-F]+)", lines, re.MULTILINE)
    }


TAGS = constants_of(("MAX_DEPTH = 512", "# Flags"))
FLAGS = constants_of(("# Flags", "SHORT_STR_MAX"))


def test_every_tag_of_the_format_has_a_golden_message():
    seen = set().union(*(recorded(entry)[1] for entry in GOLDEN if is_plain(entry)))
    firsts = sorted({0, *TAGS.values()})
    assert len(firsts) > 40
    for first, end in zip(firsts, [*firsts[1:], 0xFF], strict=True):
        names = [name for name, tag in TAGS.items() if tag == first]
        assert seen & {*range(first, end)}, (
            f"no golden message has a tag {first:02X} to {end - 1:02X}: {names}"
        )


def test_every_flag_of_the_format_has_a_golden_message():
    assert len(FLAGS) == 4
    heads = {int(entry["hex"][2:4], 16) for entry in GOLDEN}
    assert heads == {0x01, *(flag | 0x01 for flag in FLAGS.values())}


def test_every_word_of_the_static_table_is_in_a_golden_message():
    (entry,) = (entry for entry in GOLDEN if entry["name"] == "every static word")
    assert recorded(entry)[0] == eval(entry["value"]) == WORDS
    assert len(set(WORDS)) == 512


@pytest.mark.parametrize("head", sorted({*range(256)} - {0x01, 0x11, 0x21, 0x41, 0x81}))
def test_an_unknown_version_or_flag_is_an_error_that_names_it(head):
    version, flags = head & 0x0F, head >> 4
    text = f"version {version} is unknown" if version != 1 else f"flags 0x{flags:X} are unknown"
    for codec in CODECS.values():
        with pytest.raises(DecodeError, match=re.escape(text)) as caught:
            codec.decode(bytes([0xC1, head]) + bytes(20))
        assert caught.value.offset == 1
    text = text if version != 1 else f"flags are 0x{flags:X}"
    with pytest.raises(DecodeError, match=re.escape(text)) as caught:
        structs.unpack(bytes([0xC1, head]) + bytes(20))
    assert caught.value.offset == 1


EXAMPLES = re.findall(r"^    >>> (.+)\n    (\[C1 .+)", WIRE, re.MULTILINE)


@pytest.mark.parametrize(("call", "shown"), EXAMPLES, ids=[call for call, _ in EXAMPLES])
def test_the_page_of_the_format_shows_what_is_written(call, shown):
    names = NAMES | {"encode": encode, "Codec": Codec}
    names |= {"Decimal": decimal.Decimal, "datetime": datetime.datetime, "timezone": datetime.timezone}
    message = eval(call, names)
    assert message == bytes.fromhex(re.sub(r"[\[\]]", "", shown))
    assert alike(Codec(types=TYPES).decode(message), oracle_decode(message, TYPES))


def test_all_examples_of_the_page_are_tested():
    assert len(EXAMPLES) == WIRE.count(">>> ") >= 10


def test_the_page_of_the_format_names_every_tag():
    """Each row of the tables begins with the tags that it is about."""
    patterns = re.findall(
        r"^(?:    |\| )((?:[01]{2,}[a-z]+(?: l+)?|[0-9A-F]{2})(?: [0-9A-F]{2})*)\b", WIRE, re.M
    )
    tags = set()
    for pattern in patterns:
        for word in pattern.split():
            if re.fullmatch(r"[0-9A-F]{2}", word):
                tags.add(int(word, 16))
            elif len(word) == 8 and re.match("[01]", word):
                bits = re.sub("[a-z]", "0", word)
                tags |= {*range(int(bits, 2), int(re.sub("[a-z]", "1", word), 2) + 1)}
    assert {*range(256)} - tags == set()
