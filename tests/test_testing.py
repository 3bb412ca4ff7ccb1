"""The helpers that fastcomm ships for tests find what they are there to find, and name it."""

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from fastcomm.testing import LeakCheck, LeakError, isolated_name


def leak_text(check: LeakCheck) -> str:
    with pytest.raises(LeakError) as caught:
        check.__exit__(None, None, None)
    return str(caught.value)


@pytest.fixture
def sut() -> LeakCheck:
    return LeakCheck(grace=0).__enter__()


def run_script(source: str, *, process_group: int | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(source)]
    return subprocess.run(command, capture_output=True, text=True, check=False, process_group=process_group)


def segment_path(name: str) -> Path:
    return Path(os.environ["FASTCOMM_DIR"], f"fastcomm.{os.getuid()}.{name}")


def stranger_that_holds(path: Path) -> int:
    """Pid of a process that is neither our descendant nor of our process group: its own parent has ended."""
    command = f"sleep 60 >{path} 2>&1 </dev/null & echo $!"
    shell = subprocess.run(["setsid", "sh", "-c", command], capture_output=True, text=True, check=True)
    return int(shell.stdout)


class TestIsolatedName:
    def test_begins_with_the_prefix_and_holds_the_pid(self) -> None:
        assert isolated_name("ring").startswith(f"ring-{os.getpid()}-")

    def test_never_repeats(self) -> None:
        assert len({isolated_name() for _ in range(1000)}) == 1000

    def test_differs_between_a_forked_child_and_its_parent(self) -> None:
        script = """
            import os
            from fastcomm.testing import isolated_name
            isolated_name()
            if child := os.fork():
                os.waitpid(child, 0)
            print(isolated_name(), flush=True)
        """
        names = run_script(script).stdout.split()
        assert len(names) == 2
        assert names[0] != names[1]


class TestLeakCheck:
    def test_is_silent_when_all_was_given_back(self) -> None:
        with LeakCheck(grace=0):
            subprocess.run(["true"], check=True)
            thread = threading.Thread(target=int)
            thread.start()
            thread.join()
            os.close(os.open("/dev/null", os.O_RDONLY))

    def test_names_a_segment_file(self, sut: LeakCheck, name: str) -> None:
        path = segment_path(name)
        path.touch()
        try:
            assert f"segment file {path}" in leak_text(sut)
        finally:
            path.unlink()

    def test_leaves_out_a_segment_that_a_stranger_has_open(self, sut: LeakCheck, name: str) -> None:
        path = segment_path(name)
        stranger = stranger_that_holds(path)
        try:
            assert path.exists()
            assert sut.leaks() == []
        finally:
            os.kill(stranger, 9)
            path.unlink()

    def test_names_a_mapping_whose_file_is_closed_and_deleted(self, sut: LeakCheck, name: str) -> None:
        import mmap

        path = segment_path(name)
        with path.open("w+b") as file:
            file.truncate(4096)
            # trackfd: from 3.13 on mmap need not keep a descriptor, which would be found as well.
            mapping = mmap.mmap(file.fileno(), 4096)
        path.unlink()
        try:
            assert f"of {path} (deleted)" in leak_text(sut)
        finally:
            mapping.close()

    def test_names_a_descriptor_and_its_target(self, sut: LeakCheck, tmp_path: Path) -> None:
        descriptor = os.open(tmp_path, os.O_RDONLY)
        try:
            assert f"descriptor {descriptor} -> {tmp_path}" in leak_text(sut)
        finally:
            os.close(descriptor)

    def test_names_a_thread(self, sut: LeakCheck) -> None:
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait, name="forgotten-worker")
        thread.start()
        try:
            assert "thread 'forgotten-worker', daemon=False" in leak_text(sut)
        finally:
            stop.set()
            thread.join()

    def test_names_a_child_process_by_its_command(self, sut: LeakCheck) -> None:
        child = subprocess.Popen(["sleep", "61.5"])
        try:
            assert f"process {child.pid} (sleep 61.5)" in leak_text(sut)
        finally:
            child.kill()
            child.wait()

    def test_names_a_zombie(self, sut: LeakCheck) -> None:
        child = os.posix_spawnp("true", ["true"], {})
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        try:
            assert f"process {child} (zombie" in leak_text(sut)
        finally:
            os.waitpid(child, 0)

    def test_waits_for_what_is_just_ending(self) -> None:
        thread = threading.Thread(target=threading.Event().wait, args=(0.1,))
        with LeakCheck(grace=30):
            thread.start()
        assert not thread.is_alive()

    def test_keeps_the_exception_of_the_block_and_adds_a_note(self, tmp_path: Path) -> None:
        descriptor = -1

        def fail() -> None:
            nonlocal descriptor
            with LeakCheck(grace=0):
                descriptor = os.open(tmp_path, os.O_RDONLY)
                raise KeyError("the reason")

        with pytest.raises(KeyError, match="the reason") as caught:
            fail()
        os.close(descriptor)
        assert f"-> {tmp_path}" in caught.value.__notes__[0]

    def test_ignores_the_helpers_of_multiprocessing(self, sut: LeakCheck) -> None:
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()
        assert sut.leaks() == []


class TestWatchdog:
    def test_dumps_every_thread_and_kills_the_process(self) -> None:
        script = """
            import threading, time
            from fastcomm.testing import Watchdog
            def stuck_helper(): time.sleep(600)
            def stuck_main(): time.sleep(600)
            threading.Thread(target=stuck_helper, daemon=True).start()
            with Watchdog(0.2):
                stuck_main()
        """
        result = run_script(script)
        assert result.returncode == -9
        assert "0.2 s are over" in result.stderr
        assert "in stuck_helper" in result.stderr
        assert "in stuck_main" in result.stderr

    def test_ends_a_loop_that_never_gives_up_the_gil(self) -> None:
        script = """
            import re
            from fastcomm.testing import Watchdog
            with Watchdog(0.2):
                re.match("(a*)*b", "a" * 64)
        """
        result = run_script(script)
        assert result.returncode == -9
        assert "line 5 in <module>" in result.stderr

    def test_kills_the_whole_process_group_that_it_is_told_about(self) -> None:
        script = """
            import os, subprocess, time
            from fastcomm.testing import Watchdog
            child = subprocess.Popen(["sleep", "600"])
            print(child.pid, flush=True)
            with Watchdog(0.2, process_group=os.getpgrp()):
                time.sleep(600)
        """
        # run() reads until the last holder of the pipes is gone, so it hangs unless the child is killed too.
        result = run_script(script, process_group=0)
        assert result.returncode == -9
        assert int(result.stdout) > 0

    def test_leaves_a_block_alone_that_ends_in_time(self) -> None:
        script = """
            import time
            from fastcomm.testing import LeakCheck, Watchdog
            with LeakCheck():
                with Watchdog(0.3) as watchdog:
                    watchdog.disarm()
                    time.sleep(0.6)
                    watchdog.arm(60)
            print("alive")
        """
        result = run_script(script)
        assert (result.stdout, result.stderr) == ("alive\n", "")

    def test_is_not_disarmed_by_a_forked_child(self) -> None:
        script = """
            import os, time
            from fastcomm.testing import Watchdog
            with Watchdog(0.5):
                if os.fork():
                    time.sleep(600)
        """
        assert run_script(script).returncode == -9

    def test_refuses_a_time_that_is_not_positive(self) -> None:
        from fastcomm.testing import Watchdog

        with pytest.raises(ValueError, match="positive, got 0"):
            Watchdog(0)
