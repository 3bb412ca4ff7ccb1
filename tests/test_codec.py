"""Round trips, refusals, buffers and hostile input."""

import array
import collections
import enum
import gc
import json
import re
import struct
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle_codec import alike, oracle_decode

from fastcomm._core.codec import Codec, decode, encode, encode_into
from fastcomm._core.encoder import Encoder
from fastcomm.errors import DecodeError, EncodeError

HEAD = b"\xc1\x01"
GOLDEN = json.loads((Path(__file__).parent / "golden" / "codec_v1.json").read_text())
# Messages that a decoder without types and string table reads, and that are not compressed.
PLAIN = [entry for entry in GOLDEN if "by" not in entry and not entry["name"].startswith("compressed")]
CORPUS = [bytes.fromhex(entry["hex"]) for entry in PLAIN if len(entry["hex"]) < 1000]

keys = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
repeated = st.sampled_from(
    ["id", "owner", "kind", "nextPageToken", "x", "größe", "a key of more than thirty-one bytes"]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text()
    | st.binary()
    | st.binary().map(bytearray)
    | st.sets(keys)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys | repeated, inner),
    max_leaves=30,
)


def nested(depth, inner=0):
    for _ in range(depth):
        inner = [inner]
    return inner


# ---------------------------------------------------------------- round trips


@given(values)
def test_decode_gives_back_what_was_encoded_with_the_same_types(value):
    assert alike(decode(encode(value)), value)


@given(st.integers(0, 2**64 - 1))
def test_every_bit_of_a_float_survives(bits):
    value = struct.unpack("<d", struct.pack("<Q", bits))[0]
    assert struct.pack("<d", decode(encode(value))) == struct.pack("<d", value)


@pytest.mark.parametrize("shift", range(140))
def test_ints_around_powers_of_two(shift):
    for value in (2**shift - 1, 2**shift, 2**shift + 1):
        assert decode(encode(value)) == value
        assert decode(encode(-value)) == -value


@pytest.mark.parametrize("size", [0, 1, 7, 8, 15, 16, 31, 32, 127, 128, 16383, 16384, 100_000])
@pytest.mark.parametrize(
    "make",
    [
        lambda n: "a" * n,
        lambda n: "é" * n,
        lambda n: "日" * n,
        lambda n: "😀" * n,
        bytes,
        bytearray,
        lambda n: list(range(n)),
        lambda n: tuple(range(n)),
        lambda n: {i: i for i in range(n)},
        lambda n: {f"key {i}": {f"key {i}": i} for i in range(n)},
    ],
)
def test_sizes_around_every_change_of_encoding(make, size):
    value = make(size)
    assert alike(decode(encode(value)), value)


def test_text_is_encoded_as_python_encodes_utf8():
    text = "".join(chr(c) for c in range(0, 0x110000, 7) if not 0xD800 <= c < 0xE000)
    assert encode(text).endswith(text.encode())


def test_encoding_text_leaves_the_callers_object_as_it_was():
    text = "日本" * 1000
    before = sys.getsizeof(text)
    encode(text)
    assert sys.getsizeof(text) == before


def test_more_keys_than_the_decoder_remembers():
    value = [{f"key-{i}": i} for i in range(5000)]
    assert decode(encode(value)) == value
    assert decode(encode(value)) == value


def test_a_repeated_key_is_written_once():
    value = [{"temperature": i, "humidity": i} for i in range(10)]
    message = encode(value)
    assert message.count(b"temperature") == message.count(b"humidity") == 1
    assert decode(message) == value


def test_equal_objects_give_equal_messages_whatever_their_identity():
    def fresh(text):
        return "".join(list(text))

    names = [f"key-{i}" for i in range(100)]
    same = [dict.fromkeys(names, 1), dict.fromkeys(names, 2)]
    other = [{fresh(name): 1 for name in names}, {fresh(name): 2 for name in names}]
    assert encode(same) == encode(other)


def test_equal_keys_that_are_different_objects_round_trip():
    value = [{"".join(["i", "d"]): 1}, {"".join(["i", "d"]): 2}]
    assert decode(encode(value)) == value


def test_references_do_not_leak_from_one_message_into_the_next():
    encoder = Encoder()
    assert encoder.encode({"owner": 1}) == encoder.encode({"owner": 1})


# ---------------------------------------------------------------- the format


@given(values)
def test_the_decoder_agrees_with_the_one_written_from_the_description(value):
    assert alike(oracle_decode(encode(value)), value)


Point = collections.namedtuple("Point", "x y")


