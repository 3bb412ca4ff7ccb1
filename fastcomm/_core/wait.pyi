from typing import Final, final

__pyx_capi__: Final[dict[str, object]]

def futex_works() -> bool: ...

@final
class Doorbells:
    def ring(self, path: str) -> None: ...
    def close(self) -> None: ...
