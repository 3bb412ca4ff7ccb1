"""RingBuffer in one or two processes: names, creating, attaching, closing, adoption, threads, errors."""

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from procs import fork, join, kill, python, run_python, wait_until

from fastcomm.errors import (
    ClosedError,
    Empty,
    Full,
    InvalidNameError,
    PeerDiedError,
    RoleTakenError,
    SegmentExistsError,
    SegmentNotFoundError,
    SegmentVanishedError,
    TableFullError,
)
from fastcomm.rings import RingBuffer
from fastcomm.segments import segment_path


@pytest.fixture
def ring(name: str) -> Iterator[RingBuffer]:
    with RingBuffer.create(name, capacity=4096) as ring:
        yield ring
        if not ring.closed:
            ring.unlink()  # or it would wait with what the test left unread


@pytest.fixture
def two(ring: RingBuffer) -> Iterator[tuple[RingBuffer, RingBuffer]]:
    """Two handles of one ring: they are as strange to each other as those of two processes."""
    with RingBuffer.attach(ring.name) as other:
        yield ring, other


def leave_behind(name: str, *records: bytes, **options: object) -> None:
    """A ring with records in it, all of whose handles were killed."""

    def work() -> None:
        ring = RingBuffer.create(name, **{"capacity": 4096, **options})  # type: ignore[arg-type]
        ring.put_many(records)
        os.kill(os.getpid(), signal.SIGKILL)

    assert join(fork(work)) == -signal.SIGKILL


# ------------------------------------------------------------------------------------- names, create, attach


@pytest.mark.parametrize("bad", ["", "a/b", "/dev/shm/x", "n\0ul", "x" * 193, "x" * 300, "ä" * 97, "\ud800"])
def test_a_bad_name_is_refused_in_every_place(bad: str) -> None:
    for call in (RingBuffer.create, RingBuffer.attach):
        with pytest.raises(InvalidNameError):
            call(bad)


@pytest.mark.parametrize("stem", ["ä" * 70, "名前 with spaces", "..", "a.b*c?", "-rf", "\n\t", "x" * 150])
def test_any_other_text_is_a_name(name: str, stem: str) -> None:
    full = stem + name[-8:]
    with RingBuffer.create(full) as ring, RingBuffer.attach(full) as other:
        assert other.name == ring.name == full
        assert ring.path == other.path == segment_path(full)


def test_a_name_that_is_no_text_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        RingBuffer.create(7)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        RingBuffer.attach(None)  # type: ignore[arg-type]


def test_without_a_name_each_ring_gets_its_own() -> None:
    with RingBuffer.create() as one, RingBuffer.create() as other:
        assert one.name != other.name


@pytest.mark.parametrize("capacity", [0, -1, (4 << 30) + 1, 1 << 63, 1 << 70])
def test_a_capacity_out_of_range_is_a_value_error(name: str, capacity: int) -> None:
    with pytest.raises(ValueError, match=f"capacity is {capacity} bytes; it must be 1 to 4294967296"):
        RingBuffer.create(name, capacity=capacity)


@pytest.mark.parametrize("capacity", [1.5, "1024", None])
def test_a_capacity_that_is_no_integer_is_a_type_error(name: str, capacity: object) -> None:
    with pytest.raises(TypeError):
        RingBuffer.create(name, capacity=capacity)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "given"), [(1, 1024), (1024, 1024), (1025, 2048), (5000, 8192), (1 << 20, 1 << 20)]
)
def test_the_capacity_is_rounded_up_to_a_power_of_two(name: str, asked: int, given: int) -> None:
    with RingBuffer.create(name, capacity=asked) as ring:
        assert ring.capacity == given


def test_producers_is_one_or_many(name: str) -> None:
    with pytest.raises(ValueError, match="producers is 'two'; it must be 'one' or 'many'"):
        RingBuffer.create(name, producers="two")  # type: ignore[arg-type]


def test_attaching_what_is_not_there_says_what_to_do(name: str) -> None:
    with pytest.raises(
        SegmentNotFoundError, match=f"there is no segment named '{name}'.*create it first"
    ) as e:
        RingBuffer.attach(name)
    assert isinstance(e.value, FileNotFoundError)


