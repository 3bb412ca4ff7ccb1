"""What was sent and what came: messages that show damage, ledgers that outlive their writers, and the oracle.

A life of a producer is an author, a life of a consumer a reader; each writes a ledger, in memory that it
shares with the campaign. Stores of one aligned word are not split by a kill, and each ledger says first what
is about to happen, then what has.
"""

import itertools
import mmap
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

PATTERN = bytes(range(256)) * 4097
HEAD = struct.Struct("<II")
CHECKSUM = struct.Struct("<I")
ONE_BYTE = b"\xa5"
MOST_AUTHORS = 1024
MOST_SENT = 2000  # messages of an author
MOST_TAKEN = 1 << 16  # messages of a reader


class Violation(Exception):
    """What must hold did not: what was expected, what came."""


# --------------------------------------------------------------------------------------------------- messages


def message(author: int, sequence: int, nbytes: int) -> bytes:
    """A message that says whose it is and shows whether it is whole: `nbytes` of pattern and 12 more."""
    start = (author + sequence) & 0xFF
    body = HEAD.pack(author, sequence) + PATTERN[start : start + nbytes]
    return body + CHECKSUM.pack(zlib.crc32(body))


def read(data: bytes) -> tuple[int, int]:
    """(author, sequence) of a message(). Violation if it is torn."""
    body, checksum = data[:-4], data[-4:]
    if len(data) < 12 or CHECKSUM.unpack(checksum)[0] != zlib.crc32(body):
        raise Violation(f"torn: expected a message with its checksum, got {len(data)} bytes: {data[:64]!r}")
    author, sequence = HEAD.unpack_from(body)
    return author, sequence


def blank_size(sequence: int) -> int | None:
    """Some messages are too small to say whose they are: 0 or 1 bytes; None for the others."""
    return {5: 0, 9: 1}.get(sequence % 13)


def compose(author: int, sequence: int, nbytes: int) -> bytes:
    """The message that an author sends as its `sequence`-th."""
    blank = blank_size(sequence)
    return message(author, sequence, nbytes) if blank is None else ONE_BYTE[:blank]


def identify(data: bytes) -> tuple[int, int]:
    """(author, sequence) of what compose() made; (0, size) of a blank. Violation if it is torn."""
    if data in (b"", ONE_BYTE):
        return 0, len(data)
    return read(data)


class Checker:
    """Takes messages one by one and fails at one that is torn, doubled or out of its producer's order."""

    def __init__(self) -> None:
        self.last: dict[int, int] = {}
        self.count = 0

    def take(self, data: bytes) -> tuple[int, int]:
        author, sequence = read(data)
        if sequence <= self.last.get(author, 0):
            raise Violation(f"{author} sent {sequence} after {self.last[author]}")
        self.last[author] = sequence
        self.count += 1
        return author, sequence


# ---------------------------------------------------------------------------------------------------- ledgers


class Ledger:
    """Words that parent and children share, of 32 bits ("I") or 64 ("Q"). Unmapped when the last reference
    goes.
    """

    def __init__(self, words: int, code: Literal["I", "Q"] = "I") -> None:
        self._words = memoryview(mmap.mmap(-1, words * struct.calcsize(code))).cast(code)


class AuthorLedger(Ledger):
    """The last sequence number that an author began to send, and the last that was sent when a call ended."""

    def __init__(self) -> None:
        super().__init__(2)

    @property
    def begun(self) -> int:
        return self._words[0]

    @begun.setter
    def begun(self, sequence: int) -> None:
        self._words[0] = sequence

    @property
    def returned(self) -> int:
        return self._words[1]

    @returned.setter
    def returned(self, sequence: int) -> None:
        self._words[1] = sequence


