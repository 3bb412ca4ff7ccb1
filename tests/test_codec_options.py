"""Codec and its options, CodecPool, compression."""

import collections
import dataclasses
import enum
import os
import sys
import threading
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_codec import oracle_decode

from fastcomm import Codec, CodecPool, DecodeError, EncodeError, StringTable, Struct, decode, encode
from fastcomm._core import compression
from fastcomm.structs import f8, u4

KINDS = ["lz4", "zstd"]
RECORDS = [{"kind": "task", "number": i, "tags": ["a", "b"]} for i in range(500)]


class Colour(enum.Enum):
    RED = 1
    CRIMSON = RED
    GREEN = "g"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Level(enum.IntEnum):
    LOW = 1


Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    point: Point
    name: str = "home"


@dataclasses.dataclass
class Task:
    owner: str
    steps: list = dataclasses.field(default_factory=list)
    done: bool = dataclasses.field(default=False, init=False)

    def __post_init__(self):
        assert self.owner != "nobody", "called when decoding"


TYPES = [Colour, Rights, Level, Point, Place, Task]


# ---------------------------------------------------------------- registered types


@pytest.mark.parametrize(
    "value",
    [Colour.RED, Colour.GREEN, Rights.READ, Rights.READ | Rights.WRITE, Rights(0), Level.LOW, Point(1, [2]),
     Place(Point(1, 2)), Task("me", [Task("you")]), {Colour.RED: {Place(Point(0, 0)), Level.LOW}}],
    ids=repr,
)  # fmt: skip
def test_registered_types_come_back_as_they_were(value):
    codec = Codec(types=TYPES)
    found = codec.decode(codec.encode([value]))[0]
    assert found == value
    assert type(found) is type(value)


def test_the_decoder_agrees_with_the_oracle_on_registered_types():
    value = [Colour.GREEN, Rights.READ | Rights.WRITE, Level.LOW, Place(Point(1, 2), "there")]
    message = Codec(types=TYPES).encode(value)
    assert oracle_decode(message, {cls.__qualname__: cls for cls in TYPES}) == value


def test_a_dataclass_is_restored_without_calling_it():
    codec = Codec(types=[Task])
    task = Task("me")
    task.owner, task.done = "nobody", True
    found = codec.decode(codec.encode(task))
    assert (found.owner, found.steps, found.done) == ("nobody", [], True)


def test_names_may_be_chosen_and_must_be_the_same_at_both_ends():
    sender, receiver = Codec(types={"colour/1": Colour}), Codec(types=[Colour])
    message = sender.encode(Colour.RED)
    assert Codec(types={"colour/1": Colour}).decode(message) is Colour.RED
    with pytest.raises(DecodeError, match="'colour/1' is not registered"):
        receiver.decode(message)


def test_register_is_a_decorator_and_refuses_what_it_does_not_know():
    codec = Codec()

    @codec.register
    class Size(enum.Enum):
        BIG = 1

    assert codec.decode(codec.encode(Size.BIG)) is Size.BIG
    with pytest.raises(TypeError, match="no Enum, dataclass or namedtuple"):
        codec.register(threading.Thread)
    with pytest.raises(ValueError, match="already is the name"):
        codec.register(Point, Size.__qualname__)


@pytest.mark.parametrize("value", [Colour.RED, Point(1, 2), Task("me")], ids=repr)
def test_an_unregistered_type_is_refused_with_the_advice_to_register(value):
    with pytest.raises(EncodeError, match=r"register its class: Codec\(types=\[\.\.\.\]\)") as caught:
        encode({"a": [value]})
    assert caught.value.path == "$.a[0]"


def test_the_path_leads_into_a_dataclass():
    codec = Codec(types=TYPES)
    with pytest.raises(EncodeError) as caught:
        codec.encode({"tasks": [Task("me"), Task("you", [1, object()])]})
    assert caught.value.path == "$.tasks[1].steps[1]"


def test_a_dataclass_that_holds_itself_is_refused():
    task = Task("me")
    task.steps.append(task)
    with pytest.raises(EncodeError, match="does it contain itself"):
        Codec(types=[Task]).encode(task)


def test_a_field_without_a_value_is_refused():
    task = Task("me")
    del task.owner
    with pytest.raises(EncodeError, match="a field without a value"):
        Codec(types=[Task]).encode(task)


