"""Processes that take part in a benchmark: where they run, how they are told to begin, and how they end."""

import contextlib
import ctypes
import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SECONDS_UNTIL_STUCK = 120.0
PR_SET_TIMERSLACK = 29

context = multiprocessing.get_context("forkserver")
# A hundred processes start in a second if none has to import these itself. None of them opens anything.
context.set_forkserver_preload(["asyncio", "statistics", "fastcomm.agent", "fastcomm.rings"])

ALL_CPUS = frozenset(os.sched_getaffinity(0))


class WorkerError(RuntimeError):
    """A process of a benchmark failed, ended or is stuck; the text has its traceback or says which."""


@dataclass(frozen=True)
class Placement:
    """CPUs of the measuring process and of those at the other end. None: wherever the kernel puts them."""

    here: int | None = None
    there: tuple[int, ...] = ()

    @property
    def pinned(self) -> bool:
        return self.here is not None

    def cpu_of(self, index: int) -> int | None:
        """For the process number `index` at the other end."""
        return self.there[index % len(self.there)] if self.there else None


def plan_placement(pin: bool) -> Placement:
    """The measuring process on one core, the others on the rest, on SMT siblings only if need be."""
    if not pin or len(ALL_CPUS) < 2:
        return Placement()
    here, *rest = sorted(ALL_CPUS)
    apart = [cpu for cpu in rest if cpu not in siblings(here)]
    return Placement(here, tuple(apart or rest))


def siblings(cpu: int) -> set[int]:
    """The logical CPUs of the core that `cpu` belongs to, as the kernel lists them (``0,4`` or ``0-1``)."""
    try:
        text = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:
        return {cpu}
    ranges = [part.partition("-") for part in text.strip().split(",")]
    return {cpu for first, _, last in ranges for cpu in range(int(first), int(last or first) + 1)}


@contextlib.contextmanager
def running_on(cpu: int | None) -> Iterator[None]:
    """Pin this process to `cpu` for the block; None: leave it where the kernel puts it."""
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, ALL_CPUS)


def wake_on_time() -> None:
    """Have timers of this thread fire when they are due: by default the kernel may be 50 us late."""
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)


class Worker:
    """A process that calls ``make(*arguments)`` once, and what that returns each time it is told to.

    A ``with`` statement begins its block when the process is ready, and ends the process after the block.
    """

    def __init__(self, cpu: int | None, make: Callable[..., Callable[..., Any]], *arguments: object) -> None:
        self._control, there = context.Pipe()
        cpus = ALL_CPUS if cpu is None else {cpu}
        self._process = context.Process(target=serve, args=(there, cpus, make, arguments), daemon=True)
        self._process.start()
        there.close()

    def start(self, *arguments: object) -> None:
        self._control.send(arguments)

    def result(self) -> Any:
        """What the call returned; WorkerError."""
        try:
            if not self._control.poll(SECONDS_UNTIL_STUCK):
                raise WorkerError(
                    f"no answer from process {self._process.pid} within {SECONDS_UNTIL_STUCK:g} s"
                )
            failed, result = self._control.recv()
        except EOFError:
            raise WorkerError(f"process {self._process.pid} ended with {self._process.exitcode}") from None
        if failed:
            raise WorkerError(result)
        return result

    def call(self, *arguments: object) -> Any:
        self.start(*arguments)
        return self.result()

    def __enter__(self) -> "Worker":
        try:
            self.result()
        except BaseException:
            self._end(0)
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._end(5 if kind is None else 0)

    def _end(self, patience: float) -> None:
        self._control.close()
        self._process.join(patience)
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._process.close()


def serve(
    control: Connection, cpus: Set[int], make: Callable[..., Callable[..., Any]], arguments: Any
) -> None:
    """The life of a worker: answers come as (failed?, result or traceback)."""
    os.sched_setaffinity(0, cpus)
    work: Callable[..., Any] | None = None
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            try:
                if work is None:
                    work, result = make(*arguments), None
                else:
                    result = work(*control.recv())
                answer = (False, result)
            except EOFError:
                return
            except Exception:
                answer = (True, traceback.format_exc())
            control.send(answer)
            if answer[0]:
                return
