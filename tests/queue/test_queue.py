"""What a queue does in one process and between processes that live: order, limits, sizes, errors, names."""

import collections
import multiprocessing
import os
import pickle
import queue as standard
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from peers import Peer, PeerError

import fastcomm
from fastcomm import Empty, Full, JoinableQueue, Queue, ShutDown, SimpleQueue, Struct
from fastcomm.errors import ClosedError, SegmentExistsError, SegmentNotFoundError, ShmFullError
from fastcomm.queue import _dumps
from fastcomm.structs import u4

START_METHODS = ("fork", "spawn", "forkserver")
SETUP = "import os, signal, threading, time\nimport fastcomm\nfrom fastcomm.errors import *\n"


@pytest.fixture
def queue(request: pytest.FixtureRequest) -> Iterator[Queue]:
    with Queue() as made:
        yield made
    request.node.funcargs.clear()  # pytest would keep it alive beyond the leak check


def files() -> list[str]:
    """Of segments and large items."""
    return sorted(os.listdir(os.environ["FASTCOMM_DIR"]))


def peer(name: str, kind: str = "Queue", **options: Any) -> Peer:
    return Peer(f"{SETUP}q = fastcomm.{kind}(name={name!r}, **{options!r})")


# ------------------------------------------------------------------------------------------------- objects --


@pytest.mark.parametrize("kind", [Queue, SimpleQueue, JoinableQueue])
def test_objects_come_out_as_they_went_in_and_in_order(kind: type[Any]) -> None:
    objects = [
        None,
        True,
        0,
        -(1 << 200),
        1.5,
        "é",
        b"\0" * 32,
        [1, {"a": (2, 3)}],
        Path("x"),
        ValueError("no"),
    ]
    with kind() as sut:
        for each in objects:
            sut.put(each)
        got = [sut.get() for _ in objects]
    assert repr(got) == repr(objects)


def test_an_item_is_visible_when_put_returns(queue: Queue) -> None:
    queue.put("now")
    assert (queue.qsize(), queue.empty(), queue.get_nowait()) == (1, False, "now")


def test_an_object_that_cannot_be_pickled_raises_in_put_and_leaves_nothing(queue: Queue) -> None:
    with pytest.raises((pickle.PicklingError, AttributeError)):
        queue.put(lambda: None)
    assert queue.empty()


def test_put_many_pickles_everything_before_it_sends_anything(queue: Queue) -> None:
    with pytest.raises((pickle.PicklingError, AttributeError)):
        queue.put_many([1, 2, lambda: None])
    assert queue.empty()


def fail_to_load() -> None:
    raise OSError("cannot be made here")


class Unloadable:
    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return fail_to_load, ()


def test_an_object_that_cannot_be_loaded_raises_in_get_and_is_gone(queue: Queue) -> None:
    queue.put_many([Unloadable(), 2])
    with pytest.raises(OSError, match="cannot be made here"):
        queue.get()
    assert queue.get() == 2


def test_get_many_loses_nothing_around_an_object_that_cannot_be_loaded(queue: Queue) -> None:
    queue.put_many([1, Unloadable(), 3, 4])
    assert queue.get_many() == [1]
    with pytest.raises(OSError, match="cannot be made here"):
        queue.get_many()
    assert [queue.get(), queue.get_nowait()] == [3, 4]


def test_connections_pass_as_with_multiprocessing(queue: Queue) -> None:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=send_through, args=(queue,))
    process.start()
    queue.put(theirs)
    assert ours.recv() == "hello"
    process.join()
    ours.close()
    theirs.close()
    from multiprocessing import resource_sharer

    resource_sharer.stop()


def send_through(queue: Queue) -> None:
    with queue.get() as connection:
        connection.send("hello")


# --------------------------------------------------------------------------------------------- large items --


