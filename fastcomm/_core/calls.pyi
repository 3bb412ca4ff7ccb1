import asyncio
from typing import Any, Final, final

from typing_extensions import disjoint_base

from fastcomm._core.delivery import Delivery
from fastcomm._core.message import Message
from fastcomm._core.port import Port
from fastcomm.errors import NoRespondersError

CALL_REPLY: Final[int]
CALL_ERROR: Final[int]

@final
class Call:
    future: asyncio.Future[None] | None
    @property
    def number(self) -> int: ...
    @property
    def subject(self) -> str: ...
    @property
    def targets(self) -> list[tuple[int, int]]: ...
    @property
    def done(self) -> bool: ...
    @property
    def outcome(self) -> Any: ...

@disjoint_base
class Caller(Port):
    def request(
        self,
        subject: str,
        data: Any,
        timeout: float | None = 1.0,
        *,
        priority: int = ...,
        headers: dict[str, Any] | None = None,
    ) -> Message: ...

    # What a subclass replaces.
    def _see_to_calls(self) -> None: ...
    def _wake_coroutine(self, call: Call) -> None: ...
    def _result(self, call: Call, timeout: float | None) -> Message: ...
    def _no_responders(self, call: Call) -> NoRespondersError: ...

    # What a subclass uses.
    def _open_call(
        self, subject: str, data: Any, priority: int, headers: dict[str, Any] | None, timeout: float | None
    ) -> tuple[Call, Delivery]: ...
    def _close_call(self, call: Call) -> None: ...
    def _end_call(self, call: Call, error: Exception) -> None: ...
    def _open_calls(self) -> list[Call]: ...
    def _gone(self, call: Call) -> bool: ...
    def _has_inbox(self, owner: int, epoch: int) -> bool: ...
    def _see_to_calls_when_due(self) -> None: ...
    def _at_bound(self) -> bool: ...
    def _drain_inbox(self) -> int: ...
    def _count_expired(self) -> None: ...
    def _begin_reply(
        self,
        message: Message,
        data: Any,
        priority: int | None,
        headers: dict[str, Any] | None,
        timeout: float | None,
        kind: int,
    ) -> Delivery | None: ...
    def _end_reply(self, message: Message, delivery: Delivery, error: BaseException | None) -> bool: ...
    def _respond(
        self,
        message: Message,
        data: Any,
        priority: int | None,
        headers: dict[str, Any] | None,
        timeout: float | None,
        kind: int = ...,
    ) -> bool: ...
