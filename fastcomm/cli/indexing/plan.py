"""How the agents are split into roles, and the sizes that keep every inbox from filling.

A tokenizer has at most WINDOW batches of at most BATCH_BYTES waiting, so a reader never waits for an inbox.
Only word messages can find an inbox full; an owner waits for nobody, so what waits for it goes on.
"""

import random
from dataclasses import dataclass
from typing import Final

from fastcomm.cli.indexing import IndexingError

BATCH_BYTES: Final = 1200
WORDS_BYTES: Final = 1000
WINDOW: Final = 4
FEWEST_AGENTS: Final = 4
INBOX_BYTES: Final = 32768

TICK_SECONDS: Final = 0.5
STALL_SECONDS: Final = 45.0
SUPERVISOR: Final = "supervisor"


@dataclass(frozen=True, slots=True)
class Split:
    """How many agents have each role."""

    readers: int
    tokenizers: int
    owners: int
    aggregators: int = 1

    @property
    def agents(self) -> int:
        """All of them, without the supervisor."""
        return self.readers + self.tokenizers + self.owners + self.aggregators


def split(agents: int) -> Split:
    """A reader for every 25 agents, about a third owners, one aggregator, the rest tokenizers."""
    if agents < FEWEST_AGENTS:
        raise IndexingError(f"{agents} agents can't fill the four roles; the fewest is {FEWEST_AGENTS}")
    readers = max(1, agents // 25)
    owners = max(1, agents * 36 // 100)
    return Split(readers, agents - readers - owners - 1, owners)


def kill_points(kills: int, readers: int, seed: int) -> list[list[float]]:
    """For each reader, at which shares of its bytes it asks for a kill: spread evenly, shaken by `seed`."""
    rng = random.Random(seed)
    points: list[list[float]] = [[] for _ in range(readers)]
    for number in range(kills):
        points[number % readers].append(0.05 + 0.9 * (number + rng.random()) / kills)
    return points
