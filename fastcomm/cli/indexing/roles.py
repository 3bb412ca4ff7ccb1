"""What the agents do. Each role is a loop over its inbox that ends with the event ``stop``.

A role has an **address**; the subject of a message to it is the address and the name of an event:

    reader.<r>.       start, done (a tokenizer's report), died and joined (of tokenizers), stop
    work.<tokenizer>. batch, stop
    words.<p>.        add, stop
    owners.           verdict and final, which all owners get
    counts.           part, end, stop

One subscription an agent (two for an owner): every agent keeps a copy of all of them.
"""

import random
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final
from zlib import crc32

from fastcomm import Bus, Message
from fastcomm.cli.indexing.accounting import Batch, Ledger, Tally
from fastcomm.cli.indexing.corpus import WORD, pieces, read_text
from fastcomm.cli.indexing.link import RoleLink, exit_if_orphaned
from fastcomm.cli.indexing.messages import Lost, Totals, Verdict
from fastcomm.cli.indexing.plan import BATCH_BYTES, SUPERVISOR, WINDOW, WORDS_BYTES

START: Final = "start"
STOP: Final = "stop"
VERDICT: Final = "owners.verdict"
FINAL: Final = "owners.final"


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads its files and addresses batches of lines to its tokenizers, which nobody else does."""

    index: int
    files: list[tuple[int, str, int]]
    tokenizers: list[str]
    kill_points: list[float]
    seed: int

    @property
    def address(self) -> str:
        """What the subjects of messages to it begin with."""
        return f"reader.{self.index}"

    def run(self, link: RoleLink) -> None:
        """Read all files, settle all batches, tell the owners and the supervisor."""
        Reading(self, link).run()
        wait_for(link, STOP)


class Reading:
    """One run of a reader: its ledger, and the kills it has asked for."""

    def __init__(self, role: Reader, link: RoleLink) -> None:
        self._role = role
        self._link = link
        self._ledger = Ledger(WINDOW)
        self._rng = random.Random(f"{role.seed} {role.index}")
        self._kill_points = sorted(role.kill_points, reverse=True)
        self._condemned: set[str] = set()
        self._batches = self._bytes_read = 0
        self._bytes = sum(size for _, _, size in role.files)
        for tokenizer in role.tokenizers:
            self._ledger.join(tokenizer)

    def run(self) -> None:
        """From ``start`` to the last verdict."""
        wait_for(self._link, START)
        for file, path, size in self._role.files:
            self._read(file, path, size)
        while self._ledger.outstanding or self._kill_points or self._condemned:
            self._ask_for_kills(1.0)
            self._handle(self._link.messages())
        for tokenizer, group in self._ledger.verdicts():
            self._link.send(VERDICT, Verdict(tokenizer, group))
        self._link.send(f"{SUPERVISOR}.finished", self._batches)
        self._link.send(FINAL, self._role.index)

    def _read(self, file: int, path: str, size: int) -> None:
        text = read_text(path)
        for piece in pieces(text, BATCH_BYTES):
            self._assign(Batch(file, piece), text[piece.start : piece.end])
            self._ask_for_kills((self._bytes_read + piece.end) / self._bytes)
        self._bytes_read += size
        self._link.units += size

    def _assign(self, batch: Batch, text: str) -> None:
        """Send to the tokenizer whose credit is oldest; to another one when it is gone."""
        self._batches += 1
        while True:
            tokenizer = self._ledger.take_credit()
            if tokenizer is None:
                self._handle(self._link.messages())
                continue
            if self._link.offer(f"work.{tokenizer}.batch", [self._batches, text], timeout=0.1):
                self._ledger.assign(tokenizer, self._batches, batch)
                return
            self._ledger.return_credit(tokenizer)
            self._handle(self._link.messages(timeout=0.01))

    def _ask_for_kills(self, share: float) -> None:
        while self._kill_points and share >= self._kill_points[-1]:
            victim = self._ledger.choose_victim(self._rng, self._condemned)
            if victim is None:
                return
            self._kill_points.pop()
            self._condemned.add(victim)
            self._link.send(f"{SUPERVISOR}.kill", victim)

    def _handle(self, messages: list[Message]) -> None:
        for message in messages:
            what = event(message)
            if what == "done":
                self._ledger.done(message.sender, message.data[0], message.data[1])
            elif what == "joined":
                self._ledger.join(message.data)
            elif what == "died":
                self._bury(message.data)

    def _bury(self, tokenizer: str) -> None:
        last_group, lost = self._ledger.die(tokenizer)
        self._condemned.discard(tokenizer)
        self._link.send(VERDICT, Verdict(tokenizer, last_group))
        for batch in lost:
            self._link.send(f"{SUPERVISOR}.lost", Lost(tokenizer, batch.file, *batch.piece))


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Splits the batches of one reader into words and sends each word to the owner of its part."""

    name: str
    reader: int
    owners: int

    @property
    def address(self) -> str:
        """What the subjects of messages to it begin with."""
        return f"work.{self.name}"

    def run(self, link: RoleLink) -> None:
        """Work in groups: all words of what is waiting, then *done*, then the next group."""
        group, stopped = 0, False
        while not stopped:
            batches = []
            for message in link.messages(limit=WINDOW):
                if event(message) == STOP:
                    stopped = True
                else:
                    batches.append(message.data)
            if batches:
                group += 1
                self._work(link, group, batches)

    def _work(self, link: RoleLink, group: int, batches: list[tuple[int, str]]) -> None:
        for owner, words in addressed((text for _, text in batches), self.owners):
            link.send(f"words.{owner}.add", [group, words])
        link.send(f"reader.{self.reader}.done", [group, [number for number, _ in batches]])
        link.units += len(batches)


