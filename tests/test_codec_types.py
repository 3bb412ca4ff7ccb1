"""Types beyond the built-in ones: there and back, and what their messages may and may not do."""

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import math
import pickle
import struct
import subprocess
import sys
import tracemalloc
import uuid
import zoneinfo

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from oracle_codec import oracle_decode

from fastcomm import DecodeError, EncodeError, decode, encode

HEAD = b"\xc1\x01"
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"]

fixed_zones = st.builds(
    dt.timezone,
    st.timedeltas(dt.timedelta(hours=-23, minutes=-59), dt.timedelta(hours=23, minutes=59)),
) | st.builds(dt.timezone, st.integers(-23, 23).map(lambda h: dt.timedelta(hours=h)), st.text(max_size=5))
zones = st.none() | fixed_zones | st.sampled_from(ZONES).map(zoneinfo.ZoneInfo)
standard = (
    st.dates()
    | st.times(timezones=zones)
    | st.datetimes(timezones=zones)
    | st.timedeltas()
    | fixed_zones
    | st.uuids()
    | st.decimals()
)
dtypes = (
    nps.scalar_dtypes()
    | nps.unicode_string_dtypes()
    | nps.byte_string_dtypes()
    | nps.array_dtypes(nps.scalar_dtypes(), max_size=3)
    | nps.array_dtypes(nps.nested_dtypes(max_leaves=3), max_size=2)
)


