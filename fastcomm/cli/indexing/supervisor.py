"""Starts the agents, watches them, kills and restarts tokenizers on request, and collects what they report.

Every wait ends: with what it waits for, with the death of a role, or after STALL_SECONDS without any
message moved.
"""

import multiprocessing
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from types import TracebackType
from typing import Any, Final, Self

from fastcomm import Bus, Message
from fastcomm.cli.indexing import IndexingError
from fastcomm.cli.indexing.corpus import Corpus, Piece, deal
from fastcomm.cli.indexing.link import Link
from fastcomm.cli.indexing.memory import resident_bytes
from fastcomm.cli.indexing.plan import INBOX_BYTES, STALL_SECONDS, SUPERVISOR, Split, kill_points
from fastcomm.cli.indexing.progress import Display, Progress
from fastcomm.cli.indexing.roles import (
    START,
    STOP,
    Aggregator,
    Owner,
    Reader,
    Role,
    Tokenizer,
    event,
    merge,
    serve,
)

_LOOK_SECONDS: Final = 0.1
_SHOW_SECONDS: Final = 0.25
_LEAVE_SECONDS: Final = 10.0
_SPARE_SLOTS: Final = 8


class RoleDiedError(IndexingError):
    """An agent that nobody was asked to kill has ended."""


class StalledError(IndexingError):
    """Nothing moved for STALL_SECONDS; the text says whose inboxes are not empty."""


@dataclass(slots=True)
class Child:
    """One agent process; `life` counts the replacements on its seat."""

    process: ForkServerProcess
    role: Role
    seat: str
    life: int = 0
    ready: bool = False
    condemned: bool = False
    gone: bool = False


@dataclass(frozen=True, slots=True)
class LostBatch:
    """A batch that died with `tokenizer`: this piece of file number `file` was not counted."""

    tokenizer: str
    file: int
    piece: Piece


@dataclass(slots=True)
class Outcome:
    """What the agents found, and what it took."""

    counts: Counter[str]
    lost: list[LostBatch]
    discarded_words: int
    batches: int
    seconds: float
    start_seconds: float
    segment_bytes: int
    growth_bytes: list[int]


