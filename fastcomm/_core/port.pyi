from collections.abc import Callable, Iterable
from typing import Any

from typing_extensions import Buffer, disjoint_base

from fastcomm._core.codec import Codec
from fastcomm._core.delivery import Delivery
from fastcomm._core.message import Receiver
from fastcomm._core.ring import Ring
from fastcomm._core.strings import StringTable
from fastcomm._core.tables import SubscriptionTable

@disjoint_base
class Port(Receiver):
    def __init__(
        self,
        inbox: Ring,
        memory: Buffer,
        stride: int,
        subscriptions: SubscriptionTable,
        describe: Callable[[int], str],
        name: str,
        generation: int,
        max_pending: int,
        codec: Codec,
        strings: StringTable,
    ) -> None: ...
    def publish(
        self,
        subject: str,
        data: Any,
        *,
        priority: int = ...,
        headers: dict[str, Any] | None = None,
        timeout: float | None = None,
    ) -> int: ...
    def publish_many(
        self,
        subject: str,
        items: Iterable[Any],
        *,
        priority: int = ...,
        headers: dict[str, Any] | None = None,
        timeout: float | None = None,
    ) -> int: ...

    # What a subclass replaces.
    def _ring_consumers(self, owners: list[int]) -> None: ...
    def _housekeep_publishing(self, owner: int) -> None: ...

    # What a subclass uses.
    def _attach(self, inbox: Ring, name: str, generation: int) -> None: ...
    def _do_without(self, caches: bool, batches: bool) -> None: ...
    def _begin(
        self, subject: str, data: Any, priority: int, headers: dict[str, Any] | None
    ) -> tuple[int, Delivery | None]: ...
    def _begin_many(
        self, subject: str, items: Iterable[Any], priority: int, headers: dict[str, Any] | None
    ) -> Delivery: ...
    def _advance(self, delivery: Delivery, timeout: float | None) -> bool: ...
    def _expire(self, delivery: Delivery) -> None: ...
    def _routes_to(self, subject: str) -> tuple[int, int]: ...
    def _waits_for_room(self, delivery: Delivery) -> int: ...
    def _counters(self) -> dict[str, int]: ...
