"""Runs jobs: steps in process groups of their own, with a time limit, a count of what ran, a closing line.

A job is a function that is given a `Count`. It fails when a step or test failed, or when nothing ran at all;
it is skipped when it raises `JobSkipped` (which is a failure when CI=true).
"""

import contextlib
import os
import signal
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CI = os.environ.get("CI", "") not in ("", "0", "false")
STEP_SECONDS = 1800.0  # longer than any step takes: it ends what hangs
INTERRUPT_SECONDS = 10.0  # for pytest to close its fixtures after Ctrl-C


class JobFailed(Exception):
    """The job can't go on; the text says why."""


class JobSkipped(Exception):
    """A tool is missing on this machine; the text says which, and where it was looked for."""


@dataclass
class Count:
    """Steps of a job, or tests, that ran."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"

    def add(self, other: "Count") -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def step(
        self,
        title: str,
        command: Iterable[object],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        seconds: float = STEP_SECONDS,
    ) -> bool:
        """Run `command` and count it. Its failure is told, and does not keep the next step from running."""
        try:
            run(title, command, env=env, cwd=cwd, seconds=seconds)
        except JobFailed as failure:
            print(f"FAILED: {failure}", flush=True)
            self.failed += 1
            return False
        self.passed += 1
        return True


Job = Callable[[Count], None]


def run(
    title: str,
    command: Iterable[object],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    seconds: float = STEP_SECONDS,
) -> None:
    """Run `command`; JobFailed unless it exits with 0 within `seconds`. Nothing of its group outlives it."""
    words = [str(word) for word in command]
    print(f"--- {title}", flush=True)
    process = subprocess.Popen(
        words, cwd=cwd or ROOT, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, process_group=0
    )
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        raise JobFailed(f"{title}: not done after {seconds:g} s") from None
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(INTERRUPT_SECONDS)
        raise
    finally:
        # Also what a process left behind: it would hold our output open, and whoever reads that would wait
        # for it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if status:
        raise JobFailed(f"{title}: exit status {status} of: {' '.join(words)}")


def output_of(*command: object) -> str:
    """What `command` prints; empty if it can't be run or fails."""
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def count_tests(report: Path) -> Count:
    """The totals of a JUnit report; one failure if there is none, because then pytest itself died."""
    if not report.exists():
        return Count(failed=1)
    counted = Count()
    for suite in ElementTree.parse(report).iter("testsuite"):
        failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped = int(suite.get("skipped", 0))
        counted.add(Count(int(suite.get("tests", 0)) - failed - skipped, failed, skipped))
    return counted


def run_job(name: str, job: Job) -> tuple[str, bool]:
    """The closing line of the job, and whether it is content with itself."""
    print(f"\n=== {name}", flush=True)
    started = time.monotonic()
    count = Count()
    reason = ""
    try:
        job(count)
        if not count.passed:
            raise JobFailed("nothing was run")
    except JobSkipped as skip:
        count.skipped += 1
        count.failed += CI
        reason = f" (skipped: {skip})"
    except JobFailed as failure:
        count.failed += not count.failed
        reason = f" ({failure})"
    seconds = time.monotonic() - started
    if reason:
        print(f"{name}:{reason}")
    print(f"{name}: {count}", flush=True)  # alone on its line: tools that count tests read it
    return (
        f"{name:8} {'FAILED' if count.failed else 'ok':6} {seconds:6.1f} s   {count}{reason}",
        not count.failed,
    )


def run_jobs(jobs: Mapping[str, Job], names: Iterable[str]) -> bool:
    """Run the jobs one after the other, all of them, and print a table. True if none failed."""
    results = [run_job(name, jobs[name]) for name in names]
    print("\n" + "\n".join(line for line, _ in results), flush=True)
    return all(content for _, content in results)
