"""Checks the models of the protocol with spin: each must hold, and each broken variant of it must be caught.

    python3 tests/model/run.py [WORD ...]     only runs whose model or flags contain one of the words
    python3 tests/model/run.py --only RUN     one run, by its whole name
    python3 tests/model/run.py --list         their names

Prints for each run its states, seconds and verdict; exits with 1 if any verdict is not the one expected, or
nothing ran. Without spin or a C compiler it says so and exits with 0, or with 1 if CI is set. docs/models.md
says what is modelled and what not.
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


class Case(NamedTuple):
    """One run. `broken`: what the flags take away from the protocol; None: it must hold."""

    model: str
    flags: tuple[str, ...] = ()
    broken: str | None = None

    def __str__(self) -> str:
        return " ".join((self.model, *self.flags))


CASES = (
    Case("ring"),
    Case("ring", ("K=1", "STRAY")),
    Case("ring", ("K=1", "NO_HELP"), "a claimer does not see to the header of the claim before"),
    Case("ring", ("NO_SECOND_LOOK",), "the helper does not look at the tail again"),
    Case("ring", ("K=1", "STRAY", "HELP_ONCE"), "the helper gives up when its CAS fails"),
    Case("batch"),
    Case("batch", ("FIRST_FIRST",), "the first header flips before the inner ones are stored"),
    Case("close_epoch"),
    Case("close_epoch", ("PUNCH_HEADERS",)),
    Case("close_epoch", ("NO_CLOSE",), "the ring of an agent that leaves stays open"),
    Case(
        "close_epoch", ("CLOSE_WITHOUT_HELP",), "the last claim has no header when its tail word is replaced"
    ),
    Case("close_epoch", ("EPOCH_LAST",), "the epoch moves after the drain"),
    Case("close_epoch", ("NO_SECOND_LOAD",), "the publisher does not look at the epoch after its commit"),
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
)


class Outcome(NamedTuple):
    """violation: empty if a complete search found nothing. problem: why there is no verdict, if so."""

    states: int = 0
    seconds: float = 0.0
    violation: str = ""
    problem: str = ""


def verify(case: Case, folder: Path) -> Outcome:
    flags = [f"-D{flag}" for flag in case.flags]
    optimised = ["-O2", "-DSAFETY", "-DCOLLAPSE", f"-DMEMLIM={MEGABYTES}"]
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
        searched = subprocess.run(["./pan"], cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return Outcome(problem=f"not done after {SECONDS:g} s")
    return judge(searched.stdout + searched.stderr)


def judge(report: str) -> Outcome:
    """What pan's report says. A search that found nothing counts only if it was complete."""
    states, errors = re.search(r"(\d+) states, stored", report), re.search(r"errors: (\d+)", report)
    seconds = re.search(r"elapsed time ([\d.]+) seconds", report)
    found = re.search(r"pan:1: (.+?) \(at depth", report)
    if not states or not errors or (errors[1] != "0" and not found):
        return Outcome(problem=report)
    outcome = Outcome(
        int(states[1]), float(seconds[1]) if seconds else 0.0, found[1].strip() if found else ""
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
    verdict = f"violated: {outcome.violation}" if outcome.violation else "holds"
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
    if words == ["--list"]:
        print(*CASES, sep="\n")
        return 0
    if lacking := missing():
        print(f"models: {'FAILED' if CI else 'skipped'}: {lacking}")
        return int(CI)
    verdicts = [check(case) for case in CASES if chosen(case, words)]
    print(f"models: {sum(verdicts)} as expected, {len(verdicts) - sum(verdicts)} not")
    return 0 if verdicts and all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
