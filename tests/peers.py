"""Processes that a test steers: each runs the lines that it is sent, can be stopped, continued and killed."""

import os
import pickle
import signal
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

LOOP = """
import os, pickle, sys
names = {}
replies = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
while True:
    try:
        source = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    try:
        try:
            code = compile(source, "<peer>", "eval")
        except SyntaxError:
            code = compile(source, "<peer>", "exec")
        reply = True, eval(code, names)
    except BaseException as error:
        reply = False, (type(error).__name__, str(error), vars(error))
    pickle.dump(reply, replies)
    replies.flush()
if "bus" in names:
    names["bus"].close()
"""


class PeerError(Exception):
    """What a peer's line raised: `kind` is the name of its class, `attributes` what it carried."""

    def __init__(self, kind: str, text: str, attributes: dict[str, Any]) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.attributes = attributes


class Peer:
    """A Python process of its own, unrelated to this one but for being its child.

    `do` runs lines and returns the value of an expression; `send` starts them, `result` waits for it.
    At the end of the ``with`` block it is killed unless `end` was called.
    """

    def __init__(self, setup: str = "") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", LOOP], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.pid = self._process.pid
        if setup:
            self.do(setup)

    def send(self, source: str) -> None:
        assert self._process.stdin is not None
        pickle.dump(source, self._process.stdin)
        self._process.stdin.flush()

    def result(self) -> Any:
        assert self._process.stdout is not None
        well, value = pickle.load(self._process.stdout)
        if not well:
            raise PeerError(*value)
        return value

    def do(self, source: str) -> Any:
        self.send(source)
        return self.result()

    def await_stop(self) -> None:
        """Return when the process has stopped (at a fault hook, say)."""
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), f"the peer ended with status {status} and was to stop"

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        self.await_stop()

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def interrupt(self) -> None:
        os.kill(self.pid, signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL; when this returns the process is gone."""
        self._process.kill()
        self._close()

    def end(self) -> int:
        """Let it close its bus and exit; its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._close()

    def _close(self) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        code = self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.returncode is None:
            self.kill()


def joined(bus: str, agent: str, *patterns: str, **options: Any) -> str:
    """Setup of a peer that opens the bus and joins it: it has `bus` and `agent`."""
    lines = [
        "import asyncio, os, signal, threading, time",
        "import fastcomm",
        "from fastcomm.errors import *",
        f"bus = fastcomm.Bus.open({bus!r}, **{options!r})",
        f"agent = bus.join({agent!r})",
        *(f"agent.subscribe({pattern!r})" for pattern in patterns),
    ]
    return "\n".join(lines)