# ---------------------------------------------------------------- refusals of the encoder

Level = enum.IntEnum("Level", "LOW")
Name = type("Name", (str,), {})


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (object(), "$"),
        ({"tasks": [1, 2, 3, {"owner": object()}]}, "$.tasks[3].owner"),
        ({"a b": (0, 1j)}, "$['a b'][1]"),
        ({7: {None: [object()]}}, "$[7][None][0]"),
        ({"a": {(1, object()): 1}}, "$.a"),
        ({"a": [{1, 2, (object,)}]}, "$.a[0]"),
        ([Point(1, 2)], "$[0]"),
        ({"level": Level.LOW}, "$.level"),
        ({Name("x"): 1}, "$"),
        ([collections.OrderedDict()], "$[0]"),
        ([collections.defaultdict(int)], "$[0]"),
        ({"x" * 500: 1j}, "$." + "x" * 500),
        ({b"y" * 500: 1j}, "$[b'" + "y" * 58 + "...]"),
    ],
)
def test_what_cannot_be_encoded_is_refused_with_the_path_to_it(value, path):
    with pytest.raises(EncodeError) as caught:
        encode(value)
    assert caught.value.path == path
    assert path in str(caught.value)


def test_a_subclass_is_refused_with_the_advice_to_convert():
    with pytest.raises(EncodeError, match=r"convert it with dict\(\.\.\.\)"):
        encode(collections.OrderedDict())
    with pytest.raises(EncodeError, match=r"register its class"):
        encode(Point(1, 2))


@pytest.mark.parametrize("text", ["\ud800", "ok \udfff", "日\udc80本", "😀" + "\ud83d"])
def test_a_lone_surrogate_is_refused(text):
    with pytest.raises(EncodeError, match=r"surrogate U\+D[89A-F]") as caught:
        encode({"note": [text]})
    assert caught.value.path == "$.note[0]"
    with pytest.raises(EncodeError, match="surrogate"):
        encode({text: 1})


def test_depth_512_passes_and_513_does_not():
    value = decode(encode(nested(512)))
    for _ in range(512):
        (value,) = value
    assert value == 0
    with pytest.raises(EncodeError, match="deeper than 512") as caught:
        encode(nested(513))
    assert caught.value.path.startswith("$[0][0]")
    with pytest.raises(DecodeError, match="deeper than 512"):
        decode(HEAD + b"\x91" * 513 + b"\x00")


@pytest.mark.parametrize(
    "wrap",
    [lambda x: [x], lambda x: (x,), lambda x: {"k": x}, lambda x: {0: x}],
    ids=["list", "tuple", "dict with a str key", "dict with an int key"],
)
def test_every_container_counts_towards_the_depth(wrap):
    value = 0
    for _ in range(512):
        value = wrap(value)
    assert encode(decode(encode(value))) == encode(value)
    with pytest.raises(EncodeError, match="deeper than 512"):
        encode(wrap(value))


def test_tuples_in_keys_count_towards_the_depth():
    key = ()
    for _ in range(400):
        key = (key,)
    with pytest.raises(EncodeError, match="deeper than 512") as caught:
        encode(nested(200, {key: 1}))
    assert caught.value.path.endswith("[0]")


@pytest.mark.parametrize("kind", ["list", "dict", "tuple"])
def test_a_cycle_is_refused(kind):
    box = []
    box.append({"list": box, "dict": {"self": box}, "tuple": (box,)}[kind])
    with pytest.raises(EncodeError, match="does it contain itself"):
        encode(box)


def test_a_refusal_leaves_the_encoder_usable():
    encoder = Encoder()
    for bad in (object(), nested(600), "\ud800", {"a": [1j]}):
        with pytest.raises(EncodeError):
            encoder.encode(bad)
        assert decode(encoder.encode({"a": [1]})) == {"a": [1]}


def test_a_refusal_leaks_no_reference():
    key, bad = "a key " + "x" * 20, object()
    value = {key: {(1, 2): [bad]}}
    encode({key: 1})  # which remembers the key
    before = sys.getrefcount(key), sys.getrefcount(bad)
    for _ in range(50):
        with pytest.raises(EncodeError):
            encode(value)
    assert (sys.getrefcount(key), sys.getrefcount(bad)) == before


# ---------------------------------------------------------------- buffers


def test_a_memoryview_comes_back_as_the_bytes_it_shows():
    numbers = array.array("i", [1, 2, 3])
    assert decode(encode(memoryview(numbers))) == numbers.tobytes()
    assert decode(encode([memoryview(b"abcdef")[2:4], memoryview(b"")])) == [b"cd", b""]
    assert decode(encode({memoryview(b"key"): 1})) == {b"key": 1}


