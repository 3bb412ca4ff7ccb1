"""Messages as rows of a numpy array and back, from buffers and straight from a ring."""

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from struct_classes import Everything, Leg, Numbers, Side, everything, example, numbers

from fastcomm import DecodeError, Empty, EncodeError, RingBuffer, Struct
from fastcomm.structs import f8, u4


class Tick(Struct, type_id=910, registry=None):
    number: u4
    price: f8


def values_of(rows: Any, index: int) -> dict[str, Any]:
    return {
        name: Everything.text(rows, index, name)
        for name in ("symbol", "payload", "note", "leg.name", "other.name")
    }


class TestArrays:
    @given(st.lists(numbers, max_size=5))
    def test_rows_are_the_fixed_parts(self, values: list[Numbers]) -> None:
        messages = [value.pack() for value in values]
        rows = Numbers.array(messages)
        assert rows.dtype == Numbers.dtype
        assert rows.tobytes() == b"".join(message[16 : 16 + Numbers.dtype.itemsize] for message in messages)
        assert Numbers.pack_many(rows) == messages

    @given(st.lists(everything, max_size=5))
    def test_text_is_kept_and_everything_comes_back(self, values: list[Everything]) -> None:
        messages = [value.pack() for value in values]
        rows = Everything.array(iter(messages))
        for index, value in enumerate(values):
            assert values_of(rows, index) == {
                "symbol": value.symbol,
                "payload": value.payload,
                "note": value.note,
                "leg.name": value.leg.name,
                "other.name": value.other and value.other.name,
            }
        assert rows["price"].tolist() == [value.price for value in values]
        assert Everything.pack_many(rows) == messages == Everything.pack_many(values)

    def test_slices_and_selections_keep_the_text(self) -> None:
        rows = Everything.array([example(symbol=f"s{i}", small=i).pack() for i in range(10)])
        chosen = rows[rows["small"] % 2 == 1][::-1]
        assert [Everything.text(chosen, i, "symbol") for i in range(5)] == ["s9", "s7", "s5", "s3", "s1"]
        assert [Everything.unpack(m).symbol for m in Everything.pack_many(chosen)] == [
            "s9",
            "s7",
            "s5",
            "s3",
            "s1",
        ]

    def test_array_owns_its_bytes_and_can_be_changed(self) -> None:
        buffers = [bytearray(example(price=i).pack()) for i in range(3)]
        rows = Everything.array(buffers)
        for buffer in buffers:
            buffer[:] = bytes(len(buffer))
        rows["price"] *= 2
        assert [Everything.unpack(m).price for m in Everything.pack_many(rows)] == [0, 2, 4]

    def test_rows_made_with_numpy(self) -> None:
        rows = np.zeros(3, Tick.dtype)
        rows["number"] = [1, 2, 3]
        assert [Tick.unpack(message).number for message in Tick.pack_many(rows)] == [1, 2, 3]
        assert Tick.pack_many(np.zeros((2, 2), Tick.dtype)) == [Tick(0, 0).pack()] * 4

    def test_heap_is_shared_until_it_is_lost(self) -> None:
        rows = Everything.array([example(symbol="sym").pack()])
        assert rows[:1].heap is rows.heap
        assert rows.copy().heap is rows.heap
        alone = pickle.loads(pickle.dumps(rows))
        with pytest.raises(DecodeError, match="has no heap"):
            Everything.text(alone, 0, "symbol")
        with pytest.raises(EncodeError, match=r"\$\[0\]\.symbol is 3 bytes at 0, and the heap has 0"):
            Everything.pack_many(alone)

    def test_no_messages(self) -> None:
        assert len(Everything.array([])) == 0
        assert Everything.pack_many(Everything.array([])) == []
        assert Everything.pack_many([]) == []

    def test_wrong_message_is_refused(self) -> None:
        with pytest.raises(DecodeError, match="type id"):
            Everything.array([example().pack(), Tick(1, 2).pack()])
        with pytest.raises(TypeError):
            Everything.array([5])  # type: ignore[list-item]

    def test_wrong_rows_are_refused(self) -> None:
        with pytest.raises(TypeError, match=r"dtype is .*; Tick\.dtype is"):
            Tick.pack_many(np.zeros(3, "f8"))
        rows = Everything.array([example().pack()] * 2)
        rows["side"][1] = 7
        with pytest.raises(EncodeError, match=r"\$\[1\]\.side is 7, a number that no member has") as caught:
            Everything.pack_many(rows)
        assert caught.value.path == "$[1].side"
        rows["side"] = list(Side).index(Side.BUY)
        rows["symbol"]["offset"][0] = 1 << 31
        with pytest.raises(EncodeError, match=r"\$\[0\]\.symbol is 4 bytes at 2147483648, and the heap has"):
            Everything.pack_many(rows)
        with pytest.raises(DecodeError, match="symbol of row 0 is 4 bytes at 2147483648"):
            Everything.text(rows, 0, "symbol")

    def test_wrong_instances_are_refused(self) -> None:
        with pytest.raises(EncodeError, match=r"the value at \$\[1\] is a Leg, not a Tick"):
            Tick.pack_many([Tick(1, 2), Leg("a", 0, True)])  # type: ignore[list-item]
        with pytest.raises(EncodeError, match=r"the value at \$\[1\]\.number is -1") as caught:
            Tick.pack_many([Tick(1, 2), Tick(-1, 2)])
        assert caught.value.path == "$[1].number"

    def test_text_of_fields_that_have_none(self) -> None:
        rows = Everything.array([example().pack()])
        with pytest.raises(AttributeError, match="no field 'symbl'; it has small, symbol"):
            Everything.text(rows, 0, "symbl")
        with pytest.raises(TypeError, match="read it from the array"):
            Everything.text(rows, 0, "price")
        with pytest.raises(TypeError, match="is no Struct"):
            Everything.text(rows, 0, "price.name")

    def test_text_that_is_no_utf8(self) -> None:
        message = example(symbol="ACME").pack().replace(b"ACME", b"\xff\xfe\xfd\xfc")
        with pytest.raises(DecodeError, match="symbol of row 0: 4 bytes that are not UTF-8"):
            Everything.text(Everything.array([message]), 0, "symbol")

    def test_many_rows_and_much_text(self) -> None:
        messages = [example(symbol="x" * (i % 500), small=i % 256).pack() for i in range(3000)]
        rows = Everything.array(iter(messages))
        assert [len(Everything.text(rows, i, "symbol")) for i in range(3000)] == [
            i % 500 for i in range(3000)
        ]
        assert Everything.pack_many(rows) == messages


