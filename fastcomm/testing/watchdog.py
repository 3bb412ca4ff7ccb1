"""Ends a test that hangs, and says where it hung.

A thread of the test's own process could not do it: a C loop that holds the GIL would stop it too, and from
Python 3.12 on every fork in a process with a second thread warns. So a small guard process keeps the time.
When it is up it sends a signal that faulthandler answers in C, without the GIL, with the traceback of every
thread; then it kills.
"""

import faulthandler
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

GUARD = Path(__file__).with_name("_guard.py")
DUMP_SIGNAL = signal.SIGRTMAX


class Watchdog:
    """Kills this process `seconds` after :meth:`arm` or ``with``, unless disarmed before.

    `seconds` is the time of one ``with`` block, in real time. `process_group` is a group to kill as a whole,
    so that children which hang die too; by default only this process is killed. The tracebacks of all threads
    go to `stderr`, a file descriptor that is duplicated here (default: the process's own standard error).

    One watchdog at a time in a process; `arm` and `disarm` may be called any number of times, by one thread.
    A forked child that leaves the block does not disarm its parent's watchdog. If this process dies, the
    guard process ends.
    """

    def __init__(
        self, seconds: float, *, process_group: int | None = None, stderr: int | None = None
    ) -> None:
        if seconds <= 0:
            raise ValueError(f"seconds must be positive, got {seconds}")
        self.seconds = seconds
        self._owner = os.getpid()
        self._stderr = os.dup(2 if stderr is None else stderr)
        faulthandler.register(DUMP_SIGNAL, file=self._stderr, all_threads=True)
        # -I and -S: the guard must not import what the tested process has on its path.
        arguments = [str(self._owner), str(process_group or 0), str(int(DUMP_SIGNAL))]
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARD), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            process_group=0,  # not in the group that it may have to kill
        )

    def arm(self, seconds: float | None = None) -> None:
        """Start the time anew, `seconds` (default: those given at construction) from now."""
        self._tell(f"{self.seconds if seconds is None else seconds}\n")

    def disarm(self) -> None:
        """Stop the time."""
        self._tell("0\n")

    def close(self) -> None:
        """Disarm for good and end the guard process. May be called twice."""
        if os.getpid() != self._owner or self._stderr < 0:
            return
        faulthandler.unregister(DUMP_SIGNAL)
        self._guard.kill()
        self._guard.communicate()
        os.close(self._stderr)
        self._stderr = -1

    def _tell(self, command: str) -> None:
        if os.getpid() == self._owner and self._guard.stdin is not None:
            self._guard.stdin.write(command.encode())
            self._guard.stdin.flush()

    def __enter__(self) -> Self:
        self.arm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
