"""Processes that stop themselves at a step of the protocol, to be killed or continued there."""

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

from fastcomm.rings import RingBuffer
from fastcomm.testing.chaos.hooks import HOOKS
from fastcomm.testing.chaos.rounds import CELL, SECTION_RING, start_at

NOT_EMPTY, NOT_FULL = 384, 512  # offsets of the two places to sleep


def ring_at(name: str, cells: int, start: int) -> RingBuffer:
    """A new ring whose positions begin at `start`, one lap on: every header has been written once."""
    ring = RingBuffer.create(name, capacity=cells * CELL)
    start_at(ring, start)
    return ring


def sleeps(ring: RingBuffer, where: int) -> bool:
    """Whether somebody has announced that it sleeps there."""
    memory = ring._segment.memory(*ring._segment.section(SECTION_RING))
    return bool(memory[where + 4])


# --------------------------------------------------------------------------------------------------- victims


def start_victim(
    module: ModuleType, hook: str, prepare: Callable[[], object], work: Callable[[], object]
) -> int:
    """Fork a child that runs `prepare`, then `work` until it passes the hook; its pid, once it stopped."""
    pid = os.fork()
    if pid == 0:
        try:
            prepare()
            module._arm_hook(HOOKS[hook])
            work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), f"the victim ended without passing {hook}"
    return pid


class Victim:
    def __init__(self, pid: int) -> None:
        self.pid = pid

    def kill(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def exit_status(self) -> int:
        pid, self.pid = self.pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextmanager
def victim(
    module: ModuleType, hook: str, work: Callable[[], object], prepare: Callable[[], object] = lambda: None
) -> Iterator[Victim]:
    """A child stopped at the hook; killed at the end of the block if it was not before."""
    it = Victim(start_victim(module, hook, prepare, work))
    try:
        yield it
    finally:
        it.kill()