def with_name(tag, name, content):
    return b"\xc1\x01" + bytes([tag]) + encode(name)[2:] + encode(content)[2:]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (with_name(0xF8, "Colour", "BLUE"), "no member 'BLUE'"),
        (with_name(0xF8, "Colour", 1), "no name"),
        (with_name(0xF8, "Rights", 64), "."),
        (with_name(0xF9, "Colour", {}), "not registered as it was sent"),
        (with_name(0xF9, "Task", {"owner": "me"}), "fields"),
        (with_name(0xF9, "Task", {"owner": 1, "steps": 2, "done": 3, "__class__": 4}), "fields"),
        (with_name(0xF9, "Task", [1]), "list"),
        (with_name(0xFA, "Point", (1,)), "1 fields for 'Point'"),
        (with_name(0xFA, 5, (1,)), "a type's name of type 'int'"),
    ],
)
def test_a_message_that_does_not_fit_its_type_is_a_decode_error(message, text):
    with pytest.raises(DecodeError, match=text):
        Codec(types=TYPES).decode(message)


class Angry(enum.Enum):
    ONE = 1

    def __hash__(self):
        raise RuntimeError("no")


def test_a_key_whose_hash_raises_is_a_decode_error():
    message = b"\xc1\x01\xa1" + with_name(0xF8, "Angry", "ONE")[2:] + b"\x00"
    codec = Codec(types=[Angry])
    with pytest.raises(DecodeError, match="can't be hashed"):
        codec.decode(message)


# ---------------------------------------------------------------- fallback


def test_with_fallback_what_is_not_supported_is_pickled_in_its_place():
    codec = Codec(fallback="pickle")
    value = {"numbers": [1j, range(3)], "ordered": collections.OrderedDict(a=1)}
    message = codec.encode(value)
    assert codec.decode(message) == value
    assert type(codec.decode(message)["ordered"]) is collections.OrderedDict
    with pytest.raises(DecodeError, match="can run any code"):
        decode(message)


def test_what_can_not_be_pickled_is_an_encode_error_with_the_path():
    with pytest.raises(EncodeError, match="can't be pickled") as caught:
        Codec(fallback="pickle").encode([1, lambda: 0])
    assert caught.value.path == "$[1]"


# ---------------------------------------------------------------- sizes and options


def test_max_size_bounds_both_directions():
    codec = Codec(max_size=100)
    assert codec.decode(codec.encode(b"x" * 90)) == b"x" * 90
    with pytest.raises(EncodeError, match="107 bytes; this codec's max_size is 100"):
        codec.encode(b"x" * 103)
    with pytest.raises(DecodeError, match="more than this codec takes"):
        codec.decode(encode(b"x" * 200))
    with pytest.raises(EncodeError, match="max_size"):
        codec.encode_into(b"x" * 200, bytearray(1000))


def test_encode_into_writes_at_the_offset_or_not_at_all():
    for codec in (Codec(), Codec(compression="lz4", threshold=1)):
        buffer = bytearray(5000)
        size = codec.encode_into(RECORDS[:20], buffer, 7)
        assert codec.decode(buffer[7 : 7 + size]) == RECORDS[:20]
        before = bytes(buffer)
        with pytest.raises(EncodeError, match="bytes at offset 4999"):
            codec.encode_into(RECORDS[:20], buffer, 4999)
        assert buffer == before


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"fallback": "json"}, ValueError),
        ({"compression": "gzip"}, ValueError),
        ({"threshold": -1}, ValueError),
        ({"max_size": 0}, ValueError),
        ({"max_decompressed": 0}, ValueError),
        ({"types": [int]}, TypeError),
        ({"types": [5]}, TypeError),
    ],
)
def test_an_option_that_can_not_be_is_refused(options, error):
    with pytest.raises(error):
        Codec(**options)


def test_interning_changes_the_size_and_not_the_value():
    on, off = Codec(), Codec(interning=False)
    assert len(on.encode(RECORDS)) < len(off.encode(RECORDS)) * 0.8
    for codec in (on, off):
        for message in (on.encode(RECORDS), off.encode(RECORDS)):
            assert codec.decode(message) == RECORDS


# ---------------------------------------------------------------- compression


@pytest.fixture(params=KINDS)
def kind(request):
    pytest.importorskip({"lz4": "lz4", "zstd": "zstandard"}[request.param])
    return request.param