def test_creating_what_is_in_use_names_who_uses_it(ring: RingBuffer) -> None:
    with pytest.raises(SegmentExistsError, match=f"in use by pid {os.getpid()} .* alive and 0 more; attach"):
        RingBuffer.create(ring.name)


def test_two_users_of_one_name_in_two_directories_do_not_meet(name: str, tmp_path: Path) -> None:
    with RingBuffer.create(name, directory=tmp_path) as one, RingBuffer.create(name) as other:
        one.put(b"one")
        assert other.try_get() is None
        assert Path(one.path).parent == tmp_path
        with RingBuffer.attach(name, directory=str(tmp_path)) as again:
            assert again.get() == b"one"


def test_fastcomm_dir_is_the_default_directory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTCOMM_DIR", str(tmp_path))
    with RingBuffer.create(name) as ring:
        assert Path(ring.path).parent == tmp_path
        monkeypatch.delenv("FASTCOMM_DIR")
        with pytest.raises(SegmentNotFoundError):
            RingBuffer.attach(name)
        pickle.loads(pickle.dumps(ring)).close()  # a pickle knows the file


def test_a_directory_that_is_not_there_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        RingBuffer.create(name, directory=tmp_path / "none")


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_mode_is_that_of_the_file_whatever_the_umask(name: str, mode: int) -> None:
    old = os.umask(0o077)
    try:
        with RingBuffer.create(name, mode=mode) as ring:
            assert os.stat(ring.path).st_mode & 0o777 == mode
    finally:
        os.umask(old)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_another_user_needs_the_mode_and_the_uid(name: str) -> None:
    def as_nobody(mode: int) -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        with pytest.raises(SegmentNotFoundError):
            RingBuffer.attach(name, directory="/dev/shm")
        if mode == 0o600:
            with pytest.raises(PermissionError, match=r"belongs to uid 0 and has mode 600; .* mode=0o660"):
                RingBuffer.attach(name, uid=0, directory="/dev/shm")
        else:
            with RingBuffer.attach(name, uid=0, directory="/dev/shm") as ring:
                ring.put(b"from nobody")

    for mode in (0o600, 0o666):
        with RingBuffer.create(name, mode=mode, directory="/dev/shm") as ring:
            assert join(fork(lambda mode=mode: as_nobody(mode))) == 0  # type: ignore[misc]
            assert ring.try_get() == (b"from nobody" if mode == 0o666 else None)


def test_every_page_is_reserved_at_creation(name: str) -> None:
    with RingBuffer.create(name, capacity=1 << 20) as ring:
        status = os.stat(ring.path)
        assert status.st_blocks * 512 >= status.st_size > 1 << 20


def test_repr_tells_name_capacity_and_state(ring: RingBuffer) -> None:
    assert repr(ring) == f"<RingBuffer '{ring.name}', 4096 bytes, depth 0>"
    ring.close()
    assert repr(ring) == f"<RingBuffer '{ring.name}', 4096 bytes, closed>"


# ------------------------------------------------------------------------------------------ close and unlink


def test_the_last_handle_to_close_removes_the_file(two: tuple[RingBuffer, RingBuffer]) -> None:
    ring, other = two
    ring.close()
    assert os.path.exists(ring.path)
    other.put(b"x")
    assert other.get() == b"x"
    other.close()
    assert not os.path.exists(ring.path)


def test_unread_records_keep_the_file_for_the_next(name: str) -> None:
    ring = RingBuffer.create(name, capacity=4096)
    ring.put_many([b"one", b"two"])
    ring.close()
    assert os.path.exists(ring.path)
    with RingBuffer.attach(name) as next_one:
        assert next_one.get_many() == [b"one", b"two"]
    assert not os.path.exists(ring.path)


def test_unlink_removes_the_name_and_the_attached_go_on(two: tuple[RingBuffer, RingBuffer]) -> None:
    ring, other = two
    ring.unlink()
    assert not os.path.exists(ring.path)
    with pytest.raises(SegmentNotFoundError):
        RingBuffer.attach(ring.name)
    with RingBuffer.create(ring.name) as unrelated:
        ring.put(b"old ring")
        assert unrelated.try_get() is None
        assert other.get() == b"old ring"
        ring.unlink()  # again: does not touch the ring that has the name now
        assert os.path.exists(unrelated.path)


