"""A process is killed, or only stopped, at each step of the ring's protocol: what do the others see?"""

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest
from faults import NOT_EMPTY, NOT_FULL, ring_at, sleeps, victim
from procs import wait_until

from fastcomm._core import protocol, ring_handle
from fastcomm._core import ring as ring_module
from fastcomm.errors import Empty, Full, PeerDiedError, RoleTakenError
from fastcomm.rings import RingBuffer
from fastcomm.testing.chaos.history import Checker, message
from fastcomm.testing.chaos.rounds import PERIOD

pytestmark = [
    pytest.mark.debug_build,
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

CELLS = 16
LONG = 60.0  # a time-out that fails the test
SHORT = 0.25  # longer than a slice of sleep


@pytest.fixture(params=[CELLS, PERIOD - 2 * CELLS], ids=["start", "at the wrap"])
def ring(request: pytest.FixtureRequest, name: str) -> Iterator[RingBuffer]:
    with ring_at(name, CELLS, request.param) as ring:
        yield ring
        assert ring._segment.dead_slots() == []
        ring.unlink()


@pytest.fixture
def producer(ring: RingBuffer) -> Iterator[RingBuffer]:
    """Another producer than the victim, in this process."""
    with RingBuffer.attach(ring.name) as producer:
        yield producer


def put_one(ring: RingBuffer) -> None:
    ring.put(message(1, 3, 100))


def put_batch(ring: RingBuffer) -> None:
    ring.put_many([message(1, sequence, 50) for sequence in (3, 4, 5)])


def put_over_the_end(ring: RingBuffer) -> None:
    ring.put(message(1, 3, 5 * 64))


def fill_claim(ring: RingBuffer) -> None:
    data = message(1, 3, 100)
    with ring.claim(len(data)) as view:
        view[:] = data


Work = Callable[[RingBuffer], None]
AT = [
    # hook, module that passes it, what the victim does, does it hold the ring up, is the record sent
    ("CLAIM_BEFORE_CAS", protocol, put_one, False, 0),
    ("CLAIM_BEFORE_CAS", protocol, put_batch, False, 0),
    ("CLAIM_AFTER_CAS", protocol, put_one, True, 0),
    ("CLAIM_AFTER_CAS", protocol, put_batch, True, 0),
    ("CLAIM_AFTER_CAS", protocol, fill_claim, True, 0),
    ("PAD_BEFORE_HEADER", protocol, put_over_the_end, True, 0),
    ("WRITE_HALF", protocol, put_one, True, 0),
    ("WRITE_HALF", protocol, put_batch, True, 0),
    ("WRITE_HALF", protocol, fill_claim, True, 0),
    ("BATCH_BETWEEN_HEADERS", ring_handle, put_batch, True, 0),
    ("COMMIT_BEFORE_HEADER", protocol, put_one, True, 0),
    ("COMMIT_BEFORE_HEADER", protocol, put_batch, True, 0),
    ("COMMIT_BEFORE_HEADER", protocol, fill_claim, True, 0),
    ("COMMIT_AFTER_HEADER", protocol, put_one, False, 1),
    ("COMMIT_AFTER_HEADER", protocol, put_batch, False, 3),
]
PRODUCER_STEPS = pytest.mark.parametrize(
    ("hook", "module", "work", "holds_up", "sent"), AT, ids=[f"{row[0]}, {row[2].__name__}" for row in AT]
)


def two_before(mine: RingBuffer, work: Work) -> Callable[[], None]:
    """The victim has put two records, so that for some work the end of the ring is near."""

    def prepare() -> None:
        for _ in range(CELLS - 6 if work is put_over_the_end else 0):
            mine.put(message(7, mine.stats().records_put + 1, 0))
        mine.put_many([message(1, 1, 10), message(1, 2, 10)])
        if work is put_over_the_end:  # 4 cells are left before the end, the record needs 6
            wait_until(lambda: mine.depth == 0)

    return prepare


class Drain:
    """A thread that gets until it is told to end, and checks what comes."""

    def __init__(self, ring: RingBuffer) -> None:
        self.ring = ring
        self.checker = Checker()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        while True:
            try:
                record = self.ring.get(timeout=LONG)
            except PeerDiedError:
                continue
            if record == b"end":
                return
            self.checker.take(record)


@PRODUCER_STEPS
def test_a_producer_stopped_there_and_then_killed(
    ring: RingBuffer, producer: RingBuffer, hook: str, module: object, work: Work, holds_up: bool, sent: int
) -> None:
    """Stopped it holds up the ring only between claim and commit; killed it leaves only what it committed."""
    drain = Drain(ring)
    with victim(module, hook, lambda: work(ring), two_before(ring, work)) as it:  # type: ignore[arg-type]
        producer.put(message(2, 1, 30))
        if holds_up:
            wait_until(lambda: drain.checker.last.get(1) == 2 and sleeps(ring, NOT_EMPTY))
            with pytest.raises(Full, match=f"claimed and not sent by pid {it.pid} .*, alive but stopped"):
                producer.put_many([message(2, sequence, 100) for sequence in range(2, 40)], timeout=SHORT)
            assert drain.checker.last.get(2) is None
        else:
            wait_until(lambda: drain.checker.last.get(2) == 1)
            producer.put_many([message(2, sequence, 100) for sequence in range(2, 40)], timeout=LONG)
        first = producer.stats().records_put + 1
        it.kill()
        for sequence in range(first, 100):
            producer.put(message(2, sequence, sequence % 200), timeout=LONG)
    producer.put(b"end", timeout=LONG)
    drain.thread.join()
    assert drain.checker.last[2] == 99
    assert drain.checker.last[1] == 2 + sent
    assert ring.stats().aborted == (1 if holds_up else 0)
    assert len(RingBuffer.attach(ring.name)._segment.taken_slots()) == 3  # the victim's place was cleared


@PRODUCER_STEPS
def test_a_producer_stopped_there_that_goes_on_later_has_sent_all(
    ring: RingBuffer, producer: RingBuffer, hook: str, module: object, work: Work, holds_up: bool, sent: int
) -> None:
    drain = Drain(ring)
    before = two_before(ring, work)

    def run_and_close() -> None:
        work(ring)
        ring.close()

    with victim(module, hook, run_and_close, before) as it:  # type: ignore[arg-type]
        for sequence in range(1, 5):
            assert producer.try_put(message(2, sequence, 10))
        it.go_on()
        it.exit_status()
        producer.put(b"end", timeout=LONG)
        drain.thread.join()
    assert drain.checker.last == {**drain.checker.last, 1: 5 if work is put_batch else 3, 2: 4}
    assert ring.stats().aborted == 0
    assert ring._segment.deaths[0] == 0


def test_a_consumer_asleep_on_the_claim_of_a_killed_producer_goes_on(
    ring: RingBuffer, producer: RingBuffer
) -> None:
    got: list[bytes] = []
    with victim(protocol, "COMMIT_BEFORE_HEADER", lambda: put_one(ring)) as it:
        waiter = threading.Thread(target=lambda: got.append(ring.get(timeout=LONG)))
        waiter.start()
        wait_until(lambda: ring.stats().sleeps > 1)
        it.kill()
        wait_until(lambda: ring.depth == 0)  # without any new record
        producer.put(b"next")
        waiter.join()
    assert got == [b"next"]
    assert ring.stats().aborted == 1


def test_a_consumer_asleep_on_the_claim_of_the_last_other_handle_learns_of_its_death(
    ring: RingBuffer,
) -> None:
    with victim(protocol, "WRITE_HALF", lambda: put_one(ring)) as it:
        with pytest.raises(Empty, match=f"claimed and not sent by pid {it.pid} .*, alive but stopped"):
            ring.get(timeout=SHORT)
        threading.Timer(0.1, it.kill).start()
        pid = it.pid
        with pytest.raises(PeerDiedError) as e:
            ring.get(timeout=LONG)
        assert e.value.pid == pid


def test_claims_of_two_producers_killed_one_after_the_other_are_both_given_up(
    ring: RingBuffer, producer: RingBuffer
) -> None:
    with (
        victim(protocol, "COMMIT_BEFORE_HEADER", lambda: put_one(ring)) as one,
        victim(protocol, "CLAIM_AFTER_CAS", lambda: put_one(ring)) as other,
    ):
        other.kill()
        assert ring.try_get() is None
        producer.put(b"behind")
        assert ring.try_get() is None
        one.kill()
        assert ring.get(timeout=LONG) == b"behind"
    assert ring.stats().aborted == 2
    assert len(RingBuffer.attach(ring.name)._segment.taken_slots()) == 3


@pytest.mark.parametrize("claimer_ends", ["killed", "sent"])
@pytest.mark.parametrize("helper_ends", ["killed", "goes on"])
def test_a_helper_stopped_or_killed_at_the_header_of_another_ones_claim_does_no_harm(
    ring: RingBuffer, producer: RingBuffer, claimer_ends: str, helper_ends: str
) -> None:
    def claim_then_close() -> None:
        put_one(ring)
        ring.close()

    def help_then_close() -> None:
        ring.put(message(3, 1, 200))
        ring.close()

    with (
        victim(protocol, "CLAIM_AFTER_CAS", claim_then_close) as claimer,
        victim(protocol, "HELP_BEFORE_CAS", help_then_close) as helper,
    ):
        drain = Drain(ring)  # not before: a waiting consumer would have helped
        producer.put(message(2, 1, 30))
        if claimer_ends == "killed":
            claimer.kill()
        else:
            claimer.go_on()
            claimer.exit_status()
        for sequence in range(2, 40):  # laps, while the helper remembers an old header word
            producer.put(message(2, sequence, 100), timeout=LONG)
        if helper_ends == "killed":
            helper.kill()
        else:
            helper.go_on()
            helper.exit_status()
    producer.put(b"end", timeout=LONG)
    drain.thread.join()
    want = {2: 39} | ({1: 3} if claimer_ends == "sent" else {}) | ({3: 1} if helper_ends == "goes on" else {})
    assert drain.checker.last == want
    assert ring.stats().aborted == (claimer_ends == "killed")
    RingBuffer.attach(ring.name).close()


# ------------------------------------------------------------------------------------------------- consumers


@pytest.mark.parametrize(
    ("hook", "left"), [("CONSUME_BEFORE_HEAD", [b"2", b"3"]), ("CONSUME_AFTER_HEAD", [b"3"])]
)
def test_a_consumer_killed_while_it_releases_a_record(ring: RingBuffer, hook: str, left: list[bytes]) -> None:
    """Before the head moves, the record it held goes to its successor; no other is lost or comes twice."""
    ring.put_many([b"1", b"2", b"3"])

    def prepare() -> None:
        assert ring.get() == b"1"

    with victim(protocol, hook, ring.get, prepare) as it, RingBuffer.attach(ring.name) as successor:
        with pytest.raises(RoleTakenError) as e:
            successor.try_get()
        assert e.value.pid == it.pid
        with pytest.raises(Full, match=f"its consumer, pid {it.pid} .*, alive but stopped, which has"):
            ring.put_many([b"more"] * CELLS, timeout=SHORT)
        it.kill()
        got = successor.get_many(timeout=LONG)
    assert got[: len(left)] == left
    assert set(got[len(left) :]) == {b"more"}
    assert len(got) <= CELLS


@pytest.mark.parametrize("hook", ["SLEEP_BEFORE_FLAG", "SLEEP_BEFORE_WAIT"])
def test_a_consumer_stopped_or_killed_as_it_falls_asleep_delays_nobody(
    ring: RingBuffer, producer: RingBuffer, hook: str
) -> None:
    with victim(ring_module, hook, ring.get) as it:
        producer.put_many([b"%d" % n for n in range(CELLS)], timeout=SHORT)
        it.kill()
        assert ring.get_many(timeout=LONG) == [b"%d" % n for n in range(CELLS)]
        with pytest.raises(Empty):
            ring.get(timeout=SHORT)


@pytest.mark.parametrize("hook", ["SLEEP_BEFORE_FLAG", "SLEEP_BEFORE_WAIT"])
def test_a_consumer_that_falls_asleep_late_has_not_missed_the_record(
    ring: RingBuffer, producer: RingBuffer, hook: str
) -> None:
    def work() -> None:
        assert ring.get() == b"meanwhile"
        producer.put(b"got it")
        ring.close()
        producer.close()

    with victim(ring_module, hook, work) as it:
        producer.put(b"meanwhile")
        it.go_on()
        it.exit_status()
        assert ring.get(timeout=LONG) == b"got it"


@pytest.mark.parametrize("hook", ["SLEEP_BEFORE_FLAG", "SLEEP_BEFORE_WAIT"])
def test_a_producer_killed_as_it_falls_asleep_delays_nobody(
    ring: RingBuffer, producer: RingBuffer, hook: str
) -> None:
    producer.put_many([b"x"] * CELLS)
    with victim(ring_module, hook, lambda: ring.put(b"never")) as it:
        assert ring.get(timeout=LONG) == b"x"
        producer.put(b"y", timeout=LONG)
        it.kill()
        assert ring.get_many(timeout=LONG) == [b"x"] * (CELLS - 1) + [b"y"]
        producer.put(b"z", timeout=LONG)
        assert ring.get(timeout=LONG) == b"z"


# ---------------------------------------------------------------------------------------------------- wakers

WAKER_STEPS = pytest.mark.parametrize("hook", ["WAKE_BEFORE_CLEAR", "WAKE_BEFORE_BUMP", "WAKE_BEFORE_FUTEX"])


@WAKER_STEPS
def test_a_consumer_whose_waker_stops_halfway_wakes_by_itself(
    ring: RingBuffer, producer: RingBuffer, hook: str
) -> None:
    got: list[bytes] = []
    waiter = threading.Thread(target=lambda: got.extend(ring.get(timeout=LONG) for _ in range(2)))

    def prepare() -> None:
        wait_until(lambda: sleeps(ring, NOT_EMPTY))

    threading.Timer(0.05, waiter.start).start()
    with victim(protocol, hook, lambda: ring.put(b"from the victim"), prepare) as it:
        wait_until(lambda: got == [b"from the victim"])  # the waker is stopped all the time
        it.kill()
        producer.put(b"next")
        waiter.join()
    assert got == [b"from the victim", b"next"]
    assert ring.stats().aborted == 0


@WAKER_STEPS
def test_a_producer_whose_waker_stops_halfway_wakes_by_itself(
    ring: RingBuffer, producer: RingBuffer, hook: str
) -> None:
    producer.put_many([b"%d" % n for n in range(CELLS)])
    waiter = threading.Thread(target=producer.put, args=(b"waited", LONG))
    threading.Timer(0.05, waiter.start).start()

    def prepare() -> None:
        wait_until(lambda: sleeps(ring, NOT_FULL))

    with victim(protocol, hook, lambda: ring.get_many(limit=8), prepare) as it:
        waiter.join()
        it.kill()
    assert ring.get_many(timeout=LONG) == [*(b"%d" % n for n in range(8, CELLS)), b"waited"]


@WAKER_STEPS
def test_a_coroutine_whose_waker_stops_halfway_wakes_by_itself(
    ring: RingBuffer, producer: RingBuffer, hook: str
) -> None:
    def prepare() -> None:
        wait_until(lambda: sleeps(ring, NOT_EMPTY))

    async def main() -> None:
        task = asyncio.create_task(ring.get_async(timeout=LONG))
        await asyncio.sleep(0.02)
        with victim(protocol, hook, lambda: ring.put(b"from the victim"), prepare) as it:
            assert await task == b"from the victim"
            it.kill()
            producer.put(b"next")
            assert await ring.get_async(timeout=LONG) == b"next"

    asyncio.run(main())