@pytest.mark.parametrize("bad", ["strided", "released"])
def test_a_memoryview_without_contiguous_bytes_is_refused(bad):
    view = memoryview(b"abcdef")[::2]
    if bad == "released":
        view.release()
    with pytest.raises(EncodeError, match="contiguous") as caught:
        encode({"view": view})
    assert caught.value.path == "$.view"


def test_encode_into_writes_at_the_offset_and_returns_the_size():
    value = {"a": [1, 2, 3]}
    message = encode(value)
    buffer = bytearray(b"." * 40)
    assert encode_into(value, buffer, 5) == len(message)
    assert bytes(buffer) == b"." * 5 + message + b"." * (35 - len(message))
    exact = array.array("b", bytes(len(message)))
    assert encode_into(value, exact) == len(message)
    assert exact.tobytes() == message


@pytest.mark.parametrize(
    ("room", "offset"), [(4, 0), (0, 0), (20, 17), (20, 21), (20, -1), (20, 2**62), (20, -(2**62))]
)
def test_encode_into_a_buffer_that_is_too_small_says_the_size_and_writes_nothing(room, offset):
    buffer = bytearray(room)
    with pytest.raises(EncodeError, match="needs 5 bytes"):
        encode_into([1, 2], buffer, offset)
    assert buffer == bytes(room)


def test_encode_into_refuses_what_is_not_a_writable_contiguous_buffer():
    with pytest.raises(BufferError):
        encode_into(1, memoryview(bytearray(100))[::2])
    with pytest.raises((BufferError, TypeError)):
        encode_into(1, b"x" * 100)
    with pytest.raises(TypeError):
        encode_into(1, 5)


def test_encode_into_may_overwrite_what_it_encodes():
    buffer = memoryview(bytearray(b"y" * 300))
    size = encode_into(buffer[:20], buffer, 3)
    assert decode(buffer[3 : 3 + size]) == b"y" * 20


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, lambda b: memoryview(bytearray(b))])
@pytest.mark.parametrize("copy", [True, False])
def test_decode_reads_any_contiguous_buffer(make, copy):
    value = {"k": [1, "text", 2.5]}
    assert decode(make(encode(value)), copy=copy) == value


def test_decode_refuses_what_is_no_contiguous_buffer():
    for copy in (True, False):
        with pytest.raises((BufferError, TypeError)):
            decode(memoryview(encode([1, 2, 3]))[::2], copy=copy)
        with pytest.raises(TypeError):
            decode("text", copy=copy)


def test_copy_false_gives_read_only_views_into_the_buffer():
    buffer = bytearray(encode([b"abcd", {"k": b"x" * 50}, bytearray(b"own"), {b"key": b""}]))
    result = decode(buffer, copy=False)
    short, long, own, in_dict = result[0], result[1]["k"], result[2], result[3]
    assert [type(v) for v in (short, long)] == [memoryview, memoryview]
    assert short.readonly
    assert short.format == "B"
    assert type(own) is bytearray
    assert [type(key) for key in in_dict] == [bytes]
    place = bytes(buffer).index(b"abcd")
    buffer[place] = ord("A")
    assert short == b"Abcd"
    with pytest.raises(BufferError):
        buffer.append(0)
    del result, short, long, own, in_dict
    buffer.append(0)


def test_copy_false_of_a_single_bytes_value():
    view = decode(memoryview(array.array("B", encode(b"payload"))), copy=False)
    assert type(view) is memoryview
    assert view == b"payload"


def test_copy_false_with_a_wrong_message_releases_the_buffer():
    buffer = bytearray(encode([b"abc"]) + b"!")
    with pytest.raises(DecodeError):
        decode(buffer, copy=False)
    buffer.append(0)


# ---------------------------------------------------------------- hostile input


@pytest.mark.parametrize("message", CORPUS, ids=lambda message: message[:12].hex())
def test_a_message_cut_anywhere_is_a_decode_error(message):
    for end in range(len(message)):
        with pytest.raises(DecodeError) as caught:
            decode(message[:end])
        assert 0 <= caught.value.offset <= end