def test_unlink_takes_unread_records_with_it(name: str) -> None:
    with RingBuffer.create(name) as ring:
        ring.put(b"x")
        ring.unlink()
    assert not os.path.exists(ring.path)


def test_a_closed_handle_refuses_every_call(ring: RingBuffer) -> None:
    ring.close()
    ring.close()
    calls: list[Callable[[], object]] = [
        ring.get, ring.try_get, ring.get_many, ring.try_get_many, ring.peek, ring.fileno, ring.unlink,
        lambda: ring.put(b""), lambda: ring.try_put(b""), lambda: ring.put_many([b""]), lambda: ring.claim(1),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(ClosedError):
            call()
    assert ring.closed
    assert ring.stats().capacity == 4096


def test_views_stay_valid_when_their_handle_is_closed(two: tuple[RingBuffer, RingBuffer]) -> None:
    ring, other = two
    ring.put(b"pinned")
    with ring.claim(5) as claimed:
        ring.close()
        claimed[:] = b"later"
        assert len(other._segment.taken_slots()) == 2  # it leaves with its last view
    assert len(other._segment.taken_slots()) == 1
    with other.peek() as view:
        other.close()
        assert view == b"pinned"
    assert os.path.exists(ring.path)
    with RingBuffer.attach(ring.name) as last:
        assert last.get() == b"later"


def test_a_handle_that_is_dropped_closes_itself(name: str) -> None:
    ring = RingBuffer.create(name)
    path = ring.path
    del ring
    assert not os.path.exists(path)


def test_a_process_that_ends_without_closing_has_left_not_died(ring: RingBuffer) -> None:
    code = (
        "import sys; from fastcomm.rings import RingBuffer; r = RingBuffer.attach(sys.argv[1]); r.put(b'bye')"
    )
    run_python(code, ring.name)
    assert ring.get(timeout=60) == b"bye"
    assert ring._segment.deaths[0] == 0
    assert len(ring._segment.taken_slots()) == 1


# -------------------------------------------------------------------------------------------------- adoption


@pytest.mark.parametrize("how", ["create", "attach"])
def test_records_of_a_ring_whose_handles_were_all_killed_go_to_the_next(name: str, how: str) -> None:
    leave_behind(name, b"one", b"two")
    sut = RingBuffer.create(name, capacity=4096) if how == "create" else RingBuffer.attach(name)
    with sut:
        assert sut.get_many() == [b"one", b"two"]
        sut.put(b"three")
        assert sut.get() == b"three"
    assert not os.path.exists(sut.path)


def test_a_ring_left_empty_with_another_shape_is_made_anew(name: str) -> None:
    leave_behind(name)
    with RingBuffer.create(name, capacity=8192, producers="one") as ring:
        assert ring.capacity == 8192
        assert ring.try_get() is None


@pytest.mark.parametrize("other", [{"capacity": 8192}, {"producers": "one"}])
def test_a_ring_left_with_records_and_another_shape_is_not_thrown_away(
    name: str, other: dict[str, object]
) -> None:
    leave_behind(name, b"one", b"two")
    with pytest.raises(SegmentExistsError, match="left with 2 unread records and another capacity or kind"):
        RingBuffer.create(name, **{"capacity": 4096, **other})  # type: ignore[arg-type]
    with RingBuffer.attach(name) as ring:
        assert ring.get_many() == [b"one", b"two"]


def test_a_table_without_a_free_place_says_so_and_a_place_that_is_left_is_used(ring: RingBuffer) -> None:
    handles = [RingBuffer.attach(ring.name) for _ in range(255)]
    with pytest.raises(TableFullError, match=r"all 256 places of .* are taken by live participants") as e:
        RingBuffer.attach(ring.name)
    assert e.value.capacity == 256
    handles.pop(100).close()
    handles.append(RingBuffer.attach(ring.name))
    handles[-1].put(b"in")
    assert ring.get() == b"in"
    for handle in handles:
        handle.close()


def test_places_of_the_killed_are_used_again(ring: RingBuffer) -> None:
    for _ in range(300):
        pid = os.fork()
        if pid == 0:
            mine = RingBuffer.attach(ring.name)
            mine.put(b"x")
            os._exit(0)  # as if killed: no closing
        join(pid)
        assert ring.get(timeout=60) == b"x"
    assert ring._segment.deaths[0] >= 299
    assert len(ring._segment.taken_slots()) <= 2


# ------------------------------------------------------------------------------------------ data and waiting


def test_arrays_and_memoryviews_are_data(ring: RingBuffer) -> None:
    array = np.arange(30, dtype=np.float64).reshape(5, 6)
    ring.put(array)
    ring.put(memoryview(array))
    ring.put_many([array, b"bytes", array[1:3]])
    for want in (array, array, array, None, array[1:3]):
        got = ring.get()
        assert got == (b"bytes" if want is None else want.tobytes())
    for bad in (array[:, ::2], array.T):
        with pytest.raises((BufferError, ValueError)):
            ring.put(bad)


def test_a_claim_is_filled_and_a_peek_is_read_as_an_array(ring: RingBuffer) -> None:
    with ring.claim(8 * 10) as view:
        array = np.frombuffer(view, dtype=np.int64)
        array[:] = range(10)
        del array
    with ring.peek() as view:
        array = np.frombuffer(view, dtype=np.int64)
        assert array.sum() == 45
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        del array
    assert ring.try_get() is None


def test_an_array_that_outlives_its_peek_keeps_its_contents(ring: RingBuffer) -> None:
    ring.put(np.arange(10))
    with pytest.raises(BufferError), ring.peek() as view:
        array = np.frombuffer(view, dtype=np.int64)
    while ring.try_put(b"\xff" * 80):
        pass
    assert list(array) == list(range(10))
    del array, view
    assert ring.get() == b"\xff" * 80


@pytest.mark.parametrize("timeout", [0, 0.05, 0.25])
def test_a_wait_that_runs_out_of_time_waits_that_long_and_no_shorter(
    ring: RingBuffer, timeout: float
) -> None:
    begun = time.monotonic()
    with pytest.raises(Empty):
        ring.get(timeout=timeout)
    assert time.monotonic() - begun >= timeout
    while ring.try_put(b""):
        pass
    begun = time.monotonic()
    with pytest.raises(Full):
        ring.put(b"", timeout=timeout)
    assert time.monotonic() - begun >= timeout


def test_the_text_of_a_time_out_names_who_holds_it_up(two: tuple[RingBuffer, RingBuffer]) -> None:
    ring, other = two
    me = f"pid {os.getpid()} "
    with pytest.raises(Empty, match=f"attached besides: {me}.* alive"):
        ring.get(timeout=0.01)
    while other.try_put(b""):
        pass
    with pytest.raises(Full, match=f"4096 of 4096 bytes wait for its consumer, {me}.*alive, which has taken"):
        other.put(b"", timeout=0.01)


def test_roles_belong_to_handles_and_are_free_after_close(two: tuple[RingBuffer, RingBuffer]) -> None:
    ring, other = two
    assert ring.try_get() is None
    with pytest.raises(RoleTakenError, match=f"the consumer of .* is pid {os.getpid()} ") as e:
        other.try_get()
    assert e.value.pid == os.getpid()
    ring.close()
    assert other.try_get() is None


def test_a_producers_role_is_free_when_it_was_killed(name: str) -> None:
    def produce() -> None:
        producer = RingBuffer.attach(name)
        producer.put(b"mine")
        os._exit(0)

    with RingBuffer.create(name, producers="one") as ring:
        assert join(fork(produce)) == 0
        ring.put(b"ours")
        assert ring.get_many() == [b"mine", b"ours"]


@pytest.mark.parametrize("waits_in", ["get", "put", "peek", "claim", "get_many", "put_many"])
def test_close_by_another_thread_ends_a_wait(name: str, waits_in: str) -> None:
    """With another live participant, whom the waiting thread may be asking about just then."""
    sut = RingBuffer.create(name, capacity=1024)
    other = RingBuffer.attach(name)
    arguments: tuple[object, ...] = {"put": (b"x",), "put_many": ([b"x"],), "claim": (1,)}.get(waits_in, ())
    if arguments:
        while other.try_put(b""):
            pass
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            getattr(sut, waits_in)(*arguments)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: sut.stats().sleeps >= 3)
    sut.close()
    for thread in threads:
        thread.join()
    assert [type(error) for error in errors] == [ClosedError] * 3
    other.try_get_many()
    other.close()


