"""SubjectRegistry beside other ways to find who listens to a subject, with up to a million patterns stored.

paho-mqtt's MQTTMatcher is a trie of dicts over MQTT's topics, which mean the same with other characters; it
keeps no results. A list of regular expressions, tried one after the other, with a dict of the results in
front, is what one writes oneself. "dict" is one look-up in a dict of the patterns as if they were
subjects: less than what a cache does that has the answer, or one that has it not.
"""

import contextlib
import functools
import itertools
import random
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchlib import weigh
from benchlib.contest import Contender, Contenders, Contest, Role, Setting, Skipped
from benchlib.method import Figures, without_collector
from fastcomm.subjects import SubjectRegistry

STORED = 1_000_000
FEW = 1_000
HOT = 100
TIMED = 2_000
FRESH = 20 * TIMED  # more than the cache holds, so that none is in it when its turn comes again
NOT_INSTALLED = "not installed: pip install 'fastcomm[peers]'"


def random_subject(rng: random.Random) -> str:
    place = f"site{rng.randrange(10)}.room{rng.randrange(100)}.{rng.choice(('temp', 'load', 'fan', 'door'))}"
    return f"{place}.unit{rng.randrange(1000)}.{rng.choice(('set', 'get', 'evt', 'ack'))}"


def random_pattern(rng: random.Random) -> str:
    """Two in a hundred have ``*`` for one of the last three tokens, two in a thousand end in ``>``."""
    tokens = random_subject(rng).split(".")
    chance = rng.random()
    if chance < 0.02:
        tokens[rng.randrange(2, 5)] = "*"
    elif chance < 0.022:
        tokens[-1] = ">"
    return ".".join(tokens)


@functools.cache
def patterns(stored: int) -> list[str]:
    rng = random.Random(1)
    found: dict[str, None] = {}
    while len(found) < stored:
        found[random_pattern(rng)] = None
    return list(found)


@functools.cache
def subjects(count: int) -> list[str]:
    rng = random.Random(2)
    return [random_subject(rng) for _ in range(count)]


class Fastcomm:
    """A peer: what it calls a pattern, how it is asked and changed, and how many patterns it bears."""

    most = STORED

    def __init__(self, stored: Iterable[str]) -> None:
        self.registry = SubjectRegistry[int]()
        for pattern in stored:
            self.registry.insert(pattern, 1)
        self.match: Callable[[str], Any] = self.registry.match

    def text(self, pattern: str) -> str:
        return pattern

    def change(self, fresh: Sequence[str]) -> None:
        insert, remove = self.registry.insert, self.registry.remove
        for pattern in fresh:
            insert(pattern, 1)
        for pattern in fresh:
            remove(pattern, 1)


class Paho:
    most = STORED

    def __init__(self, stored: Iterable[str]) -> None:
        from paho.mqtt.matcher import MQTTMatcher

        self.matcher = MQTTMatcher()
        for pattern in stored:
            self.matcher[self.text(pattern)] = 1

    def text(self, pattern: str) -> str:
        return pattern.replace(".", "/").replace("*", "+").replace(">", "#")

    def match(self, topic: str) -> list[int]:
        return list(self.matcher.iter_match(topic))

    def change(self, fresh: Sequence[str]) -> None:
        matcher = self.matcher
        for topic in fresh:
            matcher[topic] = 1
        for topic in fresh:
            del matcher[topic]


class Regexes:
    most = FEW

    def __init__(self, stored: Iterable[str]) -> None:
        self.expressions = [re.compile(self.expression(pattern)) for pattern in stored]
        self.found: dict[str, list[int]] = {}

    def expression(self, pattern: str) -> str:
        escaped = re.escape(pattern).replace(r"\*", "[^.]+")
        return escaped[:-1] + ".+" if escaped.endswith(".>") else escaped

    def text(self, pattern: str) -> str:
        return pattern

    def match(self, subject: str) -> list[int]:
        found = self.found.get(subject)
        if found is None:
            if len(self.found) >= 1024:
                self.found.clear()
            found = [1 for expression in self.expressions if expression.fullmatch(subject)]
            self.found[subject] = found
        return found


