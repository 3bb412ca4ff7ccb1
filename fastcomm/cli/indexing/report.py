"""The agents' result held against the plain count, and the summary of a run as text or JSON."""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from fastcomm.cli.indexing.corpus import WORD, Corpus, count_words, read_text
from fastcomm.cli.indexing.latency import LatencyCounts
from fastcomm.cli.indexing.outcome import LostBatch, Outcome
from fastcomm.cli.indexing.plan import Split
from fastcomm.cli.indexing.progress import Progress

PROMISED_BYTES: Final = 10_000_000
_SHOWN: Final = 10
MB: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Latency:
    """Send to receipt, in us, of `messages` messages."""

    messages: int
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, counts: LatencyCounts) -> "Latency":
        """The usual percentiles of `counts`."""
        p50, p95, p99 = (counts.percentile(share) / 1000 for share in (0.5, 0.95, 0.99))
        return cls(counts.total, p50, p95, p99, counts.largest / 1000)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that the bus costs: the segment's resident pages, and what all processes grew by joining."""

    segment: int
    growth: int
    largest_growth: int
    promised: int = PROMISED_BYTES

    @property
    def total(self) -> int:
        """What the promise is about."""
        return self.segment + self.growth


@dataclass(frozen=True, slots=True)
class Verification:
    """`differences`: word -> (counted plus lost, plain count), for every word where they are not equal."""

    words: int
    distinct: int
    plain_seconds: float
    lost_words: int
    differences: dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Summary:
    """All that is said about a run. `lost` names every batch that was not counted."""

    corpus: str
    files: int
    unreadable_files: int
    bytes: int
    split: Split
    seconds: float
    start_seconds: float
    messages: int
    messages_per_second: float
    batches: int
    words: int
    distinct: int
    top: list[tuple[str, int]]
    latency: dict[str, Latency]
    memory: Memory
    kills: int
    lost: list[str]
    discarded_words: int
    verification: Verification

    @property
    def equal(self) -> bool:
        """Whether counted words plus words of lost lines are the plain count, word by word."""
        return not self.verification.differences

    def as_json(self) -> dict[str, Any]:
        """The summary as JSON types; sizes in bytes, latencies in us."""
        return {**asdict(self), "memory_total": self.memory.total, "equal": self.equal}


def verify(
    corpus: Corpus, outcome: Outcome, between_files: Callable[[], None] = lambda: None
) -> Verification:
    """Count the corpus in this process and compare."""
    begun = time.monotonic()
    plain = count_words(corpus, between_files)
    seconds = time.monotonic() - begun
    lost = lost_words(corpus, outcome.lost)
    found = outcome.counts + lost
    differences = {
        w: (found[w], plain[w]) for w in sorted(found.keys() | plain.keys()) if found[w] != plain[w]
    }
    return Verification(plain.total(), len(plain), seconds, lost.total(), differences)


def lost_words(corpus: Corpus, lost: list[LostBatch]) -> Counter[str]:
    """The words of the lines that were reported lost."""
    by_file: defaultdict[int, list[LostBatch]] = defaultdict(list)
    for batch in lost:
        by_file[batch.file].append(batch)
    words: Counter[str] = Counter()
    for file, batches in by_file.items():
        text = read_text(corpus.paths[file])
        for batch in batches:
            words.update(WORD.findall(text, batch.piece.start, batch.piece.end))
    return words


def lost_lines(corpus: Corpus, lost: list[LostBatch]) -> list[str]:
    """``file:first-last (tokenizer)`` for every lost batch, in the order of the corpus."""
    ordered = sorted(lost, key=lambda batch: (batch.file, batch.piece))
    return [
        f"{os.path.relpath(corpus.paths[batch.file], corpus.root)}"
        f":{batch.piece.first_line}-{batch.piece.last_line} ({batch.tokenizer})"
        for batch in ordered
    ]