@pytest.mark.parametrize("nbytes", [0, 55, 56, 57, 100, 127, 128, 129, 1000, 1024, 5000, 1_000_000])
def test_items_of_any_size_pass_a_small_queue(nbytes: int) -> None:
    with Queue(capacity=1024) as sut:
        sut.put(bytes(nbytes))
        assert sut.qsize() == 1
        assert sut.get() == bytes(nbytes)


def test_a_large_item_leaves_no_file_when_it_was_taken_and_none_when_the_queue_goes() -> None:
    before = files()
    with Queue(capacity=1024) as sut:
        for number in range(4):
            sut.put(bytes([number]) * 10_000)
        assert len([file for file in files() if ".item." in file]) == 4
        assert sut.get() == bytes(10_000)
        assert len([file for file in files() if ".item." in file]) == 3
    assert files() == before


def test_the_file_of_a_large_item_is_for_its_owner_alone(queue: Queue) -> None:
    queue.put(bytes(1 << 20))
    (item,) = [file for file in files() if ".item." in file]
    assert (Path(os.environ["FASTCOMM_DIR"]) / item).stat().st_mode & 0o777 == 0o600


def test_a_large_item_that_finds_no_room_leaves_no_file() -> None:
    with Queue(1, capacity=1024) as sut:
        sut.put(1)
        with pytest.raises(Full):
            sut.put(bytes(10_000), timeout=0.01)
        with pytest.raises(Full):
            sut.put_nowait(bytes(10_000))
        assert [file for file in files() if ".item." in file] == []


def test_large_and_small_items_keep_their_order(queue: Queue) -> None:
    objects = [bytes([n]) * (1 if n % 3 else 300_000) for n in range(12)]
    assert queue.put_many(objects) == 12
    got: list[bytes] = []
    while len(got) < 12:
        got += queue.get_many()
    assert got == objects


def test_an_item_larger_than_the_file_system_is_refused_with_the_numbers(queue: Queue) -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return 1 << 50

    with pytest.raises(ShmFullError) as caught:
        queue._ring.put_in_file(Huge(b"x"), None)
    assert caught.value.needed == 1 << 50
    assert [file for file in files() if ".item." in file] == []


# -------------------------------------------------------------------------------------- limits and waiting --


def test_maxsize_counts_items_and_full_says_so() -> None:
    with Queue(2) as sut:
        sut.put(1)
        assert not sut.full()
        sut.put(2)
        assert sut.full()
        with pytest.raises(standard.Full, match="2 of at most 2 items"):
            sut.put(3, timeout=0.01)
        assert sut.get() == 1
        sut.put(3)
        assert [sut.get(), sut.get()] == [2, 3]


@pytest.mark.parametrize("maxsize", [0, -1])
def test_without_maxsize_the_bytes_are_the_limit(maxsize: int) -> None:
    with Queue(maxsize, capacity=1024) as sut:
        with pytest.raises(Full) as caught:
            sut.put_many(range(100), block=False)
        assert caught.value.delivered == 16  # cells of 64 bytes
        assert sut.full()
        assert sut.get_many() == list(range(16))


def test_a_maxsize_beyond_the_bytes_does_no_harm() -> None:
    with Queue(1 << 40, capacity=1024) as sut:
        assert sut.maxsize == 1 << 40
        sut.put(1)
        assert sut.get() == 1


@pytest.mark.parametrize("call", ["put", "get"])
def test_a_negative_timeout_is_an_error_also_when_there_is_no_need_to_wait(call: str, queue: Queue) -> None:
    queue.put(1)
    with pytest.raises(ValueError, match="timeout is -1"):
        queue.put(2, timeout=-1) if call == "put" else queue.get(timeout=-1)
    assert queue.qsize() == 1


def test_timeouts_last_and_name_the_queue(queue: Queue) -> None:
    started = time.monotonic()
    with pytest.raises(standard.Empty, match=queue.name):
        queue.get(timeout=0.05)
    assert time.monotonic() - started >= 0.05
    for get in (queue.get_nowait, lambda: queue.get(block=False, timeout=5), queue.get_many):
        with pytest.raises(Empty):
            get() if get != queue.get_many else queue.get_many(block=False)


