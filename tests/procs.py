"""Processes for the tests of rings: forked ones, scripts under a fresh interpreter, waiting for them."""

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import fastcomm

ROOT = str(Path(fastcomm.__file__).parent.parent)
LONG = 60.0  # seconds that nothing here should take; so long a wait fails the test


def wait_until(condition: Callable[[], object], seconds: float = LONG) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not true after {seconds} s"
        time.sleep(0.002)


def fork(work: Callable[[], object]) -> int:
    """Run `work` in a forked child that ends without cleaning up, with 0 if nothing was raised; its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def join(pid: int) -> int:
    """The exit status of a child, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextmanager
def forked(work: Callable[[], object]) -> Iterator[int]:
    """A forked child that must end well by itself after the block; killed if the block fails."""
    pid = fork(work)
    try:
        yield pid
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        join(pid)
        raise
    assert join(pid) == 0


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    join(pid)


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": ROOT, **extra}


def python(code: str, *arguments: str, flags: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start `code` in a fresh interpreter, with pipes."""
    return subprocess.Popen(
        [sys.executable, *flags, "-c", code, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip


def run_python(code: str, *arguments: str, flags: tuple[str, ...] = (), seconds: float = LONG) -> str:
    """The output of `code`, which must end well and write nothing to standard error."""
    child = python(code, *arguments, flags=flags)
    try:
        out, err = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        out, err = child.communicate()
        raise AssertionError(f"still running after {seconds} s\n{out}\n{err}") from None
    assert (child.returncode, err) == (0, ""), f"exit {child.returncode}\n{out}\n{err}"
    return out