@given(values)
@settings(max_examples=settings.default.max_examples // 2, deadline=None)
def test_any_message_cut_anywhere_is_a_decode_error(value):
    message = encode(value)
    for end in range(0, len(message), 1 + len(message) // 100):
        with pytest.raises(DecodeError):
            decode(message[:end])


def decode_or_error(message):
    for copy in (True, False):
        try:
            value = decode(message, copy=copy)
        except DecodeError as error:
            offset = error.offset
        else:
            offset = 0
            again = decode(encode(value))
            assert not copy or alike(again, value)
        assert 0 <= offset <= len(message)


@given(st.sampled_from(CORPUS) | values.map(encode), st.data())
@settings(
    max_examples=4 * settings.default.max_examples,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
def test_changed_bytes_give_a_value_or_a_decode_error(message, data):
    mutant = bytearray(message)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(mutant) - 1))
        mutant[place] = data.draw(st.integers(0, 255))
    decode_or_error(bytes(mutant))


@given(st.binary(max_size=200))
@settings(max_examples=4 * settings.default.max_examples)
def test_random_bytes_give_a_value_or_a_decode_error(data):
    decode_or_error(data)
    decode_or_error(HEAD + data)


@pytest.mark.parametrize(
    ("message", "text", "offset"),
    [
        (b"", "cut short", 0),
        (b"\xc1", "cut short", 0),
        (HEAD, "cut short", 2),
        (b"{}", "first byte is 0x7B", 0),
        (b"\xc1\x02\x00", "version 2 is unknown", 1),
        (b"\xc1\x00\x00", "version 0 is unknown", 1),
        (b"\xc1\x11\x00", "a Struct's header has 16 bytes", 3),
        (b"\xc1\x11" + bytes(14), "a Struct with type id 0, for which no class", 4),
        (b"\xc1\x61\x00", "flags 0x6 are unknown", 1),
        (b"\xc1\x91" + bytes(8), "flags 0x9 are unknown", 1),
        (b"\xc1\x81" + b"\x01\x02\x03\x04\x00", "string table 0x04030201", 2),
        (b"\xc1\x81\x00", "cut short", 2),
        (HEAD + b"\xe8\x00", "entry 0 of a string table", 2),
        (HEAD + b"\xbe\x05", "entry 5 of a string table", 2),
        (HEAD + b"\x00\x00", "1 bytes follow", 3),
        (HEAD + b"\xa1\x90\x00", "can't be hashed", 3),
        (HEAD + b"\xa2\x00\x00\xb1\xa0\x00", "can't be hashed", 5),
        (HEAD + b"\xa2\x00\x01\x00\x02", "occurs twice", 3),
        (HEAD + b"\x62\xff\xfe", "not UTF-8", 3),
        (HEAD + b"\x63\xed\xa0\x80", "not UTF-8", 3),
        (HEAD + b"\x5d" + b"\xff" * 9, "more than nine bytes", 3),
        (HEAD + b"\xff\x00", "unknown tag 0xFF", 2),
        (HEAD + b"\xbf", "unknown tag 0xBF", 2),
        (HEAD + b"\xe1\xf0", "word 512 of a table that has 512", 2),
        (HEAD + b"\xbc\x01\x90", "can't be hashed", 4),
        (HEAD + b"\xbc\x02\x01\x01", "occurs twice", 2),
        (HEAD + b"\xc0\x00", "reference to offset 0", 2),
        (HEAD + b"\xc0\x02", "reference to offset 2", 2),
        (HEAD + b"\x92\x63abc\xcf\xff", "reference to offset 4095", 7),
        (HEAD + b"\x92\x00\xc0\x03", "reference to offset 3", 4),
        (HEAD + b"\x92\x61\x63\xc0\x04", "reference to offset 4", 5),
    ],
)
def test_each_fault_is_named_with_its_offset(message, text, offset):
    with pytest.raises(DecodeError, match=re.escape(text)) as caught:
        decode(message)
    assert caught.value.offset == offset


@pytest.mark.parametrize("tag", [0xBF, 0xFF])
def test_a_reserved_tag_is_a_decode_error(tag):
    with pytest.raises(DecodeError, match=f"unknown tag 0x{tag:02X}"):
        decode(HEAD + bytes([tag]) + bytes(20))


@pytest.mark.no_sanitizer("measures, for minutes there")
def test_neither_success_nor_failure_leaks_memory():
    # Without numpy, whose own caches grow for thousands of calls, and strings kept of the message before.
    whole = [bytes.fromhex(entry["hex"]) for entry in PLAIN if "np." not in entry["value"]]
    messages = whole + [message[:-1] for message in whole] + [message + b"!" for message in whole]
    codec = Codec(interning=False)

    def work():
        for message in messages:
            for copy in (True, False):
                try:
                    codec.encode(codec.decode(message, copy=copy))
                except DecodeError:
                    continue

    tracemalloc.start()  # first, so that what caches keep is counted whenever it was allocated
    try:
        for _ in range(50):  # the interpreter takes some time until it has all it keeps
            work()
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(400):
            work()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 400 * 28  # no message leaks an object, of which the smallest has 28 bytes


# ---------------------------------------------------------------- scratch buffer, re-entrance, mutation


def test_scratch_buffer_shrinks_after_a_huge_message():
    encoder = Encoder()
    assert len(encoder.encode(bytes(5_000_000))) > 5_000_000
    assert encoder.capacity <= 256 * 1024
    assert encoder.encode_into(bytes(5_000_000), bytearray(6_000_000)) > 5_000_000
    assert encoder.capacity <= 256 * 1024


def test_scratch_buffer_is_reused():
    encoder, buffer = Encoder(), bytearray(20_000)
    encoder.encode_into(bytes(10_000), buffer)
    capacity = encoder.capacity
    assert capacity > 10_000
    for _ in range(10):
        encoder.encode_into(bytes(10_000), buffer)
    assert encoder.capacity == capacity


def test_a_message_is_as_large_as_it_says_whatever_the_one_before_was():
    encoder = Encoder()
    for size in (0, 5, 400, 100_000, 3, 63, 64, 65, 130, 5_000_000, 1, 1000, 900, 100):
        message = encoder.encode(bytes(size))
        assert decode(message) == bytes(size)
        assert len(bytes(message) + b"") == len(message) < size + 10
        assert hash(message) == hash(bytes(bytearray(message)))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="buffers exported by Python code came with 3.12")
