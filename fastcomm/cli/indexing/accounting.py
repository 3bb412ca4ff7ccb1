"""The exact accounts of a run in which tokenizers are killed.

A tokenizer works in **groups**, numbered from 1: it takes the batches that wait for it, publishes all their
words to the owners, then publishes *done* (group, batches) to its one reader, and only then begins the next
group. `publish` returns when a message is committed, and an inbox is read in the order of commitment. So:

1. An owner that gets a word of group g+1 knows that *done* of group g was committed: the words it holds of
   g count.
2. After a death the supervisor tells the reader, and this arrives behind every *done* of the dead
   tokenizer. The last group reported done is then final; every batch not reported is lost; the reader
   publishes the **verdict** (tokenizer, last group done) to all owners.
3. The verdict arrives behind every word of the dead tokenizer. Of the one group that an owner still holds
   apart, the words count if the verdict covers it, and are thrown away otherwise. By 1, older groups were
   covered.

At the end the readers publish the same verdict for the living. An owner holds at most one group of each
tokenizer apart, whatever the length of the run. A batch counts at all owners or at none.
"""

import random
from collections import Counter, deque
from typing import NamedTuple

from fastcomm.cli.indexing.corpus import Piece


class Batch(NamedTuple):
    """One piece of one file."""

    file: int
    piece: Piece


class Ledger:
    """What one reader knows of its tokenizers. Credits bound what waits for each to `window` batches."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._credits: deque[str] = deque()
        self._out: dict[str, dict[int, Batch]] = {}
        self._last_group: dict[str, int] = {}

    def join(self, tokenizer: str) -> None:
        """`tokenizer` listens: give it its credits."""
        self._out[tokenizer] = {}
        self._last_group[tokenizer] = 0
        self._credits.extend([tokenizer] * self._window)

    def take_credit(self) -> str | None:
        """The tokenizer to send the next batch to:

        The one whose credit is oldest. None when all have enough.
        """
        while self._credits:
            tokenizer = self._credits.popleft()
            if tokenizer in self._out:
                return tokenizer
        return None

    def return_credit(self, tokenizer: str) -> None:
        """The batch did not reach `tokenizer`: it was not sent, and another one gets its turn first."""
        self._credits.append(tokenizer)

    def assign(self, tokenizer: str, number: int, batch: Batch) -> None:
        """Batch `number` was committed in the inbox of `tokenizer`: from now on it is done or lost."""
        self._out[tokenizer][number] = batch

    def done(self, tokenizer: str, group: int, numbers: list[int]) -> None:
        """`tokenizer` reports all words of these batches committed in the owners' inboxes."""
        out = self._out[tokenizer]
        for number in numbers:
            del out[number]
        self._last_group[tokenizer] = group
        self._credits.extend([tokenizer] * len(numbers))

    def die(self, tokenizer: str) -> tuple[int, list[Batch]]:
        """`tokenizer` is dead: its last group that counts, and the batches that are lost with it."""
        lost = self._out.pop(tokenizer)
        return self._last_group.pop(tokenizer), list(lost.values())

    def choose_victim(self, rng: random.Random, spared: set[str]) -> str | None:
        """A tokenizer to kill: one with work outstanding if there is one, never one of `spared`."""
        living = [name for name in sorted(self._out) if name not in spared]
        busy = [name for name in living if self._out[name]]
        return rng.choice(busy or living) if living else None

    def verdicts(self) -> list[tuple[str, int]]:
        """(tokenizer, last group done) of the living."""
        return sorted(self._last_group.items())

    @property
    def outstanding(self) -> int:
        """Batches that are neither done nor lost."""
        return sum(map(len, self._out.values()))


class Tally:
    """What one owner has counted, and the words of each tokenizer's group in progress, held apart."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.discarded = 0
        self._held: dict[str, tuple[int, list[str]]] = {}

    def add(self, tokenizer: str, group: int, words: list[str]) -> None:
        """Words of `group`. A newer group than the held one proves the held one done."""
        held = self._held.get(tokenizer)
        if held is not None:
            if held[0] == group:
                held[1].extend(words)
                return
            self.counts.update(held[1])
        self._held[tokenizer] = (group, words)

    def settle(self, tokenizer: str, last_group: int) -> None:
        """No more words come from `tokenizer`; groups up to `last_group` count, a later one does not."""
        held = self._held.pop(tokenizer, None)
        if held is None:
            return
        if held[0] <= last_group:
            self.counts.update(held[1])
        else:
            self.discarded += len(held[1])

    @property
    def unsettled(self) -> int:
        """Tokenizers of which words are still held apart; 0 once every verdict is in."""
        return len(self._held)
