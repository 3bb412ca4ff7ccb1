"""Struct classes: the bytes of a message against struct and numpy, round trips, what is refused."""

import copy
import gc
import inspect
import pickle
import struct
import sys
import threading
from array import array
from decimal import Decimal
from typing import Annotated, Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from struct_classes import Everything, Leg, Level, Mode, Numbers, Side, everything, example, legs, numbers

from fastcomm import DecodeError, EncodeError, Struct
from fastcomm.structs import Array, Char, Number, f4, f8, i1, i2, i4, i8, registry, u1, u2, u4, u8

HEADER = 16
NUMBERS = struct.Struct("<?bhiqBxHIQf4xdqd")


class Point(Struct):
    x: f8
    y: f8 = 2.5
    label: str = ""


class TestBytes:
    @given(numbers)
    def test_numbers_lie_as_in_a_c_struct(self, value: Numbers) -> None:
        fields = [getattr(value, name) for name in Numbers.__match_args__]
        message = value.pack()
        assert message[HEADER : HEADER + NUMBERS.size] == NUMBERS.pack(*fields)
        assert Numbers.dtype.itemsize == NUMBERS.size

    @given(everything)
    def test_numpy_reads_the_fixed_part_by_the_dtype(self, value: Everything) -> None:
        message = value.pack()
        (row,) = np.frombuffer(message, Everything.dtype, 1, HEADER)
        assert (row["small"], row["price"], row["tail"]) == (value.small, value.price, value.tail)
        assert row["code"].decode() == value.code
        assert row["raw"] == value.raw
        assert np.array_equal(row["book"], value.book)
        assert np.array_equal(row["grid"], value.grid)
        assert row["side"] == list(Side).index(value.side)
        assert (row["level"], row["mode"]) == (value.level, value.mode)
        assert row["count?"] == (value.count is not None)
        assert row["count"] == (value.count or 0)
        offset, length = row["symbol"]
        assert message[offset : offset + length].decode() == value.symbol
        offset, length = row["leg"]["name"]
        assert message[offset : offset + length].decode() == value.leg.name

    def test_dtype_is_that_of_numpy_s_own_alignment(self) -> None:
        names = [("flag", "?"), ("a", "i1"), ("b", "i2"), ("c", "i4"), ("d", "i8"), ("e", "u1"), ("f", "u2")]
        more = [("g", "u4"), ("h", "u8"), ("x", "f4"), ("y", "f8"), ("plain", "i8"), ("real", "f8")]
        aligned = np.dtype(names + more, align=True)
        assert Numbers.dtype.fields == aligned.fields
        assert Numbers.dtype.itemsize == aligned.itemsize

    def test_size_is_that_of_a_message_without_text(self) -> None:
        assert Numbers.size == len(Numbers(True, *[0] * 12).pack())
        assert Point.size == len(Point(1).pack()) == len(Point(1, label="12345").pack()) - 5

    def test_header_says_type_fields_and_size(self) -> None:
        head = struct.unpack_from("<BBHIII", example().pack())
        assert head[:4] == (0xC1, 0x11, 16, 901)
        assert head[5] == Everything.dtype.itemsize

    def test_padding_and_absent_values_are_zeros(self) -> None:
        class Gaps(Struct):
            a: u1
            b: f8
            c: f8 | None = None

        message = bytearray(b"\xff" * Gaps.size)
        Gaps(255, 0.0).pack_into(message)
        assert message[HEADER : HEADER + 32] == b"\xff" + bytes(31)

    def test_tail_has_the_text_in_the_order_of_the_fields(self) -> None:
        message = example(symbol="SYM", payload=b"PAY", leg=Leg("LEG", 0, False), note="NOTE").pack()
        assert message.endswith(b"SYMPAYLEGNOTE")

    def test_layout_table_has_the_offsets_of_the_dtype(self) -> None:
        lines = [line.split() for line in Everything.layout.splitlines()[1:-1]]
        assert [int(line[0]) for line in lines] == [
            Everything.dtype.fields[name][1] for name in Everything.__match_args__
        ]


