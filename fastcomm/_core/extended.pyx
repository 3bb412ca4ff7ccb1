"""Types beyond the built-in ones, as tag, fixed bytes and built-in values: ``reduce`` and ``restore``.

Loaded when the first such value or tag is met, and it imports the module of a type only then: datetime,
decimal, uuid, zoneinfo, numpy. A message chooses among those and among the registered types, nothing else.

What is called on behalf of a message: the constructors of the standard library's types and numpy's with
checked arguments; ``cls[name]`` of a registered Enum, ``cls(value)`` of a registered Flag; for a registered
dataclass ``object.__new__`` and ``object.__setattr__``, for a registered namedtuple ``tuple.__new__``: no
``__init__``, ``__post_init__`` or ``__new__`` of the user's. A key of a dict or set is hashed and compared,
by the class's own methods if it is of a registered type. ``pickle.loads`` with ``fallback="pickle"`` alone.

Thread safety: under the GIL. Register types before the first message.
"""

cimport cython

from libc.stdint cimport int64_t

import math
import re
import struct
import sys

from fastcomm._core.wire cimport (
    ARRAY, DATACLASS, DATE, DATETIME, DECIMAL, ENUM, NAMEDTUPLE, PICKLE, SCALAR, STRUCT, TIME, TIMEDELTA,
    TIMEZONE, UUID, ZONEINFO,
)

cdef enum:
    # A zone of some 20 bytes in a message is about 8 KiB in memory: this many are half a MiB.
    MAX_ZONES = 64

_ZONE_KEY = re.compile(r"[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,3}")
_SIMPLE_DTYPE = re.compile(r"[<>|][biufcmMSUV][0-9]{1,9}(\[[0-9A-Za-z/]{1,24}\])?")
_PLAIN_KINDS = "biufcmMSUV"

_DAY = struct.Struct("<HBB")
_CLOCK = struct.Struct("<BBBBI")     # hour, minute, second, fold, microsecond
_SPAN = struct.Struct("<iII")        # days, seconds, microseconds
_TYPE_ID = slice(4, 8)              # in the message of a Struct
_NO_TYPE_ID = bytes(4)

cdef object encode_struct = None    # of the module that a Struct's class has loaded


class Unfit(ValueError):
    """A value of a known type that can't be encoded; the text goes on after "the value at ..."."""


# ---- to bytes and built-in values. Each _reduce_* returns (tag, fixed bytes, values, data or None).


cdef bytes clock_of(object obj):
    return _CLOCK.pack(obj.hour, obj.minute, obj.second, obj.fold, obj.microsecond)


cdef object zone_of(object obj):
    zone = obj.tzinfo
    if zone is None or reducer_of(type(zone)) in (_reduce_timezone, _reduce_zoneinfo):
        return zone
    raise Unfit(
        f"has a tzinfo of type {type(zone).__qualname__!r}; only datetime.timezone and zoneinfo.ZoneInfo can "
        "be encoded"
    )


def _reduce_date(obj):
    return DATE, _DAY.pack(obj.year, obj.month, obj.day), (), None


def _reduce_time(obj):
    return TIME, clock_of(obj), (zone_of(obj),), None


def _reduce_datetime(obj):
    return DATETIME, _DAY.pack(obj.year, obj.month, obj.day) + clock_of(obj), (zone_of(obj),), None


def _reduce_timedelta(obj):
    return TIMEDELTA, _SPAN.pack(obj.days, obj.seconds, obj.microseconds), (), None


def _reduce_timezone(obj):
    offset, *name = obj.__getinitargs__()
    micros = (offset.days * 86_400 + offset.seconds) * 1_000_000 + offset.microseconds
    return TIMEZONE, b"", (micros, name[0] if name else None), None


def _reduce_zoneinfo(obj):
    if obj.key is None or not _ZONE_KEY.fullmatch(obj.key):
        raise Unfit(f"is a ZoneInfo with the key {obj.key!r}; one of ZoneInfo('Area/City') can be encoded")
    return ZONEINFO, b"", (obj.key,), None


