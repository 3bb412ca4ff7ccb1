"""Rounds of rings and queues: what their producers and consumers do, and what must hold in the end."""

import asyncio
import contextlib
import mmap
import os
import random
import time
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from fastcomm.errors import Empty, Full, PeerDiedError
from fastcomm.queue import JoinableQueue, Queue
from fastcomm.rings import RingBuffer
from fastcomm.testing.chaos import plan as plans
from fastcomm.testing.chaos.history import (
    MOST_SENT,
    Author,
    AuthorLedger,
    Outcome,
    Reader,
    ReaderLedger,
    Violation,
    check_deliveries,
    compose,
)
from fastcomm.testing.chaos.plan import CONSUMER, PRODUCER, Life, Plan
from fastcomm.testing.chaos.troop import Signals, Tally, Troop

WAIT = 0.3  # seconds that one call waits at most; longer than a slice of sleep
IDLE = 0.002
MOST_IN_A_CALL = 5

CELL = 64
PERIOD = 1 << 36  # positions are counted modulo
SECTION_RING = 1

# What is left of a cell and of two, after the prefix of a record and what message() adds.
BORDERS = tuple(CELL * cells - 8 - 12 + off for cells in (1, 2) for off in (-1, 0, 1))
SMALL = (0, 1, 20, *BORDERS, 300)


class Report(NamedTuple):
    """What a round checked."""

    sent: int
    received: int
    gone: int
    aborted: int
    discarded: int


