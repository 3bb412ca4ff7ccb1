"""Bus: a named segment with an inbox for each agent, and the tables that say who wants what."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from fastcomm._core.ring import Ring
from fastcomm._core.segment import (
    KIND_BUS,
    SECTION_AGENTS,
    SECTION_INBOXES,
    SECTION_STRINGS,
    SECTION_SUBSCRIPTIONS,
    Segment,
)
from fastcomm._core.strings import StringTable
from fastcomm._core.tables import AGENT_BYTES, MAX_AGENT_NAME, AgentTable, SubscriptionTable
from fastcomm._core.wait import Doorbells
from fastcomm._heirs import heirs_of
from fastcomm._limits import (
    LIMITS,
    MAX_RECORD_CELLS,
    STRING_BYTES,
    BusBytes,
    Limits,
    bytes_of,
    checked_limits,
    plan_of,
    string_table_bytes,
)
from fastcomm._presence import announce
from fastcomm._views import InboxView
from fastcomm.errors import (
    BusMismatchError,
    ClosedError,
    CorruptSegmentError,
    InvalidNameError,
    NameTakenError,
    SegmentError,
    TableFullError,
)
from fastcomm.segments import entered, segment_path

if TYPE_CHECKING:
    from fastcomm._core.codec import Codec
    from fastcomm.affinity import PlanLike
    from fastcomm.agent import Agent, OnError

__all__ = ["AgentInfo", "Bus", "connect"]


class AgentInfo(NamedTuple):
    """An agent as others see it.

    `depth` of `capacity` bytes wait in its inbox; `alive` False: killed, not yet reaped. since: when it
    joined, in seconds as time.time() gives. subscriptions: its patterns, one for each subscription. `slot`
    and `generation` together name one agent of this bus for ever, as presence messages do.
    """

    name: str
    pid: int
    slot: int
    alive: bool
    depth: int
    capacity: int
    generation: int
    since: float
    subscriptions: tuple[str, ...]


class Bus:
    """Agents of one host that publish to subjects, over one shared memory segment, without a broker.

    ``Bus.open(name)`` opens or creates it; ``bus.join(name)`` makes an Agent. The last agent to leave removes
    the segment. Thread safety: yes. After a fork the child may go on using it. Pickles by name: an unpickled
    Bus opens the same segment.
    """

    name: str
    _path: str
    _asked: tuple[int | None, int | None, int | None, int | None]
    _wanted: Limits
    _mode: int
    _create: bool

    def __init__(self) -> None:
        """Use Bus.open()."""
        self._agents: weakref.WeakSet[Agent] = weakref.WeakSet()
        self._doorbells = Doorbells()
        self._closed = False

    @classmethod
    def open(
        cls,
        name: str,
        *,
        create: bool = True,
        max_agents: int | None = None,
        inbox_bytes: int | None = None,
        max_subscriptions: int | None = None,
        max_strings: int | None = None,
        mode: int = 0o600,
        directory: str | os.PathLike[str] | None = None,
        uid: int | None = None,
    ) -> Bus:
        """Open the bus `name`, made first if there is none and `create` is true (else SegmentNotFoundError).

        max_agents: 128 unless said, up to 4,094. inbox_bytes: shared memory for each inbox with its control
        words, 32,768 unless said, rounded up to a power of two; what an agent has not received yet takes its
        room, and a message at most a quarter of it, 4 MiB at most. max_subscriptions: of all agents, 16 for
        each unless said. max_strings: of the table that agents share (see `strings`), 1,000 unless said, 32
        bytes each. BusMismatchError if a bus that is in use has other limits than those given. A bus
        whose agents are all dead is taken over. mode: of the file, 0o660 to share it with a group; directory:
        another tmpfs than /dev/shm or FASTCOMM_DIR; uid: of the bus's creator, if that is another user.
        ShmFullError: the tables' pages are reserved now, an inbox's when its agent joins.
        """
        self = cls()
        self.name = name
        self._path = segment_path(name, directory, uid)
        self._asked = (max_agents, inbox_bytes, max_subscriptions, max_strings)
        self._wanted = checked_limits(*self._asked)
        self._mode = mode
        self._create = create
        self._open()
        return self

    @staticmethod
    def bytes_needed(
        *,
        max_agents: int | None = None,
        inbox_bytes: int | None = None,
        max_subscriptions: int | None = None,
        max_strings: int | None = None,
    ) -> BusBytes:
        """What a bus with these limits takes of /dev/shm: (created, joined), bytes at its creation and with
        all `max_agents` joined.

        It is what open() and join() reserve, to the byte. ValueError for limits that open() does not take.
        docs/bus.md has what each of them costs, also in private memory.
        """
        return bytes_of(checked_limits(max_agents, inbox_bytes, max_subscriptions, max_strings))

    # ------------------------------------------------------------------------------------------- the segment

    def _open(self) -> None:
        while True:
            plan = (lambda: plan_of(self._wanted)) if self._create else None
            segment, created = Segment.open(
                self._path, name=self.name, kind=KIND_BUS, plan=plan, mode=self._mode
            )
            with entered(segment):
                self._bind(segment)
                if created:
                    segment.publish()  # after the string table was begun
                if created or self._take_over():
                    return
            segment.close()

    def _bind(self, segment: Segment) -> None:
        """Find the parts of the segment; CorruptSegmentError if its parameters don't fit its sections."""
        self._segment = segment
        self._limits = limits = Limits(*segment.parameters[:5])
        offset, size = segment.section(SECTION_INBOXES)
        agents = segment.section(SECTION_AGENTS)
        subscriptions = segment.section(SECTION_SUBSCRIPTIONS)
        strings = segment.section(SECTION_STRINGS)
        if (
            limits.max_agents != segment.max_participants
            or not 16 <= limits.cells <= 1 << 26
            or not Ring.bytes_needed(limits.cells) <= limits.stride <= size // limits.max_agents
            or agents[1] < limits.max_agents * AGENT_BYTES
            or not 1 <= limits.max_subscriptions <= 1 << 24
            or subscriptions[1] < SubscriptionTable.bytes_needed(limits.max_subscriptions)
            or not 1 <= limits.max_strings <= 1 << 20
            or strings[1] < string_table_bytes(limits.max_strings)
        ):
            raise CorruptSegmentError(
                f"the parameters of the bus {self.name!r} ({limits}) contradict its sections; unlink it"
            )
        self._inboxes_at = offset
        self._agent_table = AgentTable(segment.memory(*agents))
        self._subscriptions = SubscriptionTable(
            segment.memory(subscriptions[0], SubscriptionTable.bytes_needed(limits.max_subscriptions))
        )
        self._strings = StringTable(
            limits.max_strings,
            STRING_BYTES * limits.max_strings,
            memory=segment.memory(*strings),
            gate=segment,
        )

    def _take_over(self) -> bool:
        """Under the gate of a bus that was there.

        False: it was removed, since all its agents are dead and it has other limits.
        """
        self._repair_and_reap()
        asked = dict(zip(LIMITS, self._asked, strict=True))
        have = self._limits
        differing = [
            f"{key} is {actual}, not {asked[key]}"
            for key, actual, wanted in (
                ("max_agents", have.max_agents, self._wanted.max_agents),
                ("inbox_bytes", have.stride, self._wanted.stride),
                ("max_subscriptions", have.max_subscriptions, self._wanted.max_subscriptions),
                ("max_strings", have.max_strings, self._wanted.max_strings),
            )
            if asked[key] is not None and actual != wanted
        ]
        if not differing:
            return True
        if self._create and not self._segment.taken_slots():
            self._segment.unlink()
            return False
        raise BusMismatchError(
            f"the bus {self.name!r} exists with other limits: {'; '.join(differing)}. Open it with its own, "
            "or without any"
        )

    def _enter(self) -> Segment:
        """Enter the gate of the segment; it is made anew if the last agent has left since, and removed it."""
        while True:
            if self._closed:
                raise ClosedError(f"this handle of the bus {self.name!r} is closed")
            segment = self._segment
            segment.enter_gate()
            try:
                segment.check_vanished()
                if not segment.unlinked:
                    self._repair_and_reap()
                    return segment
            except BaseException:
                segment.leave_gate()
                raise
            segment.leave_gate()
            if self._agents:
                raise SegmentError(f"the bus {self.name!r} was unlinked; close its agents, then join again")
            segment.close()
            self._open()

    @contextmanager
    def _changing_tables(self, *, reap: bool = True) -> Iterator[None]:
        """The block changes tables, under the gate.

        If it is killed, the next to enter the gate finds `mutating` set.
        """
        segment = self._segment
        segment.enter_gate()
        try:
            self._repair()
            if reap:
                self._reap()
            segment.mutating = True
            try:
                yield
            finally:
                segment.mutating = False
        finally:
            segment.leave_gate()

    # ----------------------------------------------------------------------------------------------- inboxes

    def _inbox_memory(self, slot: int) -> memoryview:
        return self._segment.memory(self._inboxes_at + slot * self._limits.stride, self._limits.stride)

    def _inbox(self, slot: int) -> InboxView:
        return InboxView(self, slot)

    def _used_inboxes(self) -> list[InboxView]:
        """Those that were ever laid out; the pages of the others must not be touched."""
        return [
            self._inbox(slot)
            for slot in range(self._limits.max_agents)
            if self._agent_table.initialised(slot)
        ]

    def _prepare_inbox(self, slot: int) -> None:
        """Under the gate: reserve the pages of an inbox, and lay it out if it never was."""
        offset = self._inboxes_at + slot * self._limits.stride
        self._segment.reserve(offset, self._limits.stride)
        if not self._agent_table.initialised(slot):
            Ring.format(self._inbox_memory(slot), cells=self._limits.cells)
            self._agent_table.set_initialised(slot)

    def _retire(self, slot: int) -> None:
        """Under the gate: an agent left or died. Its inbox takes nothing more, the pages of its data are
        given back. What it left unread of its groups goes to their other members.

        Those of the control words stay: publishers that were on their way, and reapers, still look at them.
        """
        inbox = self._inbox(slot)
        if inbox._retire_inbox(heirs_of(self, slot)):
            offset = self._inboxes_at + slot * self._limits.stride
            control_words = Ring.bytes_needed(self._limits.cells) - inbox.capacity
            self._segment.punch(offset + control_words, self._limits.stride - control_words)
        inbox._wake_all()

    # ---------------------------------------------------------------------------------------------- the dead

    def _repair_and_reap(self, noticed: str = "gate") -> None:
        """Under the gate."""
        self._repair()
        self._reap(noticed)

    def _repair(self) -> None:
        """Under the gate: its last holder may have been killed while it changed tables."""
        if self._segment.mutating:
            self._agent_table.repair()
            self._subscriptions.repair()
            self._segment.mutating = False

    def _reap(self, noticed: str = "gate") -> None:
        """Under the gate, after _repair(). noticed: how the deaths were, for who watches."""
        segment = self._segment
        dead = segment.dead_slots()
        if not dead:
            return
        had_joined, had_left = set(segment.live_slots()), set(segment.leaving_slots())
        segment.mutating = True
        rings = self._used_inboxes()
        for slot in dead:
            for ring in rings:
                ring._resolve_dead(slot + 1)
            if self._agent_table.initialised(slot):
                self._retire(slot)
            self._subscriptions.drop_owner(slot + 1)
            segment.note_death(slot)
        segment.mutating = False
        for slot in dead:
            if slot in had_joined:
                announce(self, "died", slot, noticed=noticed, noticed_by=os.getpid())
            elif slot in had_left:
                announce(self, "left", slot)
        for ring in rings:
            ring._wake_all()
        self._ring_everybody()
        for slot in dead:
            segment.free(slot)

    def _housekeep(self, waits_for: int | None = None) -> None:
        """See to the dead when that is due, or at once if the agent in slot `waits_for` is among them.

        Does not wait.
        """
        segment = self._segment
        segment.check_vanished()
        its_dead = waits_for is not None and not segment.alive(waits_for)
        some_dead = its_dead or (segment.scan_is_due() and segment.dead_slots())
        if some_dead and segment.try_enter_gate():
            try:
                self._repair_and_reap("wait" if its_dead else "scan")
            finally:
                segment.leave_gate()

    def _ring_everybody(self) -> None:
        """Wake all who wait for a change of the tables."""
        self._subscriptions.wake_waiters()
        for path in self._segment.armed_fifos():
            self._doorbells.ring(path)

    def _describe(self, slot: int) -> str:
        if not 0 <= slot < self._limits.max_agents:
            return f"agent {slot}"
        return f"agent {self._agent_table.name(slot)!r}, {self._segment.describe(slot)}"

    # ----------------------------------------------------------------------------------------- what users do

    def join(
        self,
        name: str | None = None,
        *,
        codec: Codec | None = None,
        cpus: PlanLike | None = None,
        spin_us: int | None = None,
        overflow: Literal["block", "error", "drop_newest", "drop_oldest"] = "block",
        on_error: OnError | None = None,
        disable: Iterable[str] = (),
    ) -> Agent:
        """Become an agent of the bus under that name, 1 to 80 bytes of UTF-8; None: ``pid-N``.

        codec: encodes what the agent publishes and decodes what it receives, but for bytes, which travel as
        they are; agents that send each other more than fastcomm.encode takes need codecs with the same types.
        None: ``Codec(strings=self.strings)``.
        cpus: pins the calling thread until the agent is closed: to CPUs (``3``, ``[2, 3]``, ``"2-3"``), or to
        the place of the agent's slot in a plan (``"scatter"``, ``"x.toml"``, a Plan; docs/affinity.md), which
        is made for `max_agents` workers. The inbox is laid out after that, near to those CPUs.
        InvalidCpusError, AffinityProfileError. spin_us: how long the agent looks for a message, or for room,
        before it sleeps: at most 50 us unless said, 0 for not at all; longer costs CPU and shortens waits.
        overflow: what a publish does that finds the agent's inbox full: "block": it waits, as long as its
        time-out says; "error": it raises Full at once, when it has tried all inboxes; "drop_newest": the
        message does not reach this agent, and is counted at both ends; "drop_oldest": what came first goes to
        make room, of any sender and any priority, so that this agent has what is newest; nobody waits.
        on_error: is called when a handler fails, see Agent.subscribe(). disable: optimisations that this
        agent does without, by their flags, as FASTCOMM_DISABLE names them for all (docs/bus.md);
        UnknownFlagError.
        NameTakenError if a live agent has it (a dead one's is free), TableFullError if `max_agents` are
        there, ShmFullError.
        """
        from fastcomm.agent import Agent

        return Agent(self, name, codec, cpus, spin_us, overflow, on_error, disable)

    def _claim_slot(self, name: str | None, settle: Callable[[int], None]) -> tuple[int, str]:
        """Under the gate: a slot with a name and an inbox, still JOINING.

        `settle` is called with the slot before the pages of the inbox are touched, which gives them a home.
        """
        segment, table = self._segment, self._agent_table
        living = {table.name(slot): slot for slot in segment.taken_slots()}
        name = _agent_name(name, living)
        if name in living:
            pid = segment.pid_of(living[name])
            raise NameTakenError(
                f"the bus {self.name!r} has an agent {name!r} already, in process {pid}", pid=pid
            )
        try:
            slot = segment.join()
        except TableFullError as error:
            raise TableFullError(
                f"all {error.capacity} places of the bus {self.name!r} are taken by live agents; close some, "
                "or open it with a larger max_agents when all have left",
                capacity=error.capacity,
            ) from None
        try:
            segment.mutating = True
            table.write(slot, name)
            segment.mutating = False
            settle(slot)
            self._prepare_inbox(slot)
        except BaseException:
            segment.free(slot)
            raise
        return slot, name

    def _complete(self, slot: int) -> None:
        """Under the gate: its agent has joined."""
        self._segment.live(slot)
        announce(self, "joined", slot)

    def _leave(self, slot: int) -> None:
        """Under the gate, while tables change: its agent leaves, and the slot is free."""
        self._segment.leaving(slot)
        self._retire(slot)
        self._subscriptions.drop_owner(slot + 1)
        announce(self, "left", slot)
        self._segment.free(slot)

    def agents(self) -> list[AgentInfo]:
        """Everybody on the bus, in the order of their slots. Disturbs nobody."""
        if self._closed:
            raise ClosedError(f"this handle of the bus {self.name!r} is closed")
        patterns = self._patterns()
        return [self._info(slot, patterns.get(slot + 1, ())) for slot in self._segment.live_slots()]

    def _info(self, slot: int, patterns: Iterable[str]) -> AgentInfo:
        inbox, segment = self._inbox(slot), self._segment
        return AgentInfo(
            self._agent_table.name(slot),
            segment.pid_of(slot),
            slot,
            segment.alive(slot),
            inbox.depth,
            inbox.capacity,
            segment.generation_of(slot),
            time.time() - (time.monotonic_ns() - segment.joined_ns(slot)) / 1e9,
            tuple(patterns),
        )

    def _patterns(self) -> dict[int, list[str]]:
        """Of each owner, in the order of the table; without entries that are being written or were spoilt."""
        found: dict[int, list[str]] = {}
        for index in self._subscriptions.entries_in_use():
            with suppress(CorruptSegmentError):
                if entry := self._subscriptions.read(index):
                    found.setdefault(entry[0], []).append(entry[2].decode("utf-8", "replace"))
        return found

    @property
    def strings(self) -> StringTable:
        """The table of strings that the agents of the bus share, in its segment.

        An agent without a codec of its own learns the keys that it sends again into it, and names them by
        number; ``join(codec=Codec(..., strings=bus.strings))`` does so with other options. Every agent of the
        bus reads such messages, whatever its codec; others can't. A bus that is made anew has another table.
        """
        return self._strings

    @property
    def path(self) -> str:
        """The segment's file."""
        return self._path

    @property
    def max_message(self) -> int:
        """Bytes of the largest record of a message: its data, the headers, the subject, the sender's name and
        32 more, 56 for a request or a response.
        """
        return min(self._limits.cells // 2, MAX_RECORD_CELLS) * 64 - 8

    def unlink(self) -> None:
        """Remove the bus's name now. Its agents go on with each other; the next open() makes another bus."""
        segment = self._segment
        segment.enter_gate()
        try:
            segment.unlink()
        finally:
            segment.leave_gate()

    def close(self) -> None:
        """Close the agents that joined through this handle, and the handle; again is harmless.

        An unused bus is removed.
        """
        if self._closed:
            return
        for agent in list(self._agents):
            agent.close()
        self._closed = True
        segment = self._segment
        if not segment.closed:
            segment.enter_gate()
            try:
                self._repair_and_reap()
                self._unlink_if_unused()
            finally:
                segment.leave_gate()
                segment.close()
        self._doorbells.close()

    def _unlink_if_unused(self) -> None:
        """Under the gate."""
        if not self._segment.taken_slots() and not self._segment.unlinked:
            self._segment.unlink()

    def __enter__(self) -> Bus:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._closed and hasattr(self, "_segment"):
            self.close()

    def __repr__(self) -> str:
        if self._closed:
            return f"<Bus {self.name!r}, closed>"
        return f"<Bus {self.name!r}, {len(self._segment.taken_slots())} of {self._limits.max_agents} agents>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_path, (self.name, self._path)


def connect(bus: str, name: str | None = None, **join_options: Any) -> Agent:
    """``Bus.open(bus).join(name)``, for a process that is one agent; closing the agent closes the bus handle
    too.
    """
    opened = Bus.open(bus)
    try:
        agent = opened.join(name, **join_options)
    except BaseException:
        opened.close()
        raise
    agent._owns_bus = True
    return agent


def _open_path(name: str, path: str) -> Bus:
    """Unpickle: the same file, whatever FASTCOMM_DIR says here."""
    bus = Bus()
    bus.name, bus._path, bus._asked = name, path, (None, None, None, None)
    bus._wanted, bus._mode, bus._create = checked_limits(None, None, None, None), 0o600, False
    bus._open()
    return bus


def _agent_name(name: str | None, taken: dict[str, int]) -> str:
    if name is None:
        base = f"pid-{os.getpid()}"
        return next(
            free
            for n in range(len(taken) + 1)
            if (free := base if n == 0 else f"{base}-{n + 1}") not in taken
        )
    if (
        not 1 <= len(name.encode("utf-8", "surrogatepass")) <= MAX_AGENT_NAME
        or "\0" in name
        or not name.isprintable()
    ):
        raise InvalidNameError(
            f"the agent's name {name[:100]!r} has {len(name)} characters; a name has 1 to {MAX_AGENT_NAME} "
            "bytes of printable UTF-8"
        )
    return name
