"""Look-ups in SubjectRegistry, mirroring fastcomm/_core/subject_registry.pyx; beside a hit, a dict's `get`.

By hand: ``LookUp().setup(1_000_000)`` in IPython, then ``%timeit`` on the bodies below.
"""

import itertools
import random

from fastcomm.subjects import SubjectRegistry, is_subset, matches

BATCH = 1000


def random_subject(rng):
    place = f"site{rng.randrange(10)}.room{rng.randrange(100)}.{rng.choice(('temp', 'load', 'fan', 'door'))}"
    return f"{place}.unit{rng.randrange(1000)}.{rng.choice(('set', 'get', 'evt', 'ack'))}"


def random_pattern(rng):
    """Two in a hundred have ``*`` for one of the last three tokens, two in a thousand end in ``>``."""
    tokens = random_subject(rng).split(".")
    chance = rng.random()
    if chance < 0.02:
        tokens[rng.randrange(2, 5)] = "*"
    elif chance < 0.022:
        tokens[-1] = ">"
    return ".".join(tokens)


def fill(stored, cache_size=1024):
    rng = random.Random(1)
    patterns = set()
    while len(patterns) < stored:
        patterns.add(random_pattern(rng))
    registry = SubjectRegistry(cache_size=cache_size)
    for pattern in patterns:
        registry.insert(pattern, None)
    return registry


class LookUp:
    """Each time is that of BATCH look-ups."""

    params = (1_000, 1_000_000)
    param_names = ("stored",)
    timeout = 300

    def setup(self, stored):
        rng = random.Random(2)
        self.match = fill(stored).match
        self.hot = [random_subject(rng) for _ in range(100)] * (BATCH // 100)
        self.dict_get = dict.fromkeys(self.hot, ()).get
        for subject in self.hot:
            self.match(subject)
        # Enough fresh ones that none is asked for again before it has left the cache.
        batches = [[random_subject(rng) for _ in range(BATCH)] for _ in range(20)]
        self.cold = itertools.cycle(batches)

    def time_hot(self, stored):
        for subject in self.hot:
            self.match(subject)

    def time_hot_dict(self, stored):
        for subject in self.hot:
            self.dict_get(subject)

    def time_cold(self, stored):
        for subject in next(self.cold):
            self.match(subject)


class Change:
    """Insertion and removal with a full cache of subjects that the pattern does not match."""

    params = ("a.b.c.d", "*.*.*.nobody.set", "nobody.>")
    param_names = ("pattern",)

    def setup(self, pattern):
        rng = random.Random(3)
        self.registry = fill(1_000)
        for _ in range(3_000):
            self.registry.match(random_subject(rng))

    def time_insert_and_remove(self, pattern):
        self.registry.insert(pattern, None)
        self.registry.remove(pattern, None)


class Relations:
    def time_matches(self):
        matches("site1.*.temp.>", "site1.room7.temp.unit12.set")

    def time_is_subset(self):
        is_subset("site1.*.temp.unit12", "site1.*.temp.>")