class TestRoundTrips:
    @given(numbers)
    def test_numbers(self, value: Numbers) -> None:
        back = Numbers.unpack(value.pack())
        assert back == value
        assert [type(getattr(back, name)) for name in Numbers.__match_args__] == [bool] + [int] * 8 + [
            float,
            float,
            int,
            float,
        ]

    @given(everything)
    def test_every_kind_of_field(self, value: Everything) -> None:
        back = Everything.unpack(value.pack())
        assert back == value
        assert (back.side, back.level, back.mode) == (value.side, value.level, value.mode)
        assert type(back.mode) is Mode

    @given(legs)
    def test_in_the_middle_of_a_buffer(self, value: Leg) -> None:
        buffer = bytearray(200)
        written = value.pack_into(buffer, 3)
        assert bytes(buffer[3 : 3 + written]) == value.pack()
        assert Leg.unpack(buffer, 3) == value
        assert buffer[3 + written :].count(0) == 197 - written

    @pytest.mark.parametrize("special", [float("inf"), -float("inf"), -0.0])
    def test_special_floats(self, special: float) -> None:
        back = Point.unpack(Point(special).pack())
        assert str(back.x) == str(special)

    def test_nan_keeps_its_bits(self) -> None:
        (nan,) = struct.unpack("<d", struct.pack("<Q", 0x7FF8_0000_DEAD_BEEF))
        assert struct.pack("<d", Point.unpack(Point(nan).pack()).x) == struct.pack("<d", nan)

    def test_unpacked_array_is_its_own_and_writable(self) -> None:
        message = bytearray(example().pack())
        back = Everything.unpack(message)
        message[:] = bytes(len(message))
        back.book[0] = 9
        assert back.book.tolist() == [9, 2, 3]

    @pytest.mark.parametrize(
        "value",
        [[1, 2, 3], (1.0, 2.0, 3.0), memoryview(np.array([1, 2, 3], "f4")), array("f", [1, 2, 3])],
        ids=["list", "tuple", "memoryview", "array"],
    )
    def test_what_an_array_field_takes(self, value: Any) -> None:
        assert Everything.unpack(example(book=value).pack()).book.tolist() == [1, 2, 3]

    def test_strided_array_is_gathered(self) -> None:
        wide = np.arange(12, dtype="i2").reshape(2, 6)
        assert np.array_equal(Everything.unpack(example(grid=wide[:, ::2]).pack()).grid, wide[:, ::2])

    def test_numbers_of_numpy_are_taken(self) -> None:
        value = Numbers(True, *[np.int8(1)] * 8, np.float32(0.5), np.float64(2), np.int64(3), np.float32(1))
        assert Numbers.unpack(value.pack()).x == 0.5

    def test_bytes_come_from_bytearray_and_memoryview_too(self) -> None:
        for data in (bytearray(b"abc"), memoryview(b"abc")):
            assert Everything.unpack(example(payload=data).pack()).payload == b"abc"

    def test_class_without_fields(self) -> None:
        class Ping(Struct, type_id=905, registry={}):
            pass

        assert Ping.unpack(Ping().pack()) == Ping()
        assert Ping.size == HEADER

    def test_inherited_fields_come_first(self) -> None:
        class Timed(Point):
            stamp: i8 = 0

        assert Timed.__match_args__ == ("x", "y", "label", "stamp")
        assert Timed.unpack(Timed(1, stamp=5).pack()) == Timed(1, 2.5, "", 5)


