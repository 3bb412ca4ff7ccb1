from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, final

from typing_extensions import Buffer

from fastcomm._core.decoder import decode as decode
from fastcomm._core.encoder import encode as encode
from fastcomm._core.encoder import encode_into as encode_into
from fastcomm._core.strings import StringTable

__all__ = ["Codec", "decode", "encode", "encode_into"]

_Class = TypeVar("_Class", bound=type)

@final
class Codec:
    @property
    def strings(self) -> StringTable | None: ...
    @property
    def compressed(self) -> int: ...
    @property
    def compression_failures(self) -> int: ...
    def __init__(
        self,
        *,
        types: Iterable[type] | Mapping[str, type] = ...,
        fallback: Literal["pickle"] | None = ...,
        compression: Literal["lz4", "zstd"] | None = ...,
        level: int | None = ...,
        threshold: int = ...,
        max_size: int | None = ...,
        max_decompressed: int = ...,
        interning: bool = ...,
        strings: StringTable | None = ...,
    ) -> None: ...
    def register(self, cls: _Class, name: str | None = ...) -> _Class: ...
    def twin(self) -> Codec: ...
    def _without(self, interning: bool, compression: bool) -> Codec: ...
    def encode(self, obj: object, /) -> bytes: ...
    def encode_into(self, obj: object, buffer: Buffer, offset: int = ...) -> int: ...
    def decode(self, buffer: Buffer, /, *, copy: bool = ...) -> Any: ...