class ReaderLedger(Ledger):
    """What a reader was given, in order, and what it is about to do."""

    FIRST = 8

    def __init__(self) -> None:
        super().__init__(self.FIRST + 2 * MOST_TAKEN + MOST_AUTHORS)

    @property
    def reach(self) -> int:
        """How many messages the call that runs may take; 0: none runs."""
        return self._words[0]

    @reach.setter
    def reach(self, most: int) -> None:
        self._words[0] = most

    @property
    def peeking(self) -> bool:
        """Whether the last message was noted, and is perhaps not given back yet."""
        return bool(self._words[2])

    @peeking.setter
    def peeking(self, value: bool) -> None:
        self._words[2] = value

    @property
    def complete(self) -> bool:
        """Whether it left only when nothing was to be had any more."""
        return bool(self._words[3])

    @complete.setter
    def complete(self, value: bool) -> None:
        self._words[3] = value

    @property
    def done(self) -> int:
        """Calls of task_done() that returned."""
        return self._words[4]

    @done.setter
    def done(self, calls: int) -> None:
        self._words[4] = calls

    def note(self, data: bytes) -> None:
        """It was given `data`. Violation if that is torn."""
        count = self._words[1]
        if count >= MOST_TAKEN:
            raise Violation(f"a reader was given more than {MOST_TAKEN} messages; so many were never sent")
        author, sequence = identify(data)
        at = self.FIRST + 2 * count
        self._words[at] = author
        self._words[at + 1] = sequence
        self._words[1] = count + 1

    def taken(self) -> list[tuple[int, int]]:
        words = self._words[self.FIRST : self.FIRST + 2 * self._words[1]].tolist()
        return list(zip(words[::2], words[1::2], strict=True))

    def subscribed(self, authors: "Sequence[AuthorLedger | None]") -> None:
        """From now on it must be given all: remember how far each author had begun."""
        for number, ledger in enumerate(authors):
            if ledger is not None:
                self._words[self.FIRST + 2 * MOST_TAKEN + number] = ledger.begun
        self._words[5] = 1

    def since(self, author: int) -> int | None:
        """How far that author was when subscribe() had returned; None: it never did."""
        return self._words[self.FIRST + 2 * MOST_TAKEN + author] if self._words[5] else None


# ----------------------------------------------------------------------------------------------------- oracle


class Author(NamedTuple):
    """A life of a producer as its ledger tells it."""

    number: int
    begun: int
    returned: int


class Reader(NamedTuple):
    """A life of a consumer: what it was given, how many messages its last call may have had in hand when it
    was killed, and whether its last message may come again.
    """

    who: str
    taken: Sequence[tuple[int, int]]
    in_hand: int = 0
    last_may_come_again: bool = False


class Outcome(NamedTuple):
    """What an oracle found right: messages given to somebody, and gone with a killed consumer as they may."""

    received: int
    gone: int


def check_deliveries(authors: Sequence[Author], readers: Sequence[Reader], *, in_turns: bool) -> Outcome:
    """Every message was given to one reader, once and in order. Violation.

    `in_turns`: the readers came one after the other, as consumers of a ring do, so that the order holds
    across them; otherwise it holds for each.
    """
    by_number = {author.number: author for author in authors}
    given: dict[int, set[int]] = {author.number: set() for author in authors}
    blanks: Counter[int] = Counter()
    last: dict[int, int] = {}
    again: tuple[int, int] | None = None
    for reader in readers:
        if not in_turns:
            last = {}
        for author, sequence in reader.taken:
            came, again_before, again = (author, sequence), again, None
            if came == again_before:
                continue
            if author == 0:
                blanks[sequence] += 1
                continue
            _check_begun(by_number, author, sequence, reader.who)
            _check_new(given, last, author, sequence, reader.who)
            given[author].add(sequence)
            last[author] = sequence
        if reader.taken and reader.last_may_come_again:
            again = reader.taken[-1]
    missing = [
        (author.number, sequence)
        for author in authors
        for sequence in range(1, max(author.returned, *given[author.number], 0) + 1)
        if blank_size(sequence) is None and sequence not in given[author.number]
    ]
    gone = len(missing) + _missing_blanks(authors, blanks)
    allowed = sum(reader.in_hand for reader in readers)
    if gone > allowed:
        raise Violation(
            f"lost: expected at most {allowed} messages to be gone, in the hands of killed consumers; {gone} "
            f"are, of them (author, sequence) {missing[:20]}, of "
            f"{[by_number[author] for author in sorted({author for author, _ in missing[:20]})]}"
        )
    return Outcome(sum(len(reader.taken) for reader in readers), gone)