class TestInstances:
    def test_values_by_position_by_name_and_by_default(self) -> None:
        point = Point(1, label="p")
        assert (point.x, point.y, point.label) == (1, 2.5, "p")
        assert repr(point) == "Point(x=1, y=2.5, label='p')"

    @pytest.mark.parametrize(
        ("call", "text"),
        [
            (lambda: Point(), "needs a value for x"),
            (lambda: Point(1, 2, "", 4), "at most 3 values; 4"),
            (lambda: Point(1, z=2), "no field 'z'; it has x, y, label"),
            (lambda: Point(1, x=2), "Point.x is given twice"),
            (lambda: Struct(), "Struct itself"),
        ],
    )
    def test_wrong_call_is_a_type_error(self, call: Any, text: str) -> None:
        with pytest.raises(TypeError, match=text):
            call()

    def test_own_init_is_called(self) -> None:
        class Celsius(Struct):
            degrees: f8

            def __init__(self, kelvin: float) -> None:
                super().__init__(degrees=kelvin - 273.15)

        assert Celsius(273.15).degrees == 0
        assert Celsius.unpack(Celsius(273.15).pack()).degrees == 0

    def test_own_unpack_is_kept_and_inherited(self) -> None:
        class Quiet(Struct):
            x: u1

        class Loud(Quiet):
            @classmethod
            def unpack(cls, buffer: Any, offset: int = 0) -> Any:
                return "loud", super().unpack(buffer, offset)

        class Louder(Loud):
            y: u1 = 0

        assert Louder.unpack(Louder(1).pack()) == ("loud", Louder(1))

    def test_equality_is_by_value_and_class(self) -> None:
        class Same(Struct):
            x: f8
            y: f8
            label: str

        assert Point(1) == Point(1.0)
        assert Point(1) != Point(2)
        assert Point(1, 2, "") != Same(1, 2, "")
        assert example() == example()
        assert example() != example(book=[1, 2, 4])
        with pytest.raises(TypeError, match="unhashable"):
            hash(Point(1))

    def test_matching(self) -> None:
        match Point(3, 4):
            case Point(x, y):
                assert (x, y) == (3, 4)

    def test_copy_and_pickle(self) -> None:
        value = example(other=Leg("x", 1, False))
        assert copy.copy(value) == value
        assert copy.copy(value).leg is value.leg
        assert copy.deepcopy(value) == value
        assert copy.deepcopy(value).leg is not value.leg
        assert pickle.loads(pickle.dumps(value)) == value

    def test_no_other_attribute_can_be_set(self) -> None:
        with pytest.raises(AttributeError):
            Point(1).z = 2  # type: ignore[attr-defined]

    def test_mutable_default_is_copied_for_each_instance(self) -> None:
        class Book(Struct):
            levels: Annotated[Any, Array("f4", 2)] = np.zeros(2, "f4")
            best: Leg = Leg("none", 0, False)

        first, second = Book(), Book()
        first.levels[0] = 5
        first.best.name = "other"
        assert second.levels.tolist() == [0, 0]
        assert second.best.name == "none"

    def test_deleted_value_is_said_to_be_missing(self) -> None:
        point = Point(1)
        del point.y
        assert "y=..." not in repr(Point(1))
        with pytest.raises(EncodeError, match=r"\$\.y is missing"):
            point.pack()


class Sized:
    def __init__(self, result: Any) -> None:
        self.result = result

    def __index__(self) -> Any:
        return self.result


