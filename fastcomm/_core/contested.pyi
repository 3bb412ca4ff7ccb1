from typing import Final

__pyx_capi__: Final[dict[str, object]]

def _arm_hook(hook: int, countdown: int = 1) -> None: ...