class TestDrain:
    def test_rows_come_straight_from_the_ring(self, name: str) -> None:
        with RingBuffer.create(name, capacity=1 << 16) as ring:
            messages = [example(symbol=f"s{i}").pack() for i in range(50)]
            ring.put_many(messages)
            rows = Everything.drain(ring)
            assert Everything.pack_many(rows) == messages
            assert ring.try_get() is None
            assert len(Everything.try_drain(ring)) == 0
            with pytest.raises(Empty):
                Everything.drain(ring, timeout=0.01)

    def test_limit_and_room_given_back(self, name: str) -> None:
        with RingBuffer.create(name, capacity=4096) as ring:
            for start in range(0, 200, 10):
                ring.put_many([Tick(i, i / 2).pack() for i in range(start, start + 10)], timeout=0)
                first, second = Tick.drain(ring, 4), Tick.try_drain(ring, 100)
                assert first["number"].tolist() == list(range(start, start + 4))
                assert second["number"].tolist() == list(range(start + 4, start + 10))
            with pytest.raises(ValueError, match="limit is 0"):
                Tick.drain(ring, 0)

    def test_another_record_ends_it_and_stays(self, name: str) -> None:
        with RingBuffer.create(name) as ring:
            ring.put_many([Tick(1, 1).pack(), b"something else", Tick(2, 2).pack()])
            assert Tick.drain(ring)["number"].tolist() == [1]
            for drain in (Tick.drain, Tick.try_drain):
                with pytest.raises(DecodeError, match=rf"next record of '{name}': take it with get\(\)"):
                    drain(ring)
            assert ring.get() == b"something else"
            assert Tick.drain(ring)["number"].tolist() == [2]

    def test_no_ring(self) -> None:
        with pytest.raises(TypeError):
            Tick.drain([])  # type: ignore[arg-type]
