"""Reading messages of Structs: hostile bytes, memory that changes, older and newer classes, views."""

import struct
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from struct_classes import Everything, Leg, Mode, Side, everything, example

from fastcomm import DecodeError, Struct
from fastcomm._core.struct_base import encode_struct
from fastcomm.structs import Array, f4, f8, registry, u1, u2, u4, unpack

HEADER = 16


def offset_of(field: str, cls: Any = Everything) -> int:
    return HEADER + cls.dtype.fields[field][1]


def changed(message: bytes, offset: int, data: bytes) -> bytes:
    return message[:offset] + data + message[offset + len(data) :]


def read_all(message: Any) -> None:
    view = Everything.view(message)
    for name in Everything.__match_args__:
        getattr(view, name)


def gather(message: Any) -> None:
    rows = Everything.array([message])
    assert len(rows.heap) <= len(message)


def outcome_of(read: Any, message: Any) -> Any:
    try:
        return read(message)
    except DecodeError as error:
        return error


class TestHostileBytes:
    @given(st.binary(max_size=300))
    def test_any_bytes_are_a_value_or_a_decode_error(self, data: bytes) -> None:
        with pytest.raises(DecodeError):
            Everything.unpack(data)
        with pytest.raises(DecodeError):
            unpack(data)

    @given(everything, st.data())
    def test_mutated_messages_are_a_value_or_a_decode_error(self, value: Everything, data: Any) -> None:
        message = bytearray(value.pack())
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(message) - 1))
            message[at] = data.draw(st.integers(0, 255))
        del message[data.draw(st.integers(0, 2 * len(message))) :]
        for read in (Everything.unpack, read_all, gather):
            outcome = outcome_of(read, message)
            if isinstance(outcome, DecodeError):
                assert 0 <= outcome.offset <= len(message)
                assert f"(at offset {outcome.offset})" in str(outcome)

    @given(everything, st.integers(0, 400))
    def test_cut_messages_are_refused(self, value: Everything, size: int) -> None:
        message = value.pack()
        if size < len(message):
            with pytest.raises(DecodeError):
                Everything.unpack(message[:size])

    def test_bytes_after_the_message_are_left(self) -> None:
        assert Everything.unpack(example().pack() + b"more") == example()

    @pytest.mark.parametrize(
        ("offset", "data", "text", "where"),
        [
            (0, b"\xc2", "the first byte is 0xC2", 0),
            (1, b"\x12", "format version 2 is unknown", 1),
            (1, b"\x21", "flags are 0x2", 1),
            (4, b"\x01", "type id", 4),
            (2, b"\xff\xff", "cut short", 12),
            (12, b"\xff\xff\xff\xff", "cut short", 12),
            (8, b"\x00\x00", "another layout under type id 901", 8),
            (offset_of("tail"), b"\x02", "'tail' has the byte 2", offset_of("tail")),
            (offset_of("note?"), b"\x07", "'note' has the byte 7", offset_of("note?")),
            (offset_of("symbol"), b"\xff\xff\xff\xff", "'symbol' begins at 4294967295", offset_of("symbol")),
            (offset_of("symbol"), b"\x05\x00\x00\x00", "'symbol' begins at 5, outside", offset_of("symbol")),
            (offset_of("symbol") + 4, b"\xff\xff\xff\xff", "bytes after the message", offset_of("symbol")),
            (offset_of("side"), b"\x02\x00", "the number 2, which no member has", offset_of("side")),
            (offset_of("level"), b"\x07\x00", "which no member has", offset_of("level")),
            (offset_of("code"), b"\xff", "not UTF-8", offset_of("code")),
        ],
    )
    def test_what_is_wrong_is_said_with_its_offset(
        self, offset: int, data: bytes, text: str, where: int
    ) -> None:
        with pytest.raises(DecodeError, match="at offset") as caught:
            Everything.unpack(changed(example().pack(), offset, data))
        assert text in str(caught.value)
        assert caught.value.offset == where

    def test_bad_utf8_in_the_tail(self) -> None:
        message = example(symbol="ACME").pack()
        at = message.index(b"ACME")
        with pytest.raises(DecodeError, match="field 'symbol' has 4 bytes that are not UTF-8") as caught:
            Everything.unpack(changed(message, at, b"\xff"))
        assert caught.value.offset == at

    def test_no_part_of_the_tail_is_given_twice(self) -> None:
        class Many(Struct):
            a: bytes
            b: bytes

        message = Many(b"x" * 100, b"y").pack()
        offset = struct.unpack_from("<I", message, HEADER)[0]
        twice = changed(message, HEADER + 8, struct.pack("<II", offset, 100))
        with pytest.raises(DecodeError, match=f"'b' begins at {offset}, outside of {offset + 100}"):
            Many.unpack(twice)