REFUSED = [
    ("price", "1.5", "$.price", "of type 'str'; the field takes a float"),
    ("price", None, "$.price", "None"),
    ("price", 10**400, "$.price", "out of range of a float"),
    ("small", 256, "$.small", "256, out of range: 0 to 255"),
    ("small", -1, "$.small", "-1, out of range"),
    ("small", 1.0, "$.small", "takes an int"),
    ("small", 1 << 80, "$.small", "out of range"),
    ("count", 65536, "$.count", "out of range: 0 to 65535"),
    ("tail", 1, "$.tail", "True or False"),
    ("symbol", b"x", "$.symbol", "takes a str"),
    ("symbol", "a\ud800", "$.symbol", "lone surrogate"),
    ("symbol", None, "$.symbol", "takes a str"),
    ("payload", "x", "$.payload", "takes bytes"),
    ("payload", memoryview(b"abcd")[::2], "$.payload", "in one piece"),
    ("code", "12345678", "$.code", "too long: 8 bytes for Char(7)"),
    ("code", "ääää", "$.code", "too long: 8 bytes"),
    ("code", "a\0", "$.code", "zeros at the end"),
    ("raw", b"a\0", "$.raw", "zeros at the end"),
    ("raw", b"123456", "$.raw", "too long"),
    ("book", [1, 2], "$.book", "has 2 items; the field has 3"),
    ("book", [1, 2, "x"], "$.book[2]", "takes a float"),
    ("book", [1, 1e39, 2], "$.book[1]", "out of range of f4"),
    ("book", np.zeros(3), "$.book", "format 'd'; the field takes <f4"),
    ("book", np.zeros(3, ">f4"), "$.book", "format '>f'"),
    ("book", np.zeros((3, 1), "f4"), "$.book", "shape (3, 1); the field has (3,)"),
    ("book", 5, "$.book", "takes an array"),
    ("grid", [1] * 6, "$.grid", "shape (2, 3)"),
    ("grid", np.zeros((3, 2), "i2"), "$.grid", "shape (3, 2)"),
    ("grid", np.zeros((2, 3), "u2"), "$.grid", "format 'H'"),
    ("leg", None, "$.leg", "takes a Leg"),
    ("leg", Leg(5, 0, False), "$.leg.name", "takes a str"),
    ("other", Leg("x", 1e39, False), "$.other.price", "out of range of f4"),
    ("side", "b", "$.side", "a member of Side"),
    ("level", -5, "$.level", "a member of Level"),
    ("note", 5, "$.note", "takes a str"),
]


class TestRefused:
    @pytest.mark.parametrize(("field", "value", "path", "text"), REFUSED, ids=range(len(REFUSED)))
    def test_error_names_the_field(self, field: str, value: Any, path: str, text: str) -> None:
        with pytest.raises(EncodeError) as caught:
            example(**{field: value}).pack()
        assert caught.value.path == path
        assert f"the value at {path} " in str(caught.value)
        assert text in str(caught.value)

    @pytest.mark.parametrize("name", ["a", "b", "c", "d", "e", "f", "g", "h"])
    def test_integers_one_beyond_each_end(self, name: str) -> None:
        info = np.iinfo(Numbers.dtype[name])
        least, most = int(info.min), int(info.max)
        sut = Numbers(True, *[0] * 12)
        for value in (least, most):
            setattr(sut, name, value)
            assert getattr(Numbers.unpack(sut.pack()), name) == value
        for value in (least - 1, most + 1):
            setattr(sut, name, value)
            with pytest.raises(EncodeError, match=rf"\$\.{name} is {value}, out of range: {least} to {most}"):
                sut.pack()

    def test_buffer_too_small_is_told_and_left_alone(self) -> None:
        buffer = bytearray(b"\xee" * (Point.size + 4))
        with pytest.raises(EncodeError, match=f"needs {Point.size + 5} bytes at offset 0; the buffer has"):
            Point(1, label="12345").pack_into(buffer)
        assert set(buffer) == {0xEE}
        for offset in (-1, 5, 1 << 40):
            with pytest.raises(EncodeError, match="at offset"):
                Point(1).pack_into(buffer, offset)

    def test_unfit_buffers(self) -> None:
        with pytest.raises(BufferError):
            Point(1).pack_into(bytes(100))
        with pytest.raises(TypeError):
            Point(1).pack_into("no buffer")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            Point.unpack("no buffer")  # type: ignore[arg-type]

    def test_error_of_a_foreign_conversion_is_passed_on(self) -> None:
        with pytest.raises(TypeError):
            example(small=Sized("x")).pack()
        assert Everything.unpack(example(small=Sized(7)).pack()).small == 7

    def test_value_that_shrinks_or_grows_while_it_is_packed(self) -> None:
        class Late(Struct):
            data: bytes
            number: f8
            more: bytes

        class Meddler:
            def __init__(self, data: bytes) -> None:
                self.data = data

            def __float__(self) -> float:
                value.more = self.data
                return 1.0

        for data in (b"", b"much longer than it was"):
            value = Late(b"12", Meddler(data), b"1234")  # type: ignore[arg-type]
            with pytest.raises(EncodeError, match="changed its size"):
                value.pack()

    def test_decimal_is_a_float_if_it_says_so(self) -> None:
        assert Point.unpack(Point(Decimal("1.5")).pack()).x == 1.5  # type: ignore[arg-type]


