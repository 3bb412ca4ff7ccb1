"""Journals: what an agent did, when, and what it was given, in memory that outlives it."""

import time
from typing import NamedTuple

from fastcomm.testing.chaos.history import Ledger, Violation, read

MOST_CALLS = 3000
MOST_GIVEN = 1 << 18  # of a steward, more than all authors send
NEVER = 1 << 62
"""When a call returned that did not."""

JOIN, SUBSCRIBE, UNSUBSCRIBE, PUBLISH, CLOSE = 1, 2, 3, 4, 5


class Call(NamedTuple):
    """One call of an agent, with CLOCK_MONOTONIC before and after it, in nanoseconds.

    SUBSCRIBE: `what` is (pattern, group), by their numbers. UNSUBSCRIBE: (which of its calls of subscribe,
    the first is 1,). PUBLISH: (first sequence number, how many, subject, priority); `result`: how many
    inboxes were reached, as it returned or as Full said, which is `full` then. CLOSE: only of those who leave
    before the end.
    """

    kind: int
    began: int
    ended: int
    what: tuple[int, int, int, int]
    result: int
    full: bool


class Given(NamedTuple):
    """A message that an agent was given; `number`: of the subscription of a group that it came by, or 0."""

    author: int
    sequence: int
    number: int


class Journal(Ledger):
    """Of one life. A call is written down before it begins, then whether and when it returned."""

    WIDTH = 8
    COUNTERS = ("received", "unwanted", "pending", "delivered", "lost", "refused")

    def __init__(self) -> None:
        super().__init__(16 + self.WIDTH * MOST_CALLS + MOST_GIVEN, code="Q")

    @property
    def calls_begun(self) -> int:
        return self._words[0]

    @property
    def full(self) -> bool:
        """Whether it has room for those calls only that end a life."""
        return self._words[0] > MOST_CALLS - 10

    @property
    def reach(self) -> int:
        """How many messages the call that runs may take; 0: none runs."""
        return self._words[2]

    @reach.setter
    def reach(self, most: int) -> None:
        self._words[2] = most

    @property
    def quiet(self) -> bool:
        """It publishes no more."""
        return bool(self._words[3])

    @quiet.setter
    def quiet(self, value: bool) -> None:
        self._words[3] = value

    @property
    def complete(self) -> bool:
        """It took all that there was when nobody published any more; the counters were read then."""
        return bool(self._words[4])

    def finish(self, counters: tuple[int, ...]) -> None:
        for number, value in enumerate(counters):
            self._words[5 + number] = value
        self._words[4] = 1

    def counters(self) -> dict[str, int]:
        return {name: self._words[5 + number] for number, name in enumerate(self.COUNTERS)}

    def begin(self, kind: int, *what: int) -> None:
        at = 16 + self.WIDTH * self._words[0]
        self._words[at + 1] = kind
        for number, value in enumerate(what):
            self._words[at + 2 + number] = value
        self._words[at] = time.monotonic_ns()
        self._words[0] += 1

    def end(self, result: int = 0, *, full: bool = False) -> None:
        """The call that was begun last has returned."""
        at = 16 + self.WIDTH * (self._words[0] - 1)
        self._words[at + 6] = result << 1 | full
        self._words[at + 7] = time.monotonic_ns()

    def note(self, data: bytes, number: int) -> None:
        """It was given `data`. Violation if that is torn."""
        count = self._words[1]
        if count >= MOST_GIVEN:
            raise Violation(f"an agent was given more than {MOST_GIVEN} messages; so many were never sent")
        author, sequence = read(data)
        self._words[16 + self.WIDTH * MOST_CALLS + count] = author << 48 | number << 32 | sequence
        self._words[1] = count + 1

    def calls(self) -> list[Call]:
        found = []
        for number in range(self._words[0]):
            at = 16 + self.WIDTH * number
            began, kind, a, b, c, d, result, ended = self._words[at : at + self.WIDTH].tolist()
            found.append(Call(kind, began, ended or NEVER, (a, b, c, d), result >> 1, bool(result & 1)))
        return found

    def given(self) -> list[Given]:
        first = 16 + self.WIDTH * MOST_CALLS
        words = self._words[first : first + self._words[1]].tolist()
        return [Given(word >> 48, word & 0xFFFFFFFF, word >> 32 & 0xFFFF) for word in words]
