"""InboxView: somebody's inbox, for looking at it and for reaping."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastcomm._core.ring import Ring

if TYPE_CHECKING:
    from fastcomm.bus import Bus


class InboxView(Ring):
    """Somebody's inbox, for looking at it and for reaping; makes no claims."""

    def __init__(self, bus: Bus, slot: int, owner: int = 1) -> None:
        super().__init__(bus._inbox_memory(slot), owner=owner, name=f"inbox {slot} of {bus.name}")
        self._bus = bus
        self._slot = slot

    def _owner_alive(self, owner: int) -> bool:
        return self._bus._segment.alive(owner - 1)

    def _owner_pid(self, owner: int) -> int:
        return self._bus._segment.pid_of(owner - 1)

    def _ring_doorbells(self, consumer: bool) -> None:
        if consumer:
            self._bus._doorbells.ring(self._bus._segment.fifo_path(self._slot))

    def _describe_owner(self, owner: int) -> str:
        return self._bus._describe(owner - 1)
