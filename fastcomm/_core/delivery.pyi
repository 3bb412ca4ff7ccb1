from typing import final

from fastcomm._core.ring import Ring
from fastcomm._core.routes import Route

@final
class Delivery:
    def __init__(self, inbox: Ring, route: Route, count: int) -> None: ...
    @property
    def reached(self) -> int: ...
    @property
    def timeout(self) -> float | None: ...
