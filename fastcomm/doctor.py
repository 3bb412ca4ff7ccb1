"""What is stuck in the segments of this host, and who holds it up: what ``fastcomm doctor`` prints.

Each segment is looked at twice, some time apart, through Segment.look(): a file opened for reading and mapped
privately, so that nothing is waited for, locked, reaped or repaired: the compare-and-swaps and fetch-and-adds
by which others read tables and locks change a copy. What both looks find the same is told; what moves on
between them is at work.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from fastcomm._core.ring import Ring
from fastcomm._core.segment import KIND_BUS, KIND_QUEUE, KIND_RING, Segment, describe_process
from fastcomm._core.segment_file import GATE
from fastcomm._core.shared_queue import SharedQueue
from fastcomm._views import InboxView
from fastcomm.bus import Bus
from fastcomm.errors import SegmentError
from fastcomm.queue import QueueRing
from fastcomm.rings import RingBuffer
from fastcomm.segments import SegmentInfo, list_segments, segment_path

__all__ = ["Checkup", "Finding", "check_up"]

LOOK_SECONDS = 0.5
FULL = 3 / 4  # of a ring's capacity: then a record may find no room, as the last eighth is for CRITICAL ones
NEARLY = 0.9  # of a limit


class Finding(NamedTuple):
    """Something that is wrong with a segment, and what to do about it."""

    what: str
    advice: str


class Checkup(NamedTuple):
    """A segment, what there is of its users and contents, and what is wrong; healthy without findings."""

    path: str
    name: str
    kind: str
    summary: str
    findings: tuple[Finding, ...]


# What a look finds, by what must be the same in both looks.
_Look = dict[tuple[object, ...], Finding]


def check_up(
    name: str | None = None,
    *,
    directory: str | os.PathLike[str] | None = None,
    seconds: float = LOOK_SECONDS,
) -> list[Checkup]:
    """Look at the segments `name`, of any user's, or at all that are this user's, twice, `seconds` apart.

    Waits for nobody else and changes nothing, whoever is stopped or dead. An empty list if there is none.
    directory: where they lie, None for FASTCOMM_DIR, else /dev/shm.
    """
    only = None if name is None else segment_path(name, directory)
    patients = [
        _Patient(info)
        for info in list_segments(directory)
        if (info.path == only or info.name == name if only else _is_ours(info.path))
    ]
    try:
        before = [patient.look(again=False) for patient in patients]
        time.sleep(seconds)
        return [
            patient.report(first, patient.look(again=True))
            for patient, first in zip(patients, before, strict=True)
            if os.path.exists(patient.info.path)
        ]
    finally:
        for patient in patients:
            patient.close()


class _Patient:
    """A segment while it is looked at, or the reason why it can't be."""

    def __init__(self, info: SegmentInfo) -> None:
        self.info = info
        self.seen: _Seen | None = None

    def look(self, again: bool) -> _Look:
        try:
            if self.seen is None:
                self.seen = _see(Segment.look(self.info.path))
            self.seen.segment.mapping.renew()
            return dict(self.seen.look(again))
        except (SegmentError, OSError) as error:
            if not os.path.exists(self.info.path):
                return {}  # it has just been removed
            advice = "`fastcomm clean` removes it if nobody uses it; else use the release that made it"
            return {("unreadable",): Finding(str(error), advice)}

    def report(self, first: _Look, second: _Look) -> Checkup:
        findings = tuple(finding for key, finding in second.items() if key in first)
        summary = self.seen.summary() if self.seen else "can't be looked into"
        return Checkup(self.info.path, self.info.name, self.info.kind, summary, findings)

    def close(self) -> None:
        if self.seen is not None:
            self.seen.segment.close()


# ---- what there is to see in a segment


