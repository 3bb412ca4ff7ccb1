"""Directs a run: starts the agents, watches them, and collects what they report.

Every wait ends: with what it waits for, with the death of an agent, or after STALL_SECONDS of silence.
"""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Final, Self

from fastcomm import Bus, Message
from fastcomm.cli.indexing import IndexingError
from fastcomm.cli.indexing.corpus import Corpus, Piece, deal
from fastcomm.cli.indexing.crew import Child, Crew
from fastcomm.cli.indexing.link import Link
from fastcomm.cli.indexing.memory import resident_bytes
from fastcomm.cli.indexing.messages import Lost, Totals
from fastcomm.cli.indexing.outcome import LostBatch, Outcome
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
)

_LOOK_SECONDS: Final = 0.1
_SHOW_SECONDS: Final = 0.25
_SPARE_SLOTS: Final = 8


class StalledError(IndexingError):
    """Nothing moved for STALL_SECONDS; the text says who is not ready and whose inboxes are not empty."""


def cast(corpus: Corpus, split: Split, kills: int, seed: int) -> list[tuple[str, Role]]:
    """Who plays what: (seat, role) of every agent; those that others send to come first."""
    roles: list[tuple[str, Role]] = [("aggregator-0", Aggregator(split.owners))]
    roles += [(f"owner-{n}", Owner(n, split.readers)) for n in range(split.owners)]
    seats = [f"tokenizer-{n}" for n in range(split.tokenizers)]
    roles += [(seat, Tokenizer(seat, n % split.readers, split.owners)) for n, seat in enumerate(seats)]
    points = kill_points(kills, split.readers, seed)
    for n, hand in enumerate(deal(corpus, split.readers)):
        files = [(file, corpus.paths[file], corpus.sizes[file]) for file in hand]
        roles.append((f"reader-{n}", Reader(n, files, seats[n :: split.readers], points[n], seed)))
    return roles


