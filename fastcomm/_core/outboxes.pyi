from collections.abc import Callable
from typing import final

from typing_extensions import Buffer

@final
class Outboxes:
    def __init__(self, memory: Buffer, stride: int, owner: int, describe: Callable[[int], str]) -> None: ...

def _arm_hook(hook: int, countdown: int = ...) -> None: ...
