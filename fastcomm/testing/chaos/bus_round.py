"""Rounds of a bus: publishers, subscribers with wildcards, small inboxes, names that are taken again."""

import asyncio
import random
import time

from fastcomm.agent import Agent
from fastcomm.bus import Bus
from fastcomm.errors import Empty, PeerDiedError
from fastcomm.testing.chaos.history import (
    MOST_SENT,
    ReaderLedger,
    Subscriber,
    Violation,
    check_broadcast,
    message,
)
from fastcomm.testing.chaos.plan import CONSUMER, PRODUCER, Life
from fastcomm.testing.chaos.rounds import IDLE, SMALL, WAIT, Report, Round, nap, report
from fastcomm.testing.chaos.troop import Signals

# Message n of an author goes to chaos.<author>.<n modulo 3>. Patterns, and the residues that they match.
MOST_STRINGS = 4096
WITNESS: tuple[tuple[str, ...], frozenset[int]] = (("chaos.>", "witness"), frozenset({0, 1, 2}))
WANTS: tuple[tuple[tuple[str, ...], frozenset[int]], ...] = (
    (("chaos.*.0", "chaos.*.1"), frozenset({0, 1})),
    (("chaos.>", "*.*.2"), frozenset({0, 1, 2})),
    (("*.*.2",), frozenset({2})),
)