def test_what_shrinks_is_compressed_and_any_codec_reads_it(kind):
    codec = Codec(compression=kind)
    message = codec.encode(RECORDS)
    assert len(message) < len(encode(RECORDS)) / 2
    assert message[:2] == (b"\xc1\x21" if kind == "lz4" else b"\xc1\x41")
    assert decode(message) == Codec(interning=False).decode(message) == RECORDS
    assert (codec.compressed, codec.compression_failures) == (1, 0)


def test_below_the_threshold_or_without_gain_nothing_is_compressed(kind):
    codec = Codec(compression=kind, threshold=1000)
    for value in ("x" * 900, os.urandom(5000)):
        assert codec.encode(value) == encode(value)
    assert codec.compressed == 0


def test_a_view_of_a_compressed_message_is_of_private_memory(kind):
    buffer = bytearray(Codec(compression=kind, threshold=1).encode([b"ab" * 500]))
    (view,) = decode(buffer, copy=False)
    buffer.append(0)
    assert view == b"ab" * 500


@pytest.mark.parametrize("level", [1, 9])
def test_levels(kind, level):
    codec = Codec(compression=kind, level=level, threshold=1)
    assert codec.decode(codec.encode(RECORDS)) == RECORDS


def test_a_compressor_that_fails_leaves_the_message_as_it_is_and_is_counted(kind, monkeypatch):
    def fail(data):
        raise RuntimeError("no memory")

    monkeypatch.setattr(compression, "compressor", lambda name, level: (0x20, fail))
    codec = Codec(compression=kind, threshold=1)
    assert codec.encode(RECORDS) == encode(RECORDS)
    assert (codec.compressed, codec.compression_failures) == (0, 1)


def test_a_missing_package_is_named_with_what_to_install(kind, monkeypatch):
    message = Codec(compression=kind, threshold=1).encode(RECORDS)
    for module in ("lz4", "lz4.block", "zstandard", "compression", "compression.zstd"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"pip install 'fastcomm\[{kind}\]'"):
        Codec(compression=kind)
    with pytest.raises(DecodeError, match=rf"pip install 'fastcomm\[{kind}\]'"):
        decode(message)


