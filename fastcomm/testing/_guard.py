"""The guard process of :class:`fastcomm.testing.Watchdog`; run as a script, imports nothing of fastcomm.

Arguments: pid to guard, process group to kill (0: only the pid), number of the signal that makes it dump
tracebacks. Reads lines from standard input: a number of seconds starts the time, 0 stops it, end of file ends
the guard.
"""

import contextlib
import os
import select
import signal
import sys
import time

LOOK_AROUND = 5.0  # seconds; how often an idle guard looks whether its process is still there
DUMP_TIME = 1.0  # seconds for writing the tracebacks before the kill


def main(pid: int, group: int, dump_signal: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    deadline = float("inf")
    seconds = 0.0
    while os.getppid() == pid:
        now = time.monotonic()
        if now >= deadline:
            end(pid, group, dump_signal, seconds)
            return
        if not select.select([0], [], [], min(LOOK_AROUND, deadline - now))[0]:
            continue
        commands = os.read(0, 65536).split()
        if not commands:
            return
        seconds = float(commands[-1])
        deadline = time.monotonic() + seconds if seconds else float("inf")


def end(pid: int, group: int, dump_signal: int, seconds: float) -> None:
    whom = f"process group {group}" if group else f"process {pid}"
    print(
        f"\nWatchdog: {seconds:g} s are over in process {pid}; killing {whom}.", file=sys.stderr, flush=True
    )
    os.kill(pid, dump_signal)
    time.sleep(DUMP_TIME)
    with contextlib.suppress(ProcessLookupError):
        if group:
            os.killpg(group, signal.SIGKILL)
        elif os.getppid() == pid:
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
