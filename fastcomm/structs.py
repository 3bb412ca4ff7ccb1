"""Typed messages: annotated classes with the layout of a C struct.

    from fastcomm import Struct
    from fastcomm.structs import Array, Char, f8, u4

    class Quote(Struct, type_id=7):
        symbol: str
        bid: f8
        ask: f8
        size: u4 = 0
        book: Annotated[NDArray[np.float32], Array("f4", 10)]

`docs/struct.md` has the layout, byte by byte. To a type checker ``f8`` is ``float`` and ``u4`` is ``int``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sized
from enum import Enum
from keyword import iskeyword
from types import NoneType, SimpleNamespace, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    Self,
    TypeAlias,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from fastcomm._core.schema import Layout, StructMeta
from fastcomm._core.struct_array import Rows, pack_rows
from fastcomm._core.struct_base import StructBase, registry, set_up, unpack
from fastcomm.errors import DecodeError, EncodeError

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import Buffer

    from fastcomm._core.ring import Ring
    from fastcomm._struct_array import StructArray

    _ItemCode = Literal["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8"]

__all__ = [
    "Array",
    "Char",
    "Number",
    "Struct",
    "StructType",
    "f4",
    "f8",
    "i1",
    "i2",
    "i4",
    "i8",
    "registry",
    "u1",
    "u2",
    "u4",
    "u8",
    "unpack",
]

ITEM_CODES = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8")
# The names of what a class can do would hide a field, or the other way round.
RESERVED = {"pack", "pack_into", "unpack", "view", "array", "text", "pack_many", "drain", "try_drain"}


class Number:
    """How an int or float lies in a message: ``Annotated[int, Number("u4")]``, for which ``u4`` is short."""

    __slots__ = ("code",)

    def __init__(self, code: _ItemCode) -> None:
        if code not in ITEM_CODES:
            raise TypeError(f"Number({code!r}): choose one of {', '.join(ITEM_CODES)}")
        self.code = code

    def __repr__(self) -> str:
        return f"Number({self.code!r})"


class Char:
    """Text or bytes of at most `size` bytes at a fixed place: ``Annotated[str, Char(8)]``.

    The rest is zeros, as with numpy's ``S8``; a value that itself ends in zeros is refused.
    """

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        if not 1 <= size <= 65535:
            raise TypeError(f"Char({size}): its size is 1 to 65535 bytes")
        self.size = size

    def __repr__(self) -> str:
        return f"Char({self.size})"


class Array:
    """A fixed number of numbers: ``Annotated[NDArray[np.float32], Array("f4", 10)]``; `shape` in C order.

    A value may be any array of that type and shape, or a list or tuple of numbers if it has one dimension.
    """

    __slots__ = ("item", "shape")

    def __init__(self, item: _ItemCode, shape: int | tuple[int, ...]) -> None:
        self.item = item
        self.shape = shape if isinstance(shape, tuple) else (shape,)
        if item not in ITEM_CODES or not self.shape or not all(length >= 1 for length in self.shape):
            raise TypeError(
                f"Array({item!r}, {shape!r}): the items are one of {', '.join(ITEM_CODES)}, and each length "
                "of the shape is at least 1"
            )

    def __repr__(self) -> str:
        return f"Array({self.item!r}, {self.shape})"


if TYPE_CHECKING:
    i1: TypeAlias = Annotated[int, Number("i1")]
    i2: TypeAlias = Annotated[int, Number("i2")]
    i4: TypeAlias = Annotated[int, Number("i4")]
    i8: TypeAlias = Annotated[int, Number("i8")]
    u1: TypeAlias = Annotated[int, Number("u1")]
    u2: TypeAlias = Annotated[int, Number("u2")]
    u4: TypeAlias = Annotated[int, Number("u4")]
    u8: TypeAlias = Annotated[int, Number("u8")]
    f4: TypeAlias = Annotated[float, Number("f4")]
    f8: TypeAlias = Annotated[float, Number("f8")]
else:

    def _marker(base: type) -> type:
        """A class for annotations. It bears its base's name: as what stubtest, which can't look into
        Annotated, takes for an alias of it."""
        return type(base.__name__, (base,), {"__module__": base.__module__})

    i1, i2, i4, i8 = (_marker(int) for _ in range(4))
    u1, u2, u4, u8 = (_marker(int) for _ in range(4))
    f4, f8 = (_marker(float) for _ in range(2))

Spec: TypeAlias = tuple[object, ...]  # name, kind, optional, and the default if there is one: see Layout

PLAIN: dict[object, object] = {bool: "bool", int: "i8", float: "f8", str: str, bytes: bytes}
PLAIN |= {globals()[code]: code for code in ITEM_CODES}


# ---- from annotations to what Layout takes


def kind_of(hint: Any) -> object:
    """The type of a field, None set apart, as Layout wants it; None if there is no such field."""
    how = None
    if get_origin(hint) is Annotated:
        hint, *extras = get_args(hint)
        how = next((extra for extra in extras if isinstance(extra, Number | Char | Array)), None)
    if isinstance(how, Char):
        return ("char", hint, how.size) if hint in (str, bytes) else None
    if isinstance(how, Array):
        return ("array", how.item, how.shape)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ("enum", hint, how.code if how else None)
    if how is not None:
        return how.code if hint is (float if how.code in ("f4", "f8") else int) else None
    if isinstance(hint, StructType):
        return ("struct", hint)
    return PLAIN.get(hint)


def spec_of(where: str, name: str, hint: Any, default: tuple[object, ...]) -> Spec:
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    types = [option for option in options if option is not NoneType]
    kind = kind_of(types[0]) if len(types) == 1 else None
    if kind is None:
        raise TypeError(
            f"{where}.{name}: {hint!r} is no type of a field; there are bool, int, float, i1 to u8, f4, f8, "
            "str, bytes, Annotated with Number, Char(n) or Array(item, shape), an Enum, a Struct, and any of "
            "these | None"
        )
    return (name, kind, len(types) < len(options), *default)


def own_specs(cls: type, names: list[str], defaults: dict[str, object], depth: int) -> list[Spec]:
    """A tuple for each field that the body of `cls` declares."""
    declared = vars(cls).get("__annotations__", {})
    try:
        # Of this class alone: the annotations of its bases were resolved where those were made.
        hints = get_type_hints(
            SimpleNamespace(__annotations__={name: declared[name] for name in names}),
            vars(sys.modules[cls.__module__]),
            sys._getframe(depth).f_locals,
            include_extras=True,
        )
    except NameError as error:
        raise TypeError(
            f"{cls.__qualname__}: an annotation can't be resolved when the class is made: {error}"
        ) from error
    return [
        spec_of(cls.__qualname__, name, hints[name], (defaults[name],) if name in defaults else ())
        for name in names
    ]


def check_names(where: str, names: list[str], inherited: tuple[str, ...]) -> None:
    for name in names:
        if name in RESERVED or name.startswith("__") or iskeyword(name):
            raise TypeError(f"{where}.{name}: a field can't have this name, which is a Struct's own")
        if name in inherited:
            raise TypeError(f"{where}.{name}: the base class has a field of this name")


def is_class_variable(hint: object) -> bool:
    if isinstance(hint, str):
        return hint.startswith(("ClassVar", "typing.ClassVar"))
    return hint is ClassVar or get_origin(hint) is ClassVar


def layout_of_bases(bases: tuple[type, ...]) -> list[Spec]:
    """The fields of the one base that has any."""
    with_fields = [base for base in bases if isinstance(base, StructType) and base._layout is not None]
    if len(with_fields) > 1:
        raise TypeError(f"{with_fields[0].__name__} and {with_fields[1].__name__}: one base may have fields")
    return with_fields[0]._specs if with_fields else []


@dataclass_transform()
class StructType(StructMeta):
    """The metaclass of Struct: makes the slots, compiles the layout, enters the class in the registry."""

    __dataclass_transform__: ClassVar[dict[str, Any]]  # what the decorator leaves at run time
    _specs: list[Spec]

    def __new__(
        mcs,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        type_id: int = 0,
        registry: dict[int, Any] | None = registry,
    ) -> StructType:
        if not 0 <= type_id < 1 << 32:
            raise TypeError(f"{name}: type_id is {type_id}; it must be 1 to {(1 << 32) - 1}, or 0 for none")
        declared = namespace.get("__annotations__", {})
        names = [field for field, hint in declared.items() if not is_class_variable(hint)]
        defaults = {field: namespace.pop(field) for field in names if field in namespace}
        inherited = layout_of_bases(bases)
        check_names(name, names, tuple(str(spec[0]) for spec in inherited))
        specs_names = [str(spec[0]) for spec in inherited] + names
        namespace |= {"__slots__": tuple(names), "__match_args__": tuple(specs_names)}
        cls = super().__new__(mcs, name, bases, namespace)
        cls._specs = inherited + own_specs(cls, names, defaults, depth=2)
        check_order(name, cls._specs)
        set_up(cls, Layout(name, type_id, cls._specs) if bases != (StructBase,) else None)
        if type_id and registry is not None:
            register(cls, type_id, registry)
        return cls

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **_: object) -> None:
        super().__init__(name, bases, namespace)

    @property
    def type_id(cls) -> int:
        """What messages of this class are known by; 0: none."""
        return cls._known().type_id

    @property
    def size(cls) -> int:
        """Bytes of a message whose str and bytes are empty: all of it, if the class has no such fields."""
        return cls._known().bare_size

    @property
    def dtype(cls) -> np.dtype[Any]:
        """The fixed part, which begins 16 bytes into a message, as a numpy dtype.

        str and bytes are a pair `offset`, `length`; before an optional field is ``name?``, whether it has a
        value.
        """
        dtype: np.dtype[Any] = cls._known().dtype
        return dtype

    @property
    def layout(cls) -> str:
        """A table of offsets, sizes, names and types, for people."""
        return cls._known().table()

    def _known(cls) -> Layout:
        if cls._layout is None:
            raise TypeError("Struct itself has no layout; use a class that is derived from it")
        return cls._layout


def check_order(where: str, specs: list[Spec]) -> None:
    """As with dataclasses, so that a default can be left out of a call, and of older messages."""
    defaulted = ""
    for spec in specs:
        if len(spec) > 3:
            defaulted = str(spec[0])
        elif defaulted:
            raise TypeError(f"{where}.{spec[0]} has no default and follows {defaulted!r}, which has one")


def register(cls: StructType, type_id: int, registry: dict[int, StructType]) -> None:
    """Another class of the same name and layout replaces the one before: its module was loaded anew."""
    known = registry.get(type_id)
    if known is not None and (known.__name__, known._known().text()) != (cls.__name__, cls._known().text()):
        raise TypeError(
            f"type id {type_id} is {known.__module__}.{known.__qualname__}'s, with the layout "
            f"({known._known().text()}); {cls.__module__}.{cls.__qualname__} has ({cls._known().text()}): "
            "give it another id, or another registry= (None: decoded by its own unpack() only)"
        )
    registry[type_id] = cls


class Struct(StructBase, metaclass=StructType):
    """A message with typed fields: derive a class and annotate it.

    ``class Quote(Struct, type_id=7)``; fields are bool, ``i1`` to ``i8``, ``u1`` to ``u8``, ``f4``, ``f8``
    (int is i8, float is f8), str, bytes, ``Annotated[str, Char(n)]``, ``Annotated[..., Array("f4", 10)]``, an
    Enum, another Struct, and any of them ``| None``. Defaults as in a dataclass. Instances are plain mutable
    objects with slots, compared by value; types are checked when packed.

    `type_id`, 1 to 2**32 - 1, is what receivers know the class by, from the `registry` that it is entered in;
    two classes of one id and different fields are a TypeError there. Fields with defaults may be appended
    later: old and new readers understand old and new messages. Anything else needs a new id.

    Safe in any thread; an instance that several threads change may be packed half changed.
    """

    __slots__ = ()

    def __replace__(self, /, **changes: Any) -> Self:
        """A copy with some fields changed: what ``copy.replace()`` of Python 3.13 calls. TypeError for a name
        that is no field.
        """
        names: Iterable[str] = self.__match_args__
        return type(self)(**{name: getattr(self, name) for name in names} | changes)

    @classmethod
    def array(cls, buffers: Iterable[Buffer]) -> StructArray:
        """The messages in `buffers` as the rows of one numpy array of `cls.dtype`, no Python object for each.

        The array owns its bytes. Of str and bytes a row has (offset, length) in the array's `heap`; text()
        reads them. What older messages lack has its default. Raises DecodeError as unpack() does, but text is
        not checked to be UTF-8, and numbers of Enums not to have members. Imports numpy.
        """
        rows = cls._rows(len(buffers) if isinstance(buffers, Sized) else 16)
        for buffer in buffers:
            rows.add(buffer)
        return cls._array_of(rows)

    @classmethod
    def drain(cls, ring: Ring, limit: int = 65536, timeout: float | None = None) -> StructArray:
        """Take 1 to `limit` messages of this class from a ring, as array() gives them.

        Waits for the first one as ring.get_many() does, with the same errors; the rows are copied straight
        from the ring's cells, whose room is given back once. A record that is no message of this class ends
        it and stays in the ring; if it is the first, that is a DecodeError, and ring.get() takes it.
        """
        from fastcomm._core.struct_drain import drain_waiting

        rows = cls._rows(min(limit, 1024))
        drain_waiting(rows, ring, limit, timeout)
        return cls._array_of(rows)

    @classmethod
    def try_drain(cls, ring: Ring, limit: int = 65536) -> StructArray:
        """drain() without waiting: what is there now, up to `limit`; an empty array if that is nothing."""
        from fastcomm._core.struct_drain import drain

        rows = cls._rows(min(limit, 1024))
        drain(rows, ring, limit)
        return cls._array_of(rows)

    @classmethod
    def _rows(cls, expected: int) -> Rows:
        cls._known()
        return Rows(cls, expected)

    @classmethod
    def _array_of(cls, rows: Rows) -> StructArray:
        from fastcomm._struct_array import make_array

        return make_array(*rows.take(), cls.dtype, rows.count)

    @classmethod
    def text(cls, array: StructArray, index: int, field: str) -> str | bytes | None:
        """The str or bytes `field` of a row: ``Quote.text(quotes, 3, "symbol")``; of a nested one "leg.name".

        None if the field is optional and has no value. Raises DecodeError if it is no UTF-8 or lies outside
        of the array's heap, AttributeError if there is no such field, TypeError if it is another kind.
        """
        *outer, last = field.split(".")
        row, layout = array[index], cls._known()
        for name in outer:
            layout = layout.nested(name)
            if f"{name}?" in row.dtype.names and not row[f"{name}?"]:
                return None
            row = row[name]
        kind = layout.text_type(last)
        if f"{last}?" in row.dtype.names and not row[f"{last}?"]:
            return None
        offset, length = map(int, row[last])
        heap = array.heap
        if heap is None or offset + length > len(heap):
            held = "no heap" if heap is None else f"a heap of {len(heap)} bytes"
            raise DecodeError(f"{field} of row {index} is {length} bytes at {offset}; the array has {held}")
        data = bytes(memoryview(heap)[offset : offset + length])
        try:
            return data.decode() if kind is str else data
        except UnicodeDecodeError as error:
            raise DecodeError(f"{field} of row {index}: {length} bytes that are not UTF-8") from error

    @classmethod
    def pack_many(cls, items: Iterable[Self] | StructArray) -> list[bytes]:
        """A message for each instance, or for each row of an array of `cls.dtype`: for put_many() of a ring.

        Text of an array is taken from its `heap`. Raises EncodeError with the path, as in ``$[3].bid``;
        TypeError for an array of another dtype.
        """
        if hasattr(items, "dtype"):
            from fastcomm._struct_array import contiguous_rows

            return pack_rows(cls, *contiguous_rows(items, cls.dtype, cls.__name__))
        return [cls._packed(item, index) for index, item in enumerate(items)]

    @classmethod
    def _packed(cls, item: Self, index: int) -> bytes:
        if type(item) is not cls:
            path, found = f"$[{index}]", type(item).__qualname__
            raise EncodeError(f"the value at {path} is a {found}, not a {cls.__name__}", path=path)
        try:
            return item.pack()
        except EncodeError as error:
            path = f"$[{index}]{error.path[1:]}"
            raise EncodeError(str(error).replace(error.path, path, 1), path=path) from None