class _Seen:
    """Any segment: its participants and its gate."""

    users = "handles"

    def __init__(self, segment: Segment) -> None:
        self.segment = segment

    def summary(self) -> str:
        segment = self.segment
        alive = sum(map(segment.alive, segment.taken_slots()))
        return f"{alive} of at most {segment.max_participants} {self.users}"

    def look(self, again: bool) -> Iterator[tuple[tuple[object, ...], Finding]]:
        """What is wrong now. In the second look only rings that stood still since the first."""
        segment = self.segment
        taken = segment.taken_slots()
        if not any(map(segment.alive, taken)) and not _pids_with(segment.path):
            yield ("unowned",), self.unowned(len(taken))
            return
        for slot in taken:
            yield from self.look_at_participant(slot)
        yield from self.look_at_gate()
        if len(taken) >= NEARLY * segment.max_participants:
            text = f"{len(taken)} of its {segment.max_participants} places for {self.users} are taken"
            yield ("places",), Finding(text, "end some, or create it with room for more")
        yield from self.look_at_rings(again)

    def unowned(self, dead: int) -> Finding:
        text = f"nobody uses it; {dead} that did were killed" if dead else "nobody uses it"
        return Finding(text + self.unread(), "`fastcomm clean` removes it; who opens it next takes it over")

    def unread(self) -> str:
        """What goes with an unowned segment."""
        return ""

    def who(self, slot: int) -> str:
        return self.segment.describe(slot)

    def look_at_participant(self, slot: int) -> Iterator[tuple[tuple[object, ...], Finding]]:
        segment, generation = self.segment, self.segment.generation_of(slot)
        if not segment.alive(slot):
            advice = (
                "what it held is freed by the next call that waits there, or by the next who joins or leaves"
            )
            yield ("dead", slot, generation), Finding(f"{self.who(slot)} and not reaped yet", advice)
        elif segment.stopped(slot):
            advice = f"kill -CONT {segment.pid_of(slot)} lets it go on"
            yield ("stopped", slot, generation), Finding(self.who(slot), advice)

    def look_at_gate(self) -> Iterator[tuple[tuple[object, ...], Finding]]:
        segment = self.segment
        if segment.gate_is_held():
            pids = _pids_with(segment.path, locking=GATE)
            who = " and ".join(map(describe_process, pids)) or "a process that this user can't look into"
            text = f"its gate is held by {who}: nobody can join, leave, subscribe or be reaped meanwhile"
            advice = (
                "let that process go on (kill -CONT, if it is stopped) or kill it; the kernel frees the gate"
            )
            yield ("gate", *pids), Finding(text, advice)
        elif segment.mutating:
            text = "somebody was killed while changing its tables"
            yield ("mutating",), Finding(text, "nothing: who joins, leaves or subscribes next repairs them")

    def look_at_rings(self, again: bool) -> Iterator[tuple[tuple[object, ...], Finding]]:
        return iter(())


def _look_at_ring(ring: Ring, label: str, again: bool) -> Iterator[tuple[tuple[object, ...], Finding]]:
    """Whether it stands still though somebody may be waiting: full, or behind a record that is not sent."""
    stood_still = ring._seconds_since_a_release() > 0 or not again
    held_up = ring._why_held_up()
    if not stood_still or not (held_up or ring.depth >= FULL * ring.capacity):
        return
    advice = (
        "let who holds it up go on (kill -CONT, if it is stopped) or kill it: then its record is skipped"
        if held_up
        else "its receiver has to take some; senders wait for that, or get Full"
    )
    yield ("ring", label, held_up), Finding(f"{label}{ring._backlog()}", advice)


class _SeenBus(_Seen):
    users = "agents"

    def __init__(self, segment: Segment) -> None:
        super().__init__(segment)
        self.bus = _BusView(segment)
        self.inboxes: dict[int, InboxView] = {}

    def summary(self) -> str:
        limit = self.bus._limits.max_subscriptions
        return f"{super().summary()}, {self.subscriptions()} of {limit} subscriptions"

    def subscriptions(self) -> int:
        return len(self.bus._subscriptions.entries_in_use())

    def who(self, slot: int) -> str:
        return self.bus._describe(slot)

    def look_at_rings(self, again: bool) -> Iterator[tuple[tuple[object, ...], Finding]]:
        used, limit = self.subscriptions(), self.bus._limits.max_subscriptions
        if used >= NEARLY * limit:
            text = f"{used} of its {limit} entries for subscriptions are taken"
            advice = "unsubscribe, use wildcards, or open it with a larger max_subscriptions"
            yield ("subscriptions",), Finding(text, advice)
        for slot in self.segment.live_slots():
            if slot not in self.inboxes:
                self.inboxes[slot] = self.bus._inbox(slot)
            name = self.bus._agent_table.name(slot)
            yield from _look_at_ring(self.inboxes[slot], f"inbox of {name!r}: ", again)


