"""RingBuffer and processes that start others: fork in the middle of things, pickling, every start method."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from procs import ROOT, environment, fork, forked, join, kill, run_python, wait_until

from fastcomm.errors import ForkedError, PeerDiedError, RoleTakenError
from fastcomm.rings import RingBuffer

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture
def ring(name: str) -> Iterator[RingBuffer]:
    with RingBuffer.create(name, capacity=4096) as ring:
        yield ring
        ring.unlink()


def test_the_child_joins_anew_at_its_first_use(ring: RingBuffer) -> None:
    def work() -> None:
        assert len(ring._segment.taken_slots()) == 1
        ring.put(b"from the child")
        assert len(ring._segment.taken_slots()) == 2
        assert ring._segment.pid_of(ring._slot) == os.getpid()
        ring.close()

    with forked(work):
        assert ring.get(timeout=60) == b"from the child"
    assert ring._segment.deaths[0] == 0
    assert len(ring._segment.taken_slots()) == 1


def test_the_consumers_role_stays_the_parents(ring: RingBuffer) -> None:
    assert ring.try_get() is None

    def work() -> None:
        with pytest.raises(RoleTakenError) as e:
            ring.try_get()
        assert e.value.pid == os.getppid()
        ring.put(b"x")
        ring.close()

    with forked(work):
        assert ring.get(timeout=60) == b"x"


@pytest.mark.parametrize("used", [False, True])
def test_a_child_that_closes_the_handle_takes_nothing_from_the_parent(ring: RingBuffer, used: bool) -> None:
    assert ring.try_get() is None

    def work() -> None:
        if used:
            ring.put(b"used")
        ring.close()

    assert join(fork(work)) == 0
    assert ring._consumer() == (ring._slot + 1, 0)
    assert ring._segment.holds(ring._slot)
    with RingBuffer.attach(ring.name) as other, pytest.raises(RoleTakenError):
        other.try_get()
    ring.put(b"still here")
    assert ring.get_many()[-1] == b"still here"


@pytest.mark.parametrize("begun", ["claim", "peek"])
def test_what_was_open_at_the_fork_is_void_in_the_child_and_works_in_the_parent(
    ring: RingBuffer, begun: str
) -> None:
    ring.put(b"first")
    lease = ring.claim(6) if begun == "claim" else ring.peek()
    view = lease.__enter__()

    def work() -> None:
        with pytest.raises(ForkedError, match="opened before a fork and is the parent's"):
            lease.__exit__(None, None, None)
        ring.put(b"child")
        ring.close()

    assert join(fork(work)) == 0
    if begun == "claim":
        view[:] = b"second"
        lease.__exit__(None, None, None)
        assert ring.get_many() == [b"first", b"second", b"child"]
    else:
        assert view == b"first"
        lease.__exit__(None, None, None)
        assert ring.get_many() == [b"child"]
    assert ring.stats().aborted == 0


def test_a_claim_that_the_child_drops_unfinished_stays_the_parents(ring: RingBuffer) -> None:
    claim = ring.claim(1)

    def work() -> None:
        nonlocal claim
        del claim
        assert ring.stats().aborted == 0

    assert join(fork(work)) == 0
    with claim as view:
        view[:] = b"x"
    assert ring.get() == b"x"


def test_the_child_can_use_a_handle_that_a_thread_of_the_parent_was_waiting_in(ring: RingBuffer) -> None:
    other = RingBuffer.attach(ring.name)
    got: list[bytes] = []
    waiter = threading.Thread(target=lambda: got.append(ring.get(timeout=60)))
    waiter.start()
    wait_until(lambda: ring.stats().sleeps)

    def work() -> None:
        ring.put(b"child")
        os._exit(0)

    assert join(fork(work)) == 0
    waiter.join()
    assert got == [b"child"]
    other.close()


def test_a_fork_while_another_thread_holds_the_gate_does_not_lock_the_child_out(ring: RingBuffer) -> None:
    """The child's mutex is new and the lock is the parent's: it waits until the parent is done, no longer."""
    ring._segment.enter_gate()

    def work() -> None:
        os.write(tell, b"1")
        ring.put(b"child")

    hear, tell = os.pipe()
    pid = fork(work)
    os.read(hear, 1)
    assert ring.try_get() is None
    ring._segment.leave_gate()
    assert join(pid) == 0
    assert ring.get(timeout=60) == b"child"
    os.close(hear)
    os.close(tell)


def test_a_grandchild_joins_on_its_own_too(ring: RingBuffer) -> None:
    def child() -> None:
        ring.put(b"child")
        assert join(fork(lambda: ring.put(b"grandchild"))) == 0

    assert join(fork(child)) == 0
    assert ring.get_many() == [b"child", b"grandchild"]


@pytest.mark.parametrize("uses", ["nothing", "the handle"])
def test_a_forked_child_does_not_keep_its_killed_parent_alive(name: str, uses: str) -> None:
    """The consumer is killed while its child lives on."""

    def parent() -> None:
        mine = RingBuffer.attach(name)
        assert mine.try_get() is None
        pid = fork(lambda: child(mine))
        os.write(tell, b"%d\n" % pid)
        signal.pause()

    def child(mine: RingBuffer) -> None:
        if uses == "the handle":
            mine.put(b"child")
        os.write(tell, b"ready")
        signal.pause()

    hear, tell = os.pipe()
    with RingBuffer.create(name, capacity=1024) as ring:
        pid = fork(parent)
        said = b""
        while not (b"\n" in said and b"ready" in said):
            said += os.read(hear, 100)
        grandchild = int(said.replace(b"ready", b"").strip())
        try:
            while ring.try_put(b""):
                pass
            slot = ring._consumer()[0] - 1
            assert ring._segment.alive(slot)
            kill(pid)
            assert not ring._segment.alive(slot)
            with pytest.raises(PeerDiedError):
                ring.put(b"", timeout=60)
            assert len(ring.get_many()) == 16
            ring.unlink()  # the grandchild may still be attached
        finally:
            os.kill(grandchild, signal.SIGKILL)
    os.close(hear)
    os.close(tell)


def test_two_threads_of_a_child_join_once(ring: RingBuffer) -> None:
    def work() -> None:
        ring._segment.enter_gate()
        threads = [threading.Thread(target=ring.put, args=(b"x",)) for _ in range(4)]
        for thread in threads:
            thread.start()
        threading.Event().wait(0.1)
        ring._segment.leave_gate()
        for thread in threads:
            thread.join()
        assert len(ring._segment.taken_slots()) == 2
        ring.close()

    assert join(fork(work)) == 0
    assert ring.get_many() == [b"x"] * 4
    assert len(ring._segment.taken_slots()) == 1


def send(ring: RingBuffer, data: bytes) -> None:
    ring.put(data)


PICKLING = """if True:
    import multiprocessing, sys
    from fastcomm.rings import RingBuffer

    def echo(requests, answers):
        while (request := requests.get(timeout=60)) != b"end":
            answers.put(request.upper())

    if __name__ == "__main__":
        context = multiprocessing.get_context(sys.argv[1])
        with RingBuffer.create(capacity=4096) as requests, RingBuffer.create(capacity=4096) as answers:
            child = context.Process(target=echo, args=(requests, answers))
            child.start()
            for n in range(100):
                requests.put(b"request %d" % n)
                assert answers.get(timeout=60) == b"REQUEST %d" % n
            requests.put(b"end")
            child.join()
            assert child.exitcode == 0
            deaths = requests._segment.deaths[0], answers._segment.deaths[0]
            assert deaths == (0, 0), "the child left, it did not die"
            assert len(requests._segment.taken_slots()) == 1
        print("done")
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_handles_are_passed_to_processes_of_every_start_method(method: str, tmp_path: object) -> None:
    script = f"{tmp_path}/main.py"
    with open(script, "w") as file:
        file.write(PICKLING)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", script, method],
        capture_output=True, text=True, env=environment(), timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_a_pool_gets_handles_by_its_initializer(ring: RingBuffer) -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.starmap(send, [(ring, b"%d" % n) for n in range(20)])
        pool.close()
        pool.join()
    assert sorted(ring.get_many(), key=int) == [b"%d" % n for n in range(20)]


def test_a_child_that_ends_by_sys_exit_leaves_the_parents_handle_alone(name: str) -> None:
    code = f"""if True:
        import os, sys
        sys.path.insert(0, {ROOT!r})
        from fastcomm.rings import RingBuffer
        with RingBuffer.create(sys.argv[1]) as ring:
            assert ring.try_get() is None
            if os.fork() == 0:
                sys.exit(0)
            os.wait()
            assert ring._consumer() == (ring._slot + 1, 0)
            assert ring._segment.taken_slots() == [ring._slot]
            ring.put(b"x")
            assert ring.get() == b"x"
    """
    run_python(code, name)
