"""Runs the scenarios beside it under ThreadSanitizer: with all memory orders nothing may be reported, without
any one of them a data race must be.

    python3 tests/orders/run.py [WORD ...]     only cases whose name contains one of the words
    python3 tests/orders/run.py --only CASE    one case, by its whole name
    python3 tests/orders/run.py --list         their names

The orders, and the pair that each is needed for, are the rows `TSan` of docs/verification.md. Prints a line
for each case; exits with 1 if any verdict is not the one expected, or nothing ran. `make tsan` compiles
what it needs.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from check_sync_points import VERIFICATION, End, ends_of_core, rows_of_verification  # noqa: E402

BUILD = Path(
    os.environ.get("FASTCOMM_TEST_BUILD")
    or ROOT / "build" / "tsan" / f"tested-{sys.implementation.cache_tag}"
)
SECONDS = 120.0
REPORTED = 66  # exit status that ThreadSanitizer is told to use
CROWDS = (
    "a ring of 16 cells",
    "a ring of 64 cells",
    "a ring that drops",
    "an inbox",
    "a queue",
    "an entry",
)
PROGRAM = """if True:
    import sys
    import order_crowds, order_pairs
    kind, name = sys.argv[1:]
    if kind == "crowd":
        wrong = [] if order_crowds.run(name) else [name]
    else:
        names = [name] if name else order_pairs.names()
        wrong = [name for name in names if not order_pairs.run(name)]
    sys.exit(f"wrong: {wrong}" if wrong else 0)
"""


class Case(NamedTuple):
    """A crowd, or a pair ("": all of them).

    `without`: the order that is left out, which must be found out; None: nothing may be reported.
    """

    kind: str
    name: str = ""
    without: End | None = None

    def __str__(self) -> str:
        if self.without:
            return f"without {self.without}"
        return f"crowd: {self.name}" if self.name else "all pairs"


def cases() -> list[Case]:
    rows, _ = rows_of_verification((ROOT / VERIFICATION).read_text())
    mutants = [Case("pair", row.by, row.end) for row in rows.values() if row.caught == "TSan"]
    return [Case("pair"), *(Case("crowd", crowd) for crowd in CROWDS), *mutants]


def thread_sanitizer() -> str:
    compiler = os.environ.get("CC", "cc").split()[0]
    found = subprocess.run([compiler, "-print-file-name=libtsan.so"], capture_output=True, text=True)
    path = Path(found.stdout.strip())
    return str(path.resolve()) if path.is_absolute() else ""


def environment(case: Case) -> dict[str, str]:
    env = {
        **os.environ,
        "LD_PRELOAD": thread_sanitizer(),
        "PYTHONPATH": str(BUILD),
        "PYTHONSAFEPATH": "1",
        "TSAN_OPTIONS": f"halt_on_error=1:exitcode={REPORTED}",
    }
    env.pop("FASTCOMM_MUTANT", None)
    if case.without:
        places, _ = ends_of_core(ROOT)
        place = places[case.without]
        env["FASTCOMM_MUTANT"] = f"{place.path}:{place.line}:{case.without.end}"
    return env


def check(case: Case) -> bool:
    """Run it, print a line, say whether the verdict is the one expected."""
    command = [sys.executable, "-c", PROGRAM, case.kind, case.name]
    try:
        done = subprocess.run(
            command, env=environment(case), cwd=BUILD, capture_output=True, text=True, timeout=SECONDS
        )
        status, output = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        status, output = -1, f"not done after {SECONDS:g} s"
    race = status == REPORTED and "ThreadSanitizer: data race" in output
    good = race if case.without else status == 0
    verdict = "data race" if race else "nothing reported" if status == 0 else f"exit status {status}"
    expected = "" if good else f"   FAILED, must {'be caught' if case.without else 'be right and hold'}"
    print(f"{case!s:74} {verdict}{expected}", flush=True)
    if not good:
        print(re.sub(r"^", "    ", output, flags=re.MULTILINE), flush=True)
    return good


def missing() -> str:
    if not thread_sanitizer():
        return "the compiler has no libtsan.so"
    if not list(BUILD.glob("order_pairs*.so")):
        return f"no order_pairs in {BUILD}: `make tsan` compiles it"
    return ""


def chosen(case: Case, words: list[str]) -> bool:
    if words[:1] == ["--only"]:
        return str(case) == " ".join(words[1:])
    return not words or any(word in str(case) for word in words)


def main(words: list[str]) -> int:
    if words == ["--list"]:
        print(*cases(), sep="\n")
        return 0
    if lacking := missing():
        print(f"orders: FAILED: {lacking}")
        return 1
    verdicts = [check(case) for case in cases() if chosen(case, words)]
    print(f"orders: {sum(verdicts)} as expected, {len(verdicts) - sum(verdicts)} not")
    return 0 if verdicts and all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