class TestClasses:
    def test_field_of_unknown_type(self) -> None:
        with pytest.raises(TypeError, match=r"Bad\.x: .*list.* is no type of a field"):

            class Bad(Struct):
                x: list[int]

    @pytest.mark.parametrize(
        "hint", [Annotated[int, Char(3)], int | str, Annotated[str, Number("f8")], dict, None]
    )
    def test_hints_that_fit_no_field(self, hint: Any) -> None:
        with pytest.raises(TypeError, match="is no type of a field"):
            type(Struct)("Bad", (Struct,), {"__annotations__": {"x": hint}, "__module__": __name__})

    def test_field_without_default_after_one_with(self) -> None:
        with pytest.raises(TypeError, match=r"Bad\.y has no default and follows 'x'"):

            class Bad(Struct):
                x: int = 1
                y: int

    @pytest.mark.parametrize("name", ["pack", "view", "drain", "__x__"])
    def test_reserved_names(self, name: str) -> None:
        with pytest.raises(TypeError, match="can't have this name"):
            type(Struct)("Bad", (Struct,), {"__annotations__": {name: int}, "__module__": __name__})

    def test_size_and_dtype_may_be_names_of_fields(self) -> None:
        class Parcel(Struct):
            size: u4
            dtype: str
            type_id: u1

        parcel = Parcel.unpack(Parcel(3, "x", 4).pack())
        assert (parcel.size, parcel.dtype, parcel.type_id) == (3, "x", 4)
        assert Parcel.size == HEADER + 16 + 6
        assert Parcel.type_id == 0

    def test_annotations_as_text_and_local_classes(self) -> None:
        class Inner(Struct):
            x: "u1"

        class Outer(Struct):
            inner: "Inner | None"
            constant: ClassVar[int] = 5

        assert Outer.unpack(Outer(Inner(3)).pack()).inner == Inner(3)
        assert Outer.__match_args__ == ("inner",)

    def test_annotation_that_leads_nowhere(self) -> None:
        with pytest.raises(TypeError, match="can't be resolved"):

            class Bad(Struct):
                x: "Nowhere"  # type: ignore[name-defined]  # noqa: F821

    @pytest.mark.parametrize("type_id", [-1, 1 << 32])
    def test_type_id_out_of_range(self, type_id: int) -> None:
        with pytest.raises(TypeError, match="type_id"):
            type(Struct)("Bad", (Struct,), {"__module__": __name__}, type_id=type_id)

    def test_wrong_parameters_of_kinds(self) -> None:
        with pytest.raises(TypeError, match="1 to 65535"):
            Char(0)
        for item, shape in (("f4", 0), ("f3", 1), ("f4", ()), ("f4", (2, 0))):
            with pytest.raises(TypeError, match="Array"):
                Array(item, shape)  # type: ignore[arg-type]

    def test_array_too_large(self) -> None:
        with pytest.raises(TypeError, match="at most"):

            class Bad(Struct):
                x: Annotated[Any, Array("f8", (1 << 40, 1 << 40))]

    def test_enum_whose_numbers_don_t_fit(self) -> None:
        from enum import Enum

        class Big(Enum):
            A = 1 << 40

        with pytest.raises(TypeError, match=r"Bad\.x: .*Big has the number 1099511627776, outside of i4"):

            class Bad(Struct):
                x: Big

    def test_two_layouts_under_one_id_are_an_error_that_shows_both(self) -> None:
        known: dict[int, Any] = {}

        class First(Struct, type_id=9, registry=known):
            x: f8

        with pytest.raises(TypeError, match=r"First.*\(x: f8\).*Second.*\(x: f4\)"):

            class Second(Struct, type_id=9, registry=known):
                x: f4

        assert known == {9: First}

    def test_class_made_again_replaces_itself(self) -> None:
        known: dict[int, Any] = {}

        def make() -> Any:
            class Again(Struct, type_id=9, registry=known):
                x: f8

            return Again

        make()
        again = make()
        assert known == {9: again}

    def test_default_registry_and_none(self) -> None:
        class Here(Struct, type_id=906):
            x: i4

        class Elsewhere(Struct, type_id=906, registry=None):
            x: i2

        assert registry.pop(906) is Here
        assert Elsewhere.type_id == 906

    def test_every_number_has_an_alias(self) -> None:
        class All(Struct):
            a: i1
            b: i2
            c: i4
            d: i8
            e: u1
            f: u2
            g: u4
            h: u8
            i: f4
            j: f8

        kinds = [All.dtype[name].str.lstrip("<|") for name in All.__match_args__]
        assert kinds == ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8"]

    def test_base_has_no_layout(self) -> None:
        for call in (Struct.unpack, Struct.view, Struct.array, lambda _: Struct.size):
            with pytest.raises(TypeError, match="Struct itself has no layout"):
                call(b"")


