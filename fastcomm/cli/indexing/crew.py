"""The agent processes of a run: started, killed on request, replaced, and none left at the end."""

import multiprocessing
import signal
from collections.abc import Iterable
from dataclasses import dataclass, replace
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Final

from fastcomm.cli.indexing import IndexingError
from fastcomm.cli.indexing.roles import Role, Tokenizer, serve

_LEAVE_SECONDS: Final = 10.0


class RoleDiedError(IndexingError):
    """An agent that nobody was asked to kill has ended."""


@dataclass(slots=True)
class Child:
    """One agent process on a `seat`; `life` counts the replacements there. `gone`: it ended as it should."""

    name: str
    process: ForkServerProcess
    role: Role
    seat: str
    life: int
    ready: bool = False
    condemned: bool = False
    gone: bool = False


class Crew:
    """All children by agent name. `failures` are the last words of those that ended by an exception."""

    def __init__(self, bus_name: str) -> None:
        self._bus_name = bus_name
        self._context = start_server()
        self.children: dict[str, Child] = {}
        self.failures: dict[str, str] = {}

    def start(self, seat: str, role: Role, life: int = 0) -> None:
        """Start a process; it joins the bus as `seat`, or under a name of its own after the first life."""
        name = f"{seat}-{life}" if life else seat
        process = self._context.Process(
            target=serve, args=(self._bus_name, name, role), name=name, daemon=True
        )
        process.start()
        self.children[name] = Child(name, process, role, seat, life)

    def replace(self, dead: Child) -> None:
        """Start another tokenizer under a new name: the old one may still stand in somebody's accounts."""
        assert isinstance(dead.role, Tokenizer)
        del self.children[dead.name]
        life = dead.life + 1
        self.start(dead.seat, replace(dead.role, name=f"{dead.seat}-{life}"), life)

    def kill(self, name: str) -> None:
        """SIGKILL, as asked for: `find_dead` will return this child."""
        child = self.children[name]
        child.condemned = True
        child.process.kill()

    def find_dead(self) -> list[Child]:
        """The children that have ended and are not `gone`."""
        watched = {child.process.sentinel: child for child in self.children.values() if not child.gone}
        ended = wait(list(watched), timeout=0)
        dead = [child for sentinel, child in watched.items() if sentinel in ended]
        for child in dead:
            child.process.join(_LEAVE_SECONDS)
        return dead

    def explain(self, dead: Iterable[Child]) -> RoleDiedError:
        """The error that names the death that caused the others.

        A signal goes before an exception, which may follow from it: who publishes to the dead fails.
        """
        killed = [child for child in self.children.values() if (child.process.exitcode or 0) < 0]
        if not killed and self.failures:
            name, text = next(iter(self.failures.items()))
            return RoleDiedError(f"{name} failed: {text}")
        child = next(iter(killed or dead))
        code = child.process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        return RoleDiedError(f"{child.name} (pid {child.process.pid}) {how}, and not by this run")

    def end(self) -> None:
        """Kill what is left and wait for it."""
        for child in self.children.values():
            if child.process.exitcode is None:
                child.process.kill()
        for child in self.children.values():
            child.process.join(_LEAVE_SECONDS)


def start_server() -> ForkServerContext:
    """The forkserver context with the roles loaded, so that a child starts in milliseconds.

    The server starts with SIGINT blocked, and so do its children: Ctrl-C is the supervisor's alone to handle.
    The resource tracker goes first, because starting it unblocks SIGINT again.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fastcomm.cli.indexing.roles"])
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context
