"""What a run hands to the report."""

from collections import Counter
from dataclasses import dataclass, field

from fastcomm.cli.indexing.corpus import Piece


@dataclass(frozen=True, slots=True)
class LostBatch:
    """A batch that died with `tokenizer`: this piece of file number `file` was not counted."""

    tokenizer: str
    file: int
    piece: Piece


@dataclass(slots=True)
class Outcome:
    """What the agents found, and what it took.

    `growth` is private bytes by seat. `discarded_words` arrived at owners in groups that were never done.
    """

    counts: Counter[str] = field(default_factory=Counter)
    lost: list[LostBatch] = field(default_factory=list)
    discarded_words: int = 0
    batches: int = 0
    seconds: float = 0.0
    start_seconds: float = 0.0
    segment_bytes: int = 0
    growth: dict[str, int] = field(default_factory=dict)
