"""Presence: who joins, leaves and dies is told on `$bus.agent.joined`, `$bus.agent.left`, `$bus.agent.died`.

Told by who does it, under the gate that joining, leaving and reaping hold anyway, and before the slot gets
free: a record in the inbox of each agent with a pattern that matches and begins with `$bus.`, under the owner
number of whom it is about. So it lies behind what that one has sent there, and when its teller is killed in
the middle, its claim is given up with those of the dead. Nobody waits: an inbox without room does not get it,
which its `refused` counts. The last eighth of an inbox, kept for CRITICAL messages, takes it too.

A teller that is killed before the slot is free is followed by one that tells again: joined at most once, left
and died at least once, and always with the same slot and generation, which name one agent for ever.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from fastcomm._core.codec import encode
from fastcomm._core.subjects import matches
from fastcomm._core.tables import RESERVED
from fastcomm._heirs import ENVELOPE, SUBSCRIPTION_AT, Member, put_into_inbox
from fastcomm.errors import CorruptSegmentError, InvalidSubjectError
from fastcomm.priorities import Priority

if TYPE_CHECKING:
    from fastcomm.bus import Bus

DATA_ENCODED = 1  # FC_DATA_ENCODED


def announce(bus: Bus, what: str, slot: int, **more: object) -> None:
    """Under the gate. `what`: joined, left or died; `more`: for the data, besides what that always has."""
    subject = f"$bus.agent.{what}"
    watchers, groups = _watchers(bus, subject)
    if not watchers and not groups:
        return
    record = _record(bus, subject, slot, more)
    for watcher in watchers.values():
        if not put_into_inbox(bus, slot + 1, watcher, record):
            bus._inbox(watcher.owner - 1)._count_dropped()
    for members in groups.values():
        members.sort(key=lambda one: bus._inbox(one.owner - 1).depth)
        if not any(put_into_inbox(bus, slot + 1, one, _for_group(record, one)) for one in members):
            bus._inbox(members[0].owner - 1)._count_dropped()


def _watchers(bus: Bus, subject: str) -> tuple[dict[int, Member], dict[bytes, list[Member]]]:
    """Who gets it: agents, once each, by owner number; and the members of groups."""
    watchers: dict[int, Member] = {}
    groups: dict[bytes, list[Member]] = {}
    for index in bus._subscriptions.entries_under(RESERVED):
        with suppress(CorruptSegmentError, InvalidSubjectError):  # somebody has scribbled over it
            entry = bus._subscriptions.read(index)
            if not entry or not 1 <= entry[0] <= bus._limits.max_agents:
                continue
            member = Member(*entry)
            if matches(member.pattern.decode(), subject):
                if member.group:
                    groups.setdefault(member.group, []).append(member)
                else:
                    watchers.setdefault(member.owner, member)
    return watchers, groups


def _record(bus: Bus, subject: str, slot: int, more: dict[str, object]) -> bytes:
    segment = bus._segment
    generation, name = segment.generation_of(slot), bus._agent_table.name(slot)
    data = {
        "name": name,
        "pid": segment.pid_of(slot),
        "slot": slot,
        "generation": generation,
        "when": time.time(),
        **more,
    }
    sender, encoded_subject = name.encode(), subject.encode()
    # Without numbers among its sender's and in the inbox: these are of messages that it published.
    envelope = ENVELOPE.pack(
        0, time.monotonic_ns(), 0, generation & 0xFFFF, len(sender), len(encoded_subject), 0, DATA_ENCODED,
        Priority.NORMAL, 0,
    )  # fmt: skip
    return envelope + sender + encoded_subject + encode(data)


def _for_group(record: bytes, member: Member) -> bytes:
    at = SUBSCRIPTION_AT
    return record[:at] + member.number.to_bytes(4, "little") + record[at + 4 :]