def _reduce_uuid(obj):
    return UUID, obj.bytes, (), None


def _reduce_decimal(obj):
    return DECIMAL, b"", (str(obj),), None


def _reduce_scalar(obj):
    kind = obj.dtype.kind
    if kind == "U":
        return SCALAR, b"", ("U", str.__str__(obj)), None
    if kind == "S":
        return SCALAR, b"", ("S", bytes.__getitem__(obj, slice(None))), None
    return SCALAR, b"", (spec_of(obj.dtype), obj.tobytes()), None


def _reduce_array(obj):
    spec = spec_of(obj.dtype)
    fortran = obj.flags.f_contiguous and not obj.flags.c_contiguous
    if not obj.nbytes:
        return ARRAY, b"", (spec, obj.shape, fortran), b""
    if not obj.flags.forc:
        # Into zeros: a copy leaves what is between the fields of a structure as it found the memory.
        rows = sys.modules["numpy"].zeros(obj.shape, obj.dtype)
        rows[...] = obj
        obj = rows
    return ARRAY, b"", (spec, obj.shape, fortran), bytes_of(obj, fortran)


cdef object bytes_of(object array, bint fortran):
    """A view, of one that is contiguous and not empty."""
    return (array.T if fortran else array).reshape(-1).view("u1")


cdef object spec_of(object dtype):
    """A dtype as built-in values: str, or (spec, shape) of a subarray, or a dict of a structure."""
    if dtype.hasobject or dtype.kind not in _PLAIN_KINDS:
        raise Unfit(f"has the dtype {str(dtype)!r}, whose elements are not plain bytes")
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return spec_of(base), shape
    if dtype.names is None:
        return dtype.str
    fields = [dtype.fields[name] for name in dtype.names]
    spec = {
        "names": list(dtype.names),
        "formats": [spec_of(field[0]) for field in fields],
        "offsets": [field[1] for field in fields],
        "itemsize": dtype.itemsize,
        "aligned": dtype.isalignedstruct,
    }
    titles = [field[2] if len(field) > 2 else None for field in fields]
    if any(titles):
        spec["titles"] = titles
    return spec


def _reduce_struct(obj):
    message = encode_struct(obj)
    number = message[_TYPE_ID]
    if number == _NO_TYPE_ID:
        raise Unfit(f"is a Struct of the class {type(obj).__qualname__!r}, which has no type_id; give it one")
    return STRUCT, number, (message,), None


_STANDARD = {
    ("datetime", "date"): _reduce_date,
    ("datetime", "time"): _reduce_time,
    ("datetime", "datetime"): _reduce_datetime,
    ("datetime", "timedelta"): _reduce_timedelta,
    ("datetime", "timezone"): _reduce_timezone,
    ("zoneinfo", "ZoneInfo"): _reduce_zoneinfo,
    ("uuid", "UUID"): _reduce_uuid,
    ("decimal", "Decimal"): _reduce_decimal,
    ("numpy", "ndarray"): _reduce_array,
}
_REDUCERS: dict = {}     # type -> its reduce_*, filled as types are met


cdef object reducer_of(object kind):
    """The reduce_* of a type that needs no registration, or None. Nothing is imported: an object of the type
    exists, so its module does."""
    reducer = _REDUCERS.get(kind)
    if reducer is None:
        module = kind.__module__
        reducer = _STANDARD.get((module, kind.__qualname__))
        if reducer is None:
            if module == "numpy" and is_scalar_type(kind):
                reducer = _reduce_scalar
            elif is_struct_type(kind):
                reducer = _reduce_struct
            else:
                return None
        elif getattr(sys.modules.get(module), kind.__name__, None) is not kind:
            return None
        _REDUCERS[kind] = reducer
    return reducer


