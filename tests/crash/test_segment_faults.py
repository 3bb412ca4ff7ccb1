"""A process is killed, or only stopped, while it creates, joins, leaves, reaps or unlinks a segment."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import victim

from fastcomm._core import protocol, segment, segment_file
from fastcomm.errors import SegmentNotFoundError
from fastcomm.rings import RingBuffer
from fastcomm.segments import segment_path
from fastcomm.testing.chaos.hooks import NAMES

pytestmark = [
    pytest.mark.debug_build,
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


@pytest.fixture
def ring(name: str) -> Iterator[RingBuffer]:
    with RingBuffer.create(name, capacity=1024) as ring:
        yield ring
        ring.unlink()


def test_every_hook_of_the_header_is_in_some_test() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.parent.rglob("test_*.py"))
    assert [name for name in NAMES if name not in tests] == []


@pytest.mark.parametrize("hook", ["CREATE_BEFORE_RESERVE", "CREATE_BEFORE_MAGIC"])
def test_a_creator_killed_halfway_leaves_nothing_that_could_be_attached(name: str, hook: str) -> None:
    with victim(segment_file, hook, lambda: RingBuffer.create(name, capacity=1024)) as it:
        it.kill()
        with pytest.raises(SegmentNotFoundError, match="was never completed by its creator; create it"):
            RingBuffer.attach(name)
        with RingBuffer.create(name, capacity=4096) as ring:
            ring.put(b"x")
            assert (ring.capacity, ring.get()) == (4096, b"x")
    assert not os.path.exists(ring.path)


def test_a_creator_killed_after_the_magic_leaves_a_ring(name: str) -> None:
    with victim(segment_file, "CREATE_AFTER_MAGIC", lambda: RingBuffer.create(name, capacity=1024)) as it:
        it.kill()
        with RingBuffer.attach(name) as ring:
            ring.put(b"x")
            assert (ring.capacity, ring.get()) == (1024, b"x")
    assert not os.path.exists(ring.path)


@pytest.mark.parametrize("hook", ["CREATE_BEFORE_RESERVE", "CREATE_BEFORE_MAGIC", "CREATE_AFTER_MAGIC"])
def test_who_waits_for_a_stopped_creator_goes_on_when_it_is_killed(name: str, hook: str) -> None:
    made: list[RingBuffer] = []
    with victim(segment_file, hook, lambda: RingBuffer.create(name, capacity=1024)) as it:
        waiter = threading.Thread(target=lambda: made.append(RingBuffer.create(name, capacity=1024)))
        waiter.start()
        waiter.join(0.1)
        assert made == []
        it.kill()
        waiter.join()
    with made.pop() as ring:
        ring.put(b"x")
        assert ring.get() == b"x"


@pytest.mark.parametrize("hook", ["JOIN_BEFORE_STATE", "JOIN_AFTER_STATE"])
def test_a_joiner_stopped_or_killed_halfway_delays_no_message_and_frees_its_place(
    ring: RingBuffer, hook: str
) -> None:
    with (
        RingBuffer.attach(ring.name) as other,
        victim(segment, hook, lambda: RingBuffer.attach(ring.name)) as it,
    ):
        for number in range(100):
            other.put(b"%d" % number)
            assert ring.get(timeout=60) == b"%d" % number
        it.kill()
        with RingBuffer.attach(ring.name) as next_one:
            assert next_one._segment.dead_slots() == []
            assert len(ring._segment.taken_slots()) == 3


@pytest.mark.parametrize("who", ["consumer", "producer"])
def test_a_leaver_killed_halfway_counts_as_dead_and_its_place_is_cleared(ring: RingBuffer, who: str) -> None:
    def prepare() -> None:
        if who == "consumer":
            assert ring.try_get() is None
        ring.put(b"last words")

    with RingBuffer.attach(ring.name) as other:
        with victim(segment, "LEAVE_BEFORE_FREE", ring.close, prepare) as it:
            assert other.get(timeout=60) == b"last words"  # its role was free before
            ring.put(b"meanwhile")
            assert other.get(timeout=60) == b"meanwhile"
            it.kill()
        with RingBuffer.attach(ring.name) as next_one:
            assert next_one._segment.dead_slots() == []
            assert len(next_one._segment.taken_slots()) == 3
            assert next_one._segment.deaths[0] == 1


def test_a_reaper_killed_halfway_is_finished_by_the_next(ring: RingBuffer) -> None:
    """The dead one had a claim; the first reaper gave it up, and died before it freed the place."""

    def claim_and_stop() -> None:
        ring.put(b"unfinished")

    with RingBuffer.attach(ring.name) as other:
        with victim(protocol, "COMMIT_BEFORE_HEADER", claim_and_stop) as dead:
            dead.kill()
        other.put(b"behind")
        with victim(segment, "LEAVE_BEFORE_FREE", lambda: RingBuffer.attach(ring.name)) as reaper:
            ring.put(b"while it is stopped")
            reaper.kill()
        with RingBuffer.attach(ring.name) as next_one:
            assert next_one._segment.dead_slots() == []
            assert len(next_one._segment.taken_slots()) == 3
        assert ring.get_many(timeout=60) == [b"behind", b"while it is stopped"]
        assert ring.stats().aborted == 1


@pytest.mark.parametrize("then", ["attach", "create"])
def test_an_unlink_cut_short_is_finished_by_the_next_who_comes(name: str, then: str) -> None:
    with victim(
        segment_file, "UNLINK_BEFORE_REMOVE", lambda: RingBuffer.create(name, capacity=1024).close()
    ) as it:
        it.kill()
    path = segment_path(name)
    assert os.path.exists(path)
    if then == "attach":
        with pytest.raises(SegmentNotFoundError):
            RingBuffer.attach(name)
    else:
        with RingBuffer.create(name, capacity=4096) as ring:
            assert ring.capacity == 4096
    assert not os.path.exists(path)
