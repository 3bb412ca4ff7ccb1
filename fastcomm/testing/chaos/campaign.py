"""Campaigns: rounds one after the other, counted, until the time is over or something does not hold."""

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from fastcomm.testing.chaos import hooks
from fastcomm.testing.chaos.bus_round import BusRound
from fastcomm.testing.chaos.delivery_round import DeliveryRound
from fastcomm.testing.chaos.history import Violation
from fastcomm.testing.chaos.rounds import QueueRound, RingRound, Round
from fastcomm.testing.chaos.troop import Tally, signals_awaited
from fastcomm.testing.leaks import LeakCheck, LeakError
from fastcomm.testing.names import isolated_name

KINDS: dict[str, type[Round]] = {
    "ring": RingRound,
    "queue": QueueRound,
    "bus": BusRound,
    "delivery": DeliveryRound,
}


ROUND_SECONDS = 300.0  # more than a troop's patience, several times over
LATE_AGAIN = 5.0


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Violation if the block takes longer: a call of the campaign's own hangs."""

    def late(*_: object) -> None:
        raise Violation(f"hangs: expected a round to take less than {seconds:g} s, and here it waits")

    before = signal.signal(signal.SIGALRM, late)
    # And again: what is raised within a callback of fork() or a __del__ is only printed.
    signal.setitimer(signal.ITIMER_REAL, seconds, LATE_AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Campaign:
    """Rounds of `what` (ring, queue, bus, delivery, or all in turn), the first with `seed`, the next with one
    more.

    `run_round` raises Violation; its text names the arguments that repeat the round as the first one. Its
    segments lie in a directory of their own below FASTCOMM_DIR or /dev/shm, from `prepared` on. One campaign
    at a time in a process, which must have no other children or threads.
    """

    def __init__(self, what: str = "all", seed: int = 1) -> None:
        self.kinds = list(KINDS.values()) if what == "all" else [KINDS[what]]
        self.seed = seed
        self.with_hooks = hooks.compiled_in()
        self.tally = Tally()
        self.rounds: Counter[str] = Counter()
        self.checked: Counter[str] = Counter()
        self.seconds = 0.0

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Within the block rounds can be run."""
        before = os.environ.get("FASTCOMM_DIR")
        self.directory = tempfile.mkdtemp(prefix="chaos-", dir=before or "/dev/shm")
        os.environ["FASTCOMM_DIR"] = self.directory
        try:
            with signals_awaited():
                yield
        finally:
            if before is None:
                del os.environ["FASTCOMM_DIR"]
            else:
                os.environ["FASTCOMM_DIR"] = before
            shutil.rmtree(self.directory)

    def run_round(self) -> None:
        """The next round."""
        number = self.rounds.total()
        kind = self.kinds[number % len(self.kinds)]
        # Each kind goes through all seeds, so that its themes do.
        seed = self.seed + number // len(self.kinds)
        started = time.monotonic()
        try:
            self._run(kind(seed, isolated_name("chaos"), self.tally, with_hooks=self.with_hooks))
        except Exception as error:
            # Of the campaign's own calls none may raise either.
            what = error if isinstance(error, (Violation, LeakError)) else f"unexpected: {error!r}"
            raise Violation(f"{what}\nThe round is repeated by: --what {kind.what} --seed {seed}") from error
        finally:
            self.seconds += time.monotonic() - started
        self.rounds[kind.what] += 1

    def _run(self, round_: Round) -> None:
        with LeakCheck():
            with limited(ROUND_SECONDS), contextlib.closing(round_):
                report = round_.run()
            del round_
        left = os.listdir(self.directory)
        if left:
            raise Violation(f"left behind: expected an empty directory of segments, got {left}")
        for field, value in report._asdict().items():
            self.checked[field] += value

    def never_killed_at(self) -> list[str]:
        """The hooks at which nobody was killed so far."""
        return [name for name in hooks.NAMES if not self.tally.hook_kills[name]]

    # ------------------------------------------------------------------------------------------------ summary

    def summary(self) -> str:
        """What was injected and what was checked; the last line says it in short."""
        tally = self.tally
        lines = [f"  {tally.random_kills:7,} killed at random moments"]
        if self.with_hooks:
            lines += [
                f"  {tally.hook_kills[name]:7,} killed, {tally.hook_stops[name]:5,} continued at {name}"
                for name in hooks.NAMES
            ]
        else:
            lines.append("  fault hooks are compiled out of this build: FASTCOMM_DEBUG=1 makes one with them")
        rounds = ", ".join(f"{count} of a {what}" for what, count in self.rounds.items())
        lines += [
            f"  {tally.stops:7,} stopped and continued at random moments; {tally.left:,} left by themselves",
            f"  rounds: {rounds or 'none'}; in each: once, in order, whole, nothing lost, nobody hangs, "
            "counters, nothing left behind",
            f"  {self.checked['sent']:,} messages sent, {self.checked['received']:,} deliveries checked, "
            f"{self.checked['gone']:,} gone in the hands of killed consumers, "
            f"{self.checked['aborted']:,} claims given up, {self.checked['discarded']:,} items discarded",
            self.closing_line(),
        ]
        return "\n".join(lines)

    def closing_line(self) -> str:
        covered = len(hooks.NAMES) - len(self.never_killed_at())
        at = f"{covered} of {len(hooks.NAMES)} hooks" if self.with_hooks else "hooks compiled out"
        return (
            f"chaos: {self.tally.kills} kills in {self.rounds.total()} rounds, {at}, seed {self.seed}, "
            f"{self.seconds:.0f} s"
        )


def run(campaign: Campaign, seconds: float) -> bool:
    """Rounds until the time is over; False if Ctrl-C ended it. Violation. All its processes are gone then."""
    end = time.monotonic() + seconds
    with contextlib.suppress(KeyboardInterrupt), campaign.prepared():
        while time.monotonic() < end:
            campaign.run_round()
        return True
    return False
