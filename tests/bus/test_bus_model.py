"""A bus of several agents against a model in plain Python: who gets what, in which order, what is counted."""

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from fastcomm import Agent, Bus, Subscription
from fastcomm.errors import NameTakenError, TableFullError
from fastcomm.testing import isolated_name

NAMES = st.sampled_from("abcdef")
SUBJECTS = st.sampled_from(["x", "x.y", "x.z", "x.y.z", "other"])
PATTERNS = st.sampled_from(["x", "x.y", "x.*", "x.>", ">", "*", "*.y", "x.*.z", "nobody"])
SIZES = st.sampled_from([0, 1, 30, 300, 900])
MAX_AGENTS, MAX_SUBSCRIPTIONS, CELLS = 4, 6, 32


def matches(pattern: str, subject: str) -> bool:
    """NATS's rules, written down as simply as they can be."""
    wanted, tokens = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        head = wanted[:-1]
        return len(tokens) > len(head) and all(w in ("*", t) for w, t in zip(head, tokens, strict=False))
    return len(wanted) == len(tokens) and all(w in ("*", t) for w, t in zip(wanted, tokens, strict=True))


def cells(message: tuple[str, str, int, bytes]) -> int:
    """What it takes of an inbox: 8 bytes before the record, 32 of the envelope, the texts, the data."""
    subject, sender, _, data = message
    return (8 + 32 + len(subject) + len(sender) + len(data) + 63) // 64


def room_for(message: tuple[str, str, int, bytes]) -> int:
    """Cells of an inbox that it may take: the last eighth is for others, unless it needs that itself."""
    reserve = CELLS // 8
    return CELLS - reserve if 2 * cells(message) + reserve <= CELLS else CELLS


class Model:
    """An agent: what it subscribed to, and what waits for it as (subject, sender, sequence, data)."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.patterns: list[str] = []
        self.waiting: deque[tuple[str, str, int, bytes]] = deque()
        self.published = 0
        self.unwanted = 0
        self.cancelled = False

    def wants(self, subject: str) -> bool:
        return any(matches(pattern, subject) for pattern in self.patterns)

    def next(self) -> tuple[str, str, int, bytes] | None:
        while self.waiting:
            message = self.waiting.popleft()
            if not self.cancelled or self.wants(message[0]):
                return message
            self.unwanted += 1
        return None


class BusMachine(RuleBasedStateMachine):
    subscriptions: Bundle[tuple[str, Subscription | None]] = Bundle("subscriptions")

    def __init__(self) -> None:
        super().__init__()
        self.bus = Bus.open(
            isolated_name(), max_agents=MAX_AGENTS, inbox_bytes=4096, max_subscriptions=MAX_SUBSCRIPTIONS
        )
        self.models: dict[str, Model] = {}

    def teardown(self) -> None:
        self.bus.close()

    def subscribed(self) -> int:
        return sum(len(model.patterns) for model in self.models.values())

    @rule(name=NAMES)
    def join(self, name: str) -> None:
        if name in self.models:
            with pytest.raises(NameTakenError):
                self.bus.join(name)
        elif len(self.models) == MAX_AGENTS:
            with pytest.raises(TableFullError):
                self.bus.join(name)
        else:
            self.models[name] = Model(self.bus.join(name))

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.models)))
        self.models.pop(name).agent.close()

    @precondition(lambda self: self.models)
    @rule(target=subscriptions, data=st.data(), pattern=PATTERNS)
    def subscribe(self, data: st.DataObject, pattern: str) -> tuple[str, Subscription | None]:
        name = data.draw(st.sampled_from(sorted(self.models)))
        model = self.models[name]
        if self.subscribed() == MAX_SUBSCRIPTIONS:
            with pytest.raises(TableFullError):
                model.agent.subscribe(pattern)
            return name, None
        model.patterns.append(pattern)
        return name, model.agent.subscribe(pattern)

    @rule(subscription=subscriptions)
    def unsubscribe(self, subscription: tuple[str, Subscription | None]) -> None:
        """Also one that was cancelled before, or whose agent has left: that changes nothing."""
        name, cancelled = subscription
        if cancelled is None:
            return
        model = self.models.get(name)
        if model is not None and cancelled in model.agent.subscriptions:
            model.patterns.remove(cancelled.pattern)
            model.cancelled = True
        cancelled.unsubscribe()

    @precondition(lambda self: self.models)
    @rule(data=st.data(), subject=SUBJECTS, size=SIZES)
    def publish(self, data: st.DataObject, subject: str, size: int) -> None:
        sender = self.models[data.draw(st.sampled_from(sorted(self.models)))]
        message = (subject, sender.agent.name, sender.published + 1, bytes(size))
        targets = [model for model in self.models.values() if model.wants(subject)]
        for model in targets:
            # Room for it, and for the padding that may lie before it and before each that waits.
            while sum(2 * cells(other) - 1 for other in [*model.waiting, message]) > room_for(message):
                self.check_next(model)
        assert sender.agent.publish(subject, bytes(size), timeout=0) == len(targets)
        sender.published += 1
        for model in targets:
            model.waiting.append(message)

    def check_next(self, model: Model) -> None:
        message = model.agent.try_receive()
        got = None if message is None else (message.subject, message.sender, message.sequence, message.data)
        assert got == model.next()

    @precondition(lambda self: self.models)
    @rule(data=st.data(), limit=st.integers(1, 5))
    def receive(self, data: st.DataObject, limit: int) -> None:
        model = self.models[data.draw(st.sampled_from(sorted(self.models)))]
        for _ in range(limit):
            self.check_next(model)

    @invariant()
    def lists_and_counts_agree(self) -> None:
        assert {info.name for info in self.bus.agents()} == set(self.models)
        for model in self.models.values():
            assert sorted(s.pattern for s in model.agent.subscriptions) == sorted(model.patterns)
            stats = model.agent.stats()
            assert stats.published == model.published
            assert stats.unwanted == model.unwanted


TestBusAgainstAModel = BusMachine.TestCase
TestBusAgainstAModel.settings = settings(max_examples=100, stateful_step_count=40)
