"""Processes that stop themselves at a step of the protocol, and messages that tell whether they are whole."""

import os
import re
import signal
import struct
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import fastcomm
from fastcomm._core.ring import Ring
from fastcomm.rings import RingBuffer

HEADER = Path(fastcomm.__file__).parent / "_core" / "include" / "fc_hooks.h"
HOOKS = {
    name: number for number, name in enumerate(re.findall(r"^    FC_HOOK_(\w+)", HEADER.read_text(), re.M))
}

PERIOD = 1 << 36
RING = 1  # number of the ring's section
NOT_EMPTY, NOT_FULL = 384, 512  # offsets of the two places to sleep


def ring_at(name: str, cells: int, start: int) -> RingBuffer:
    """A new ring whose positions begin at `start`, one lap on: every header has been written once."""
    ring = RingBuffer.create(name, capacity=cells * 64)
    memory = ring._segment.memory(*ring._segment.section(RING))
    memory[:] = bytes(len(memory))
    Ring.format(memory, cells=cells, start=start)
    warm = Ring(memory, owner=200)
    for _ in range(cells):
        warm.put(b"")
        assert warm.try_get() == b""
    warm.close()
    return ring


def sleeps(ring: RingBuffer, where: int) -> bool:
    """Whether somebody has announced that it sleeps there."""
    memory = ring._segment.memory(*ring._segment.section(RING))
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


# -------------------------------------------------------------------------------------------------- messages


def message(producer: int, sequence: int, nbytes: int) -> bytes:
    body = struct.pack("<II", producer, sequence) + bytes(
        (producer + sequence + i) & 0xFF for i in range(nbytes)
    )
    return body + struct.pack("<I", zlib.crc32(body))


class Checker:
    """Takes messages and fails at one that is torn, doubled or out of its producer's order."""

    def __init__(self) -> None:
        self.last: dict[int, int] = {}
        self.count = 0

    def take(self, data: bytes) -> tuple[int, int]:
        body, checksum = data[:-4], struct.unpack("<I", data[-4:])[0]
        assert zlib.crc32(body) == checksum, f"torn: {data!r}"
        producer, sequence = struct.unpack_from("<II", body)
        assert sequence > self.last.get(producer, 0), (
            f"{producer} sent {sequence} after {self.last[producer]}"
        )
        self.last[producer] = sequence
        self.count += 1
        return producer, sequence