class Round:
    """What is common to rounds of all kinds. `run` raises Violation."""

    what: ClassVar[str]
    producers: ClassVar[int] = 3
    consumers: ClassVar[int] = 1
    lives_of_a_place: ClassVar[int] = 6

    def __init__(self, seed: int, name: str, tally: Tally, *, with_hooks: bool) -> None:
        self.name = name
        self.tally = tally
        self.plan: Plan = plans.draw(
            self.what,
            seed,
            with_hooks=with_hooks,
            producers=self.producers,
            consumers=self.consumers,
            lives=self.lives_of_a_place,
        )
        self.shape(self.plan.rng)
        lives = [life for place in self.plan.places for life in place]
        # All before the first fork, so that everybody can read them all.
        self.authors = {life.number: AuthorLedger() for life in lives if life.role == PRODUCER}
        self.readers = {life.number: ReaderLedger() for life in lives if life.role == CONSUMER}
        self.by_number = {life.number: life for life in lives}
        self.killed: dict[int, int] = {}
        self.handle: Any = None

    # What each kind does.

    def shape(self, rng: random.Random) -> None:
        """Draw capacity, sizes, pace."""
        self.pace = rng.choice((0.0, 0.0, 0.0005, 0.002)), rng.choice((0.0, 0.0, 0.0005, 0.002))

    def open(self) -> Any:
        """Create it, or take it over from the dead."""
        raise NotImplementedError

    def attach(self) -> Any:
        """Another handle of it, in a process that may have the one of open() too."""
        raise NotImplementedError

    def found(self) -> None:
        """Create, use and remove it."""
        raise NotImplementedError

    def send(self, handle: Any, items: list[bytes], rng: random.Random) -> int:
        """One call; how many of the items were sent."""
        raise NotImplementedError

    def take(self, handle: Any, ledger: ReaderLedger, rng: random.Random) -> int:
        """One call, noted in the ledger; how many messages it brought."""
        raise NotImplementedError

    def take_now(self, handle: Any) -> list[bytes]:
        """What is there, without waiting; not necessarily all of it."""
        raise NotImplementedError

    def check(self, handle: Any, rest: ReaderLedger) -> Report:
        """After everybody has left or died, and `rest` was drained."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------- a run

    def run(self) -> Report:
        ended = memoryview(mmap.mmap(-1, mmap.PAGESIZE))
        with Troop([self.plan.founders], self._found, self.tally, ended) as founders:
            founders.run()
        self.clear()
        self.handle = self.open()
        self.prepare()
        with Troop(self.plan.places, self._live, self.tally, ended) as troop:
            self.killed = troop.killed
            troop.run()
            self.check_progress(troop)
            self.before_the_end()
            # The campaign's handle must not be the last, or it would remove what somebody may still open.
            if self.plan.abandoned and self.others_alive():
                self.handle.close()
                troop.kill_all()
                self.handle = self.open()
            else:
                troop.finish()
        rest = ReaderLedger()
        self.drain(self.handle, rest)
        return self.check(self.handle, rest)

    def close(self) -> None:
        """Leave it; the last one removes it."""
        if self.handle is not None:
            self.handle.close()

    def _found(self, life: Life, signals: Signals) -> None:
        """Founders are killed soon; whoever isn't has done enough after some time."""
        end = time.monotonic() + 1.0
        while not signals.over and time.monotonic() < end:
            self.found()

    def _live(self, life: Life, signals: Signals) -> None:
        handle = self.handle if life.inherits else self.attach()
        rng = random.Random(life.seed)
        if life.role == PRODUCER:
            self.produce(handle, life, signals, rng)
        else:
            self.consume(handle, life, signals, rng)
        handle.close()

    def clear(self) -> None:
        """Take what killed founders left."""
        with self.open() as handle:
            self.drain(handle, ReaderLedger())

    def prepare(self) -> None:
        """Called when it has been created, and nobody else is there yet."""

    def check_progress(self, troop: Troop) -> None:
        """No dead participant holds up those who live now: every producer sends something more."""
        last = [place[-1].number for place in self.plan.places if place[-1].role == PRODUCER]
        before = {number: self.authors[number].returned for number in last}
        troop.wait_until(
            lambda: all(
                self.authors[number].returned > min(before[number], MOST_SENT - MOST_IN_A_CALL - 1)
                for number in last
            ),
            "each producer to complete a call",
        )

    def before_the_end(self) -> None:
        """Called when every place has come to its last life."""

    def others_alive(self) -> bool:
        """Whether a participant lives besides the campaign."""
        raise NotImplementedError

    def sizes(self) -> tuple[int, ...]:
        return SMALL

    def produce(self, handle: Any, life: Life, signals: Signals, rng: random.Random) -> None:
        ledger, sequence, calls = self.authors[life.number], 1, 0
        while not signals.over and (life.calls == 0 or calls < life.calls):
            if sequence > MOST_SENT - MOST_IN_A_CALL:
                time.sleep(IDLE)
                continue
            count = rng.choice((1, 1, 2, MOST_IN_A_CALL))
            items = [compose(life.number, sequence + i, rng.choice(self.sizes())) for i in range(count)]
            ledger.begun = max(ledger.begun, sequence + count - 1)
            sequence += self.send(handle, items, rng)
            ledger.returned = sequence - 1
            calls += 1
            nap(self.pace[0], rng)

    def consume(self, handle: Any, life: Life, signals: Signals, rng: random.Random) -> None:
        ledger, calls = self.readers[life.number], 0
        while not signals.over and (life.calls == 0 or calls < life.calls):
            self.take(handle, ledger, rng)
            calls += 1
            nap(self.pace[1], rng)

    def drain(self, handle: Any, rest: ReaderLedger) -> None:
        """Take what is left, once all others have gone."""
        while noted(rest, 0, lambda: self.take_now(handle)):
            pass

    def histories(self, rest: ReaderLedger) -> tuple[list[Author], list[Reader]]:
        authors = [Author(number, ledger.begun, ledger.returned) for number, ledger in self.authors.items()]
        readers = [
            Reader(
                str(self.by_number[number]),
                ledger.taken(),
                ledger.reach if number in self.killed else 0,
                number in self.killed and ledger.peeking,
            )
            for number, ledger in self.readers.items()
        ]
        return authors, [*readers, Reader("the campaign", rest.taken())]

    def kills_of(self, role: str) -> int:
        return sum(self.by_number[number].role == role for number in self.killed)


def nap(pace: float, rng: random.Random) -> None:
    if pace:
        time.sleep(pace * rng.random())


def noted(ledger: ReaderLedger, reach: int, call: Callable[[], list[bytes]]) -> int:
    """Call, and note what it brought: between the two marks a kill takes up to `reach` messages along."""
    ledger.reach = reach
    try:
        records = call()
    except (Empty, PeerDiedError):
        records = []
    for record in records:
        ledger.note(record)
    ledger.reach = 0
    return len(records)


