from collections.abc import Callable

FLAGS: dict[str, int]
EXPANSION: dict[int, int]

def compressor(name: str, level: int | None = ...) -> tuple[int, Callable[[bytes], bytes]]: ...
def decompress(flag: int, data: bytes, size: int) -> bytes: ...
