"""Heirs: what a member of groups left unread goes to the other members.

The guarantee: a message that was committed for a group and not taken from the inbox when its member dies or
leaves is put into the inbox of another member, also from behind a claim in progress. Who does that holds
the gate; if it is killed on the way, the next one goes on, and the message that was in hand may come twice.
So may one whose publisher was between commit and its look at the epoch at that moment: it passes it on as
well. With no other member, or if the inboxes of all others are full, it is discarded, and counted. Who
asked is told where its request went, if there is room in its inbox; else it takes it for lost with the member
that had it first.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from fastcomm._core.ring import Ring
from fastcomm._core.subjects import matches
from fastcomm._views import InboxView
from fastcomm.errors import ClosedError, CorruptSegmentError, FencedError
from fastcomm.priorities import Priority

if TYPE_CHECKING:
    from fastcomm.bus import Bus

ENVELOPE = struct.Struct("<qqIHBBHBBI")  # fc_envelope_t
INBOX_SEQUENCE_AT, SUBSCRIPTION_AT = 16, 28
CALL = struct.Struct("<qIIII")  # fc_call_t
TARGET = struct.Struct("<III")  # target_t
CALL_MASK, CALL_MOVED = 0xF0, 0x40
MAX_TRIES = 8  # for a claim under the number of the dead, which a receiver may give up as a dead one's


class Member(NamedTuple):
    """A subscription of a group, as the table has it."""

    owner: int
    epoch: int
    pattern: bytes
    number: int
    group: bytes


def heirs_of(bus: Bus, slot: int) -> Heirs | None:
    """Under the gate; None if the agent in that slot was in no group, or alone in it."""
    entries = _entries(bus)
    mine = {one.number: one for one in entries if one.owner == slot + 1}
    names = {one.group for one in mine.values()}
    others = [one for one in entries if one.owner != slot + 1 and one.group in names]
    return Heirs(bus, slot + 1, mine, others) if others else None


def _entries(bus: Bus) -> list[Member]:
    """Of all groups; without those that somebody has scribbled over."""
    found = []
    for index in bus._subscriptions.entries_in_use():
        with suppress(CorruptSegmentError):
            entry = bus._subscriptions.read(index)
            if entry and entry[-1] and 1 <= entry[0] <= bus._limits.max_agents:
                found.append(Member(*entry))
    return found


class Heirs:
    """Call it with each record that is left in the inbox: whether another member has got it."""

    def __init__(self, bus: Bus, owner: int, mine: dict[int, Member], others: list[Member]) -> None:
        self._bus, self._owner = bus, owner
        self._mine = mine
        self._others = []
        self._inboxes: dict[int, Ring] = {}
        for one in others:
            with suppress(CorruptSegmentError):
                self._inboxes[one.owner] = bus._inbox(one.owner - 1)
                self._others.append(one)

    def __call__(self, epoch: int, payload: bytes) -> bool:
        if len(payload) < ENVELOPE.size:
            return False
        *_, sender_length, subject_length, _, kind, _, number = ENVELOPE.unpack_from(payload)
        mine = self._mine.get(number)
        if mine is None or mine.epoch != epoch:  # of no group, or for an agent that had the inbox before
            return False
        is_call = bool(kind & CALL_MASK)
        at = ENVELOPE.size + is_call * CALL.size + sender_length
        subject = payload[at : at + subject_length].decode("utf-8", "replace")
        members = [
            one
            for one in self._others
            if one.group == mine.group and matches(one.pattern.decode("utf-8", "replace"), subject)
        ]
        members.sort(key=lambda one: self._inboxes[one.owner].depth)
        heir = next((one for one in members if self._send(one, payload)), None)
        if heir is not None and is_call:
            self._tell_who_asked(payload, heir)
        return heir is not None

    def _tell_who_asked(self, request: bytes, heir: Member) -> None:
        """Word that the request is now with another agent."""
        _, owner, epoch, number, _ = CALL.unpack_from(request, ENVELOPE.size)
        if not 1 <= owner <= self._bus._limits.max_agents:
            return
        note = ENVELOPE.pack(0, 0, 0, 0, 0, 0, 0, CALL_MOVED, Priority.NORMAL, 0)
        note += CALL.pack(0, 0, 0, number, 0) + TARGET.pack(heir.owner, heir.epoch, heir.number)
        put_into_inbox(self._bus, self._owner, Member(owner, epoch, b"", 0, b""), note)

    def _send(self, member: Member, payload: bytes) -> bool:
        """It has no number there: it comes out of the order of its publisher's."""
        copy = bytearray(payload)
        struct.pack_into("<I", copy, INBOX_SEQUENCE_AT, 0)
        struct.pack_into("<I", copy, SUBSCRIPTION_AT, member.number)
        return put_into_inbox(self._bus, self._owner, member, bytes(copy))


def put_into_inbox(bus: Bus, owner: int, member: Member, record: bytes) -> bool:
    """Under the gate, and the number of an owner that claims nothing meanwhile; whether it got there."""
    for _ in range(MAX_TRIES):
        try:
            return InboxView(bus, member.owner - 1, owner)._put_into_inbox(member.epoch, record)
        except FencedError:
            continue
        except (ClosedError, CorruptSegmentError):
            return False
    return False