@pytest.mark.parametrize("waits_in", ["get", "put"])
def test_ctrl_c_ends_a_wait_and_loses_nothing(name: str, waits_in: str) -> None:
    code = """if True:
        import sys, signal
        from fastcomm.rings import RingBuffer
        ring = RingBuffer.attach(sys.argv[1])
        print("ready", flush=True)
        try:
            ring.get() if sys.argv[2] == "get" else ring.put(b"interrupted")
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        ring.close()
    """
    with RingBuffer.create(name, capacity=1024) as ring:
        full = [b"%d" % n for n in range(16)] if waits_in == "put" else []
        ring.put_many(full)
        child = python(code, name, waits_in)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        waiters = 512 if waits_in == "put" else 384
        wait_until(lambda: ring._segment.memory(*ring._segment.section(1))[waiters + 4] != 0)
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=60) == ("interrupted\n", "")
        ring.put_many([b"after"] if not full else [])
        assert ring.get_many() == (full or [b"after"])


def test_a_signal_with_a_handler_that_returns_does_not_end_a_wait(ring: RingBuffer) -> None:
    calls: list[int] = []
    old = signal.signal(signal.SIGALRM, lambda *_: calls.append(1) or (len(calls) == 3 and ring.put(b"x")))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        assert ring.get(timeout=60) == b"x"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert len(calls) >= 3