class Old(Struct, type_id=902, registry=None):
    price: f8
    label: str
    side: Side | None


class New(Struct, type_id=902, registry=None):
    price: f8
    label: str
    side: Side | None
    size: u1 = 9
    note: str = "none"
    leg: Leg | None = Leg("default", 1, True)


class Newest(New, type_id=902, registry=None):
    book: Annotated[NDArray[np.float32], Array("f4", 2)] = np.ones(2, "f4")


class Swapped(Struct, type_id=902, registry=None):
    label: str
    price: f8
    side: Side | None


class Renamed(Struct, type_id=902, registry=None):
    cost: f8
    label: str
    side: Side | None


class Demanding(Struct, type_id=902, registry=None):
    price: f8
    label: str
    side: Side | None
    size: u1


class TestEvolution:
    def test_new_reader_gives_an_old_message_the_defaults(self) -> None:
        new = New.unpack(Old(1.5, "x", Side.SELL).pack())
        assert new == New(1.5, "x", Side.SELL)
        assert (new.size, new.note, new.leg) == (9, "none", Leg("default", 1, True))
        newest = Newest.unpack(Old(1.5, "x", None).pack())
        assert newest.book.tolist() == [1, 1]
        newest.book[0] = 5
        assert Newest.unpack(Old(1.5, "x", None).pack()).book.tolist() == [1, 1]

    def test_old_reader_takes_what_it_knows_of_a_new_message(self) -> None:
        message = Newest(1.5, "x", Side.BUY, 200, "a note", None).pack()
        assert Old.unpack(message) == Old(1.5, "x", Side.BUY)
        assert New.unpack(message) == New(1.5, "x", Side.BUY, 200, "a note", None)

    def test_views_of_other_versions(self) -> None:
        old = New.view(Old(1.5, "x", None).pack())
        assert (old.price, old.label, old.side, old.size, old.note) == (1.5, "x", None, 9, "none")
        assert old.leg == Leg("default", 1, True)
        assert Old.view(Newest(2.5, "y", None).pack()).label == "y"

    def test_arrays_of_mixed_versions(self) -> None:
        messages = [
            Old(1, "old", Side.SELL).pack(),
            New(2, "new", None, 3, "note", None).pack(),
            Newest(3, "newest", None).pack(),
        ]
        rows = New.array(messages)
        assert rows["price"].tolist() == [1, 2, 3]
        assert rows["size"].tolist() == [9, 3, 9]
        assert [New.text(rows, i, "note") for i in range(3)] == ["none", "note", "none"]
        assert [New.text(rows, i, "leg.name") for i in range(3)] == ["default", None, "default"]
        assert [New.text(rows, i, "label") for i in range(3)] == ["old", "new", "newest"]

    def test_appended_field_in_what_was_padding(self) -> None:
        class Before(Struct, type_id=903, registry=None):
            x: f8
            a: u1

        class After(Struct, type_id=903, registry=None):
            x: f8
            a: u1
            b: u2 = 7

        assert Before.dtype.itemsize == After.dtype.itemsize
        assert After.unpack(Before(1, 2).pack()) == After(1, 2, 7)
        assert Before.unpack(After(1, 2, 3).pack()) == Before(1, 2)
        assert After.array([Before(1, 2).pack()])["b"].tolist() == [7]
        assert not np.any(Before.array([After(1, 2, 0xFFFF).pack()]).view(np.uint8)[9:])

    @pytest.mark.parametrize("other", [Swapped, Renamed])
    def test_another_layout_under_the_same_id_is_an_error_that_shows_both(self, other: Any) -> None:
        message = other(*((1.5, "x") if other is Renamed else ("x", 1.5)), None).pack()
        with pytest.raises(DecodeError, match="another layout under type id 902") as caught:
            Old.unpack(message)
        assert "price: f8, label: str, side: enum by position u2 | None" in str(caught.value)
        assert "side: enum by position | None" in str(caught.value)
        assert f"fingerprint {struct.unpack_from('<I', message, 8)[0]:08X}" in str(caught.value)
        for read in (Old.view, lambda data: Old.array([data])):
            with pytest.raises(DecodeError, match="another layout"):
                read(message)

    def test_appended_field_without_default_is_named(self) -> None:
        with pytest.raises(DecodeError, match="older Demanding, ends before the field 'size'"):
            Demanding.unpack(Old(1, "x", None).pack())

    def test_another_type_id(self) -> None:
        with pytest.raises(DecodeError, match="type id 902; Everything has 901"):
            Everything.unpack(Old(1, "x", None).pack())

    def test_shorter_fixed_part_than_its_fields_need(self) -> None:
        message = Old(1, "", None).pack()
        size = struct.unpack_from("<I", message, 12)[0]
        forged = message[:12] + struct.pack("<I", 8) + message[HEADER : HEADER + 8] + message[HEADER + size :]
        with pytest.raises(DecodeError, match="another layout"):
            Old.unpack(forged)


