"""What fastcomm costs before the first message: time to import it, and memory of a hundred agents."""

import contextlib
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import IO

from benchlib.channels import is_ours
from benchlib.contest import Contender, Contenders, Contest, Setting
from benchlib.method import Figures
from fastcomm import Bus
from fastcomm.testing import isolated_name

AGENTS = 100
STARTS = 3
BARE = "pass"
IMPORTS = {
    "fastcomm": "import fastcomm",
    "fastcomm.RingBuffer": "import fastcomm; fastcomm.RingBuffer",
    "fastcomm.connect": "import fastcomm; fastcomm.connect",
    "asyncio": "import asyncio",
    "multiprocessing.Queue": "import multiprocessing.queues",
}


# ---- import time


def imports(setting: Setting, stack: contextlib.ExitStack) -> Contenders:
    for code in IMPORTS.values():
        run_python(code)  # into the page cache, and compiled to .pyc
    return [
        Contender(name, "", partial(time_over_bare, code), "ours" if is_ours(name) else "peer")
        for name, code in IMPORTS.items()
    ]


def time_over_bare(code: str) -> Figures:
    """Milliseconds of a process that runs `code` over those of one that runs nothing; the fastest of each.

    They start in turn. What disturbs the start of a process only ever makes it slower.
    """
    pairs = [(run_python(BARE), run_python(code)) for _ in range(STARTS)]
    return {"": (min(taken for _, taken in pairs) - min(bare for bare, _ in pairs)) * 1e3}


def run_python(code: str) -> float:
    started = time.perf_counter()
    # -P: whatever lies in the folder that this was started from is not what is measured.
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
    return time.perf_counter() - started


# ---- memory


def memory(setting: Setting, stack: contextlib.ExitStack) -> Contenders:
    return [Contender("fastcomm bus", "sleeps", join_hundred, "ours")]


def join_hundred() -> Figures:
    """MB of a hundred unrelated processes that import, join, subscribe, and have sent and received a message.

    Read from outside, so that measuring costs the measured nothing: private pages of each process apart from
    its mapping of the segment, which is counted once, as the pages that its file occupies.
    """
    with contextlib.ExitStack() as stack:
        bus = Bus.open(isolated_name())
        stack.callback(bus.close)
        processes = [stack.enter_context(Resident(bus, number)) for number in range(AGENTS)]
        stages = [weigh(processes)]
        for command in ("import", "join", "talk"):
            for process in processes:
                process.tell(command)
            for process in processes:
                process.wait_until_done()
            stages.append(weigh(processes))
        bare, imported, _, talked = stages
        segment = os.stat(bus.path).st_blocks * 512
    return {
        "joined": (talked - imported + segment) / 1e6,
        "with import": (talked - bare + segment) / 1e6,
        "segment": segment / 1e6,
    }


def weigh(processes: "list[Resident]") -> int:
    return sum(process.private_bytes() for process in processes)


class Resident:
    """A fresh interpreter that does what resident.py says, step by step, when told to."""

    SCRIPT = Path(__file__).with_name("resident.py")

    def __init__(self, bus: Bus, number: int) -> None:
        self.segment = bus.path
        command = [sys.executable, "-P", str(self.SCRIPT), bus.name, str(number), str(AGENTS)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, command: str) -> None:
        stdin: IO[str] | None = self.process.stdin
        assert stdin is not None
        stdin.write(command + "\n")
        stdin.flush()

    def wait_until_done(self) -> None:
        stdout: IO[str] | None = self.process.stdout
        assert stdout is not None
        if stdout.readline() != "done\n":
            raise RuntimeError(f"{self.SCRIPT.name} failed; its traceback is above")

    def private_bytes(self) -> int:
        """Pages that only this process maps, without the segment's: others may not have touched those yet."""
        kilobytes, counts = 0, True
        with open(f"/proc/{self.process.pid}/smaps") as lines:
            for line in lines:
                if line.startswith(("Private_Clean:", "Private_Dirty:")):
                    kilobytes += counts * int(line.split()[1])
                elif "-" in line.split(" ", 1)[0]:
                    counts = not line.rstrip("\n").endswith(self.segment)
        return kilobytes * 1024

    def __enter__(self) -> "Resident":
        self.wait_until_done()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.__exit__(None, None, None)  # closes its input, at which it leaves, and waits for it


CONTESTS = [
    Contest("import time", "over bare Python", "ms", None, imports),
    Contest(
        "memory of 100 agents",
        "private growth of unrelated processes, and the segment",
        "MB",
        None,
        memory,
        rounds=(1, 2),
        pin=False,
        gated=False,
    ),
]
