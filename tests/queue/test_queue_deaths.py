"""Processes that are killed while they use a queue: nothing that was put is lost, nothing comes twice,
nobody is held up.
"""

import os
import threading
import time
from typing import Any

import pytest
from peers import Peer

import fastcomm
import fastcomm.segments
from fastcomm import Empty, Full, JoinableQueue, PeerDiedError, Queue
from fastcomm._core.segment import SECTION_CONTROL
from fastcomm.testing.chaos.hooks import HOOKS

SETUP = """
import os, signal, threading, time
import fastcomm
import fastcomm.segments
from fastcomm._core import protocol, shared_queue
"""
LOCK = slice(128, 132)  # of fc_queue_t


def peer(name: str, kind: str = "Queue", **options: Any) -> Peer:
    return Peer(f"{SETUP}q = fastcomm.{kind}(name={name!r}, **{options!r})")


def item_files() -> list[str]:
    return [file for file in os.listdir(os.environ["FASTCOMM_DIR"]) if ".item." in file]


def lock_word(queue: Queue) -> memoryview:
    segment = queue._ring._segment
    return segment.memory(*segment.section(SECTION_CONTROL))[LOCK]


def get_patiently(queue: Queue, **options: Any) -> Any:
    """get() of somebody who knows that his peers are being killed."""
    while True:
        try:
            return queue.get(**options)
        except PeerDiedError:
            pass


# -------------------------------------------------------------------------------------- who holds the lock --


def test_the_lock_of_a_killed_consumer_is_taken_over(name: str) -> None:
    with Queue(name=name) as sut, peer(name) as other:
        sut.put("there")
        lock_word(sut)[:] = other.do("q._ring._slot + 1").to_bytes(4, "little")
        other.kill()
        assert sut.get_nowait() == "there"


def test_the_lock_of_a_killed_consumer_does_not_become_that_of_who_gets_its_number(name: str) -> None:
    with Queue(name=name) as sut, peer(name) as other:
        sut.put("there")
        owner = other.do("q._ring._slot + 1")
        lock_word(sut)[:] = owner.to_bytes(4, "little")
        other.kill()
        with peer(name) as next_one:
            assert next_one.do("q._ring._slot + 1") == owner
            assert sut.get_nowait() == "there"
            next_one.end()


def stop_while_it_takes_an_item(other: Peer, lock: memoryview) -> None:
    """SIGSTOP a peer that puts and gets large items in turn, until that finds it inside get()."""
    while True:
        other.stop()
        if any(lock):
            return
        other.go_on()
        time.sleep(0.001)


def test_a_consumer_stopped_inside_get_holds_nobody_up_beyond_the_timeout_which_names_it(name: str) -> None:
    options = {"maxsize": 4, "capacity": 8 << 20}
    with Queue(name=name, **options) as sut, peer(name, **options) as other:
        other.do("item = bytes(1 << 19)\ndef work():\n while True: q.put(item); q.get()")
        other.do("threading.Thread(target=work, daemon=True).start()")
        stop_while_it_takes_an_item(other, lock_word(sut))
        while not sut.full():
            sut.put_nowait("there")
        culprit = rf"; pid {other.pid} \(python.*\), alive but stopped, is taking an item"
        with pytest.raises(Empty, match=rf"no item is to be had from .*{culprit} for [\d.]+ s"):
            sut.get_nowait()
        with pytest.raises(Empty, match=rf"nothing arrived in .* within [\d.]+ s{culprit} for [\d.]+ s"):
            sut.get(timeout=0.1)
        with pytest.raises(Full, match=rf"4 of at most 4 items.* none was taken out for .* s{culprit}"):
            sut.put_nowait("more")
        with pytest.raises(Full, match=rf"within 0.1 s: .* none was taken out for [\d.]+ s{culprit}"):
            sut.put("more", timeout=0.1)
        other.kill()
        while get_patiently(sut) != "there":
            pass
        sut.unlink()


def test_who_is_stopped_elsewhere_is_not_said_to_be_taking_an_item(name: str) -> None:
    with Queue(1, name=name) as sut, peer(name, maxsize=1) as other:
        other.stop()
        for call in (sut.get_nowait, lambda: sut.get(timeout=0.01)):
            with pytest.raises(Empty) as empty:
                call()
            assert "is taking" not in str(empty.value)
        sut.put("there")
        with pytest.raises(Full, match=rf"pid {other.pid} \(python.*\), alive but stopped") as full:
            sut.put("more", timeout=0.01)
        assert "is taking" not in str(full.value)
        assert sut.get() == "there"
        other.go_on()
        other.end()


@pytest.mark.debug_build
@pytest.mark.parametrize(
    ("module", "step", "left"),
    [
        ("shared_queue", "QUEUE_LOCKED", 2),
        ("protocol", "CONSUME_BEFORE_HEAD", 2),
        ("protocol", "CONSUME_AFTER_HEAD", 1),
    ],
)
def test_a_consumer_killed_at_each_step_leaves_exact_counts(
    module: str, step: str, left: int, name: str
) -> None:
    with JoinableQueue(name=name) as sut:
        sut.put_many([1, 2])
        with peer(name, "JoinableQueue") as other:
            other.do(f"{module}._arm_hook({HOOKS[step]})")
            other.send("q.get()")
            other.await_stop()
            other.kill()
        assert sut.qsize() == left
        assert sut._ring.unfinished() == 2
        for _ in range(left):
            get_patiently(sut)
            sut.task_done()
        assert sut._ring.unfinished() == 2 - left
        if left == 1:  # the one that went with its taker: somebody has to say so
            sut.task_done()
        sut.join()