# ------------------------------------------------------------------------------------------------ dead peers


def test_get_ends_when_the_last_other_handle_is_killed_and_the_next_get_waits_for_new_ones(
    ring: RingBuffer,
) -> None:
    def attach_and_hang() -> None:
        other = RingBuffer.attach(ring.name)
        other.put(b"here")
        signal.pause()

    pid = fork(attach_and_hang)
    assert ring.get(timeout=60) == b"here"
    threading.Timer(0.2, kill, (pid,)).start()
    with pytest.raises(
        PeerDiedError, match=rf"is empty and no other handle is left; .* the last was pid {pid}"
    ) as e:
        ring.get(timeout=60)
    assert e.value.pid == pid
    with pytest.raises(Empty):
        ring.get(timeout=0.3)


def test_put_into_a_full_ring_ends_when_its_consumer_is_killed(name: str) -> None:
    ready, tell = os.pipe()

    def consume_and_hang() -> None:
        consumer = RingBuffer.attach(name)
        assert consumer.try_get() is None
        os.write(tell, b"1")
        signal.pause()

    with RingBuffer.create(name, capacity=1024) as ring:
        pid = fork(consume_and_hang)
        os.read(ready, 1)
        assert ring.try_put_many([b"x"] * 15) == 15
        threading.Timer(0.2, kill, (pid,)).start()
        said = f"1 of 2 records .* is full and its consumer was killed .last killed: pid {pid}"
        with pytest.raises(PeerDiedError, match=said) as e:
            ring.put_many([b"y", b"z"], timeout=60)
        assert (e.value.pid, e.value.delivered) == (pid, 1)
        with pytest.raises(Full, match="its consumer, nobody"):
            ring.put(b"y", timeout=0.3)
        assert ring.get_many() == [b"x"] * 15 + [b"y"]
    os.close(ready)
    os.close(tell)


def test_a_segment_deleted_under_us_is_noticed_by_those_who_wait(two: tuple[RingBuffer, RingBuffer]) -> None:
    ring, other = two
    os.unlink(ring.path)
    with pytest.raises(SegmentVanishedError, match=r"was deleted while in use.*RemoveIPC=no"):
        ring.get(timeout=60)
    while other.try_put(b"x"):
        pass
    with pytest.raises(SegmentVanishedError):
        other.put(b"x", timeout=60)
    assert len(ring.get_many()) == 64  # what was sent is not lost by it
