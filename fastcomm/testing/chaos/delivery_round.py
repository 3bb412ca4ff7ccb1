"""Rounds of a bus on which agents join, subscribe, publish, receive, leave and die as they like."""

import asyncio
import random
import time
from typing import Literal

from fastcomm.agent import Agent
from fastcomm.bus import Bus
from fastcomm.errors import Empty, Full, PeerDiedError
from fastcomm.priorities import Priority
from fastcomm.subscription import Subscription
from fastcomm.testing.chaos.bus_round import BusRound
from fastcomm.testing.chaos.delivery import GROUPS, PATTERNS, SUBJECTS, UNBOUNDED, check_delivery
from fastcomm.testing.chaos.delivery import Life as Told
from fastcomm.testing.chaos.history import ReaderLedger, Violation, message
from fastcomm.testing.chaos.journal import CLOSE, JOIN, NEVER, PUBLISH, SUBSCRIBE, UNSUBSCRIBE, Journal
from fastcomm.testing.chaos.plan import CONSUMER, PRODUCER, Life
from fastcomm.testing.chaos.rounds import IDLE, SMALL, WAIT, Report, nap
from fastcomm.testing.chaos.troop import Signals, Troop

MOST_SUBSCRIPTIONS = 5  # of an agent at a time
MORE_CALLS = 20  # that each who lives publishes when the faults are over
OVERFLOWS: tuple[Literal["block", "error", "drop_newest"], ...] = (
    "block",
    "block",
    "block",
    "error",
    "drop_newest",
)
STEWARD = 1000  # the number of its life
BATCHES = (1, 1, 1, 2, 7, 20)
MOST_TAKEN_BY_A_CALL = 8
DIRECT, GROUPED, MIXED = "direct", "grouped", "mixed"
THEMES: tuple[tuple[str, tuple[int, ...]], ...] = (
    (DIRECT, (0,)),
    (GROUPED, (1, 2)),
    (MIXED, (0, 0, 1, 2)),
)  # and the groups of their subscriptions