def test_decompression_is_bounded_by_the_limit(kind):
    bomb = Codec(compression=kind, threshold=1, max_decompressed=1 << 28).encode(bytes(40 << 20))
    assert len(bomb) < 1 << 18
    tracemalloc.start()
    with pytest.raises(DecodeError, match="max_decompressed"):
        decode(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    assert len(Codec(max_decompressed=1 << 28).decode(bomb)) == 40 << 20


def test_a_size_that_is_not_the_frames_is_a_decode_error(kind):
    message = bytearray(Codec(compression=kind, threshold=1).encode(bytes(1 << 20)))
    assert message[2:5] != b"\x64\x00\x00"
    for stated in (b"\xe4\x80\x00", b"\xff\xff\x7f", b"\x80\x80\x00"):
        message[2:5] = stated
        with pytest.raises(DecodeError, match="bytes"):
            decode(message)


def test_what_is_larger_than_the_limit_is_not_compressed(kind):
    codec = Codec(compression=kind, max_decompressed=10_000)
    assert codec.encode(bytes(20_000)) == encode(bytes(20_000))


def test_a_compressed_message_in_a_compressed_one_is_refused(kind):
    flag, compress = compression.compressor(kind)
    inner = Codec(compression=kind, threshold=1).encode(bytes(1000))
    message = bytes([0xC1, 1 | flag, len(inner)]) + compress(inner)
    with pytest.raises(DecodeError, match="a compressed message in a compressed one"):
        decode(message)


@given(st.data())
@settings(max_examples=2 * settings.default.max_examples, deadline=None)
def test_changed_bytes_of_a_compressed_message_give_a_value_or_a_decode_error(data):
    pytest.importorskip("lz4")
    pytest.importorskip("zstandard")
    kind = data.draw(st.sampled_from(KINDS))
    mutant = bytearray(Codec(compression=kind, threshold=1).encode(RECORDS[:30]))
    for _ in range(data.draw(st.integers(1, 4))):
        mutant[data.draw(st.integers(0, len(mutant) - 1))] = data.draw(st.integers(0, 255))
    offset = 0
    try:
        decode(mutant)
    except DecodeError as error:
        offset = error.offset
    assert 0 <= offset <= len(mutant)


# ---------------------------------------------------------------- pool


def test_a_pool_hands_out_a_codec_to_each_and_keeps_a_bounded_number():
    pool = CodecPool(types=TYPES, size=2)
    codecs = [pool.acquire() for _ in range(4)]
    assert len(set(map(id, codecs))) == 4
    message = codecs[0].encode(Point(1, 2))
    assert [codec.decode(message) for codec in codecs] == [Point(1, 2)] * 4
    for codec in codecs:
        pool.release(codec)
    assert pool.idle == 2
    assert pool.acquire() is codecs[1]


def test_types_registered_later_are_known_to_all_codecs_of_a_pool():
    pool = CodecPool()
    early = pool.acquire()
    with pool as codec:
        codec.register(Point)
        assert early.decode(codec.encode(Point(1, 2))) == Point(1, 2)


def test_a_pool_is_a_context_manager_that_may_be_nested_and_shared_by_threads():
    pool = CodecPool(Codec(compression=None), size=3)
    inside = []

    def work(number):
        for _ in range(200):
            with pool as outer, pool as inner:
                assert outer is not inner
                value = [{"number": number}] * 3
                inside.append(inner.decode(outer.encode(value)) == value)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside == [True] * 800
    assert 1 <= pool.idle <= 3


def test_an_exception_gives_the_codec_back():
    pool = CodecPool()
    with pytest.raises(EncodeError), pool as codec:
        codec.encode(object())
    assert pool.idle == 1


def test_a_pool_refuses_what_can_not_be():
    with pytest.raises(ValueError, match="size is 0"):
        CodecPool(size=0)
    with pytest.raises(TypeError, match="a codec and options"):
        CodecPool(Codec(), interning=False)


# ---------------------------------------------------------------- Structs


class Quote(Struct, type_id=0x71C0DEC):
    symbol: str
    price: f8


class OtherQuote(Struct, type_id=0x71C0DEC, registry=None):
    symbol: str
    size: u4


class Nameless(Struct):
    price: f8


def test_a_struct_is_sent_with_the_type_id_of_its_class():
    value = {"quotes": [Quote("A", 1.5), Quote("B", -0.0)]}
    message = encode(value)
    assert message.count(b"\xfd\xec\x0d\x1c\x07") == 2
    assert decode(message) == value
    with pytest.raises(EncodeError, match="no type_id") as caught:
        encode([Nameless(1.0)])
    assert caught.value.path == "$[0]"


def test_a_struct_in_the_place_of_another_is_a_decode_error():
    message = encode([Quote("A", 1.5)])
    with pytest.raises(DecodeError, match="for which no class is known"):
        decode(message.replace(b"\xfd\xec", b"\xfd\xed"))
    with pytest.raises(DecodeError):
        decode(message[:-1])


@pytest.mark.parametrize("codec", [Codec(), Codec(strings=StringTable()), Codec(types=[Colour])])
def test_a_struct_alone_is_its_own_message(codec):
    quote = Quote("A", 1.5)
    assert codec.encode(quote) == encode(quote) == quote.pack()
    assert codec.decode(quote.pack()) == decode(quote.pack()) == quote
    buffer = bytearray(100)
    length = codec.encode_into(quote, buffer, 4)
    assert Quote.view(buffer, 4).price == decode(buffer[4 : 4 + length]).price == 1.5


def test_a_struct_alone_needs_a_type_id_and_values_that_fit():
    with pytest.raises(EncodeError, match=r"the value at \$ is a Struct of the class 'Nameless'"):
        encode(Nameless(1.0))
    with pytest.raises(EncodeError, match="symbol"):
        encode(Quote(7, 1.0))


def test_a_struct_alone_of_an_unknown_class_or_another_layout_is_a_decode_error():
    with pytest.raises(DecodeError, match="type id 119279085, for which no class is known"):
        decode(Quote("A", 1.5).pack().replace(b"\xec\x0d", b"\xed\x0d"))
    with pytest.raises(DecodeError, match=r"another layout under type id .*u4.*price: f8"):
        decode(OtherQuote("A", 7).pack())


def test_a_large_struct_alone_is_compressed_as_other_messages():
    pytest.importorskip("lz4")
    quote = Quote("A" * 10_000, 1.5)
    message = Codec(compression="lz4").encode(quote)
    assert len(message) < 1000
    assert decode(message) == quote