def _check_begun(authors: dict[int, Author], number: int, sequence: int, who: str) -> None:
    author = authors.get(number)
    if author is None or not 1 <= sequence <= author.begun:
        raise Violation(f"invented: {who} was given {sequence} of author {number}, who is {author}")


def _check_new(
    given: dict[int, set[int]], last: dict[int, int], author: int, sequence: int, who: str
) -> None:
    if sequence in given[author]:
        raise Violation(f"doubled: {who} was given {sequence} of author {author}, which was given before")
    if sequence < last.get(author, 0):
        raise Violation(f"out of order: {who} was given {sequence} of author {author} after {last[author]}")


def _missing_blanks(authors: Iterable[Author], came: Counter[int]) -> int:
    """How many messages of 0 and of 1 byte are missing; nobody can tell which. Violation if too many came."""
    missing = 0
    for size in (0, 1):
        begun, returned = (
            sum(blank_size(n) == size for author in authors for n in range(1, author[field] + 1))
            for field in (1, 2)
        )
        if came[size] > begun:
            raise Violation(f"doubled: {begun} messages of {size} bytes were begun, {came[size]} came")
        missing += max(0, returned - came[size])
    return missing


class Subscriber(NamedTuple):
    """A life of a subscriber: what it was given; the residues modulo 3 of the sequence numbers that it wants;
    how far each author had begun when it had subscribed (missing: it never had, or the author came later);
    whether it took until nothing came any more.
    """

    who: str
    taken: Sequence[tuple[int, int]]
    residues: frozenset[int]
    since: dict[int, int] | None
    complete: bool


def check_broadcast(authors: Sequence[Author], subscribers: Sequence[Subscriber]) -> Outcome:
    """Every message was given to all who wanted it and were there: once, in order, no gap. Violation."""
    by_number = {author.number: author for author in authors}
    for subscriber in subscribers:
        came: dict[int, list[int]] = {author.number: [] for author in authors}
        for number, sequence in subscriber.taken:
            _check_begun(by_number, number, sequence, subscriber.who)
            came[number].append(sequence)
        for author in authors:
            _check_one_subscriber(author, subscriber, came[author.number])
    return Outcome(sum(len(subscriber.taken) for subscriber in subscribers), 0)


def _check_one_subscriber(author: Author, subscriber: Subscriber, came: list[int]) -> None:
    who, of = subscriber.who, f"of author {author.number}"
    unwanted = [sequence for sequence in came if sequence % 3 not in subscriber.residues]
    if unwanted:
        raise Violation(f"unwanted: {who} was given {unwanted[:10]} {of}, and did not subscribe to that")
    for before, after in itertools.pairwise(came):
        if after == before:
            raise Violation(f"doubled: {who} was given {after} {of} twice")
        if after < before:
            raise Violation(f"out of order: {who} was given {after} {of} after {before}")
    for residue in sorted(subscriber.residues):  # by pattern: one is subscribed to after the other
        _check_without_gap(author, subscriber, [n for n in came if n % 3 == residue], residue)


def _check_without_gap(author: Author, subscriber: Subscriber, came: list[int], residue: int) -> None:
    """From the first that came on, or from what was begun when it had subscribed: the earlier of both."""
    before_first = [came[0] - 1] if came else []
    if subscriber.since is not None:
        before_first.append(subscriber.since.get(author.number, 0))
    if not before_first:
        return
    until = max(came[-1] if came else 0, author.returned if subscriber.complete else 0)
    there = set(came)
    missing = [n for n in range(min(before_first) + 1, until + 1) if n % 3 == residue and n not in there]
    if missing:
        raise Violation(
            f"lost: {subscriber.who} was there from {min(before_first) + 1} to {until} and was not given "
            f"{missing[:20]} of {author}"
        )