def addressed(texts: Iterator[str], owners: int) -> Iterator[tuple[int, list[str]]]:
    """The words of all texts as (owner, words), each about WORDS_BYTES at most.

    The part of a word is its CRC-32.
    """
    parts: list[list[str]] = [[] for _ in range(owners)]
    sizes = [0] * owners
    for text in texts:
        for word in WORD.findall(text):
            data = word.encode()
            owner = crc32(data) % owners
            parts[owner].append(word)
            sizes[owner] += len(data) + 2
            if sizes[owner] >= WORDS_BYTES:
                yield owner, parts[owner]
                parts[owner], sizes[owner] = [], 0
    for owner, words in enumerate(parts):
        if words:
            yield owner, words


@dataclass(frozen=True, slots=True)
class Owner:
    """Counts the words of one part of the vocabulary."""

    index: int
    readers: int

    @property
    def address(self) -> str:
        """What the subjects of messages to it begin with."""
        return f"words.{self.index}"

    def run(self, link: RoleLink) -> None:
        """Count until every reader is final, then send the counts to the aggregator."""
        tally = Tally()
        final: set[int] = set()
        words_subject = f"{self.address}.add"
        while len(final) < self.readers:
            for message in link.messages():
                if message.subject == words_subject:
                    group, words = message.data
                    tally.add(message.sender, group, words)
                    link.units += len(words)
                elif message.subject == VERDICT:
                    tally.settle(message.data.tokenizer, message.data.last_group)
                elif message.subject == FINAL:
                    final.add(message.data)
        for flat in flattened(tally.counts):
            link.send("counts.part", flat)
        link.send("counts.end", Totals(tally.counts.total(), tally.discarded, tally.unsettled))
        wait_for(link, STOP)


def flattened(counts: Counter[str]) -> Iterator[list[str | int]]:
    """Counts as lists [word, count, word, count, ...], each about WORDS_BYTES at most."""
    flat: list[str | int] = []
    size = 0
    for word, count in counts.items():
        flat += (word, count)
        size += len(word.encode()) + 6
        if size >= WORDS_BYTES:
            yield flat
            flat, size = [], 0
    if flat:
        yield flat


@dataclass(frozen=True, slots=True)
class Aggregator:
    """Collects the counts of all owners and hands the whole to the supervisor."""

    owners: int

    @property
    def address(self) -> str:
        """What the subjects of messages to it begin with."""
        return "counts"

    def run(self, link: RoleLink) -> None:
        """Merge until every owner has ended."""
        counts: Counter[str] = Counter()
        totals = Totals(0, 0, 0)
        ended = 0
        while ended < self.owners:
            for message in link.messages():
                if event(message) == "part":
                    merge(counts, message.data)
                elif event(message) == "end":
                    ended += 1
                    totals.words += message.data.words
                    totals.discarded += message.data.discarded
                    totals.unsettled += message.data.unsettled
        link.units += counts.total()
        for flat in flattened(counts):
            link.send(f"{SUPERVISOR}.result", flat)
        link.send(f"{SUPERVISOR}.end", totals)
        wait_for(link, STOP)


def merge(counts: Counter[str], flat: list[str | int]) -> None:
    """Add a list made by `flattened`."""
    for word, count in zip(flat[::2], flat[1::2], strict=True):
        counts[word] += count  # type: ignore[index, operator]


def event(message: Message) -> str:
    """The last token of the subject: what has happened."""
    subject: str = message.subject
    return subject.rpartition(".")[2]


def wait_for(link: RoleLink, awaited: str) -> None:
    """Wait for the event `awaited`; others that come meanwhile were sent in vain."""
    while True:
        if any(event(message) == awaited for message in link.messages(limit=1)):
            return


Role = Reader | Tokenizer | Owner | Aggregator


def serve(bus_name: str, name: str, role: Role) -> None:
    """The life of one agent process: join, report ready, do the role, report, leave.

    An exception is reported to the supervisor in one line; only when that fails, the traceback is printed.
    """
    exit_if_orphaned()
    shared = ["owners.*"] if isinstance(role, Owner) else []
    with RoleLink(partial(Bus.open, bus_name, create=False), name, role.address, shared) as link:
        try:
            link.send(f"{SUPERVISOR}.ready", link.growth)
            role.run(link)
            link.leave()
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})"
            if not link.offer(f"{SUPERVISOR}.failed", text[:1000], timeout=1):
                raise
            raise SystemExit(1) from None