def test_put_many_into_a_full_queue_says_how_many_were_sent() -> None:
    with Queue(3) as sut:
        with pytest.raises(Full) as caught:
            sut.put_many(range(5), timeout=0.01)
        assert (caught.value.delivered, caught.value.missing) == (3, 2)
        with pytest.raises(Full) as caught:
            sut.put_many([bytes(1 << 20)], block=False)
        assert (caught.value.delivered, caught.value.missing) == (0, 1)
        assert sut.get_many(2) == [0, 1]
        assert sut.get_many() == [2]


def test_get_many_checks_its_limit(queue: Queue) -> None:
    with pytest.raises(ValueError, match="limit is 0"):
        queue.get_many(0)


def test_a_waiting_put_goes_on_as_soon_as_one_item_is_taken(name: str) -> None:
    with Queue(4, name=name) as sut, peer(name, maxsize=4) as other:
        sut.put_many(range(4))
        other.send("q.put('late')")
        time.sleep(0.05)
        assert [sut.get() for _ in range(5)] == [0, 1, 2, 3, "late"]
        other.result()
        other.end()


def test_a_waiting_get_ends_on_ctrl_c(name: str) -> None:
    with Queue(name=name), peer(name) as other:
        other.send("q.get()")
        time.sleep(0.2)
        other.interrupt()
        with pytest.raises(PeerError, match="KeyboardInterrupt"):
            other.result()
        other.end()


class AgainstDeque(RuleBasedStateMachine):
    """One process, two handles: whatever is called in whatever order, a list says what comes out."""

    @initialize(maxsize=st.integers(0, 6), capacity=st.sampled_from([1024, 4096]))
    def make(self, maxsize: int, capacity: int) -> None:
        self.name = fastcomm.testing.isolated_name()
        self.handles = [Queue(maxsize, name=self.name, capacity=capacity) for _ in range(2)]
        self.maxsize = maxsize
        self.model: list[bytes] = []

    @rule(which=st.integers(0, 1), item=st.binary(max_size=300))
    def put(self, which: int, item: bytes) -> None:
        try:
            self.handles[which].put_nowait(item)
        except Full:
            assert self.handles[which].full() or len(pickle.dumps(item)) > 56 or self.maxsize == 0
            assert self.maxsize == 0 or len(self.model) == self.maxsize or sum(map(len, self.model)) > 500
        else:
            self.model.append(item)
            assert self.maxsize == 0 or len(self.model) <= self.maxsize

    @rule(which=st.integers(0, 1))
    def get(self, which: int) -> None:
        if self.model:
            assert self.handles[which].get_nowait() == self.model.pop(0)
        else:
            with pytest.raises(Empty):
                self.handles[which].get_nowait()

    @rule(which=st.integers(0, 1), limit=st.integers(1, 5))
    @precondition(lambda self: self.model)
    def get_many(self, which: int, limit: int) -> None:
        got = self.handles[which].get_many(limit)
        assert 1 <= len(got) <= limit
        assert got == self.model[: len(got)]
        del self.model[: len(got)]

    @rule(which=st.integers(0, 1))
    def sizes(self, which: int) -> None:
        assert self.handles[which].qsize() == len(self.model)
        assert self.handles[which].empty() == (not self.model)

    @rule(which=st.integers(0, 1))
    def reopen(self, which: int) -> None:
        old = self.handles[which]
        self.handles[which] = Queue(old.maxsize, name=self.name, capacity=old._ring.capacity)
        old.close()

    def teardown(self) -> None:
        if hasattr(self, "handles"):
            self.handles[0].unlink()
            for handle in self.handles:
                handle.close()


AgainstDeque.TestCase.settings = settings(max_examples=40, stateful_step_count=40)
TestAgainstDeque = AgainstDeque.TestCase


# -------------------------------------------------------------------------------------------- many of them --


