from typing import Any, Self, final

from typing_extensions import disjoint_base

__pyx_capi__: dict[str, object]

@disjoint_base
class StructView:
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...

@final
class FieldReader:
    def __get__(self, instance: object, owner: object = ..., /) -> Any: ...
    def __set__(self, instance: object, value: object, /) -> None: ...
