"""Checks the models of the protocol with spin: each must hold, and each broken variant of it must be caught.

    python3 tests/model/run.py [WORD ...]     only runs whose model or flags contain one of the words
    python3 tests/model/run.py --only RUN     one run, by its whole name
    python3 tests/model/run.py --list         their names
    --full before any of these                the larger bounds instead, exhaustively

Prints for each run its states, seconds and verdict; exits with 1 if any verdict is not the one expected, or
nothing ran. A search is exhaustive unless the run's name ends in "bitstate": that one keeps a few bits for
each state, so it skips some, and ends when its bits are used up; what it does not find may be there. Without
spin or a C compiler it says so and exits with 0, or with 1 if CI is set. docs/models.md says what is modelled
and what not.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
CI = os.environ.get("CI", "") not in ("", "0", "false")
SECONDS = 900.0
MEGABYTES = 6000
FULL_SECONDS = 7200.0
FULL_MEGABYTES = 8000
DEPTH = 1_000_000  # steps of the longest path
BITSTATE = 24  # 2 to the power of this: bits, three for each state; it ends after some million states


class Case(NamedTuple):
    """One run. `broken`: what the flags take away from the protocol; None: it must hold."""

    model: str
    flags: tuple[str, ...] = ()
    broken: str | None = None
    bitstate: bool = False

    def __str__(self) -> str:
        return " ".join((self.model, *self.flags, *(["bitstate"] if self.bitstate else [])))


# Larger bounds, as far as bitstate gets; and exhaustively for `--full`, if that ends within its limits.
FULL_LARGE = (
    ("ring", ("P=3", "K=1")),
    ("wait", ("P=3", "NO_SLICE")),
)
LARGE = (
    *FULL_LARGE,
    ("contested", ("ANY_SIZE",)),
    ("close_epoch", ("K=2",)),
    ("wait", ("P=3", "CRASH")),
    ("reap", ("JOINERS=2",)),
    ("heirs", ()),
)
ALWAYS = ("STORE", "ALWAYS", "FLAG_ACQREL", "LOOK_ACQUIRE", "MADE_RELEASE")

CASES = (
    Case("ring"),
    Case("ring", ("K=1", "STRAY")),
    Case("ring", ("K=1", "NO_HELP"), "a claimer does not see to the header of the claim before"),
    Case("ring", ("NO_SECOND_LOOK",), "the helper does not look at the tail again"),
    Case("ring", ("K=1", "STRAY", "HELP_ONCE"), "the helper gives up when its CAS fails"),
    Case("batch"),
    Case("batch", ("FIRST_FIRST",), "the first header flips before the inner ones are stored"),
    Case("contested"),
    Case("contested", ("STORE_HEAD",), "the consumer stores the head, where others move it too"),
    Case("contested", ("MOVE_FIRST",), "it moves the head, and then copies the record out"),
    Case("contested", ("DROP_WRITING",), "a record that is being written is dropped"),
    Case("contested", ("NO_SECOND_LOOK_AT_ROOM",), "a dropper does not look again whether there is room"),
    Case("close_epoch"),
    Case("close_epoch", ("PUNCH_HEADERS",)),
    Case("close_epoch", ("NO_CLOSE",), "the ring of an agent that leaves stays open"),
    Case(
        "close_epoch", ("CLOSE_WITHOUT_HELP",), "the last claim has no header when its tail word is replaced"
    ),
    Case("close_epoch", ("EPOCH_LAST",), "the epoch moves after the drain"),
    Case("close_epoch", ("NO_SECOND_LOAD",), "no look at the epoch after the commit"),
    Case("close_epoch", ("NO_STALE_CHECK",), "the receiver does not compare epochs"),
    Case("wait", ("NO_SLICE",)),
    Case("wait", ("NO_SLICE", "CELLS=6", "BACKLOG=6", "QUARTER=2")),
    Case("wait", ("CRASH",)),
    Case("wait", ("CRASH", "ALWAYS")),
    Case("wait", ("CRASH", "NO_SLICE"), "sleep has no bound, and a waker may be killed"),
    Case("wait", ("NO_SLICE", "NO_SECOND_LOOK"), "the sleeper does not look again"),
    Case("wait", ("NO_SLICE", "SEEN_LATE"), "the bell is read after the flag is set"),
    Case("wait", ("NO_SLICE", "BUMP_FIRST"), "the bell moves before the flag is cleared"),
    Case("wait", ("NO_SLICE", "WAKE_ONE"), "one sleeper is woken, not all"),
    Case("slots"),
    Case("slots", ("FREE_FIRST",), "a slot is free before the claims of its dead holder are resolved"),
    Case("slots", ("PROBE_FIRST",), "the consumer probes owners before it reads the header"),
    Case("role"),
    Case("role", ("UNGATED",), "a dead holder's role is taken over outside the gate"),
    Case("reap", ("JOINERS=1",)),
    Case("reap", ("JOINERS=2", "FREE_FIRST"), "a slot is free before what its dead holder had is resolved"),
    Case("reap", ("JOINERS=1", "NO_RESOLVE"), "a number is freed with its dead holder's claims in an inbox"),
    Case(
        "reap",
        ("JOINERS=1", "TWO_REAPERS"),
        "nothing; it is claimed that no reaper goes on for a dead one",
    ),
    Case("heirs", ("DEATHS=1", "STOP_AT_CLAIM"), "the drain of an inbox stops at a claim in progress"),
    Case("heirs", ("DEATHS=1", "RELEASE_LAST"), "cells are given back when all is passed on"),
    Case("heirs", ("DEATHS=1", "RELEASE_FIRST"), "cells are given back before their record is passed on"),
    Case("heirs", ("DEATHS=1", "NO_SECOND_LOAD"), "no look at the epoch after the commit"),
    Case("heirs", ("DEATHS=1", "DROP_FIRST"), "the subscriptions are dropped before the inbox is retired"),
    *(Case(model, flags, bitstate=True) for model, flags in LARGE),
    Case("wait_sb"),
    Case("wait_sb", ("STORE",)),
    Case("wait_sb", ("STORE", "CLEAR_RELAXED", "BELL_RELAXED")),
    Case("wait_sb", ("FLAG_ACQREL",), "the sleeper's flag is not seq_cst"),
    Case("wait_sb", ("LOOK_ACQUIRE",), "its second look is not"),
    Case("wait_sb", ("MADE_RELEASE",), "the CAS that makes what it waits for is not"),
    Case("wait_sb", ("SLEEPERS_ACQUIRE",), "the waker's look at the flag is not"),
    Case("wait_sb", ("STORE", "FLAG_ACQREL"), "the same, of a store: the sleeper's flag"),
    Case("wait_sb", ("STORE", "LOOK_ACQUIRE"), "its second look"),
    Case("wait_sb", ("STORE", "MADE_RELEASE"), "the store that makes what it waits for"),
    Case("wait_sb", ("STORE", "SLEEPERS_ACQUIRE"), "the waker's look at the flag"),
    Case("wait_sb", (*ALWAYS, "BELL_RELAXED")),
    Case(
        "wait_sb",
        (*ALWAYS, "CLEAR_RELAXED", "BELL_RELAXED"),
        "the bell is no release",
    ),
    Case("lock_sb"),
    Case("lock_sb", ("DEAD",)),
    Case("lock_sb", ("UNLOCK_ACQREL",), "the CAS that unlocks is not seq_cst"),
    Case("lock_sb", ("LOOK_ACQUIRE",), "the second look at the lock is not"),
    Case("lock_sb", ("FLAG_ACQREL",), "the sleeper's flag is not"),
    Case("lock_sb", ("SLEEPERS_ACQUIRE",), "the waker's look at the flag is not"),
    Case("lock_sb", ("UNLOCK_RELAXED",), "the CAS that unlocks is no release"),
    Case("epoch_sb"),
    Case("epoch_sb", ("COMMIT_ACQREL",), "the commit is not seq_cst"),
    Case("epoch_sb", ("CHECK_ACQUIRE",), "the load of the epoch after it is not"),
    Case("epoch_sb", ("EPOCH_RELEASE",), "the store of the epoch is not"),
    Case("epoch_sb", ("DRAIN_ACQUIRE",), "the look at the headers after it is not"),
    Case("epoch_sb", ("COMMIT_RELAXED",), "the commit is no release"),
    Case("epoch_sb", ("NO_STALE_CHECK",), "the receiver does not compare epochs"),
    Case("entry_sb"),
    Case("entry_sb", ("BEGIN_STORE",), "a version becomes odd by a store, even a seq_cst one"),
    Case("entry_sb", ("SECOND_LOOK_LOAD",), "the second look is a load, even a seq_cst one"),
    Case("entry_sb", ("END_RELAXED",), "a version becomes even without release"),
    Case("entry_sb", ("FIRST_LOOK_RELAXED",), "the first look is no acquire"),
    Case("entry_sb", ("GENERATION_RELAXED",), "the generation is no release"),
    Case("entry_sb", ("GENERATION_LOOK_RELAXED",), "the look at the generation is no acquire"),
)
FULL = tuple(Case(model, flags) for model, flags in FULL_LARGE)


class Outcome(NamedTuple):
    """violation: empty if a complete search found nothing. problem: why there is no verdict, if so."""

    states: int = 0
    seconds: float = 0.0
    violation: str = ""
    problem: str = ""


def verify(case: Case, folder: Path) -> Outcome:
    flags = [f"-D{flag}" for flag in case.flags]
    large = case in FULL
    kept = "-DBITSTATE" if case.bitstate else "-DCOLLAPSE"
    optimised = ["-O2", "-DSAFETY", kept, f"-DMEMLIM={FULL_MEGABYTES if large else MEGABYTES}"]
    search = ["./pan", f"-m{DEPTH}", *([f"-w{BITSTATE}"] if case.bitstate else [])]
    seconds = FULL_SECONDS if large else SECONDS
    for source in (HERE / f"{case.model}.pml", *HERE.glob("*.inc")):
        shutil.copy(source, folder)
    for command in (
        ["spin", "-a", *flags, f"{case.model}.pml"],
        [compiler(), *optimised, "-o", "pan", "pan.c"],
    ):
        built = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if built.returncode or "Error" in built.stdout:
            return Outcome(problem=f"{command[0]}: {built.stdout}{built.stderr}")
    try:
        searched = subprocess.run(search, cwd=folder, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return Outcome(problem=f"not done after {seconds:g} s")
    return judge(searched.stdout + searched.stderr)


def judge(report: str) -> Outcome:
    """What pan's report says. A search that found nothing counts only if it was complete."""
    states, errors = re.search(r"([\d.e+]+) states, stored", report), re.search(r"errors: (\d+)", report)
    seconds = re.search(r"elapsed time ([\d.]+) seconds", report)
    found = re.search(r"pan:1: (.+?) \(at depth", report)
    if not states or not float(states[1]) or not errors or (errors[1] != "0" and not found):
        return Outcome(problem=report.strip() or "pan printed nothing")
    outcome = Outcome(
        int(float(states[1])), float(seconds[1]) if seconds else 0.0, found[1].strip() if found else ""
    )
    if not found and ("Search not completed" in report or "max search depth too small" in report):
        return outcome._replace(problem="the search was not complete:\n" + report)
    return outcome