def produce(queue: Queue, producer: int, count: int) -> None:
    for number in range(count):
        queue.put((producer, number, b"x" * (number * 7 % 200)))


def consume(queue: Queue, results: Queue) -> None:
    got = []
    while (item := queue.get()) is not None:
        got.append(item[:2])
    results.put(got)


@pytest.mark.parametrize(
    ("start_method", "maxsize"), [("fork", 0), ("fork", 5), ("spawn", 3), ("forkserver", 0)]
)
def test_three_producers_and_three_consumers_lose_and_double_nothing(start_method: str, maxsize: int) -> None:
    context = multiprocessing.get_context(start_method)
    count = 1000
    with Queue(maxsize, capacity=4096) as sut, Queue() as results:
        producers = [context.Process(target=produce, args=(sut, n, count)) for n in range(3)]
        consumers = [context.Process(target=consume, args=(sut, results)) for _ in range(3)]
        for process in producers + consumers:
            process.start()
        for process in producers:
            process.join()
        sut.put_many([None] * 3)
        got = [results.get() for _ in consumers]
        for process in consumers:
            process.join()
        assert sut.empty()
    assert sorted(item for one in got for item in one) == [
        (producer, number) for producer in range(3) for number in range(count)
    ]
    for one in got:  # what one consumer gets of one producer comes in order
        for producer in range(3):
            numbers = [number for who, number in one if who == producer]
            assert numbers == sorted(numbers)


def fill(queue: Queue, count: int) -> None:
    for number in range(count):
        queue.put(number)


def test_maxsize_is_never_exceeded_by_producers_in_a_race() -> None:
    context = multiprocessing.get_context("fork")
    with Queue(7, capacity=4096) as sut:
        producers = [context.Process(target=fill, args=(sut, 1000)) for _ in range(3)]
        for process in producers:
            process.start()
        sizes = []
        for _ in range(3000):
            sizes.append(sut.qsize())
            sut.get()
        for process in producers:
            process.join()
        assert max(sizes) <= 7
        assert sut.empty()


def test_threads_share_a_handle() -> None:
    with Queue(3) as sut:
        got: list[int] = []
        consumers = [threading.Thread(target=lambda: got.extend(iter(sut.get, None))) for _ in range(4)]
        producers = [threading.Thread(target=fill, args=(sut, 300)) for _ in range(4)]
        for thread in consumers + producers:
            thread.start()
        for thread in producers:
            thread.join()
        sut.put_many([None] * 4)
        for thread in consumers:
            thread.join()
        assert sorted(got) == sorted(list(range(300)) * 4)


def hand_back(queue: Queue, back: Queue) -> None:
    back.put((queue.get(), queue.name, os.getpid()))


@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_queue_passes_to_a_child(start_method: str, queue: Queue) -> None:
    with Queue() as back:
        process = multiprocessing.get_context(start_method).Process(target=hand_back, args=(queue, back))
        process.start()
        queue.put("for you")
        assert back.get() == ("for you", queue.name, process.pid)
        process.join()
        assert process.exitcode == 0


def test_a_queue_that_was_merely_inherited_by_a_fork_works(queue: Queue) -> None:
    queue.put("before")
    pid = os.fork()
    if pid == 0:
        queue.put(queue.get() + " and after")
        os._exit(0)
    os.waitpid(pid, 0)
    assert queue.get() == "before and after"


# ---------------------------------------------------------------------------------- close, names, pickling --


@pytest.mark.parametrize("kind", [Queue, JoinableQueue])
def test_a_closed_queue_raises_value_error(kind: type[Queue]) -> None:
    sut = kind()
    sut.put(0)
    sut.close()
    sut.close()
    sut.join_thread()
    sut.cancel_join_thread()
    calls = [
        lambda: sut.put(1),
        sut.get,
        sut.get_nowait,
        sut.qsize,
        sut.empty,
        sut.full,
        sut.shutdown,
        sut.get_many,
    ]
    for call in calls:
        with pytest.raises(ValueError, match="is closed"):
            call()


