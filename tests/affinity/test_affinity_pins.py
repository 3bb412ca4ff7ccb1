"""Pinning threads, processes and agents; nothing stays pinned; and what happens where it is forbidden."""

import errno
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from multiprocessing import get_context
from typing import Any

import pytest
from procs import environment, fork, forked, join, run_python, wait_until

from fastcomm import Bus, ClosedError, InvalidCpusError, ShmFullError, affinity
from fastcomm.affinity import Plan, pin, pinned, plan

ALL = frozenset(os.sched_getaffinity(0))
ONE, OTHER = min(ALL), max(ALL)

pytestmark = pytest.mark.skipif(len(ALL) < 2, reason="there is only one CPU to be on")


def here() -> set[int]:
    return os.sched_getaffinity(0)


@pytest.fixture(autouse=True)
def nothing_stays_pinned() -> Iterator[None]:
    yield
    left = here()
    os.sched_setaffinity(0, ALL)
    assert left == ALL
    assert affinity._blocks == affinity._before_first == {}


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    monkeypatch.setattr(affinity, "_warned", False)


class TestPin:
    def test_calling_thread_and_the_threads_it_starts_run_there(self) -> None:
        seen = []
        granted = pin([OTHER])
        thread = threading.Thread(target=lambda: seen.append(here()))
        thread.start()
        thread.join()
        assert granted == here() == {OTHER}
        assert seen == [{OTHER}]
        assert pin(ALL) == ALL  # beyond what it was pinned to

    def test_another_thread_can_be_pinned_by_its_native_id(self) -> None:
        seen, go = [], threading.Event()
        thread = threading.Thread(target=lambda: (go.wait(60), seen.append(here())))
        thread.start()
        assert thread.native_id is not None
        assert pin(str(ONE), thread=thread.native_id) == {ONE}
        go.set()
        thread.join()
        assert (seen, here()) == ([{ONE}], ALL)

    def test_all_threads_of_a_process_are_pinned(self) -> None:
        code = (
            "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
            "print(1, flush=True)\ninput()"
        )
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
        )
        with child:
            assert child.stdout is not None
            child.stdout.readline()
            assert pin(ONE, pid=child.pid) == {ONE}
            tasks = os.listdir(f"/proc/{child.pid}/task")
            assert [os.sched_getaffinity(int(task)) for task in tasks] == [{ONE}] * 2
            child.communicate(b"\n")

    def test_what_is_not_online_is_refused(self) -> None:
        with pytest.raises(InvalidCpusError, match=f"CPU {max(ALL) + 4000} is not online"):
            pin([ONE, max(ALL) + 4000])

    def test_cpus_that_the_kernel_grants_none_of_are_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

        monkeypatch.setattr(os, "sched_setaffinity", refuse)
        with pytest.raises(InvalidCpusError, match=f"none of the CPUs {ONE} is granted"):
            pin(ONE)
        monkeypatch.undo()

    def test_thread_or_process_that_is_not_there_is_an_error(self) -> None:
        pid = fork(lambda: None)
        join(pid)
        with pytest.raises(ProcessLookupError):
            pin(ONE, thread=pid)
        with pytest.raises(ProcessLookupError, match=str(pid)):
            pin(ONE, pid=pid)

    def test_thread_and_process_at_once_are_refused(self) -> None:
        with pytest.raises(TypeError, match="not both"):
            pin(ONE, pid=os.getpid(), thread=1)

    def test_worker_process_takes_its_place_of_a_plan_made_in_the_parent(self) -> None:
        made = plan([OTHER, ONE])
        with get_context("spawn").Pool(1) as pool:
            assert pool.apply(made.pin, (3,)) == {ONE}
            assert pool.apply(os.sched_getaffinity, (0,)) == {ONE}
            pool.close()
            pool.join()


