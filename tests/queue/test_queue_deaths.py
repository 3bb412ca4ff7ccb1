"""Processes that are killed while they use a queue: nothing that was put is lost, nothing comes twice,
nobody is held up.
"""

import os
import random
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from peers import Peer

import fastcomm
import fastcomm.segments
from fastcomm import Empty, Full, JoinableQueue, PeerDiedError, Queue
from fastcomm._core.segment import SECTION_CONTROL

SETUP = """
import os, signal, threading, time
import fastcomm
import fastcomm.segments
from fastcomm._core import protocol, shared_queue
"""
LOCK = slice(128, 132)  # of fc_queue_t
HOOKS = Path(fastcomm.__file__).parent / "_core" / "include" / "fc_hooks.h"


def peer(name: str, kind: str = "Queue", **options: Any) -> Peer:
    return Peer(f"{SETUP}q = fastcomm.{kind}(name={name!r}, **{options!r})")


def hook(step: str) -> int:
    return re.findall(r"^    (FC_HOOK_\w+)", HOOKS.read_text(), re.MULTILINE).index(f"FC_HOOK_{step}")


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


# ----------------------------------------------------------------------------------------- kills at random --


def produce(queue: Queue, producer: int, acknowledged: int) -> None:
    number = 0
    while True:
        size = 3000 if number % 50 == 49 else number * 7 % 120
        try:
            queue.put((producer, number, b"x" * size))
        except PeerDiedError:
            continue
        os.write(acknowledged, b"%d %d\n" % (producer, number))
        number += 1


def consume(queue: Queue, got: int) -> None:
    while True:
        producer, number, _ = get_patiently(queue)
        os.write(got, b"%d %d\n" % (producer, number))


def forked(function: Any, *arguments: Any) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            function(*arguments)
        finally:
            os._exit(1)
    return pid


def lines(path: Path) -> list[tuple[int, ...]]:
    return [tuple(map(int, line.split())) for line in path.read_text().splitlines()]


def in_order(numbers: list[int]) -> bool:
    return numbers == sorted(numbers)


@pytest.mark.parametrize("maxsize", [0, 6])
@pytest.mark.parametrize("seed", [1, 2])
def test_kills_at_random_lose_no_item_that_was_put_and_double_none(
    maxsize: int, seed: int, tmp_path: Path
) -> None:
    """Oracle: who has put writes it down, who has got as well; a line is one write(), so a kill can't split
    it.

    A killed consumer may have taken one item that it did not write down; a killed producer may have put one.
    """
    rng = random.Random(seed)
    rounds = 25
    log = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    acknowledged = os.open(tmp_path / "put", log)
    with Queue(maxsize, capacity=4096) as sut:
        consumers: list[tuple[int, int]] = []  # pid, file
        started = [0, 0]

        def start_producer() -> int:
            started[0] += 1
            return forked(produce, sut, started[0], acknowledged)

        def start_consumer() -> tuple[int, int]:
            started[1] += 1
            file = os.open(tmp_path / f"got{started[1]}", log)
            return forked(consume, sut, file), file

        producers = [start_producer() for _ in range(2)]
        consumers = [start_consumer() for _ in range(2)]
        for _ in range(rounds):
            time.sleep(rng.random() * 0.02)
            which = rng.randrange(2)
            if rng.random() < 0.5:
                kill(producers[which])
                producers[which] = start_producer()
            else:
                pid, file = consumers[which]
                kill(pid)
                os.close(file)
                consumers[which] = start_consumer()
        for pid in producers:
            kill(pid)
        for pid, file in consumers:
            kill(pid)
            os.close(file)
        os.close(acknowledged)
        # The rest is ours; then the queue must hold exactly maxsize again.
        rest = []
        while True:
            try:
                rest.append(sut.get(timeout=1)[:2])
            except PeerDiedError:
                continue
            except Empty:
                break
        assert sut.qsize() == 0
        if maxsize:
            with pytest.raises(Full) as caught:
                sut.put_many(range(maxsize + 1), timeout=0.3)
            assert caught.value.delivered == maxsize
            assert sut.get_many() == list(range(maxsize))
        assert item_files() == []
    taken = [lines(tmp_path / f"got{number + 1}") for number in range(started[1])]
    everything = [item for part in [*taken, rest] for item in part]
    assert len(everything) == len(set(everything)) > rounds
    unaccounted = set(lines(tmp_path / "put")) - set(everything)
    assert len(unaccounted) <= started[1]
    assert len(set(everything) - set(lines(tmp_path / "put"))) <= started[0]
    for part in [*taken, rest]:
        for producer in range(1, started[0] + 1):
            assert in_order([number for who, number in part if who == producer])


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


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


def test_a_stopped_holder_of_the_lock_holds_nobody_up_beyond_the_timeout(name: str) -> None:
    with Queue(name=name) as sut, peer(name) as other:
        sut.put("there")
        lock_word(sut)[:] = other.do("q._ring._slot + 1").to_bytes(4, "little")
        other.stop()
        with pytest.raises(Empty):
            sut.get_nowait()
        with pytest.raises(Empty):
            sut.get(timeout=0.1)
        lock_word(sut)[:] = bytes(4)
        assert sut.get(timeout=5) == "there"
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
            other.do(f"{module}._arm_hook({hook(step)})")
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
            other.do(f"{module}._arm_hook({hook(step)})")
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
            other.do(f"protocol._arm_hook({hook(step)})")
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