@pytest.mark.parametrize("kind", [Queue, JoinableQueue, SimpleQueue])
def test_empty_of_a_closed_queue_is_as_multiprocessings(kind: type[Queue]) -> None:
    """An OSError, but for a Queue that this handle never used; CPython's tests of it came with 3.13."""
    unused, used = kind(), kind()
    used.put(0)
    used.close()
    unused.close()
    with pytest.raises(OSError, match="is closed") as caught:
        used.empty()
    assert isinstance(caught.value, ClosedError)
    if kind is SimpleQueue:
        with pytest.raises(OSError, match="is closed"):
            unused.empty()
    else:
        assert unused.empty()


def test_closing_ends_a_get_that_waits_in_another_thread(queue: Queue) -> None:
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            queue.get()
        except ClosedError as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    queue.close()
    thread.join()
    assert len(raised) == 1


def test_unrelated_processes_meet_by_name(name: str) -> None:
    with peer(name) as other, Queue(name=name) as sut:
        other.do("q.put({'from': os.getpid()})")
        assert sut.get() == {"from": other.pid}
        other.end()


def test_a_named_queue_keeps_its_items_for_the_next_and_unlink_ends_that(name: str) -> None:
    before = files()
    with Queue(name=name) as first:
        first.put_many(["left", bytes(1 << 20)])
    with Queue(name=name) as second:
        assert second.get() == "left"
        assert second.qsize() == 1
        second.unlink()
    assert files() == before
    with Queue(name=name) as third:
        assert third.empty()


def test_another_shape_of_a_queue_in_use_is_refused_with_both(name: str) -> None:
    with Queue(5, name=name), pytest.raises(SegmentExistsError, match=r"maxsize=5 .* maxsize=6"):
        Queue(6, name=name)
    with Queue(name=name), pytest.raises(SegmentExistsError, match="exists as a Queue"):
        JoinableQueue(name=name)


def test_a_queue_without_a_name_leaves_nothing_though_it_holds_items() -> None:
    before = files()
    with Queue() as sut:
        sut.put_many([1, bytes(1 << 20)])
    assert files() == before


def test_pickling_finds_the_queue_and_not_one_that_has_gone(queue: Queue) -> None:
    with pickle.loads(pickle.dumps(queue)) as other:
        other.put("same")
        assert queue.get() == "same"
    gone = Queue()
    pickled = pickle.dumps(gone)
    gone.close()
    with pytest.raises(SegmentNotFoundError):
        pickle.loads(pickled)


def test_a_subclass_keeps_what_it_knows_when_it_is_pickled() -> None:
    with Labelled("x") as sut, pickle.loads(pickle.dumps(sut)) as other:
        assert (type(other), other.label) == (Labelled, "x")


class Labelled(Queue):
    def __init__(self, label: str) -> None:
        super().__init__()
        self.label = label


def test_repr_says_what_it_is(queue: Queue) -> None:
    queue.put(1)
    assert repr(queue) == f"<Queue {queue.name!r}, 1 items>"
    queue.close()
    assert repr(queue) == f"<Queue {queue.name!r}, closed>"


def test_the_kinds_are_generic_for_annotations() -> None:
    assert Queue[int].__origin__ is Queue
    assert SimpleQueue[str].__origin__ is SimpleQueue


@pytest.mark.parametrize("bad", ["3", 2.5, None])
def test_a_maxsize_that_is_no_integer_is_an_error(bad: Any) -> None:
    with pytest.raises(TypeError):
        Queue(bad)


# ------------------------------------------------------------------------------------------------ shutdown --


def test_after_shutdown_put_raises_and_get_once_it_is_empty(queue: Queue) -> None:
    queue.put_many([1, 2])
    queue.shutdown()
    with pytest.raises(ShutDown):
        queue.put(3)
    assert [queue.get(), queue.get()] == [1, 2]
    for get in (queue.get, queue.get_nowait, queue.get_many):
        with pytest.raises(ShutDown):
            get()