class Supervisor:
    """One run over `corpus`.

    A context manager: on the way out, however it is left, no child and no segment remain.
    """

    def __init__(self, corpus: Corpus, split: Split, kills: int, seed: int, display: Display) -> None:
        self._corpus = corpus
        self._split = split
        self._kill_points = kill_points(kills, split.readers, seed)
        self._seed = seed
        self._display = display
        self._children: dict[str, Child] = {}
        self._context = start_server()
        self._bus = Bus.open(
            f"demo-{multiprocessing.current_process().pid}",
            max_agents=split.agents + 1 + _SPARE_SLOTS,
            inbox_bytes=INBOX_BYTES,
        )
        self._link: Link | None = None
        self.progress = Progress(corpus.size)
        self._counts: Counter[str] = Counter()
        self._lost: list[LostBatch] = []
        self._growth: dict[str, int] = {}
        self._batches = 0
        self._end: list[int] | None = None
        self._looked = self._shown = self._moved_at = 0.0
        self._moved = -1
        self._reports = 0
        self._failures: dict[str, str] = {}
        self._handlers: dict[str, Callable[[Message], None]] = {
            "ready": self._on_ready,
            "stats": self._on_stats,
            "bye": self._on_bye,
            "failed": self._on_failed,
            "kill": self._on_kill,
            "lost": self._on_lost,
            "finished": self._on_finished,
            "result": self._on_result,
            "end": self._on_end,
        }

    # The run.

    def run(self) -> Outcome:
        """Start all agents, let them index, stop them.

        Raises IndexingError when one dies, fails or nothing moves.
        """
        begun = time.monotonic()
        self._start_all()
        self._pump(self._all_ready)
        self.progress.started = started = time.monotonic()
        self.progress.phase = "indexing"
        self._tell(START, [child for child in self._children.values() if isinstance(child.role, Reader)])
        self._pump(lambda: self._end is not None)
        seconds = time.monotonic() - started
        self._pump(self._all_ready)
        segment_bytes = resident_bytes(self._bus.path)
        self._stop_all()
        assert self._end is not None
        total, discarded, unsettled = self._end
        if total != self._counts.total() or unsettled:
            raise IndexingError(
                f"the accounts are not closed: {total} words sent by the aggregator,"
                f" {self._counts.total()} arrived, {unsettled} groups unsettled"
            )
        return Outcome(
            self._counts,
            self._lost,
            discarded,
            self._batches,
            seconds,
            started - begun,
            segment_bytes,
            list(self._growth.values()),
        )

    def _start_all(self) -> None:
        self._link = Link(self._bus, SUPERVISOR, SUPERVISOR, [])
        self._growth[SUPERVISOR] = self._link.growth
        for name, role in self._roles():
            self._start(name, role)

    def _roles(self) -> list[tuple[str, Role]]:
        split, corpus = self._split, self._corpus
        hands = deal(corpus, split.readers)
        roles: list[tuple[str, Role]] = [("aggregator-0", Aggregator(split.owners))]
        roles += [(f"owner-{n}", Owner(n, split.readers)) for n in range(split.owners)]
        names: list[list[str]] = [[] for _ in range(split.readers)]
        for n in range(split.tokenizers):
            name, reader = f"tokenizer-{n}", n % split.readers
            names[reader].append(name)
            roles.append((name, Tokenizer(name, reader, split.owners)))
        for n, hand in enumerate(hands):
            files = [(file, corpus.paths[file], corpus.sizes[file]) for file in hand]
            roles.append((f"reader-{n}", Reader(n, files, names[n], self._kill_points[n], self._seed)))
        return roles

    def _start(self, seat: str, role: Role, life: int = 0) -> None:
        name = f"{seat}-{life}" if life else seat
        process = self._context.Process(
            target=serve, args=(self._bus.name, name, role), name=name, daemon=True
        )
        process.start()
        self._children[name] = Child(process, role, seat, life)

    def _stop_all(self) -> None:
        self.progress.phase = "stopping"
        self._tell(STOP, list(self._children.values()))
        self._pump(lambda: all(child.gone for child in self._children.values()))

    def _tell(self, what: str, children: list[Child]) -> None:
        for child in children:
            self._on_bus.send(f"{child.role.address}.{what}", None)

    # Watching.

    @property
    def _on_bus(self) -> Link:
        assert self._link is not None
        return self._link

    def _all_ready(self) -> bool:
        return all(child.ready for child in self._children.values())

    def _pump(self, done: Callable[[], bool]) -> None:
        self._moved_at = time.monotonic()
        while not done():
            for message in self._on_bus.messages(timeout=_LOOK_SECONDS):
                self._handlers[event(message)](message)
            now = time.monotonic()
            if now - self._looked >= _LOOK_SECONDS:
                self._looked = now
                self._look_for_deaths()
                self._look_for_stall(now)
            if now - self._shown >= _SHOW_SECONDS:
                self._shown = now
                self.progress.sample(self._bus.agents())
                self._display.show(self.progress)

    def _look_for_deaths(self) -> None:
        sentinels = {child.process.sentinel: name for name, child in self._children.items() if not child.gone}
        dead = [sentinels[sentinel] for sentinel in wait(list(sentinels), timeout=0)]  # type: ignore[index]
        unexpected = [name for name in dead if not self._bury(name)]
        if unexpected:
            self._refuse_to_go_on(unexpected)

    def _bury(self, name: str) -> bool:
        """Whether the death of `name` was to be expected; a condemned tokenizer is replaced."""
        child = self._children[name]
        child.process.join()
        if child.condemned and isinstance(child.role, Tokenizer):
            del self._children[name]
            self._on_bus.send(f"reader.{child.role.reader}.died", name)
            self._replace(child)
            return True
        child.gone = self.progress.phase == "stopping" and child.process.exitcode == 0
        return child.gone

    def _replace(self, dead: Child) -> None:
        """Start another tokenizer under a new name: the old one may still stand in somebody's accounts."""
        role, life = dead.role, dead.life + 1
        assert isinstance(role, Tokenizer)
        self._start(dead.seat, Tokenizer(f"{dead.seat}-{life}", role.reader, role.owners), life)

    def _refuse_to_go_on(self, dead: list[str]) -> None:
        """Name the death that caused the others: a signal before an error, which may follow from it."""
        time.sleep(_LOOK_SECONDS)
        for message in self._on_bus.messages(timeout=0):
            if event(message) == "failed":
                self._on_failed(message)
        codes = {name: child.process.exitcode or 0 for name, child in self._children.items()}
        killed = [name for name, code in codes.items() if code < 0]
        if not killed and self._failures:
            name, text = next(iter(self._failures.items()))
            raise RoleDiedError(f"{name} failed: {text}")
        name = (killed or dead)[0]
        how = (
            f"was killed by {signal.Signals(-codes[name]).name}"
            if killed
            else f"ended with code {codes[name]}"
        )
        raise RoleDiedError(f"{name} (pid {self._children[name].process.pid}) {how}, and not by this run")

    def _look_for_stall(self, now: float) -> None:
        moved = self.progress.received + self._on_bus.received - self._reports
        if moved != self._moved:
            self._moved, self._moved_at = moved, now
        elif now - self._moved_at > STALL_SECONDS:
            agents = self._bus.agents()
            waiting = ", ".join(f"{a.name} {a.depth} B" for a in agents if a.depth) or "none"
            missing = ", ".join(n for n, child in self._children.items() if not child.ready) or "none"
            raise StalledError(
                f"no message moved for {STALL_SECONDS:g} s while {self.progress.phase}; not ready: {missing};"
                f" inboxes with something in them: {waiting}"
            )

    # What agents report.

    def _on_ready(self, message: Message) -> None:
        child = self._children.get(message.sender)
        if child is None:
            return
        child.ready = True
        self._growth[child.seat] = message.data
        if isinstance(child.role, Tokenizer) and child.life:
            self._on_bus.send(f"reader.{child.role.reader}.joined", message.sender)

    def _on_stats(self, message: Message) -> None:
        self._reports += 1
        self.progress.report(message.sender, message.data)

    def _on_bye(self, message: Message) -> None:
        self._on_stats(message)

    def _on_failed(self, message: Message) -> None:
        self._failures[message.sender] = message.data

    def _on_kill(self, message: Message) -> None:
        child = self._children[message.data]
        child.condemned = True
        child.process.kill()
        self.progress.kills += 1

    def _on_lost(self, message: Message) -> None:
        tokenizer, file, *piece = message.data
        self._lost.append(LostBatch(tokenizer, file, Piece(*piece)))
        self.progress.lost_batches += 1

    def _on_finished(self, message: Message) -> None:
        self._batches += message.data

    def _on_result(self, message: Message) -> None:
        merge(self._counts, message.data)

    def _on_end(self, message: Message) -> None:
        self._end = message.data

    # The end.

    def close(self) -> None:
        """Kill what is left, wait for it, leave the bus and remove its segment.

        A second Ctrl-C waits for that.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._end_children()
            self._leave_bus()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _end_children(self) -> None:
        for child in self._children.values():
            if child.process.exitcode is None:
                child.process.kill()
        for child in self._children.values():
            child.process.join(_LEAVE_SECONDS)

    def _leave_bus(self) -> None:
        if self._link is not None:
            self._link.agent.close()
        self._bus.unlink()
        self._bus.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def start_server() -> Any:
    """The forkserver context with the roles loaded, so that a child starts in milliseconds.

    The server starts with SIGINT blocked, and so do its children: Ctrl-C is the supervisor's alone to handle.
    The resource tracker goes first, because starting it unblocks SIGINT again.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fastcomm.cli.indexing.roles"])
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context