class TestLeaks:
    def test_references_are_balanced(self) -> None:
        note = "".join(["a note ", "of its own"])
        value = example(note=note)
        message = value.pack()
        buffer = bytearray(len(message))

        def work() -> None:
            for _ in range(100):
                value.pack()
                value.pack_into(buffer)
                Everything.unpack(message)
                Everything.view(message).leg.name  # noqa: B018
                with pytest.raises(EncodeError):
                    example(small=-1).pack()
                with pytest.raises(DecodeError):
                    Everything.unpack(message[:-1])

        work()
        gc.collect()
        before = [sys.getrefcount(item) for item in (note, message, Everything, Leg, Side.SELL, None)]
        blocks = sys.getallocatedblocks()
        work()
        gc.collect()
        after = [sys.getrefcount(item) for item in (note, message, Everything, Leg, Side.SELL, None)]
        assert before[:5] == after[:5]
        assert sys.getallocatedblocks() - blocks < 200

    def test_classes_are_collected(self) -> None:
        import weakref

        def make() -> Any:
            class Short(Struct, registry=None):
                x: f8
                leg: Leg

            Short.view(Short(1, Leg("a", 0, True)).pack()).x  # noqa: B018
            return weakref.ref(Short)

        gone = make()
        gc.collect()
        assert gone() is None

    def test_cycles_are_collected(self) -> None:
        class Canary:
            alive = True

            def __del__(self) -> None:
                Canary.alive = False

        point = Point(1)
        point.x = [point, Canary()]  # type: ignore[assignment]
        del point
        gc.collect()
        assert not Canary.alive


def test_threads_pack_and_unpack_side_by_side() -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        value = example(small=number, symbol=str(number) * number)
        for _ in range(2000):
            if Everything.unpack(value.pack()) != value:
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_level_and_side_are_stored_as_documented() -> None:
    row = np.frombuffer(example(level=Level.LOW).pack(), Everything.dtype, 1, HEADER)[0]
    assert (row["level"], row["side"]) == (-5, 1)


def test_a_replaced_field_changes_the_copy_alone() -> None:
    point = Point(x=1.0, label="a")
    assert point.__replace__(label="b") == Point(x=1.0, label="b")
    assert point == Point(x=1.0, label="a")
    with pytest.raises(TypeError, match="no field 'z'"):
        point.__replace__(z=1)


def test_tools_take_the_class_methods_for_what_they_are() -> None:
    kinds = {attribute.name: attribute.kind for attribute in inspect.classify_class_attrs(Numbers)}
    assert (kinds["unpack"], kinds["view"], kinds["pack"]) == ("class method", "class method", "method")