class DeliveryRound(BusRound):
    """Its theme says who does what. DIRECT: subscriptions of no group, all priorities and ways of
    overflowing, consumers publish too. GROUPED: producers publish NORMAL messages, consumers are members of
    groups until they leave or die: what is lost can be counted. MIXED: all at once.

    The steward, who lives to the end, is a member of each group, so that the dead have an heir.
    """

    what = "delivery"
    consumers = 4

    def shape(self, rng: random.Random) -> None:
        self.theme, self.groups = THEMES[self.plan.seed % len(THEMES)]
        self.inbox_bytes = rng.choice((4096, 16384))
        self.pace = rng.choice((0.0, 0.0, 0.0005, 0.002)), rng.choice((0.0, 0.0, 0.0005, 0.002))
        consumers = [place for place in self.plan.places if place[0].role == CONSUMER]
        steward = consumers[0][-1]._replace(place=len(self.plan.places), number=STEWARD)
        self.plan.places.insert(0, [steward])
        self.journals = {life.number: Journal() for place in self.plan.places for life in place}

    # ----------------------------------------------------------------------------------------- what agents do

    def produce(self, bus: Bus, life: Life, signals: Signals, rng: random.Random) -> None:
        self.be_agent(bus, life, signals, rng)

    def consume(self, bus: Bus, life: Life, signals: Signals, rng: random.Random) -> None:
        self.be_agent(bus, life, signals, rng)

    def be_agent(self, bus: Bus, life: Life, signals: Signals, rng: random.Random) -> None:
        journal = self.journals[life.number]
        journal.begin(JOIN)
        with bus.join(f"agent {life.place}", overflow=self.overflow(life)) as agent:
            journal.end()
            member = Member(agent, life, journal, rng)
            if self.listens(life):
                self.settle_in(member, life)
            calls = 0
            while not signals.over and (life.calls == 0 or calls < life.calls):
                if signals.quiet:
                    journal.quiet = True
                self.act(member, life, signals)
                calls += 1
                nap(self.pace[life.role == CONSUMER] * (life.number != STEWARD), rng)
            if signals.over and life.role == CONSUMER:
                member.complete()
            else:
                member.leave()

    def overflow(self, life: Life) -> Literal["block", "error", "drop_newest"]:
        if self.theme == GROUPED or life.number == STEWARD:
            return "block"
        return OVERFLOWS[life.seed % len(OVERFLOWS)]

    def listens(self, life: Life) -> bool:
        return life.role == CONSUMER or self.theme == MIXED

    def publishes(self, life: Life) -> bool:
        return life.role == PRODUCER or (self.theme != GROUPED and life.number != STEWARD)

    def settle_in(self, member: "Member", life: Life) -> None:
        if life.number == STEWARD:
            for group in sorted({*self.groups}):
                member.subscribe(0, group)
        else:
            for _ in range(member.rng.randint(1, 3)):
                self.subscribe(member)

    def subscribe(self, member: "Member") -> None:
        member.subscribe(member.rng.randrange(len(PATTERNS)), member.rng.choice(self.groups))

    def act(self, member: "Member", life: Life, signals: Signals) -> None:
        rng = member.rng
        if (
            self.publishes(life)
            and not signals.quiet
            and rng.random() < (0.9 if life.role == PRODUCER else 0.3)
        ):
            urgent = self.theme != GROUPED and rng.random() < 0.3
            member.publish(rng.randint(Priority.CRITICAL, Priority.LOW) if urgent else Priority.NORMAL)
        elif not self.listens(life):
            time.sleep(IDLE if signals.quiet else 0)
        elif life.number != STEWARD and self.theme != GROUPED and rng.random() < 0.05:
            self.change_subscriptions(member)
        else:
            member.take(0.01 if signals.quiet else WAIT, many=self.theme != GROUPED)

    def change_subscriptions(self, member: "Member") -> None:
        if len(member.subscriptions) < MOST_SUBSCRIPTIONS and member.rng.random() < 0.5:
            self.subscribe(member)
        elif member.subscriptions:
            member.unsubscribe()

    # ------------------------------------------------------------------------------------------------ the end

    def check_progress(self, troop: Troop) -> None:
        """Whoever lives goes on publishing; then all consumers come to rest, unless they are to be killed."""
        last = [place[-1] for place in self.plan.places if self.publishes(place[-1])]
        journals = [self.journals[life.number] for life in last]
        before = [journal.calls_begun for journal in journals]
        troop.wait_until(
            lambda: all(
                journal.calls_begun - begun > MORE_CALLS or journal.full
                for journal, begun in zip(journals, before, strict=True)
            ),
            f"each agent to publish {MORE_CALLS} times",
        )
        if self.plan.abandoned:
            return
        troop.quieten()
        listeners = [place[-1].number for place in self.plan.places if place[-1].role == CONSUMER]
        troop.wait_until(lambda: all(self.journals[number].quiet for number in listeners), "all to be quiet")

    def check(self, bus: Bus, rest: ReaderLedger) -> Report:
        if self.plan.abandoned:
            self.inspector = bus.join("inspector")
        self.check_tables(bus)
        inboxes = [inbox.stats() for inbox in bus._used_inboxes()]
        discarded = sum(stats.discarded for stats in inboxes)
        outcome = check_delivery([self.told(life) for place in self.plan.places for life in place], discarded)
        aborted = sum(stats.aborted for stats in inboxes)
        if aborted > len(self.killed):
            raise Violation(f"aborted: expected at most {len(self.killed)}, one a kill; {inboxes}")
        return Report(outcome.sent, outcome.received, outcome.gone, aborted, discarded)

    def told(self, life: Life) -> Told:
        journal = self.journals[life.number]
        killed_at = self.killed.get(life.number, NEVER)
        return Told(
            life.number,
            str(life),
            journal.calls(),
            journal.given(),
            killed_at,
            self.gone_by(life),
            UNBOUNDED if self.theme != GROUPED else journal.reach if life.number in self.killed else 0,
            self.overflow(life) == "drop_newest",
            journal.complete,
            journal.counters(),
        )

    def gone_by(self, life: Life) -> int:
        """When the next of its name had joined."""
        (place,) = (place for place in self.plan.places if life in place)
        joined = (
            call.ended
            for later in place[place.index(life) + 1 :]
            for call in self.journals[later.number].calls()
            if call.kind == JOIN
        )
        return min(joined, default=NEVER)