class Supervisor:
    """One run over `corpus`.

    A context manager: on the way out, however it is left, no child and no segment remain.
    """

    def __init__(self, corpus: Corpus, split: Split, kills: int, seed: int, display: Display) -> None:
        self._roles = cast(corpus, split, kills, seed)
        self._display = display
        name = f"demo-{os.getpid()}"
        self._crew = Crew(name)
        self._open_bus = partial(
            Bus.open, name, max_agents=split.agents + 1 + _SPARE_SLOTS, inbox_bytes=INBOX_BYTES
        )
        self._joined: Link | None = None
        self.progress = Progress(corpus.size)
        self._outcome = Outcome()
        self._totals: Totals | None = None
        self._looked = self._shown = 0.0
        self._reports = 0
        self._moved, self._moved_at = -1, time.monotonic()

    @property
    def _link(self) -> Link:
        assert self._joined is not None
        return self._joined

    # The run.

    def run(self) -> Outcome:
        """Start all agents, let them index, stop them.

        Raises IndexingError when one dies or fails, nothing moves, or the accounts are not closed.
        """
        outcome, begun = self._outcome, time.monotonic()
        self._joined = Link(self._open_bus, SUPERVISOR, SUPERVISOR, [])
        outcome.growth[SUPERVISOR] = self._link.growth
        for seat, role in self._roles:
            self._crew.start(seat, role)
        self._pump(self._all_ready)
        started = self.progress.enter("indexing")
        self._tell(START, lambda child: isinstance(child.role, Reader))
        self._pump(lambda: self._totals is not None)
        outcome.seconds, outcome.start_seconds = time.monotonic() - started, started - begun
        self._pump(self._all_ready)
        outcome.segment_bytes = resident_bytes(self._link.bus.path)
        self.progress.enter("stopping")
        self._tell(STOP, lambda child: True)
        self._pump(lambda: all(child.gone for child in self._crew.children.values()))
        self._close_accounts()
        return outcome

    def _tell(self, what: str, chosen: Callable[[Child], bool]) -> None:
        for child in filter(chosen, self._crew.children.values()):
            self._link.send(f"{child.role.address}.{what}", None)

    def _all_ready(self) -> bool:
        return all(child.ready for child in self._crew.children.values())

    def _close_accounts(self) -> None:
        assert self._totals is not None
        totals, arrived = self._totals, self._outcome.counts.total()
        if totals.words != arrived or totals.unsettled:
            raise IndexingError(
                f"the accounts are not closed: the owners counted {totals.words:,} words, {arrived:,}"
                f" arrived, {totals.unsettled} groups are unsettled"
            )

    # Watching.

    def _pump(self, done: Callable[[], bool]) -> None:
        self._moved_at = time.monotonic()
        while not done():
            self._handle_messages(_LOOK_SECONDS)
            now = time.monotonic()
            if now - self._looked >= _LOOK_SECONDS:
                self._looked = now
                self._look_for_deaths()
                self._look_for_stall(now)
            if now - self._shown >= _SHOW_SECONDS:
                self._shown = now
                self.progress.sample(self._link.bus.agents())
                self._display.show(self.progress)

    def _look_for_deaths(self) -> None:
        unexpected = [child for child in self._crew.find_dead() if not self._expected(child)]
        if unexpected:
            time.sleep(_LOOK_SECONDS)  # what caused it may be noticed only after what follows from it
            self._handle_messages(0)
            raise self._crew.explain(unexpected)

    def _expected(self, dead: Child) -> bool:
        """Whether this death was to be expected; a condemned tokenizer is replaced."""
        if dead.condemned and isinstance(dead.role, Tokenizer):
            self._link.send(f"reader.{dead.role.reader}.died", dead.name)
            self._crew.replace(dead)
            return True
        dead.gone = self.progress.phase == "stopping" and dead.process.exitcode == 0
        return dead.gone

    def _look_for_stall(self, now: float) -> None:
        moved = self.progress.received + self._link.received - self._reports
        if moved != self._moved:
            self._moved, self._moved_at = moved, now
        elif now - self._moved_at > STALL_SECONDS:
            waiting = ", ".join(
                f"{agent.name} {agent.depth} B" for agent in self._link.bus.agents() if agent.depth
            )
            missing = ", ".join(child.name for child in self._crew.children.values() if not child.ready)
            raise StalledError(
                f"no message moved for {STALL_SECONDS:g} s while {self.progress.phase};"
                f" not ready: {missing or 'none'}; inboxes with something in them: {waiting or 'none'}"
            )

    # What agents report.

    def _handle_messages(self, timeout: float) -> None:
        for message in self._link.messages(timeout):
            handle: Callable[[Message], None] = getattr(self, f"_on_{event(message)}")
            handle(message)

    def _on_ready(self, message: Message) -> None:
        child = self._crew.children[message.sender]
        child.ready = True
        self._outcome.growth[child.seat] = message.data
        if isinstance(child.role, Tokenizer) and child.life:
            self._link.send(f"reader.{child.role.reader}.joined", child.name)

    def _on_stats(self, message: Message) -> None:
        self._reports += 1
        self.progress.report(message.sender, message.data)

    _on_bye = _on_stats

    def _on_failed(self, message: Message) -> None:
        self._crew.failures[message.sender] = message.data

    def _on_kill(self, message: Message) -> None:
        self._crew.kill(message.data)
        self.progress.kills += 1

    def _on_lost(self, message: Message) -> None:
        lost: Lost = message.data
        piece = Piece(lost.start, lost.end, lost.first_line, lost.last_line)
        self._outcome.lost.append(LostBatch(lost.tokenizer, lost.file, piece))
        self.progress.lost_batches += 1

    def _on_finished(self, message: Message) -> None:
        self._outcome.batches += message.data

    def _on_result(self, message: Message) -> None:
        merge(self._outcome.counts, message.data)

    def _on_end(self, message: Message) -> None:
        self._totals = message.data
        self._outcome.discarded_words = message.data.discarded

    # The end.

    def close(self) -> None:
        """Kill what is left, wait for it, leave the bus, remove its segment; Ctrl-C waits for that."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._crew.end()
            if self._joined is not None:
                self._joined.agent.close()
                self._joined.bus.unlink()
                self._joined.bus.close()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
