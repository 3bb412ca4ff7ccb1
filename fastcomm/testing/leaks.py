"""Finds what a block of code left behind: segments, mappings, descriptors, threads, child processes.

All but the threads is read from /proc and /dev/shm, so that it also finds what C code forgot.
"""

import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from fastcomm.testing import _proc

PREFIX = "fastcomm."  # of every file of a segment: fastcomm.<uid>.<hash of the name>
Found = dict[object, str]  # what identifies a resource: how a message names it


class LeakError(AssertionError):
    """Something outlived the block; the text names each leak on a line of its own."""


class LeakCheck:
    """Context manager that raises `LeakError` if the block left anything behind.

    Looked for: files ``fastcomm.*`` in ``FASTCOMM_DIR`` (default ``/dev/shm``), mappings of such files, open
    file descriptors, Python threads, child processes (zombies included). What was there before the block is
    no leak; neither is the resource tracker or fork server of multiprocessing, nor a segment that somebody
    else has open. A segment that somebody else left behind meanwhile can't be told from one's own: where
    several test runs share a machine, give each a ``FASTCOMM_DIR``.

    Garbage is collected before anything is called a leak. What is just ending has `grace` seconds to be gone;
    without leaks nothing waits.

    A block that raises keeps its exception; the leaks are added to it as a note. In a forked child that
    leaves the block nothing is checked. Not thread-safe: what other threads open at the same time counts.
    """

    def __init__(self, *, grace: float = 2.0) -> None:
        self.grace = grace
        self._owner = 0
        self._before: list[Found] = []

    def leaks(self) -> list[str]:
        """What is there now and was not at the start of the block: one line each, empty if nothing."""
        if self._found():
            gc.collect()  # only then: it takes longer than all the rest, and most blocks leave nothing
        return self._found()

    def _found(self) -> list[str]:
        return [
            line
            for probe, before in zip(PROBES, self._before, strict=True)
            for line in new_lines(probe(), before)
        ]

    def __enter__(self) -> Self:
        self._owner = os.getpid()
        self._before = [probe() for probe in PROBES]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if os.getpid() != self._owner:
            return
        leaks = self._leaks_after_grace()
        if not leaks:
            return
        text = f"{len(leaks)} leaked:\n" + "\n".join(f"  {line}" for line in leaks)
        if error is None:
            raise LeakError(text)
        error.add_note(text)

    def _leaks_after_grace(self) -> list[str]:
        end = time.monotonic() + self.grace
        while (leaks := self.leaks()) and time.monotonic() < end:
            time.sleep(0.02)
        return leaks


def new_lines(now: Found, before: Found) -> list[str]:
    new = {key: line for key, line in now.items() if key not in before}
    strangers = segments_of_strangers() if any(isinstance(key, Path) for key in new) else set()
    return sorted(line for key, line in new.items() if not (isinstance(key, Path) and stem(key) in strangers))


def segment_files() -> Found:
    found: Found = {}
    for path in Path(os.environ.get("FASTCOMM_DIR") or "/dev/shm").glob(PREFIX + "*"):
        found[path] = f"segment file {path}"
    return found


def mappings() -> Found:
    """Mappings of segment files, also of deleted ones."""
    found: Found = {}
    for line in _proc.read("/proc/self/maps").splitlines():
        addresses, *_, path = line.split(maxsplit=5)
        if f"/{PREFIX}" in path:
            found[addresses.split("-")[0], path] = f"mapping {addresses} of {path}"
    return found


def descriptors() -> Found:
    helpers, _ = multiprocessing_helpers()
    return {
        (name, target): f"descriptor {name} -> {target}"
        for name, target in _proc.links("/proc/self/fd")
        if int(name) not in helpers
    }


def threads() -> Found:
    return {thread: f"thread {thread.name!r}, daemon={thread.daemon}" for thread in threading.enumerate()}


def children() -> Found:
    _, helpers = multiprocessing_helpers()
    return {pid: _proc.describe(pid) for pid in _proc.descendants(os.getpid()) if pid not in helpers}


PROBES: tuple[Callable[[], Found], ...] = (segment_files, mappings, descriptors, threads, children)


def multiprocessing_helpers() -> tuple[set[int], set[int]]:
    """Descriptors and pids of the processes that multiprocessing starts once and keeps until exit."""
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    server = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    descriptors = getattr(tracker, "_fd", None), getattr(server, "_forkserver_alive_fd", None)
    pids = getattr(tracker, "_pid", None), getattr(server, "_forkserver_pid", None)
    return {number for number in descriptors if number}, {pid for pid in pids if pid}


def stem(path: Path) -> str:
    """What all files of one segment (its FIFOs too) begin with."""
    return ".".join(path.name.split(".")[:3])


def segments_of_strangers() -> set[str]:
    """Stems of the segments open in a process that is neither of our process group nor descended from us."""
    group = os.getpgrp()
    family = {os.getpid(), *_proc.descendants(os.getpid())}
    return {
        stem(Path(target))
        for pid in _proc.processes()
        if pid not in family and _proc.process_group(pid) != group
        for _, target in _proc.links(f"/proc/{pid}/fd")
        if f"/{PREFIX}" in target
    }
