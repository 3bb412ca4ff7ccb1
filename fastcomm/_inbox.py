"""Inbox: what an agent of this process receives from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastcomm._views import InboxView
from fastcomm.errors import PeerDiedError

if TYPE_CHECKING:
    from fastcomm.bus import Bus


class Inbox(InboxView):
    """The inbox of an agent of this process."""

    def __init__(self, bus: Bus, slot: int) -> None:
        super().__init__(bus, slot, owner=slot + 1)
        self._slot = slot
        self._deaths_seen = bus._segment.deaths[0]

    def _why_empty(self, seconds: float) -> str:
        others = len(self._bus._segment.taken_slots()) - 1
        return (
            f"no message came within {seconds:.3g} s; {others} other agents are on the bus {self._bus.name!r}"
        )

    def _housekeep(self, for_room: bool) -> None:
        bus = self._bus
        bus._housekeep()
        deaths, pid = bus._segment.deaths
        if deaths == self._deaths_seen:
            return
        # Agents of this process are peers too.
        if not any(slot != self._slot and bus._segment.alive(slot) for slot in bus._segment.taken_slots()):
            raise PeerDiedError(
                f"no message came, and nobody else is left on {bus.name!r}; {deaths - self._deaths_seen} "
                "agents were killed since "
                f"this one looked, the last was pid {pid}",
                pid=pid,
            )

    def _death_reported(self) -> None:
        self._deaths_seen = self._bus._segment.deaths[0]

    def _ring_doorbells(self, consumer: bool) -> None:
        segment = self._bus._segment
        for path in [segment.fifo_path(self._slot)] if consumer else segment.armed_fifos():
            self._bus._doorbells.ring(path)