def summarise(
    corpus: Corpus, split: Split, outcome: Outcome, progress: Progress, verification: Verification
) -> Summary:
    """Put together what the supervisor and the verification found."""
    growth = outcome.growth.values()
    latency = {role: Latency.of(totals.latency) for role, totals in progress.roles.items()}
    latency["all"] = Latency.of(LatencyCounts().add(totals.latency for totals in progress.roles.values()))
    return Summary(
        corpus=corpus.root,
        files=len(corpus.paths),
        unreadable_files=corpus.unreadable,
        bytes=corpus.size,
        split=split,
        seconds=outcome.seconds,
        start_seconds=outcome.start_seconds,
        messages=progress.received,
        messages_per_second=progress.received / outcome.seconds,
        batches=outcome.batches,
        words=outcome.counts.total(),
        distinct=len(outcome.counts),
        top=sorted(outcome.counts.items(), key=lambda item: (-item[1], item[0]))[:10],
        latency=latency,
        memory=Memory(outcome.segment_bytes, sum(growth), max(growth)),
        kills=progress.kills,
        lost=lost_lines(corpus, outcome.lost),
        discarded_words=outcome.discarded_words,
        verification=verification,
    )


def as_text(summary: Summary) -> Iterator[str]:
    """The summary in lines; the last says whether the result is right."""
    yield from _run_lines(summary)
    yield from _latency_lines(summary)
    yield from _memory_lines(summary)
    yield from _loss_lines(summary)
    yield verdict(summary)


def _run_lines(s: Summary) -> Iterator[str]:
    yield f"corpus     {s.files:,} files, {s.bytes / MB:,.1f} MB under {s.corpus}"
    if s.unreadable_files:
        yield f"           {s.unreadable_files:,} more can't be read and were left out"
    yield (
        f"agents     {s.split.agents}: {s.split.readers} readers, {s.split.tokenizers} tokenizers,"
        f" {s.split.owners} owners, {s.split.aggregators} aggregator; all ready after {s.start_seconds:.2f} s"
    )
    yield (
        f"messages   {s.messages:,} in {s.seconds:.2f} s: {s.messages_per_second:,.0f}/s;"
        f" {s.batches:,} batches of lines"
    )
    yield f"words      {s.words:,} counted, {s.distinct:,} distinct; top: " + ", ".join(
        f"{word} {count:,}" for word, count in s.top
    )
    yield f"plain      one process, no messages: the same corpus in {s.verification.plain_seconds:.2f} s"


def _latency_lines(s: Summary) -> Iterator[str]:
    heads = "".join(f"{head:>12}" for head in ("messages", "p50 us", "p95 us", "p99 us", "max us"))
    yield f"latency    {'receiver':<12}{heads}"
    for role, one in s.latency.items():
        yield (
            f"           {role:<12}{one.messages:>12,}"
            f"{one.p50:>12,.0f}{one.p95:>12,.0f}{one.p99:>12,.0f}{one.max:>12,.0f}"
        )


def _memory_lines(s: Summary) -> Iterator[str]:
    memory = s.memory
    within = "within" if memory.total < memory.promised else "OVER"
    yield (
        f"memory     {memory.total / MB:.2f} MB, {within} the promised {memory.promised / MB:.0f} MB:"
        f" segment {memory.segment / MB:.2f} MB resident, joining {memory.growth / MB:.2f} MB private"
        f" (largest {memory.largest_growth / 1000:.0f} kB)"
    )


def _loss_lines(s: Summary) -> Iterator[str]:
    if not s.kills:
        return
    yield (
        f"killed     {s.kills} tokenizers with SIGKILL, all replaced; {len(s.lost):,} batches lost with"
        f" {s.verification.lost_words:,} words, {s.discarded_words:,} of them arrived and thrown away"
    )
    for line in s.lost[:_SHOWN]:
        yield f"           lost {line}"
    if len(s.lost) > _SHOWN:
        yield f"           and {len(s.lost) - _SHOWN:,} more (--lost-report FILE lists all)"


def verdict(s: Summary) -> str:
    """The last line: OK with the exact count, or what differs."""
    check = s.verification
    if s.equal and not check.lost_words:
        return f"OK: {s.words:,} words, {s.distinct:,} distinct, equal to the single-process count"
    if s.equal:
        return (
            f"OK: {s.words:,} words counted + {check.lost_words:,} in lines reported lost = {check.words:,},"
            f" {check.distinct:,} distinct, equal to the single-process count"
        )
    shown = list(check.differences.items())[:_SHOWN]
    words = ", ".join(f"{word!r} {found:,} instead of {plain:,}" for word, (found, plain) in shown)
    more = f" and {len(check.differences) - _SHOWN:,} more" if len(check.differences) > _SHOWN else ""
    return f"WRONG: {len(check.differences):,} words differ from the single-process count: {words}{more}"
