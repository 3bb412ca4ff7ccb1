from typing import Any, final

from typing_extensions import Buffer

from fastcomm._core.extended import TypeTable
from fastcomm._core.strings import StringTable

__pyx_capi__: dict[str, object]

@final
class Decoder:
    def __init__(
        self,
        *,
        types: TypeTable | None = ...,
        table: StringTable | None = ...,
        max_size: int = ...,
        max_decompressed: int = ...,
        interning: bool = ...,
    ) -> None: ...

def decode(buffer: Buffer, /, *, copy: bool = ...) -> Any: ...