def compiler() -> str:
    return os.environ.get("CC", "cc").split()[0]


def check(case: Case) -> bool:
    """Run it, print a line, say whether the verdict is the one expected."""
    with tempfile.TemporaryDirectory() as folder:
        outcome = verify(case, Path(folder))
    if outcome.problem:
        print(f"{case!s:52} FAILED: {outcome.problem}", flush=True)
        return False
    held = "nothing found" if case.bitstate else "holds"
    verdict = f"violated: {outcome.violation}" if outcome.violation else held
    good = bool(outcome.violation) == bool(case.broken)
    expected = "" if good else f"   FAILED, must {'be caught' if case.broken else 'hold'}"
    print(
        f"{case!s:52} {outcome.states:>11,} states {outcome.seconds:6.1f} s   {verdict}{expected}", flush=True
    )
    if case.broken:
        print(f"{'':4}broken: {case.broken}", flush=True)
    return good


def missing() -> str:
    tools = {"spin": "apt install spin", compiler(): "apt install gcc"}
    return "; ".join(
        f"no {tool} on PATH (Debian: {hint})" for tool, hint in tools.items() if not shutil.which(tool)
    )


def chosen(case: Case, words: list[str]) -> bool:
    if words[:1] == ["--only"]:
        return str(case) == " ".join(words[1:])
    return not words or any(word in str(case) for word in words)


def main(words: list[str]) -> int:
    cases = CASES
    if words[:1] == ["--full"]:
        cases, words = FULL, words[1:]
    if words == ["--list"]:
        print(*cases, sep="\n")
        return 0
    if lacking := missing():
        print(f"models: {'FAILED' if CI else 'skipped'}: {lacking}")
        return int(CI)
    verdicts = [check(case) for case in cases if chosen(case, words)]
    print(f"models: {sum(verdicts)} as expected, {len(verdicts) - sum(verdicts)} not")
    return 0 if verdicts and all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