class Member:
    """An agent that writes down what it does."""

    def __init__(self, agent: Agent, life: Life, journal: Journal, rng: random.Random) -> None:
        self.agent = agent
        self.journal = journal
        self.rng = rng
        self.author = life.number
        self.sequence = 1
        self.subscriptions: list[int] = []
        self.made: dict[int, Subscription] = {}

    def subscribe(self, pattern: int, group: int) -> None:
        if self.journal.full:
            return
        self.journal.begin(SUBSCRIBE, pattern, group)
        made = self.agent.subscribe(PATTERNS[pattern], group=GROUPS[group])
        self.journal.end()
        self.subscriptions.append(made.number)
        self.made[made.number] = made

    def unsubscribe(self) -> None:
        if self.journal.full:
            return
        number = self.subscriptions.pop(self.rng.randrange(len(self.subscriptions)))
        self.journal.begin(UNSUBSCRIBE, number)
        self.made.pop(number).unsubscribe()
        self.journal.end()

    def publish(self, priority: int) -> None:
        if self.journal.full:
            time.sleep(IDLE)
            return
        count, subject = self.rng.choice(BATCHES), self.rng.randrange(len(SUBJECTS))
        items = [message(self.author, self.sequence + i, self.rng.choice(SMALL)) for i in range(count)]
        self.journal.begin(PUBLISH, self.sequence, count, subject, priority)
        self.sequence += count
        try:
            self.journal.end(self.send(SUBJECTS[subject], items, priority))
        except Full as error:
            self.journal.end(error.delivered, full=True)

    def send(self, subject: str, items: list[bytes], priority: int) -> int:
        agent, timeout = self.agent, self.rng.choice((0.0, 0.01, 0.01, WAIT))
        in_asyncio = self.rng.random() < 0.05
        if len(items) > 1:
            if in_asyncio:
                return asyncio.run(
                    agent.publish_many_async(subject, items, priority=priority, timeout=timeout)
                )
            return agent.publish_many(subject, items, priority=priority, timeout=timeout)
        if in_asyncio:
            return asyncio.run(agent.publish_async(subject, items[0], priority=priority, timeout=timeout))
        return agent.publish(subject, items[0], priority=priority, timeout=timeout)

    def take(self, timeout: float, *, many: bool) -> None:
        way = 3 if self.rng.random() < 0.03 else self.rng.choice((0, 1, 1, 2) if many else (0, 2))
        self.journal.reach = MOST_TAKEN_BY_A_CALL if way == 1 else 1
        try:
            if way == 0:
                came = [self.agent.receive(timeout)]
            elif way == 1:
                came = self.agent.receive_many(MOST_TAKEN_BY_A_CALL, timeout)
            elif way == 2:
                one = self.agent.try_receive()
                came = [] if one is None else [one]
            else:
                came = [asyncio.run(self.agent.receive_async(timeout))]
        except (Empty, PeerDiedError):
            came = []
        for one in came:
            self.journal.note(one.data, one._subscription)
        self.journal.reach = 0

    def complete(self) -> None:
        """Take all that is there; nobody publishes any more."""
        while (one := self.agent.try_receive()) is not None:
            self.journal.note(one.data, one._subscription)
        stats = self.agent.stats()
        self.journal.finish(tuple(getattr(stats, name) for name in Journal.COUNTERS))

    def leave(self) -> None:
        """What is in private memory is taken first, as that would go with it."""
        while self.agent.stats().pending:
            self.journal.reach = 1
            if (one := self.agent.try_receive()) is not None:
                self.journal.note(one.data, one._subscription)
            self.journal.reach = 0
        self.journal.begin(CLOSE)
        self.agent.close()
        self.journal.end()