class TestRegistry:
    def test_a_message_is_read_by_the_class_of_its_type_id(self) -> None:
        class Known(Struct, type_id=904):
            x: f4

        try:
            assert unpack(encode_struct(Known(0.5))) == Known(0.5)
        finally:
            del registry[904]
        with pytest.raises(DecodeError, match="type id 904, for which no class is known here"):
            unpack(Known(0.5).pack())

    def test_registry_with_the_wrong_class(self) -> None:
        registry[904] = Leg
        try:
            with pytest.raises(DecodeError, match="type id"):
                unpack(changed(Leg("a", 0, True).pack(), 4, struct.pack("<I", 904)))
        finally:
            del registry[904]


class TestViews:
    @given(everything)
    def test_every_field_is_read_in_place(self, value: Everything) -> None:
        view = Everything.view(value.pack())
        for name in ("small", "symbol", "price", "code", "raw", "payload", "side", "mode", "note", "count"):
            assert getattr(view, name) == getattr(value, name)
        assert np.array_equal(view.book, value.book)
        assert np.array_equal(view.grid, value.grid)
        assert (view.leg.name, view.leg.price) == (value.leg.name, value.leg.price)
        assert (view.other is None) == (value.other is None)

    def test_what_is_written_is_seen(self) -> None:
        buffer = bytearray(100 + len(example().pack()))
        example(price=1.0).pack_into(buffer, 100)
        view = Everything.view(buffer, 100)
        book = view.book
        example(price=2.0, book=[4, 5, 6], mode=Mode.READ).pack_into(buffer, 100)
        assert view.price == 2.0
        assert view.mode is Mode.READ
        assert book.tolist() == [4, 5, 6]
        with pytest.raises(ValueError, match="read-only"):
            book[0] = 1

    def test_a_view_is_for_reading(self) -> None:
        with pytest.raises(AttributeError, match="for reading"):
            Everything.view(example().pack()).price = 1

    def test_buffer_is_exported_until_the_view_ends(self) -> None:
        buffer = bytearray(example().pack())
        with Everything.view(buffer) as view:
            leg = view.leg
            with pytest.raises(BufferError):
                buffer.append(0)
        buffer.append(0)
        for ended in (view, leg):
            with pytest.raises(ValueError, match="has ended"):
                ended.price  # noqa: B018
        assert "ended" in repr(view)

    def test_nested_view_and_array_keep_the_buffer(self) -> None:
        buffer = bytearray(example().pack())
        leg, book = Everything.view(buffer).leg, Everything.view(buffer).book
        assert leg.name == "first"
        del leg
        with pytest.raises(BufferError):
            buffer.append(0)
        del book
        buffer.append(0)

    def test_offset_outside_of_the_buffer(self) -> None:
        for offset in (-1, 5):
            with pytest.raises(ValueError, match=f"offset is {offset}; the buffer has 4 bytes"):
                Leg.view(b"1234", offset)
            with pytest.raises(ValueError, match=f"offset is {offset}; the buffer has 4 bytes"):
                Leg.unpack(b"1234", offset)

    def test_reader_of_another_class_is_refused(self) -> None:
        reader = vars(type(Leg.view(Leg("a", 1, True).pack())))["price"]
        view = Everything.view(example().pack())
        with pytest.raises(ValueError, match="another class"):
            reader.__get__(view)
        with pytest.raises(TypeError):
            reader.__get__(3)
        with pytest.raises(ValueError, match="has ended"):
            type(view)().price  # noqa: B018
        with pytest.raises(ValueError, match="has ended"):
            type(reader)().__get__(type(view)())

    def test_repr_has_the_values(self) -> None:
        assert repr(Leg.view(Leg("a", 1, True).pack())) == "<LegView name='a', price=1.0, urgent=True>"

    def test_fields_of_one_byte_and_sizes(self) -> None:
        class Bytes(Struct):
            a: u1
            b: u4

        view = Bytes.view(Bytes(255, 1 << 31).pack())
        assert (view.a, view.b) == (255, 1 << 31)