class Dict:
    most = STORED

    def __init__(self, stored: Iterable[str]) -> None:
        self.known = dict.fromkeys(stored, 1)
        self.known.update(dict.fromkeys(subjects(HOT), 1))
        self.match = self.known.get

    def text(self, pattern: str) -> str:
        return pattern


PEERS: dict[str, tuple[Role, type[Any]]] = {
    "fastcomm": ("ours", Fastcomm),
    "dict": ("limit", Dict),
    "paho MQTTMatcher": ("peer", Paho),
    "cached regex scan": ("peer", Regexes),
}


@functools.cache
def filled(name: str, stored: int) -> Any:
    return PEERS[name][1](patterns(stored))


def block_of_lookups(match: Callable[[str], Any], texts: Iterable[str], count: int) -> Figures:
    """Of the next `count` texts. They have their hashes, as a constant in a program has."""
    taken = list(itertools.islice(texts, count))
    with without_collector():
        started = time.perf_counter_ns()
        for text in taken:
            match(text)
        return {"": (time.perf_counter_ns() - started) / count}


def block_of_changes(peer: Any, fresh: Sequence[str]) -> Figures:
    """Half of an insertion and a removal."""
    with without_collector():
        started = time.perf_counter_ns()
        peer.change(fresh)
        return {"": (time.perf_counter_ns() - started) / (2 * len(fresh))}


def measure_lookups(peer: Any, hot: bool) -> Callable[[], Figures]:
    texts = [peer.text(subject) for subject in subjects(HOT if hot else FRESH)]
    for text in texts:
        hash(text)
    return functools.partial(block_of_lookups, peer.match, itertools.cycle(texts), TIMED)


def measure_changes(peer: Any) -> Callable[[], Figures]:
    """With patterns that have a token of their own beneath tokens that others have too, one in ten a wildcard
    before it; ours with a full cache.
    """
    fresh = [f"{subject}.new{i}" for i, subject in enumerate(subjects(TIMED))]
    fresh[::10] = ["*" + subject[subject.index(".") :] for subject in fresh[::10]]
    for subject in subjects(TIMED):
        peer.match(peer.text(subject))
    return functools.partial(block_of_changes, peer, [peer.text(pattern) for pattern in fresh])


def contenders(
    stored: int, what: str, names: Sequence[str], setting: Setting, stack: contextlib.ExitStack
) -> Contenders:
    found: list[Contender | Skipped] = []
    stored = min(stored, 10 * FEW) if setting.quick else stored
    for name in names:
        role, make = PEERS[name]
        if stored > make.most:
            found.append(Skipped(name, f"it would try {stored:,} patterns one after the other"))
            continue
        try:
            peer = filled(name, stored)
        except ImportError:
            found.append(Skipped(name, NOT_INSTALLED))
            continue
        measure = measure_changes(peer) if what == "change" else measure_lookups(peer, what == "hot")
        found.append(Contender(name, "", measure, role))
    return found


def lookups(what: str, stored: int) -> Contest:
    asked = "that was asked for before" if what == "hot" else "for the first time"
    return Contest(
        f"lookup {what}, {stored:,} stored",
        f"who listens to a subject {asked}, {stored:,} patterns stored",
        "ns",
        None,
        functools.partial(contenders, stored, what, list(PEERS)),
        rounds=(3, 15),
    )


def contests() -> list[Contest]:
    return [
        *(lookups(what, stored) for stored in (FEW, STORED) for what in ("hot", "cold")),
        Contest(
            "subscribe, unsubscribe",
            f"one of these, {STORED:,} patterns stored",
            "ns",
            None,
            functools.partial(contenders, STORED, "change", ["fastcomm", "paho MQTTMatcher"]),
            rounds=(3, 15),
        ),
        weigh.contest("memory of a subscription", STORED, ["fastcomm", "paho MQTTMatcher"], "peers_subjects"),
    ]


# ---- memory, in a process of its own: see weigh.py


def fill(name: str, stored: int) -> Callable[[], Any]:
    texts = patterns(stored)
    return lambda: PEERS[name][1](texts)
