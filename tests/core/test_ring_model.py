"""Ring against a Python model: any order of calls, any sizes, several producers, wherever the wraps fall."""

import mmap
from collections import deque
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fastcomm._core.ring import Claim, Peek, Ring
from fastcomm.errors import FencedError

PERIOD = 1 << 36
CELL = 64
OWNERS = (1, 7, 4094)


@dataclass(eq=False)
class Run:
    """Cells that were claimed together. Settled without data: padding, or a claim that was given up."""

    cells: int
    data: bytes | None = None
    pending: bool = False
    given_up: bool = False

    @property
    def skipped(self) -> bool:
        return self.data is None and not self.pending

    def send(self, data: bytes) -> None:
        self.data, self.pending = data, False

    def give_up(self) -> None:
        self.pending, self.given_up = False, True


class Model:
    """What the ring holds: `runs` from its head on; the first `seen` are consumed and not released yet."""

    def __init__(self, cells: int) -> None:
        self.cells = cells
        self.tail = 0
        self.runs: deque[Run] = deque()
        self.seen = 0
        self.aborted = 0

    @property
    def used(self) -> int:
        return sum(run.cells for run in self.runs)

    def append(self, run: Run) -> Run:
        self.runs.append(run)
        self.tail += run.cells
        return run

    def claim(self, nbytes: int) -> Run | None:
        need = (nbytes + 8 + CELL - 1) // CELL
        to_end = self.cells - self.tail % self.cells
        padding = to_end if need > to_end else 0
        if padding + need > self.cells - self.used:
            return None
        if padding:
            self.append(Run(padding))
        return self.append(Run(need, pending=True))

    def put_many(self, items: list[bytes]) -> int:
        for done, item in enumerate(items):
            run = self.claim(len(item))
            if run is None:
                return done
            run.send(item)
        return len(items)

    def next_data(self) -> bytes | None:
        """What look() will find, looking at nothing else."""
        for run in list(self.runs)[self.seen :]:
            if not run.skipped:
                return run.data
        return None

    def look(self) -> bytes | None:
        while self.seen < len(self.runs) and self.runs[self.seen].skipped:
            self.aborted += self.runs[self.seen].given_up
            self.seen += 1
        if self.seen == len(self.runs) or self.runs[self.seen].pending:
            self.release()  # what was skipped is room that a producer may wait for
            return None
        return self.runs[self.seen].data

    def release(self) -> None:
        for _ in range(self.seen):
            self.runs.popleft()
        self.seen = 0

    def get_many(self, limit: int) -> list[bytes]:
        taken: list[bytes] = []
        while len(taken) < limit and (data := self.look()) is not None:
            taken.append(data)
            self.seen += 1
        if taken:
            self.release()
        return taken


@dataclass(eq=False)
class OpenClaim:
    owner: int
    claim: Claim
    view: memoryview
    run: Run
    data: bytes