def test_immediate_shutdown_throws_away_what_is_left_and_its_files(queue: Queue) -> None:
    queue.put_many([1, bytes(1 << 20)])
    queue.shutdown(immediate=True)
    with pytest.raises(ShutDown):
        queue.get_nowait()
    assert queue.qsize() == 0
    assert [file for file in files() if ".item." in file] == []


def test_shutdown_is_what_the_standard_library_says_where_it_has_it() -> None:
    assert issubclass(ShutDown, ValueError)
    assert issubclass(ShutDown, getattr(standard, "ShutDown", Exception))


@pytest.mark.parametrize("call", ["q.get()", "q.put(2)"])
def test_shutdown_ends_calls_that_wait_in_other_processes(call: str, name: str) -> None:
    with Queue(1, name=name) as sut, peer(name, maxsize=1) as other:
        if "put" in call:
            sut.put(1)
        other.send(call)
        time.sleep(0.1)
        sut.shutdown()
        with pytest.raises(PeerError, match="ShutDown"):
            other.result()
        other.end()
        sut.unlink()


# --------------------------------------------------------------------------------------------------- tasks --


def test_join_waits_for_the_last_task_done(name: str) -> None:
    with JoinableQueue(name=name) as sut, peer(name, "JoinableQueue") as worker:
        sut.put_many([1, 2, bytes(1 << 20)])
        done = threading.Event()
        thread = threading.Thread(target=lambda: (sut.join(), done.set()))
        thread.start()
        for _ in range(3):
            assert not done.is_set()
            worker.do("q.get()")
            assert not done.wait(0.03)
            worker.do("q.task_done()")
        thread.join()
        assert done.is_set()
        worker.end()


def test_task_done_too_often_is_a_value_error() -> None:
    with JoinableQueue() as sut:
        sut.put_many([1, 2])
        assert sut.get_many() == [1, 2]
        sut.task_done()
        sut.task_done()
        with pytest.raises(ValueError, match="too many times: 2 items"):
            sut.task_done()
        sut.join()


def test_immediate_shutdown_counts_what_it_threw_away_as_finished() -> None:
    with JoinableQueue() as sut:
        sut.put_many([1, 2, 3])
        sut.get()
        sut.shutdown(immediate=True)
        sut.task_done()
        sut.join()
        with pytest.raises(ShutDown):
            sut.get()


def test_join_ends_on_ctrl_c(name: str) -> None:
    with JoinableQueue(name=name) as sut, peer(name, "JoinableQueue") as other:
        other.do("q.put(1)")
        other.send("q.join()")
        time.sleep(0.2)
        os.kill(other.pid, signal.SIGINT)
        with pytest.raises(PeerError, match="KeyboardInterrupt"):
            other.result()
        assert sut.get() == 1
        other.end()


class Words(list):
    pass


SHARED = [1]
BY_CODEC = [
    5,
    "text",
    b"bytes",
    None,
    2.5,
    [1, {"a": (2, {3})}],
    {"k": [bytearray(b"x")]},
    {frozenset([1]): 1},
]
BY_PICKLE = [
    Words([1]),
    [SHARED, SHARED],
    {"a": SHARED},
    collections.OrderedDict(a=1),
    range(3),
    "\ud800",
    1j,
]


@pytest.mark.parametrize("value", BY_CODEC + BY_PICKLE, ids=repr)
def test_an_object_comes_back_as_pickle_would_give_it_back(value, name):
    with fastcomm.Queue(name=name) as queue:
        queue.put(value)
        found = queue.get(timeout=10)
    assert found == pickle.loads(pickle.dumps(value))
    assert type(found) is type(value)