@pytest.mark.debug_build
@pytest.mark.parametrize(("module", "step", "left"), [
    ("shared_queue", "QUEUE_ITEM_OPENED", 1), ("protocol", "CONSUME_BEFORE_HEAD", 0),
])  # fmt: skip
def test_a_consumer_killed_with_a_large_item_in_hand(module: str, step: str, left: int, name: str) -> None:
    """Before its file is removed the item stays; afterwards it has gone with who took it,
    and its record is skipped.
    """
    with Queue(name=name) as sut:
        sut.put(bytes(1 << 20))
        with peer(name) as other:
            other.do(f"{module}._arm_hook({HOOKS[step]})")
            other.send("q.get()")
            other.await_stop()
            other.kill()
        sut.put("next")
        got = [get_patiently(sut) for _ in range(left + 1)]
        assert got == [bytes(1 << 20)] * left + ["next"]
        assert sut._ring.stats().discarded == 1 - left
        assert item_files() == []


@pytest.mark.debug_build
@pytest.mark.parametrize("step", ["CLAIM_AFTER_CAS", "COMMIT_BEFORE_HEADER", "COMMIT_AFTER_HEADER"])
def test_a_producer_killed_at_each_step_takes_no_place_of_a_bounded_queue(step: str, name: str) -> None:
    with Queue(2, name=name) as sut:
        with peer(name, maxsize=2) as other:
            other.do(f"protocol._arm_hook({HOOKS[step]})")
            other.send("q.put('its')")
            other.await_stop()
            other.kill()
        items = ["its"] if step == "COMMIT_AFTER_HEADER" else []
        while True:
            try:
                sut.put("ours", timeout=0.5)
                items.append("ours")
            except PeerDiedError:
                continue
            except Full:
                break
        assert len(items) == 2
        assert sut.get_many() == items


# ------------------------------------------------------------------------------------------- what is left --


def test_the_file_of_a_producer_killed_before_its_item_was_put_is_removed(name: str) -> None:
    with Queue(name=name) as sut, peer(name) as other:
        other.do("q.put(b'put' * 100_000)")
        other.do("q._ring._write_file(b'never put' * 100_000)")
        assert len(item_files()) == 2
        other.kill()
        assert sut._ring._sweep()
        assert len(item_files()) == 1
        assert sut.get() == b"put" * 100_000
        assert item_files() == []


def test_a_waiting_get_removes_the_files_of_the_dead(name: str) -> None:
    with Queue(name=name) as sut, peer(name) as other, peer(name) as third:
        other.do("q._ring._write_file(b'never put' * 100_000)")
        other.kill()
        with pytest.raises(Empty):
            sut.get(timeout=1.2)
        assert item_files() == []
        third.end()


def test_the_file_of_a_living_producer_stays(name: str) -> None:
    with Queue(name=name) as sut, peer(name) as other:
        other.do("q._ring._write_file(b'about to be put' * 100_000)")
        assert sut._ring._sweep()
        assert len(item_files()) == 1
        other.kill()


def test_a_large_item_outlives_the_process_that_put_it(name: str) -> None:
    with Queue(name=name) as sut:
        with peer(name) as other:
            other.do("q.put(b'kept' * 100_000)")
            other.kill()
        with peer(name) as third:  # its join reaps
            third.end()
        assert sut._ring._sweep()
        assert sut.get() == b"kept" * 100_000


@pytest.mark.parametrize("call", ["get", "put", "join"])
def test_a_call_that_waits_for_killed_processes_raises_once(call: str, name: str) -> None:
    with JoinableQueue(1, name=name) as sut, peer(name, "JoinableQueue", maxsize=1) as other:
        if call != "get":
            sut.put(1)
        waits = {"get": sut.get, "put": lambda: sut.put(2), "join": sut.join}[call]
        killer = threading.Timer(0.1, other.kill)
        killer.start()
        with pytest.raises(PeerDiedError, match=f"pid {other.pid}"):
            waits()
        killer.join()
        if call == "get":
            with pytest.raises(Empty):
                sut.get(timeout=0.3)
        elif call == "put":
            with pytest.raises(Full):
                sut.put(2, timeout=0.3)
        assert sut.empty() or sut.get() == 1


def test_a_put_many_that_a_death_ends_counts_what_was_sent_in_all_its_parts(name: str) -> None:
    """A large item goes alone, then the small ones: one of each was sent."""
    with Queue(2, name=name) as sut, peer(name, maxsize=2) as other:
        killer = threading.Timer(0.1, other.kill)
        killer.start()
        with pytest.raises(PeerDiedError, match="2 of 3 records were sent") as caught:
            sut.put_many([bytes(1 << 20), "small", "never"])
        killer.join()
        assert caught.value.delivered == 2
        assert sut.get_many() == [bytes(1 << 20)]
        assert sut.get_many() == ["small"]


def test_everybody_killed_is_cleaned_up_with_the_large_items(name: str) -> None:
    before = os.listdir(os.environ["FASTCOMM_DIR"])
    with peer(name) as one:
        one.do("q.put(b'large' * 100_000)")
        one.kill()
    assert len(fastcomm.segments.clean_segments()) == 1
    assert os.listdir(os.environ["FASTCOMM_DIR"]) == before


def test_a_queue_whose_file_was_deleted_says_so_instead_of_waiting(name: str) -> None:
    with Queue(name=name) as sut:
        os.unlink(sut._ring.path)
        with pytest.raises(fastcomm.SegmentVanishedError, match="was deleted while in use"):
            sut.get(timeout=5)


def test_garbage_where_the_lock_is_makes_an_error(name: str) -> None:
    with Queue(name=name) as sut:
        lock_word(sut)[:] = b"\xff" * 4
        with pytest.raises(fastcomm.CorruptSegmentError, match="the lock of"):
            sut.get_nowait()
        lock_word(sut)[:] = bytes(4)
