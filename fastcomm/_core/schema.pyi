from typing import Any, final

from typing_extensions import disjoint_base

__pyx_capi__: dict[str, object]

@final
class EnumNumbers:
    def __init__(self, enum: type, by_position: bool) -> None: ...

@final
class Layout:
    name: str
    type_id: int
    fingerprint: int
    names: tuple[str, ...]
    fixed_size: int
    alignment: int
    bare_size: int
    @property
    def dtype(self) -> Any: ...
    def __new__(cls, name: str, type_id: int, specs: list[tuple[object, ...]]) -> Layout: ...
    def nested(self, name: str) -> Layout: ...
    def text_type(self, name: str) -> type: ...
    def text(self) -> str: ...
    def table(self) -> str: ...

@disjoint_base
class StructMeta(type):
    @property
    def _layout(cls) -> Layout | None: ...