def test_a_buffer_exported_by_python_code_may_encode_and_decode_meanwhile():
    class Exporter:
        def __init__(self, buffer):
            self.buffer = buffer

        def __buffer__(self, flags):
            assert decode(encode(["within", 2**100])) == ["within", 2**100]
            return memoryview(self.buffer)

        def __release_buffer__(self, view):
            assert decode(encode({"released": 1})) == {"released": 1}

    target = bytearray(100)
    size = encode_into({"outer": 2**80}, Exporter(target))
    assert decode(target[:size]) == {"outer": 2**80}
    for copy in (True, False):
        assert decode(Exporter(target[:size]), copy=copy) == {"outer": 2**80}


class Cycle:
    """Rubbish whose finalizer runs Python code wherever the collector happens to strike."""

    def __init__(self, action):
        self.me, self.action = self, action

    def __del__(self):
        self.action()


@pytest.fixture
def eager_collector():
    before = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    yield
    gc.set_threshold(*before)


def test_finalizers_that_encode_and_decode_do_no_harm(eager_collector):
    value = [{"big": 2**200 + i, "t": (i, [i])} for i in range(50)]
    seen = []
    for _ in range(30):
        Cycle(lambda: seen.append(decode(encode({"inner": [2**90, {"x": [1]}]}))))
        assert decode(encode(value)) == value
    assert {str(v) for v in seen} == {str({"inner": [2**90, {"x": [1]}]})}


def test_finalizers_that_change_what_is_being_encoded_do_no_harm(eager_collector):
    for _ in range(50):
        value = {"list": [[2**100 + i] for i in range(20)], "dict": {2**90 + i: [2**80] for i in range(20)}}

        def spoil(value=value):
            value["list"].clear()
            value["dict"].clear()
            value["new"] = 1

        Cycle(spoil)
        del spoil
        try:
            outcome = set(decode(encode(value)))
        except EncodeError as error:
            outcome = {str(error).split("(")[-1]}
        assert outcome <= {
            "list",
            "dict",
            "new",
            "list) changed its size while it was encoded",
            "dict) changed its size while it was encoded",
        }


def test_a_thread_that_changes_a_dict_meanwhile_does_no_harm():
    shared = {f"key {i}": [i] for i in range(200)}
    ends = threading.Event()

    def change():
        n = 0
        while not ends.is_set():
            n += 1
            shared[f"key {n % 400}"] = [n]
            shared.pop(f"key {(n + 200) % 400}", None)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(2000):
            result = decode(encode(shared))
            assert all(type(v) is list and len(v) == 1 for v in result.values())
    finally:
        ends.set()
        thread.join()


def test_threads_share_the_functions():
    failures = []

    def work(seed):
        value = {"seed": seed, "list": [{"n": i, "text": str(i * seed)} for i in range(20)]}
        failures.extend(1 for _ in range(500) if decode(encode(value)) != value)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