class _BusView(Bus):
    """A bus that is only looked at; it takes no gate, not even when it goes."""

    def __init__(self, segment: Segment) -> None:
        super().__init__()
        self.name = segment.name
        self._bind(segment)

    def close(self) -> None:
        self._closed = True
        self._doorbells.close()


class _View:
    """Who its owners are, for the texts of a ring that is only looked at."""

    _segment: Segment

    def _describe_owner(self, owner: int) -> str:
        return self._segment.describe(owner - 1)


class _RingView(_View, Ring):
    pass


class _QueueView(_View, SharedQueue):
    pass


class _SeenRing(_Seen):
    def __init__(self, segment: Segment) -> None:
        super().__init__(segment)
        self.ring: _RingView | _QueueView
        if segment.kind == KIND_QUEUE:
            self.ring = _QueueView(*QueueRing._memory(segment), owner=1, name=segment.name)
        else:
            self.ring = _RingView(*RingBuffer._memory(segment), owner=1, name=segment.name)
        self.ring._segment = segment

    def summary(self) -> str:
        return f"{super().summary()}, {self.ring.depth} of {self.ring.capacity} bytes taken"

    def unread(self) -> str:
        unread = self.ring._unread()
        return f"; {unread} records were not read" if unread else ""

    def look_at_rings(self, again: bool) -> Iterator[tuple[tuple[object, ...], Finding]]:
        yield from _look_at_ring(self.ring, "", again)


def _see(segment: Segment) -> _Seen:
    kinds = {KIND_BUS: _SeenBus, KIND_RING: _SeenRing, KIND_QUEUE: _SeenRing}
    if segment.kind not in kinds:
        segment.close()
        raise SegmentError(f"{segment.path} is of the unknown kind {segment.kind}")
    try:
        return kinds[segment.kind](segment)
    except BaseException:
        segment.close()
        raise


# ---- processes


def _is_ours(path: str) -> bool:
    try:
        return os.stat(path).st_uid == os.getuid()
    except FileNotFoundError:
        return False


def _pids_with(path: str, locking: int | None = None) -> list[int]:
    """Other processes that have the file open; with `locking`, those that have that byte of it locked.

    fcntl() does not tell who holds a lock that belongs to a descriptor; /proc/PID/fdinfo/FD does. Processes
    of other users are not seen.
    """
    file = os.stat(path)
    return [
        int(pid)
        for pid in os.listdir("/proc")
        if pid.isdigit() and int(pid) != os.getpid() and _has_open(pid, file, locking)
    ]


def _has_open(pid: str, file: os.stat_result, locking: int | None) -> bool:
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:  # it has ended, or is another user's
        return False
    for descriptor in descriptors:
        with suppress(OSError):  # it has closed this one
            found = os.stat(f"/proc/{pid}/fd/{descriptor}")
            if os.path.samestat(found, file) and (locking is None or _locks(pid, descriptor, locking)):
                return True
    return False


def _locks(pid: str, descriptor: str, byte: int) -> bool:
    """A line of fdinfo: ``lock: 1: OFDLCK ADVISORY WRITE -1 00:19:2 FIRST LAST``."""
    with open(f"/proc/{pid}/fdinfo/{descriptor}") as lines:
        ranges = [line.split()[-2:] for line in lines if line.startswith("lock:")]
    return any(int(first) <= byte and (last == "EOF" or byte <= int(last)) for first, last in ranges)
