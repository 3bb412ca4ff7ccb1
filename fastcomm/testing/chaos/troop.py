"""Processes that live as a plan says: forked, stopped, continued, killed, and replaced by the next."""

import ctypes
import faulthandler
import gc
import os
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fastcomm.testing.chaos import hooks
from fastcomm.testing.chaos.history import Violation
from fastcomm.testing.chaos.plan import CONSUMER, HOOK, KILL, LAST, LEAVE, PRODUCER, STOP, Life

HOOK_PATIENCE = 0.2  # seconds to pass a hook in; then the process is killed wherever it is
PATIENCE = 60.0  # seconds to leave in, or to complete a call; nothing here should take that long
FOREVER = float("inf")
CONTINUE = "continue"
BLOCKED = {signal.SIGCHLD, signal.SIGINT}

LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1

Work = Callable[[Life, "Signals"], None]


class Tally:
    """What was done to processes: kills at random and at each hook, stops at random and at hooks."""

    def __init__(self) -> None:
        self.random_kills = 0
        self.hook_kills: Counter[str] = Counter()
        self.stops = 0
        self.hook_stops: Counter[str] = Counter()
        self.left = 0

    @property
    def kills(self) -> int:
        return self.random_kills + self.hook_kills.total()


class Signals:
    """What a process of a troop looks at between two calls: whether it shall come to an end."""

    def __init__(self, ended: memoryview, role: str) -> None:
        self._ended = ended
        self._index = 0 if role == PRODUCER else 1

    @property
    def quiet(self) -> bool:
        """Nobody sends any more."""
        return bool(self._ended[0])

    @property
    def over(self) -> bool:
        """The round is over for this role."""
        return bool(self._ended[self._index])


class Place:
    """One place of a troop and who lives there now."""

    def __init__(self, lives: list[Life]) -> None:
        self.coming = lives[::-1]
        self.settle(None, 0)

    def settle(self, life: Life | None, pid: int) -> None:
        """Somebody lives here now, or nobody."""
        self.life = life
        self.pid = pid
        self.at_hook = self.continued = False
        self.due = FOREVER  # when the next thing is to be done to it
        self.then = KILL  # or STOP, CONTINUE, LEAVE