cdef bint is_scalar_type(object kind):
    numpy = sys.modules.get("numpy")
    return numpy is not None and issubclass(kind, numpy.generic) and kind is not numpy.object_


cdef bint is_struct_type(object kind):
    global encode_struct
    structs = sys.modules.get("fastcomm._core.struct_base")
    if structs is None or not issubclass(kind, structs.StructBase):
        return False
    encode_struct = structs.encode_struct
    return True


# ---- and back


cdef object need(object value, object kind, str what):
    if type(value) is not kind:
        raise ValueError(f"{what} of type {type(value).__name__!r} where {kind.__name__} belongs")
    return value


cdef object checked_zone(object value):
    import datetime
    if value is not None and not isinstance(value, datetime.tzinfo):
        raise ValueError(f"a zone of type {type(value).__name__!r}")
    return value


def _restore_date(bytes fixed, tuple values, dict memo):
    from datetime import date
    return date(*_DAY.unpack(fixed))


def _restore_time(bytes fixed, tuple values, dict memo):
    from datetime import time
    hour, minute, second, fold, micros = _CLOCK.unpack(fixed)
    return time(hour, minute, second, micros, checked_zone(values[0]), fold=fold)


def _restore_datetime(bytes fixed, tuple values, dict memo):
    from datetime import datetime
    year, month, day = _DAY.unpack(fixed[:_DAY.size])
    hour, minute, second, fold, micros = _CLOCK.unpack(fixed[_DAY.size:])
    return datetime(year, month, day, hour, minute, second, micros, checked_zone(values[0]), fold=fold)


def _restore_timedelta(bytes fixed, tuple values, dict memo):
    from datetime import timedelta
    days, seconds, micros = _SPAN.unpack(fixed)
    return timedelta(days, seconds, micros)


def _restore_timezone(bytes fixed, tuple values, dict memo):
    from datetime import timedelta, timezone
    offset = timedelta(microseconds=need(values[0], int, "an offset"))
    if values[1] is None:
        return timezone(offset)
    return timezone(offset, need(values[1], str, "a zone's name"))


def _restore_zoneinfo(bytes fixed, tuple values, dict memo):
    key = need(values[0], str, "a zone's key")
    zone = memo.get(key)
    if zone is None:
        if len(memo) >= MAX_ZONES:
            raise ValueError(f"more than {MAX_ZONES} different time zones in one message")
        if not _ZONE_KEY.fullmatch(key):
            raise ValueError(f"{key[:60]!r} is no key of a time zone")
        from zoneinfo import ZoneInfo
        try:
            zone = memo[key] = ZoneInfo(key)
        except (KeyError, OSError):
            raise ValueError(f"this machine has no time zone {key!r}; install tzdata") from None
    return zone


def _restore_uuid(bytes fixed, tuple values, dict memo):
    import uuid
    return uuid.UUID(bytes=fixed)


def _restore_decimal(bytes fixed, tuple values, dict memo):
    from decimal import Decimal, InvalidOperation
    try:
        return Decimal(need(values[0], str, "a Decimal"))
    except InvalidOperation:
        raise ValueError("a Decimal that can't be read") from None


def _restore_scalar(bytes fixed, tuple values, dict memo):
    import numpy
    spec, data = values
    if spec == "U":
        return numpy.str_(need(data, str, "a numpy str"))
    if spec == "S":
        return numpy.bytes_(need(data, bytes, "numpy bytes"))
    dtype = dtype_of(spec)
    if len(need(data, bytes, "a numpy scalar")) != dtype.itemsize or dtype.subdtype is not None:
        raise ValueError(f"{len(data)} bytes for a numpy scalar of {dtype.itemsize}")
    # The copy: of a structure, [()] is a view.
    return numpy.ndarray((), dtype, data or bytes(1))[()].copy()


