from typing import Any, final

from typing_extensions import Buffer

__pyx_capi__: dict[str, object]

@final
class KeyCache: ...

def decode(buffer: Buffer, *, copy: bool = ...) -> Any: ...