class RingMachine(RuleBasedStateMachine):
    """Three producers and a consumer, each with a handle of its own, over one ring."""

    cells = 16
    start = 16

    def __init__(self) -> None:
        super().__init__()
        self.memory = mmap.mmap(-1, Ring.bytes_needed(self.cells))
        Ring.format(self.memory, cells=self.cells, start=self.start)
        self.producers = {owner: Ring(self.memory, owner=owner) for owner in OWNERS}
        self.consumer = Ring(self.memory, owner=2)
        self.model = Model(self.cells)
        self.open: list[OpenClaim] = []
        self.peek: tuple[Peek, memoryview] | None = None
        self.serial = 0

    def data(self, nbytes: int) -> bytes:
        self.serial += 1
        return (b"%d." % self.serial * nbytes)[:nbytes]

    owners = st.sampled_from(OWNERS)
    sizes = st.integers(0, 8 * CELL - 8) | st.sampled_from([0, 55, 56, 57, 119, 120, 121, 8 * CELL - 8])

    @initialize(to_end=st.integers(1, 16))
    def begin_near_the_end(self, to_end: int) -> None:
        for _ in range(self.cells - to_end):
            assert self.producers[1].try_put(b"")
            assert self.consumer.try_get() == b""
        self.model.tail = self.cells - to_end

    @rule(owner=owners, nbytes=sizes)
    def try_put(self, owner: int, nbytes: int) -> None:
        data = self.data(nbytes)
        assert self.producers[owner].try_put(data) == self.model.put_many([data])

    @rule(owner=owners, lengths=st.lists(sizes, max_size=20), mixed=st.booleans())
    def try_put_many(self, owner: int, lengths: list[int], mixed: bool) -> None:
        items = [self.data(nbytes) for nbytes in lengths]
        given = [bytearray(item) if mixed and i % 3 == 2 else item for i, item in enumerate(items)]
        assert self.producers[owner].try_put_many(given) == self.model.put_many(items)

    @rule(owner=owners, nbytes=sizes)
    def begin_claim(self, owner: int, nbytes: int) -> None:
        run = self.model.claim(nbytes)
        if run is None:
            assert not self.producers[owner].try_put(bytes(nbytes))
            return
        claim = self.producers[owner].claim(nbytes, timeout=0)
        self.open.append(OpenClaim(owner, claim, claim.__enter__(), run, self.data(nbytes)))

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 15), end=st.sampled_from(["sent", "exception", "outlived"]))
    def end_claim(self, which: int, end: str) -> None:
        it = self.open.pop(which % len(self.open))
        it.view[:] = it.data
        if end == "sent":
            it.claim.__exit__(None, None, None)
            it.run.send(it.data)
            return
        if end == "exception":
            it.claim.__exit__(ValueError, ValueError(), None)
        else:
            kept = it.view[:]
            with pytest.raises(BufferError):
                it.claim.__exit__(None, None, None)
            kept.release()
        it.run.give_up()

    @rule(owner=owners)
    def a_producer_dies_and_another_gets_its_number(self, owner: int) -> None:
        self.consumer._resolve_dead(owner)
        for it in [it for it in self.open if it.owner == owner]:
            self.open.remove(it)
            it.run.give_up()
            with pytest.raises(FencedError):
                it.claim.__exit__(None, None, None)
        self.producers[owner] = Ring(self.memory, owner=owner)

    @precondition(lambda self: self.peek is None)
    @rule()
    def try_get(self) -> None:
        assert self.consumer.try_get() == next(iter(self.model.get_many(1)), None)

    @precondition(lambda self: self.peek is None)
    @rule(limit=st.integers(1, 20))
    def try_get_many(self, limit: int) -> None:
        assert self.consumer.try_get_many(limit) == self.model.get_many(limit)

    @precondition(lambda self: self.peek is None and self.model.next_data() is not None)
    @rule()
    def begin_peek(self) -> None:
        peek = self.consumer.peek(timeout=0)
        self.peek = peek, peek.__enter__()
        assert self.peek[1] == self.model.look()

    @precondition(lambda self: self.peek is not None)
    @rule(taken=st.booleans())
    def end_peek(self, taken: bool) -> None:
        assert self.peek is not None
        (peek, view), self.peek = self.peek, None
        assert view == self.model.next_data()
        if taken:
            peek.__exit__(None, None, None)
            self.model.get_many(1)
        else:
            peek.__exit__(ValueError, ValueError(), None)

    @precondition(lambda self: self.peek is None)
    @rule()
    def another_handle_becomes_the_consumer(self) -> None:
        self.consumer.close()
        self.consumer = Ring(self.memory, owner=2)
        self.model.seen = 0

    @invariant()
    def depth_and_given_up_claims_are_the_models(self) -> None:
        assert self.consumer.depth == self.model.used * CELL
        assert self.consumer.stats().aborted == self.model.aborted

    def teardown(self) -> None:
        while self.open:
            it = self.open.pop()
            it.claim.__exit__(ValueError, ValueError(), None)
            it.run.give_up()
        if self.peek is not None:
            self.end_peek(True)
        assert self.consumer.try_get_many(1000) == self.model.get_many(1000)
        assert self.consumer.try_get() is None
        assert self.consumer.depth == 0


@pytest.mark.parametrize(
    ("cells", "start"),
    [
        (16, 16),
        (16, (1 << 35) - 16),
        (16, PERIOD - 32),
        (16, PERIOD - 16),
        (64, PERIOD - 64),
        (1 << 9, PERIOD - (1 << 9)),
    ],
)
def test_ring_does_what_the_model_does(cells: int, start: int) -> None:
    machine = type("Machine", (RingMachine,), {"cells": cells, "start": start})
    test = machine.TestCase
    test.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
    test().runTest()