cdef object dtype_of(object spec):
    import numpy
    if type(spec) is str:
        if not _SIMPLE_DTYPE.fullmatch(spec):
            raise ValueError(f"{spec[:60]!r} is no dtype")
        return numpy.dtype(spec)
    if type(spec) is tuple and len(spec) == 2:
        return numpy.dtype((dtype_of(spec[0]), shape_of(spec[1])))
    fields = dict(need(spec, dict, "a dtype"))
    fields["formats"] = [dtype_of(format) for format in need(fields.get("formats"), list, "formats")]
    return numpy.dtype(fields)


cdef tuple shape_of(object shape):
    for length in need(shape, tuple, "a shape"):
        if type(length) is not int or length < 0:
            raise ValueError("a shape that is not of ints >= 0")
    return shape


cdef object restore_array(tuple values, object data, bint copy):
    """`data`: a read-only memoryview of bytes. With `copy` it isn't kept."""
    import numpy
    spec, shape, fortran = values
    dtype = dtype_of(spec)
    if dtype.subdtype is not None:
        raise ValueError("an array whose dtype is a subarray")
    nbytes = math.prod(shape_of(shape)) * dtype.itemsize
    if nbytes != len(data):
        raise ValueError(f"{len(data)} bytes for an array of {nbytes}")
    order = "F" if need(fortran, bool, "an array's order") else "C"
    if not nbytes:
        return numpy.ndarray(shape, dtype, order=order)
    if not copy:
        # frombuffer keeps the buffer exported; ndarray(buffer=...) would keep the object alone.
        return numpy.frombuffer(data, dtype).reshape(shape, order=order)
    array = numpy.empty(shape, dtype, order=order)
    bytes_of(array, fortran)[:] = numpy.frombuffer(data, "u1")
    return array


_RESTORERS = {
    DATE: _restore_date,
    TIME: _restore_time,
    DATETIME: _restore_datetime,
    TIMEDELTA: _restore_timedelta,
    TIMEZONE: _restore_timezone,
    ZONEINFO: _restore_zoneinfo,
    UUID: _restore_uuid,
    DECIMAL: _restore_decimal,
    SCALAR: _restore_scalar,
}


# ---- registered types


cdef int kind_of(object cls) except -1:
    """The tag of a type that can be registered."""
    from enum import Enum
    if not isinstance(cls, type):
        raise TypeError(f"{cls!r} is no class")
    if issubclass(cls, Enum):
        return ENUM
    if issubclass(cls, tuple) and type(getattr(cls, "_fields", None)) is tuple:
        return NAMEDTUPLE
    if hasattr(cls, "__dataclass_fields__"):
        object.__new__(cls)     # TypeError for an abstract class or one laid over a built-in type
        return DATACLASS
    raise TypeError(f"{cls.__qualname__} is no Enum, dataclass or namedtuple; convert its objects, or use "
                    "fallback='pickle'")


cdef tuple fields_of(object cls):
    import dataclasses
    return tuple(field.name for field in dataclasses.fields(cls))