class BusRound(Round):
    """Agents join under the name of their place, so under that of a dead one again and again.

    The witness subscribes to everything before anybody publishes, and lives to the end. It alone subscribes
    to "witness", last, so that publishers know when it is there.
    """

    what = "bus"
    consumers = 3

    def shape(self, rng: random.Random) -> None:
        super().shape(rng)
        self.inbox_bytes = rng.choice((4096, 4096, 16384))
        consumers = [place for place in self.plan.places if place[0].role == CONSUMER]
        self.wants = dict(
            zip((place[0].place for place in consumers), rng.sample(WANTS, len(consumers)), strict=True)
        )
        (last,) = consumers[0][-1:]
        witness = last._replace(place=len(self.plan.places), number=1000)
        self.plan.places.insert(0, [witness])
        self.wants[witness.place] = WITNESS

    def open(self) -> Bus:
        return Bus.open(self.name, inbox_bytes=self.inbox_bytes, max_agents=16, max_strings=MOST_STRINGS)

    attach = open

    def others_alive(self) -> bool:
        return True

    def clear(self) -> None:
        """An unused bus is removed."""
        self.open().close()

    def found(self) -> None:
        with self.open() as bus, bus.join("founder") as agent:
            agent.subscribe("chaos.>")
            agent.publish("chaos.0.0", b"")
            agent.try_receive()

    def before_the_end(self) -> None:
        if not self.plan.abandoned:
            self.inspector = self.handle.join("inspector")

    # ----------------------------------------------------------------------------------------- what agents do

    def produce(self, bus: Bus, life: Life, signals: Signals, rng: random.Random) -> None:
        ledger, sequence = self.authors[life.number], 1
        with bus.join(f"publisher {life.place}") as agent:
            agent.wait_for_subscribers("witness", timeout=60)
            while not signals.over and (life.calls == 0 or sequence <= life.calls):
                if sequence > MOST_SENT:
                    time.sleep(IDLE)
                    continue
                ledger.begun = sequence
                if sequence % 8 == 0:
                    bus.strings.learn(learned(life.number, sequence))
                data = message(life.number, sequence, rng.choice(SMALL))
                reached = agent.publish(f"chaos.{life.number}.{sequence % 3}", data, priority=life.number % 4)
                if reached < 1:
                    raise Violation(f"published {sequence}: expected to reach the witness, reached {reached}")
                ledger.returned = sequence
                sequence += 1
                nap(self.pace[0], rng)

    def consume(self, bus: Bus, life: Life, signals: Signals, rng: random.Random) -> None:
        ledger, calls = self.readers[life.number], 0
        patterns, _ = self.wants[life.place]
        with bus.join(f"subscriber {life.place}") as agent:
            for pattern in patterns:
                agent.subscribe(pattern)
            authors = [self.authors.get(number) for number in range(max(self.authors) + 1)]
            ledger.subscribed(authors)
            while not signals.over and (life.calls == 0 or calls < life.calls):
                self.receive(agent, ledger, rng)
                if rng.random() < 0.05:
                    agent.subscribe("noise.>").unsubscribe()
                calls += 1
                nap(self.pace[1], rng)
            if signals.over:
                while (last := agent.try_receive()) is not None:
                    ledger.note(last.data)
                ledger.complete = True

    def receive(self, agent: Agent, ledger: ReaderLedger, rng: random.Random) -> None:
        way = rng.randrange(4)
        try:
            if way == 3:
                ledger.note(asyncio.run(agent.receive_async(WAIT)).data)
            elif way == 0:
                ledger.note(agent.receive(WAIT).data)
            elif way == 1:
                for came in agent.receive_many(8, WAIT):
                    ledger.note(came.data)
            elif (one := agent.try_receive()) is not None:
                ledger.note(one.data)
        except (Empty, PeerDiedError):
            pass

    # ------------------------------------------------------------------------------------------------ the end

    def drain(self, bus: Bus, rest: ReaderLedger) -> None:
        """Inboxes go with their agents."""

    def check(self, bus: Bus, rest: ReaderLedger) -> Report:
        authors, _ = self.histories(rest)
        outcome = check_broadcast(authors, [self.subscriber(number) for number in self.readers])
        if self.plan.abandoned:
            self.inspector = bus.join("inspector")
        self.check_tables(bus)
        self.check_strings(bus)
        inboxes = [inbox.stats() for inbox in bus._used_inboxes()]
        aborted = sum(stats.aborted for stats in inboxes)
        if aborted > self.kills_of(PRODUCER):
            raise Violation(f"aborted: expected at most {self.kills_of(PRODUCER)}, one a kill; {inboxes}")
        discarded = sum(stats.discarded for stats in inboxes)
        return report(self, outcome, aborted, discarded)

    def subscriber(self, number: int) -> Subscriber:
        ledger, life = self.readers[number], self.by_number[number]
        since = {author: ledger.since(author) for author in self.authors}
        return Subscriber(
            str(life),
            ledger.taken(),
            self.wants[life.place][1],
            None if None in since.values() else {key: value or 0 for key, value in since.items()},
            ledger.complete,
        )

    def check_strings(self, bus: Bus) -> None:
        """What was learned is what authors sent, each once, and the table can still be added to."""
        bus.strings.refresh()
        texts = bus.strings.texts
        sent = {
            learned(number, sequence)
            for number, ledger in self.authors.items()
            for sequence in range(ledger.begun + 1)
        }
        if len(set(texts)) < len(texts) or not sent.issuperset(texts):
            raise Violation(f"strings: expected some of what was learned, each once, got {texts}")
        if not bus.strings.is_full and bus.strings.learn("the last") != len(texts) - 1:
            raise Violation(
                f"strings: expected one more than the {len(texts)} that were read; {bus.strings!r}"
            )

    def check_tables(self, bus: Bus) -> None:
        """Nobody is left of the dead, nor are their subscriptions."""
        with bus.join("last"):  # reaps
            pass
        names = [agent.name for agent in bus.agents()]
        if names != ["inspector"]:
            raise Violation(f"agents: expected the inspector alone, got {names}")
        left = bus._subscriptions.entries_in_use()
        if left:
            raise Violation(f"subscriptions: expected none, since all agents have gone; got {left}")


def learned(author: int, sequence: int) -> str:
    """What an author learns before it sends its `sequence`-th message."""
    return f"{author}.{sequence} " * (1 + sequence % 5)