def same(a, b):
    """Equal, of one type, and alike in what == does not tell: zone, fold, exponent, dtype, bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, np.generic):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, decimal.Decimal):
        return str(a) == str(b)
    return pickle.dumps(a) == pickle.dumps(b)


@given(st.lists(standard, max_size=5))
def test_standard_types_come_back_with_zone_and_fold(values):
    message = encode(values)
    assert same(decode(message), values)
    assert same(oracle_decode(message), values)


@pytest.mark.parametrize(
    "value",
    [
        dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        dt.datetime.min,
        dt.datetime.max,
        dt.time(23, 59, 59, 999999, fold=1),
        dt.timedelta.min,
        dt.timedelta.max,
        dt.UTC,
        dt.timezone(dt.timedelta(microseconds=1)),
        decimal.Decimal("-0E-20"),
        decimal.Decimal("sNaN123"),
        decimal.Decimal("-Infinity"),
        decimal.Decimal(7) / decimal.Decimal(3),
        uuid.UUID(int=0),
    ],
    ids=str,
)
def test_edge_of_a_standard_type(value):
    assert same(decode(encode(value)), value)


def test_utc_and_zones_come_back_as_the_one_object_that_there_is():
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    assert decode(encode(dt.UTC)) is dt.UTC
    assert decode(encode(berlin)) is berlin


def test_they_may_be_keys_and_members():
    day, id_ = dt.date(2024, 1, 1), uuid.uuid4()
    value = {day: {id_}, id_: frozenset([decimal.Decimal("1.50")])}
    assert decode(encode(value)) == value


class OddZone(dt.tzinfo):
    pass


class Moment(dt.datetime):
    pass


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (dt.datetime(2024, 1, 1, tzinfo=OddZone()), "a tzinfo of type 'OddZone'"),
        (dt.time(1, tzinfo=OddZone()), "a tzinfo of type 'OddZone'"),
        (Moment(2024, 1, 1), "of type 'Moment'"),
        (OddZone(), "of type 'OddZone'"),
        (np.array([None]), "dtype 'object'"),
        (np.array([(1, None)], "i4,O"), "not plain bytes"),
        (np.ma.array([1]), "of type 'MaskedArray'"),
    ],
)
def test_what_would_not_come_back_is_refused_with_the_path(value, text):
    with pytest.raises(EncodeError, match=text) as caught:
        encode({"tasks": [0, {"due": value}]})
    assert caught.value.path == "$.tasks[1].due"


# ---------------------------------------------------------------- numpy


@given(dtypes.flatmap(lambda dtype: nps.arrays(dtype, nps.array_shapes(min_dims=0, min_side=0, max_side=4))))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_arrays_of_any_dtype_without_objects_come_back_bit_for_bit(array):
    message = encode([array])
    assert same(decode(message), [array])
    assert same(decode(message, copy=False), [array])
    assert same(oracle_decode(message), [array])


@given(nps.scalar_dtypes().flatmap(lambda dtype: nps.arrays(dtype, 1)))
def test_numpy_scalars_come_back_bit_for_bit(array):
    message = encode(array[0])
    assert same(decode(message), array[0])
    assert same(oracle_decode(message), array[0])


STRUCTURE = np.dtype(
    [("id", "<i4"), ("at", "<M8[us]"), ("place", ">f8", (2, 3)), ("name", "<U5"), ("in", [("a", "?")])],
    align=True,
)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 3), STRUCTURE),
        np.zeros(2, {"names": ["b", "a"], "formats": ["u1", "<i2"], "offsets": [5, 2], "itemsize": 9}),
        np.zeros(2, np.dtype([(("a title", "a"), "i4")])),
        np.arange(10)[::-2],
        np.arange(24).reshape(2, 3, 4).transpose(1, 2, 0),
        np.asfortranarray(np.arange(12).reshape(3, 4)),
        np.array(5),
        np.zeros((0, 7)),
        np.zeros((3, 0), "U4"),
        np.ndarray(3, "U0"),
        np.zeros(2, np.dtype([])),
        np.array(["NaT", "2024-02-29"], "M8[25s]"),
        np.array([b"a\0b", b""]),
        np.broadcast_to(np.float32(1.5), (3, 3)),
    ],
    ids=lambda array: f"{array.dtype.str} {array.shape}",
)
def test_array_of_an_unusual_kind(array):
    for copy in (True, False):
        found = decode(encode(array), copy=copy)
        assert same(found, array)
        assert found.flags.f_contiguous or not array.flags.f_contiguous


@pytest.mark.parametrize(
    "scalar",
    [
        np.str_("a\0"),
        np.bytes_(b"a\0"),
        np.str_(""),
        np.void(b"ab"),
        np.zeros(1, STRUCTURE)[0],
        np.float64("nan"),
        np.longdouble(1) / 3,
        np.datetime64("NaT", "s"),
        np.timedelta64(3, "us"),
        np.bool_(True),
        np.complex64(1j),
    ],
    ids=lambda scalar: type(scalar).__name__,
)
def test_scalar_of_an_unusual_kind(scalar):
    assert same(decode(encode(scalar)), scalar)


def test_nan_payloads_of_floats_survive():
    bits = np.array([0x7FC00001, 0x7F800001, 0xFFC12345], "u4")
    assert decode(encode(bits.view("f4"))).view("u4").tolist() == bits.tolist()
    assert decode(encode(bits.view("f4")[1])).tobytes() == bits[1].tobytes()
    payload = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000001))[0]
    assert struct.pack("<d", decode(encode(payload))) == struct.pack("<d", payload)
    assert math.copysign(1, decode(encode(-0.0))) == -1


def test_with_copy_an_array_is_private_and_writable():
    buffer = bytearray(encode(np.arange(100)))
    array = decode(buffer)
    buffer[-1] = 0xFF
    array += 1
    assert array.tolist() == list(range(1, 101))
    buffer.append(0)  # nothing holds it


def test_without_copy_an_array_is_a_read_only_aligned_view():
    buffer = bytearray(encode({"x": np.arange(100.0)}))
    array = decode(buffer, copy=False)["x"]
    assert not array.flags.writeable
    assert array.ctypes.data % 8 == 0
    buffer[-8:] = struct.pack("<d", -1.0)
    assert array[-1] == -1.0
    with pytest.raises(BufferError):
        buffer.append(0)
    del array
    buffer.append(0)


# ---------------------------------------------------------------- what a message may load


def loaded_by(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.no_sanitizer("counts what an import loads")
def test_modules_of_types_are_loaded_by_the_messages_that_have_them():
    modules = ["numpy", "decimal", "uuid", "zoneinfo", "fastcomm._core.extended"]
    show = f"\nprint(*[m for m in {modules} if m in sys.modules])"
    start = "import sys\nfrom fastcomm import decode, encode\n"
    assert loaded_by(start + "decode(encode({'a': [1, 2.5, b'', {1}]}))" + show) == set()
    message = encode(decimal.Decimal(1))
    assert loaded_by(start + f"decode({message!r})" + show) == {"decimal", "fastcomm._core.extended"}


# ---------------------------------------------------------------- hostile messages

Point = collections.namedtuple("Point", "x y")
Colour = enum.Enum("Colour", "RED GREEN")


@dataclasses.dataclass
class Task:
    owner: str


CORPUS = [
    encode(value)
    for value in (
        [dt.datetime(2024, 1, 1, tzinfo=dt.UTC), dt.time(1), dt.date(2024, 1, 1), dt.timedelta(1)],
        [zoneinfo.ZoneInfo("Europe/Berlin"), dt.timezone(dt.timedelta(1800e-6), "x")],
        {uuid.UUID(int=5): decimal.Decimal("1.5")},
        [np.arange(4.0), np.zeros(2, STRUCTURE), np.float32(1), np.str_("ab"), np.asfortranarray(np.eye(3))],
        {1, "two", frozenset([b"three"])},
    )
]


def value_or_error(message):
    for copy in (True, False):
        offset = 0
        try:
            decode(message, copy=copy)
        except DecodeError as error:
            offset = error.offset
        assert 0 <= offset <= len(message)


@given(st.sampled_from(CORPUS), st.data())
@settings(
    max_examples=4 * settings.default.max_examples,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
def test_changed_bytes_give_a_value_or_a_decode_error(message, data):
    mutant = bytearray(message)
    for _ in range(data.draw(st.integers(1, 4))):
        mutant[data.draw(st.integers(0, len(mutant) - 1))] = data.draw(st.integers(0, 255))
    value_or_error(bytes(mutant))


@given(st.integers(0xF0, 0xFE), st.binary(max_size=60))
@settings(max_examples=4 * settings.default.max_examples, deadline=None)
def test_random_bytes_behind_a_rare_tag_give_a_value_or_a_decode_error(tag, data):
    value_or_error(HEAD + bytes([tag]) + data)


@pytest.mark.parametrize("message", CORPUS, ids=lambda message: message[:8].hex())
def test_a_message_cut_anywhere_is_a_decode_error(message):
    for end in range(len(message)):
        with pytest.raises(DecodeError):
            decode(message[:end])


def block(values, data, padding=0):
    return (
        HEAD
        + b"\xfc"
        + b"".join(encode(v)[2:] for v in values)
        + bytes([len(data), padding])
        + bytes(padding)
        + data
    )


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (HEAD + b"\xf0\x00\x00\x01\x01", "year 0"),
        (HEAD + b"\xf4\x4f" + b"\xff" * 7 + b"\x7f\x58", "."),
        (HEAD + b"\xf5" + b"\x6a../../../x", "no key of a time zone"),
        (HEAD + b"\xf5" + b"\x64/etc", "no key of a time zone"),
        (HEAD + b"\xf5" + b"\x66No/Way", "no time zone 'No/Way'"),
        (HEAD + b"\xf7" + b"\x63abc", "Decimal"),
        (HEAD + b"\xf7\x00", "int"),
        (HEAD + b"\xf8" + b"\x66Colour" + b"\x63RED", "'Colour' is not registered"),
        (HEAD + b"\xf9" + b"\x64Task" + b"\xa0", "'Task' is not registered"),
        (HEAD + b"\xfa" + b"\x65Point" + b"\xb2\x01\x02", "'Point' is not registered"),
        (HEAD + b"\xfd\x05\x00\x00\x00" + b"\x80", "Struct with type id 5, for which no class"),
        (HEAD + b"\xfe" + encode(pickle.dumps(1))[2:], "can run any code"),
        (HEAD + b"\xf2" + bytes(12) + b"\xf7", "unknown tag 0xF7"),
        (block(["|O8", (1,), False], bytes(8)), "no dtype"),
        (block(["<f8", (2,), False], bytes(8)), "8 bytes for an array of 16"),
        (block(["<f8", (-1, -1), False], bytes(8)), "shape"),
        (block(["<f8", (2**40, 2**40), False], bytes(8)), "8 bytes for an array"),
        (block(["<f8", (2**62, 0, 2**62), False], b""), "."),
        (block([("<f8", (1,)), (1,), False], bytes(8)), "subarray"),
        (block([{"formats": ["<f8"]}, (1,), False], bytes(8)), "."),
        (block(["<f8", (1,), 1], bytes(8)), "an array's order of type 'int' where bool belongs"),
    ],
)  # fmt: skip
def test_each_fault_of_a_rare_value_is_a_decode_error(message, text):
    with pytest.raises(DecodeError, match=text) as caught:
        decode(message)
    assert caught.value.offset >= 2


def test_zones_beyond_the_limit_are_refused():
    keys = sorted(zoneinfo.available_timezones())
    keys = [key for key in keys if "/" in key and "." not in key][:65]
    assert len(decode(encode([zoneinfo.ZoneInfo(key) for key in keys[:64]]))) == 64
    with pytest.raises(DecodeError, match="more than 64 different time zones"):
        decode(encode([zoneinfo.ZoneInfo(key) for key in keys]))


def test_recursion_of_rare_values_is_bounded():
    for tag in range(0xF0, 0xFF):
        with pytest.raises(DecodeError):
            decode(HEAD + bytes([tag]) * 100_000)


@pytest.mark.parametrize("size", [100, 2**31, 2**62, 2**63 - 1])
def test_an_array_beyond_the_input_fails_before_anything_is_allocated(size):
    sizes = bytearray()
    rest = size
    while rest >= 0x80:
        sizes.append(rest & 0x7F | 0x80)
        rest >>= 7
    message = (
        HEAD + b"\xfc" + encode("|u1")[2:] + encode((size,))[2:] + b"\x59" + bytes(sizes) + bytes([rest, 0])
    )
    with pytest.raises(DecodeError):
        decode(message)
    tracemalloc.start()
    with pytest.raises(DecodeError):
        decode(message)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000