@cython.final
cdef class TypeTable:
    """The types that one codec knows beside the standard ones, by name; and whether it may pickle."""

    cdef readonly bint pickles
    cdef dict names         # type -> (tag, name, fields of a dataclass)
    cdef dict types         # name -> (tag, type, fields)

    def __init__(self, *, bint pickles=False):
        """`pickles`: what can't be encoded otherwise is pickled, and pickles are read."""
        self.pickles = pickles
        self.names = {}
        self.types = {}

    def register(self, object cls, name=None):
        """Know an Enum, dataclass or namedtuple under `name`, by default its ``__qualname__``.

        Both ends register the same names. TypeError for another class, ValueError for a name in use.
        """
        tag = kind_of(cls)
        name = cls.__qualname__ if name is None else name
        if self.types.get(name, (tag, cls))[1] is not cls:
            raise ValueError(f"{name!r} already is the name of {self.types[name][1]!r}; give another one")
        fields = fields_of(cls) if tag == DATACLASS else ()
        self.types[name] = tag, cls, fields
        self.names[cls] = tag, name, fields

    def reduce(self, obj):
        """(tag, fixed bytes, values, data or None); None: it can't be encoded; a str: it can't, and why."""
        try:
            return self.reduced(obj)
        except Unfit as error:
            return str(error)

    cdef object reduced(self, object obj):
        kind = type(obj)
        reducer = reducer_of(kind)
        if reducer is not None:
            return reducer(obj)
        known = self.names.get(kind)
        if known is not None:
            return reduce_registered(obj, known)
        if self.pickles:
            import pickle
            try:
                return PICKLE, b"", (pickle.dumps(obj, 5),), None
            except Exception as error:
                raise Unfit(f"can't be pickled: {error}") from error
        return None

    def restore(self, int tag, bytes fixed, tuple values, dict memo):
        """The object. ValueError and whatever its constructor raises if the message is wrong."""
        restorer = _RESTORERS.get(tag)
        if restorer is not None:
            return restorer(fixed, values, memo)
        if tag == PICKLE:
            return self.unpickle(values[0])
        if tag == STRUCT:
            return restore_struct(int.from_bytes(fixed, "little"), need(values[0], bytes, "a Struct"))
        return self.restore_registered(tag, values[0], values[1])

    def restore_array(self, tuple values, data, bint copy):
        """A numpy array of the bytes in the memoryview `data`, which is kept only without `copy`."""
        return restore_array(values, data, copy)

    cdef object unpickle(self, object data):
        if not self.pickles:
            raise ValueError("a pickle, which only a Codec(fallback='pickle') reads: it can run any code")
        import pickle
        return pickle.loads(need(data, bytes, "a pickle"))

    cdef object restore_registered(self, int tag, object name, object content):
        known = self.types.get(need(name, str, "a type's name"))
        if known is None or known[0] != tag:
            raise ValueError(
                f"the type {name[:60]!r} is not registered as it was sent; use Codec(types=[...]) with it"
            )
        _, cls, fields = known
        if tag == ENUM:
            return restore_enum(cls, content)
        if tag == NAMEDTUPLE:
            if len(need(content, tuple, "fields")) != len(cls._fields):
                raise ValueError(f"{len(content)} fields for {name!r}, which has {len(cls._fields)}")
            return tuple.__new__(cls, content)
        if need(content, dict, "fields").keys() != set(fields):
            raise ValueError(f"fields {sorted(map(str, content))} for {name!r}, which has {sorted(fields)}")
        obj = object.__new__(cls)
        for field in fields:
            object.__setattr__(obj, field, content[field])
        return obj


cdef object reduce_registered(object obj, tuple known):
    tag, name, fields = known
    if tag == ENUM:
        member = obj._name_ if obj._name_ in type(obj).__members__ else obj._value_
        return tag, b"", (name, member), None
    if tag == NAMEDTUPLE:
        return tag, b"", (name, tuple(obj)), None
    try:
        return tag, b"", (name, {field: getattr(obj, field) for field in fields}), None
    except AttributeError as error:
        raise Unfit(f"has a field without a value: {error}") from error


cdef object restore_struct(int64_t number, bytes message):
    structs = sys.modules.get("fastcomm._core.struct_base")
    if structs is None or number not in structs.registry:
        raise ValueError(
            f"a Struct with type id {number}, for which no class is known here: import the module that "
            "defines it"
        )
    value = structs.unpack(message)
    if type(value).type_id != number:
        raise ValueError(f"a Struct with type id {type(value).type_id} where {number} was announced")
    return value


cdef object restore_enum(object cls, object member):
    from enum import Flag
    if type(member) is str:
        if member not in cls.__members__:
            raise ValueError(f"{cls.__qualname__} has no member {member[:60]!r}")
        return cls[member]
    if type(member) is not int or not issubclass(cls, Flag):
        raise ValueError(f"a member of {cls.__qualname__} that is no name")
    return cls(member)


NO_TYPES = TypeTable()      # of encoders and decoders that have none of their own