def delivered(call: Callable[[], int]) -> int:
    """How many items a call sent that may run into a full ring or the death of a peer."""
    try:
        return call()
    except (Full, PeerDiedError) as ended:
        return ended.delivered


def start_at(ring: RingBuffer, start: int) -> None:
    """Lay out a new ring so that its positions begin at `start`, and go round once: each header was written.

    No other handle may be open.
    """
    memory = ring._segment.memory(*ring._segment.section(SECTION_RING))
    memory[:] = bytes(len(memory))
    RingBuffer.format(memory, cells=ring.capacity // CELL, start=start)
    with RingBuffer.attach(ring.name) as warm:
        for _ in range(ring.capacity // CELL):
            warm.put(b"")
            warm.try_get()


class RingRound(Round):
    """One consumer at a time, one or many producers, a ring of 1 KiB to 16 KiB."""

    what = "ring"

    def shape(self, rng: random.Random) -> None:
        super().shape(rng)
        self.capacity = rng.choice((1024, 1024, 4096, 16384))
        self.wraps = rng.random() < 0.5

    def prepare(self) -> None:
        """In every other round the positions begin two laps before they start again at 0."""
        if self.wraps:
            start_at(self.handle, PERIOD - 2 * self.capacity // CELL)

    def open(self) -> RingBuffer:
        return RingBuffer.create(self.name, capacity=self.capacity)

    def attach(self) -> RingBuffer:
        return RingBuffer.attach(self.name)

    def others_alive(self) -> bool:
        return bool(self.handle._segment.others_alive())

    def found(self) -> None:
        with RingBuffer.create(self.name, capacity=self.capacity) as ring:
            ring.put(b"")
            ring.try_get_many()

    def send(self, ring: RingBuffer, items: list[bytes], rng: random.Random) -> int:
        if len(items) > 1:
            return delivered(lambda: ring.put_many(items, timeout=WAIT))
        (item,) = items
        way = rng.randrange(3)
        if way == 0:
            return int(ring.try_put(item))
        try:
            if way == 1:
                ring.put(item, timeout=WAIT)
            else:
                with ring.claim(len(item), timeout=WAIT) as view:
                    view[:] = item
        except (Full, PeerDiedError):
            return 0
        return 1

    def take(self, ring: RingBuffer, ledger: ReaderLedger, rng: random.Random) -> int:
        way = rng.randrange(5)
        if way == 4:
            return noted(ledger, 1, lambda: [asyncio.run(ring.get_async(WAIT))])
        if way == 0:
            return noted(ledger, 1, lambda: [ring.get(timeout=WAIT)])
        if way == 1:
            return noted(ledger, 8, lambda: ring.get_many(8, timeout=WAIT))
        if way == 2:
            return noted(ledger, 8, lambda: ring.try_get_many(8))
        return self.look(ring, ledger)

    def take_now(self, ring: RingBuffer) -> list[bytes]:
        return ring.try_get_many()

    def look(self, ring: RingBuffer, ledger: ReaderLedger) -> int:
        with contextlib.suppress(Empty, PeerDiedError), ring.peek(timeout=WAIT) as view:
            ledger.peeking = True
            ledger.note(bytes(view))
            view.release()
        came = int(ledger.peeking)
        ledger.peeking = False
        return came

    def check(self, ring: RingBuffer, rest: ReaderLedger) -> Report:
        outcome = check_deliveries(*self.histories(rest), in_turns=True)
        RingBuffer.attach(self.name).close()  # reaps
        stats = ring.stats()
        most = self.kills_of(PRODUCER)
        if stats.aborted > most:
            raise Violation(f"aborted: expected at most {most} claims to be given up, one a kill; {stats}")
        if ring._segment.taken_slots() != [ring._slot]:
            raise Violation(
                f"places: expected the campaign's, {ring._slot}; taken are {ring._segment.taken_slots()}"
            )
        return report(self, outcome, stats.aborted, 0)


def report(round_: Round, outcome: Outcome, aborted: int, discarded: int) -> Report:
    sent = sum(ledger.returned for ledger in round_.authors.values())
    return Report(sent, outcome.received, outcome.gone, aborted, discarded)


class QueueRound(Round):
    """Many producers and consumers, items larger than the ring takes, a limit of items, tasks."""

    what = "queue"
    consumers = 3

    def shape(self, rng: random.Random) -> None:
        super().shape(rng)
        self.maxsize = rng.choice((0, 0, 3))
        self.capacity = rng.choice((2048, 8192))
        self.kind = rng.choice((Queue, JoinableQueue))

    def sizes(self) -> tuple[int, ...]:
        return (*SMALL, 3000, 100_000) if self.capacity == 2048 else (*SMALL, 3000)

    def open(self) -> Queue:
        return self.kind(self.maxsize, name=self.name, capacity=self.capacity)

    attach = open

    def others_alive(self) -> bool:
        return bool(self.handle._ring._segment.others_alive())

    def found(self) -> None:
        with self.open() as queue:
            queue.put_nowait(b"")
            queue.get_many(timeout=WAIT)

    def send(self, queue: Queue, items: list[bytes], rng: random.Random) -> int:
        if len(items) > 1:
            return delivered(lambda: queue.put_many(items, timeout=WAIT))
        try:
            queue.put(items[0], rng.random() < 0.7, WAIT)
        except (Full, PeerDiedError):
            return 0
        return 1

    def take(self, queue: Queue, ledger: ReaderLedger, rng: random.Random) -> int:
        way = rng.randrange(3)
        if way == 0:
            count = noted(ledger, 1, lambda: [queue.get(timeout=WAIT)])
        elif way == 1:
            count = noted(ledger, 8, lambda: queue.get_many(8, timeout=WAIT))
        else:
            count = noted(ledger, 1, lambda: [queue.get_nowait()])
        if isinstance(queue, JoinableQueue):
            for _ in range(count):
                queue.task_done()
                ledger.done += 1
        return count

    def take_now(self, queue: Queue) -> list[bytes]:
        return queue.get_many(block=False)

    def check(self, queue: Queue, rest: ReaderLedger) -> Report:
        outcome = check_deliveries(*self.histories(rest), in_turns=False)
        stats = queue._ring.stats()
        killed = [self.readers[number] for number in self.killed if number in self.readers]
        if stats.aborted > self.kills_of(PRODUCER):
            raise Violation(
                f"aborted: expected at most {self.kills_of(PRODUCER)} claims to be given up; {stats}"
            )
        self.check_files(queue)
        if stats.discarded > len(killed):
            raise Violation(f"discarded: expected at most {len(killed)}, one a killed consumer; {stats}")
        if queue.qsize():
            raise Violation(f"qsize: expected 0 after all was taken, got {queue.qsize()}")
        if self.maxsize:
            self.check_limit(queue)
        if isinstance(queue, JoinableQueue):
            self.check_tasks(queue, rest, killed, outcome)
        return report(self, outcome, stats.aborted, stats.discarded)

    def check_limit(self, queue: Queue) -> None:
        """No place was lost with the dead, and none was won."""
        fitted = delivered(lambda: queue.put_many([b""] * (self.maxsize + 1), block=False))
        if fitted != self.maxsize:
            raise Violation(f"limit: expected that {self.maxsize} items fit, {fitted} do")
        for _ in queue.get_many():
            if isinstance(queue, JoinableQueue):
                queue.task_done()

    def check_files(self, queue: Queue) -> None:
        """No file of a large item is left when all were taken and their producers are dead."""
        queue._ring._sweep()
        left = [file for file in os.listdir(os.path.dirname(queue._ring.path)) if ".item." in file]
        if left:
            raise Violation(f"files: expected none of a large item after all were taken, got {left}")

    def check_tasks(
        self, queue: Queue, rest: ReaderLedger, killed: list[ReaderLedger], outcome: Outcome
    ) -> None:
        """What a killed consumer had taken is unfinished until somebody says that it is done."""
        unfinished = queue._ring.unfinished()
        done = rest.done + sum(ledger.done for ledger in self.readers.values())
        least = outcome.received - done - len(killed)  # each may have called task_done() and not noted it
        most = outcome.received - done + outcome.gone + sum(ledger.reach for ledger in killed)
        if not least <= unfinished <= most:
            raise Violation(f"unfinished: expected {least} to {most} tasks, got {unfinished}")
        if not killed:
            queue.join()  # type: ignore[attr-defined]