class TestPinned:
    def test_block_says_what_was_granted_and_ends_as_it_began(self) -> None:
        with pinned([OTHER]) as granted:
            assert granted == here() == {OTHER}
        assert here() == ALL

    def test_error_in_the_block_unpins_too(self) -> None:
        with pytest.raises(ZeroDivisionError), pinned(ONE):
            1 / 0  # noqa: B018
        assert here() == ALL

    def test_error_at_the_beginning_leaves_all_as_it_was(self) -> None:
        with pytest.raises(InvalidCpusError), pinned([]):
            pass

    def test_blocks_within_each_other(self) -> None:
        with pinned(ONE):
            with pinned(OTHER):
                assert here() == {OTHER}
            assert here() == {ONE}

    def test_blocks_that_end_in_another_order(self) -> None:
        first, second = pinned(ONE), pinned(OTHER)
        first.__enter__()
        second.__enter__()
        first.__exit__()
        assert here() == {OTHER}
        second.__exit__()
        assert here() == ALL

    def test_block_of_another_thread_leaves_this_one_alone(self) -> None:
        seen = []

        def work() -> None:
            with pinned(OTHER):
                seen.append(here())
            seen.append(here())

        with pinned(ONE):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            assert here() == {ONE}
        assert seen == [{OTHER}, {ONE}]  # a thread begins where its starter is

    def test_block_may_outlive_its_thread(self) -> None:
        blocks = []

        def work() -> None:
            block = pinned(ONE)
            block.__enter__()
            blocks.append(block)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        wait_until(lambda: not os.path.exists(f"/proc/self/task/{thread.native_id}"))
        blocks[0].__exit__()
        assert here() == ALL

    def test_forked_child_that_leaves_the_block_unpins_itself_and_not_its_parent(self) -> None:
        def child() -> None:
            block.__exit__()
            assert here() == ALL

        with pinned(ONE) as _:
            pass
        block = pinned(OTHER)
        block.__enter__()
        with forked(child):
            pass
        assert here() == {OTHER}
        block.__exit__()