@pytest.mark.parametrize(("values", "begin"), [(BY_CODEC, 0xC1), (BY_PICKLE, 0x80)], ids=["codec", "pickle"])
def test_only_trees_of_built_in_types_are_encoded_by_the_codec(values, begin):
    # copies: what is in the lists above is in two places
    assert {_dumps(pickle.loads(pickle.dumps(value)))[0] for value in values if value != {"a": SHARED}} == {
        begin
    }


def test_what_is_in_two_places_is_one_object_again(name):
    inner, key = [1], ([2],)
    with fastcomm.Queue(name=name) as queue:
        for value in ([inner, inner], (key, key), {"a": inner, "b": {"c": inner}}, [{"x": key}, key]):
            queue.put(value)
        first, second, third, fourth = (queue.get(timeout=10) for _ in range(4))
    assert first[0] is first[1]
    assert second[0][0] is second[1][0]
    assert third["a"] is third["b"]["c"]
    assert fourth[0]["x"][0] is fourth[1][0]


def test_an_object_that_holds_itself_comes_back(name):
    value = {"list": []}
    value["list"].append(value)
    with fastcomm.Queue(name=name) as queue:
        queue.put(value)
        found = queue.get(timeout=10)
    assert found["list"][0] is found


def test_what_the_codec_sent_is_never_unpickled(name, monkeypatch):
    def refuse(data):
        raise AssertionError(f"{data!r} was unpickled")

    values = [*BY_CODEC, Tick(3), pickle.dumps(1)]  # the last is bytes, and stays that
    with fastcomm.Queue(name=name) as queue:
        queue.put_many([*values, 1j])
        monkeypatch.setattr("pickle.loads", refuse)
        assert [queue.get(timeout=10) for _ in values] == values
        with pytest.raises(AssertionError, match="was unpickled"):
            queue.get(timeout=10)


class Tick(Struct, type_id=7101):
    number: u4
    label: str = ""


class Nameless(Struct):
    number: u4


class Apart(Struct, type_id=7101, registry=None):
    number: u4


TICK_THERE = """
from fastcomm import Struct
from fastcomm.structs import u4
class Tick(Struct, type_id=7101):
    number: u4
    label: str = ""
    more: u4 = 5
"""


class TestStructs:
    def test_one_with_a_type_id_is_sent_as_its_message(self) -> None:
        assert _dumps(Tick(3, "x")) == Tick(3, "x").pack()
        assert [_dumps(value)[0] for value in (Nameless(1), Apart(1), [Tick(3)])] == [0x80] * 3

    @pytest.mark.parametrize("value", [Tick(3, "x"), Nameless(1), Apart(1), [Tick(3)]], ids=repr)
    def test_all_come_back(self, value: object, name: str) -> None:
        with fastcomm.Queue(name=name) as queue:
            queue.put(value)
            queue.put_many([value, value])
            found = [queue.get(timeout=10) for _ in range(3)]
        assert found == [value] * 3
        assert type(found[0]) is type(value)

    def test_the_class_is_that_of_the_process_that_reads(self, name: str) -> None:
        with fastcomm.Queue(name=name) as queue, peer(name, "Queue") as other:
            other.do(TICK_THERE)
            queue.put(Tick(3, "x"))
            assert other.do("t = q.get(timeout=60)") is None
            assert other.do("type(t) is Tick and (t.number, t.label, t.more)") == (3, "x", 5)
            other.end()

    def test_an_unknown_one_is_a_decode_error_and_is_gone(self, name: str) -> None:
        with fastcomm.Queue(name=name) as queue, peer(name, "Queue") as other:
            queue.put(Tick(3, "x"))
            queue.put("next")
            with pytest.raises(PeerError, match="DecodeError: a Struct with type id 7101"):
                other.do("q.get(timeout=60)")
            assert other.do("q.get(timeout=60)") == "next"
            other.end()

    def test_a_value_that_does_not_fit_is_an_encode_error_in_put(self, name: str) -> None:
        with fastcomm.Queue(name=name) as queue:
            with pytest.raises(fastcomm.EncodeError, match="number"):
                queue.put(Tick(-1))
            assert queue.empty()