class Troop:
    """The processes of one round. `work` is what each does; it returns when it leaves.

    Single-threaded; SIGCHLD and SIGINT have to be blocked, see :func:`signals_awaited`. At the end of the
    ``with`` block whoever is left is killed.
    """

    def __init__(self, places: list[list[Life]], work: Work, tally: Tally, ended: memoryview) -> None:
        self.places = [Place(lives) for lives in places]
        self.killed: dict[
            int, int
        ] = {}  # the lives that were ended by SIGKILL, and when: CLOCK_MONOTONIC, ns
        self._work = work
        self._tally = tally
        self._ended = ended
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__

    def __enter__(self) -> "Troop":
        return self

    def __exit__(self, *exc_info: object) -> None:
        for place in self.places:
            if place.pid:
                self._end(place)
        self._errors.close()

    def run(self) -> None:
        """Until each place has come to its last life. Violation if somebody fails."""
        for place in self.places:
            self._next(place)
        while self._unsettled():
            self._wait(min(place.due for place in self.places))
            for place in self.places:
                self._look_at(place)
                if time.monotonic() >= place.due:
                    self._act(place)

    def wait_until(self, condition: Callable[[], bool], expected: str) -> None:
        """Until the condition holds, looked at every 5 ms; Violation if it does not."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            self._wait(time.monotonic() + 0.005)
            for place in self.places:
                self._look_at(place)
            if time.monotonic() >= deadline:
                raise Violation(f"held up: expected {expected} within {PATIENCE} s")

    def quieten(self) -> None:
        """Ask all to send no more; producers leave."""
        self._ended[0] = 1

    def finish(self) -> None:
        """Ask all to leave, producers first; Violation if one doesn't."""
        for role, index in ((PRODUCER, 0), (CONSUMER, 1)):
            self._ended[index] = 1
            deadline = time.monotonic() + PATIENCE
            mine = [place for place in self.places if place.life is not None and place.life.role == role]
            while any(place.pid for place in mine):
                self._wait(deadline)
                for place in mine:
                    self._look_at(place)
                    if place.pid and time.monotonic() >= deadline:
                        self._accuse(place)

    def kill_all(self) -> None:
        """Kill everybody, producers first."""
        for role in (PRODUCER, CONSUMER):
            for place in self.places:
                if place.pid and place.life is not None and place.life.role == role:
                    self._kill(place)

    def _unsettled(self) -> bool:
        return any(
            place.coming or (place.life is not None and place.life.fate != LAST) for place in self.places
        )

    def _wait(self, until: float) -> None:
        """Until a child ended or stopped, or it is time. KeyboardInterrupt."""
        seconds = min(max(0.0, until - time.monotonic()), 1.0)
        came = signal.sigtimedwait(BLOCKED, seconds)
        if came is not None and came.si_signo == signal.SIGINT:
            raise KeyboardInterrupt

    # -------------------------------------------------------------------------------------------- one place

    def _next(self, place: Place) -> None:
        place.settle(None, 0)
        if not place.coming:
            return
        life = place.coming.pop()
        place.settle(life, self._fork(life))
        if life.fate == HOOK:
            place.due = time.monotonic() + HOOK_PATIENCE
        elif life.fate in (KILL, STOP):
            place.due, place.then = time.monotonic() + life.delay, life.fate
        elif life.fate == LEAVE:
            place.due, place.then = time.monotonic() + PATIENCE, LEAVE

    def _look_at(self, place: Place) -> None:
        """Has it stopped or ended?"""
        if not place.pid or place.life is None:
            return
        pid, status = os.waitpid(place.pid, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            return
        if os.WIFSTOPPED(status):
            self._stopped(place, place.life)
        elif status == 0:
            self._tally.left += 1
            self._next(place)
        else:
            place.pid = 0
            code = os.waitstatus_to_exitcode(status)
            raise Violation(f"{place.life} failed with exit status {code}; {self._said()}")

    def _stopped(self, place: Place, life: Life) -> None:
        if life.fate == HOOK and place.continued:  # at the hook of another module, which is still armed
            os.kill(place.pid, signal.SIGCONT)
        elif life.fate == HOOK:
            place.at_hook = True
            place.due = time.monotonic() + life.pause
            place.then = CONTINUE if life.goes_on else KILL

    def _act(self, place: Place) -> None:
        """What was planned for now."""
        life = place.life
        if life is None or not place.pid:
            place.due = FOREVER
        elif place.then == STOP:
            os.kill(place.pid, signal.SIGSTOP)
            self._tally.stops += 1
            place.due, place.then = time.monotonic() + life.pause, CONTINUE
        elif place.then == CONTINUE:
            self._tally.hook_stops[life.hook] += place.at_hook
            os.kill(place.pid, signal.SIGCONT)
            place.at_hook, place.continued = False, True
            place.due, place.then = time.monotonic() + life.delay, KILL
        elif place.then == LEAVE:
            self._accuse(place)
        else:
            self._kill(place)
            self._next(place)

    def _kill(self, place: Place) -> None:
        """SIGKILL, counted where it hit."""
        if place.at_hook and place.life is not None:
            self._tally.hook_kills[place.life.hook] += 1
        else:
            self._tally.random_kills += 1
        self._end(place)

    def _end(self, place: Place) -> None:
        if place.life is not None:
            self.killed[place.life.number] = time.monotonic_ns()
        os.kill(place.pid, signal.SIGKILL)
        os.waitpid(place.pid, 0)
        place.pid = 0

    # ------------------------------------------------------------------------------------------- the children

    def _fork(self, life: Life) -> int:
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # nobody outlives the campaign
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the campaign's
            signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)
            gc.disable()
            faulthandler.enable(self._errors)
            signals = Signals(self._ended, life.role)
            if life.hook:
                hooks.arm(life.hook, life.countdown)
            self._work(life, signals)
            status = 0
        except BaseException:
            os.write(self._errors.fileno(), f"{life}\n{traceback.format_exc()}".encode())
        finally:
            os._exit(status)

    def _accuse(self, place: Place) -> None:
        """It does not end: have it say where it is."""
        os.kill(place.pid, signal.SIGCONT)
        os.kill(place.pid, signal.SIGABRT)
        os.waitpid(place.pid, 0)
        place.pid = 0
        raise Violation(f"hangs: expected {place.life} to leave within {PATIENCE} s; {self._said()}")

    def _said(self) -> str:
        self._errors.seek(0)
        return f"it said:\n{self._errors.read().decode(errors='replace')}"


@contextmanager
def signals_awaited() -> Iterator[None]:
    """Within the block SIGCHLD and Ctrl-C wait until a troop looks, so that neither is missed, and none
    interrupts a fork.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    try:
        yield
    finally:
        while signal.sigtimedwait({signal.SIGCHLD}, 0):
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