class TestForbidden:
    def test_one_warning_and_on(self, forbidden: None) -> None:
        with pytest.warns(RuntimeWarning, match="can't be pinned to CPUs here .Operation not permitted"):
            assert pin(ONE) == ALL
        with warnings.catch_warnings(), pinned(ONE) as granted:
            warnings.simplefilter("error")
            assert granted == ALL

    def test_agent_joins_all_the_same(self, forbidden: None, name: str) -> None:
        with Bus.open(name) as bus, pytest.warns(RuntimeWarning), bus.join(cpus=ONE) as agent:
            assert agent.cpus == ALL

    @pytest.mark.no_sanitizer("a filter of system calls")
    def test_under_a_filter_that_refuses_the_system_call(self) -> None:
        assert run_python(UNDER_SECCOMP).split() == ["1", "True", "True"]

    def test_flag_turns_it_off_without_a_warning(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FASTCOMM_DISABLE", "spin,affinity")
        assert pin(ONE) == here() == ALL


# The filter answers sched_setaffinity with EPERM: load the number of the call; if it is that one, return
# SECCOMP_RET_ERRNO | EPERM, else SECCOMP_RET_ALLOW.
UNDER_SECCOMP = """
import ctypes, os, platform, struct, warnings
number = {"x86_64": 203, "aarch64": 122}[platform.machine()]
program = b"".join(struct.pack("HBBI", *step) for step in (
    (0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)))
buffer = ctypes.create_string_buffer(program)
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
steps = Filter(4, ctypes.addressof(buffer))
assert libc.prctl(22, 2, ctypes.byref(steps), 0, 0) == 0, os.strerror(ctypes.get_errno())  # PR_SET_SECCOMP
from fastcomm.affinity import pin
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    before = os.sched_getaffinity(0)
    first, second = pin(min(before)), pin(max(before))
print(len(caught), first == before, second == before)
"""


class TestAgents:
    def test_agent_runs_on_the_cpus_it_was_given_until_it_is_closed(self, name: str) -> None:
        with Bus.open(name) as bus:
            with bus.join(cpus=[OTHER]) as agent:
                assert agent.cpus == here() == {OTHER}
            assert (agent.cpus, here()) == (None, ALL)

    def test_unpinned_agent_says_so(self, name: str) -> None:
        with Bus.open(name) as bus, bus.join() as agent:
            assert (agent.cpus, here()) == (None, ALL)

    def test_agents_take_the_places_of_their_slots(self, name: str) -> None:
        made = plan([ONE, OTHER])
        with Bus.open(name) as bus:
            agents = [bus.join(cpus=made) for _ in range(4)]
            assert [agent.cpus for agent in agents] == [{ONE}, {OTHER}] * 2
            for agent in agents:
                agent.close()
            assert here() == ALL

    def test_pinned_before_the_pages_of_the_inbox_are_reserved(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen, prepare = [], Bus._prepare_inbox

        def watch(bus: Bus, slot: int) -> None:
            seen.append(here())
            prepare(bus, slot)

        monkeypatch.setattr(Bus, "_prepare_inbox", watch)
        with Bus.open(name) as bus, bus.join(cpus=OTHER), bus.join(cpus=Plan("made", (frozenset({ONE}),))):
            assert seen == [{OTHER}, {ONE}]

    def test_join_that_fails_leaves_nothing_pinned(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise ShmFullError("no room")

        with Bus.open(name) as bus:
            monkeypatch.setattr(Bus, "_prepare_inbox", full)
            with pytest.raises(ShmFullError):
                bus.join(cpus=ONE)
            assert here() == ALL

    @pytest.mark.parametrize("options", [{"cpus": []}, {"cpus": "5-"}, {"cpus": "nearby"}, {"spin_us": 1001}])
    def test_bad_options_are_refused_before_the_agent_is_there(self, name: str, options: Any) -> None:
        with Bus.open(name) as bus:
            with pytest.raises(
                ValueError, match=r"empty|no list|no plan|spin_us is 1001; it must be 0 to 1000"
            ):
                bus.join(**options)
            assert bus.agents() == []

    def test_child_of_a_fork_takes_the_place_of_its_own_slot(self, name: str) -> None:
        made = plan([ONE, OTHER])

        def child() -> None:
            agent.subscribe("x")  # joins anew, in slot 1
            assert agent.cpus == here() == {OTHER}
            agent.close()
            assert here() == ALL

        with Bus.open(name) as bus, bus.join("parent", cpus=made) as agent:
            with forked(child):
                pass
            assert agent.cpus == here() == {ONE}

    def test_agent_is_unpinned_though_another_thread_closes_it(self, name: str) -> None:
        seen, closed, over = [], threading.Event(), threading.Event()

        def work() -> None:
            agents.append(bus.join(cpus=ONE))
            over.set()
            closed.wait(60)
            seen.append(here())

        agents: list[Any] = []
        with Bus.open(name) as bus:
            thread = threading.Thread(target=work)
            thread.start()
            over.wait(60)
            agents[0].close()
            closed.set()
            thread.join()
        assert seen == [ALL]


class TestSpin:
    def test_agent_that_may_not_spin_sleeps_at_once(self, name: str) -> None:
        with Bus.open(name) as bus, bus.join("to", spin_us=0) as to, bus.join("from") as sender:
            to.subscribe("x")

            def send() -> None:
                for _ in range(20):
                    time.sleep(0.001)
                    sender.publish("x", b"")

            thread = threading.Thread(target=send)
            thread.start()
            for _ in range(20):
                to.receive(60)
            thread.join()
            assert to._inbox.stats().spins == 0
            assert to._inbox.stats().sleeps > 0

    def test_limit_holds_for_a_child_that_joins_anew(self, name: str) -> None:
        def child() -> None:
            agent.subscribe("x")
            agent.publish("x", b"")
            agent.receive(60)
            with pytest.raises(Exception, match="no message came"):
                agent.receive(0.05)
            assert agent._inbox.stats().spins == 0
            agent.close()

        with Bus.open(name) as bus, bus.join("parent", spin_us=0) as agent, forked(child):
            pass

    def test_closed_agent_can_not_be_used_though_it_was_pinned(self, name: str) -> None:
        with Bus.open(name) as bus:
            agent = bus.join(cpus=ONE, spin_us=100)
            agent.close()
            with pytest.raises(ClosedError):
                agent.try_receive()
