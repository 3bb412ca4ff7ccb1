"""Struct messages, mirroring fastcomm/_core/schema.pyx and the struct_*.pyx beside it.

By hand: ``b = Messages(); b.setup("numbers")`` in IPython, then ``%timeit b.time_pack("numbers")``.
"""

from fastcomm import Struct
from fastcomm.structs import f8, i8, u4, u8

COUNT = 1000


class Numbers(Struct, registry=None):
    bid: f8
    ask: f8
    last: f8
    open: f8
    bid_size: u4
    ask_size: u4
    stamp: u8
    change: i8


class Text(Struct, registry=None):
    symbol: str
    price: f8
    note: str | None = None
    payload: bytes = b""


VALUES = {
    "numbers": Numbers(1.5, 2.5, 3.25, 4.125, 100, 200_000, 3_000_000_000, -5),
    "text": Text("ACME", 1.5, "größer als sonst", b"x" * 50),
}


class Messages:
    """Each time is that of COUNT messages."""

    params = tuple(VALUES)
    param_names = ("fields",)

    def setup(self, fields):
        self.value = VALUES[fields]
        self.cls = type(self.value)
        self.message = self.value.pack()
        self.messages = [self.message] * COUNT
        self.buffer = bytearray(512)
        self.view = self.cls.view(self.message)
        self.rows = self.cls.array(self.messages)
        self.field = self.cls.__match_args__[0]

    def time_construct(self, fields):
        cls, values = self.cls, [getattr(self.value, name) for name in self.cls.__match_args__]
        for _ in range(COUNT):
            cls(*values)

    def time_pack(self, fields):
        pack = self.value.pack
        for _ in range(COUNT):
            pack()

    def time_pack_into(self, fields):
        pack_into, buffer = self.value.pack_into, self.buffer
        for _ in range(COUNT):
            pack_into(buffer)

    def time_unpack(self, fields):
        unpack, message = self.cls.unpack, self.message
        for _ in range(COUNT):
            unpack(message)

    def time_view(self, fields):
        view, message = self.cls.view, self.message
        for _ in range(COUNT):
            view(message)

    def time_field_of_view(self, fields):
        view, field = self.view, self.field
        for _ in range(COUNT):
            getattr(view, field)

    def time_array(self, fields):
        self.cls.array(self.messages)

    def time_pack_many(self, fields):
        self.cls.pack_many(self.rows)


class Classes:
    def time_make_a_class(self):
        type(Struct)("Made", (Struct,), {"__annotations__": {"x": f8, "y": str}, "__module__": __name__})
