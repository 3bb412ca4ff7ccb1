"""Count the instructions of hot operations and compare them with asv_bench/instructions.json.

    python scripts/count_instructions.py                    compare: `make perf-check`
    python scripts/count_instructions.py --record           write what was counted, if nothing costs more
    python scripts/count_instructions.py --record --reason 'why it costs more now'
    python scripts/count_instructions.py --only 'ring put'  some of them, compared only

valgrind's callgrind counts what a process executes in user space; the same program gives the same number,
however busy the machine is. Each operation runs in a process of its own, repeated FEW and MANY times: the
difference of the two costs divided by that of the repetitions is the cost of one, without what is around.

The numbers hold for one minor version and build of Python, one major version of the compiler, and one
architecture. Exit status 1 if an operation takes more than 3 % more than recorded, or was never recorded; 2
if nothing is recorded for what runs here (0 outside of CI, as nothing can be said then).
"""

import argparse
import compileall
import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent
if str(SCRIPTS) not in sys.path:  # with PYTHONSAFEPATH set it is not
    sys.path.insert(0, str(SCRIPTS))

from benchlib.hot_operations import FEW, MANY, OPERATIONS  # noqa: E402
from job_runner import CI  # noqa: E402

BASELINES = SCRIPTS.parent / "asv_bench" / "instructions.json"
TOLERANCE = 0.03
SECONDS_UNTIL_STUCK = 300.0
RECORD = f"python scripts/{Path(__file__).name} --record"

# glibc chooses its copies by the processor's features: take those that every x86-64 has.
NO_FEATURES = "glibc.cpu.hwcaps=" + ",".join(
    f"-{feature}"
    for feature in ("AVX2", "AVX_Fast_Unaligned_Load", "ERMS", "FSRM", "BMI2", "EVEX", "AVX512VL")
)

Counts = dict[str, float]


class CountingError(RuntimeError):
    """An operation could not be counted; the text says which and why."""


# ---- counting


def count_all(names: Iterable[str]) -> Counts:
    names = list(names)
    # A module that is compiled in the counted process leaves objects at other addresses: up to 4 % more.
    compileall.compile_dir(SCRIPTS.parent / "fastcomm", quiet=1)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return dict(zip(names, pool.map(count, names), strict=True))


def count(name: str) -> float:
    """Instructions of one operation. CountingError."""
    with tempfile.TemporaryDirectory(prefix="fastcomm-count-", dir="/dev/shm") as folder:
        out = Path(folder) / "out"
        command = [
            "valgrind",
            "--tool=callgrind",
            "--dump-before=getppid",
            f"--callgrind-out-file={out}",
            sys.executable,
            str(SCRIPTS / "benchlib" / "hot_operations.py"),
            name,
        ]
        try:
            done = subprocess.run(
                command, env=environment(folder), capture_output=True, text=True, timeout=SECONDS_UNTIL_STUCK
            )
        except subprocess.TimeoutExpired:
            raise CountingError(f"{name}: not counted after {SECONDS_UNTIL_STUCK:g} s") from None
        # Part 1 is all before the first mark, parts 2 and 3 end at the other marks.
        parts = [Path(f"{out}.{number}") for number in (2, 3)]
        if done.returncode or not all(part.exists() for part in parts):
            raise CountingError(f"{name}: exit status {done.returncode}\n{done.stderr[-2000:]}")
        few, many = (total_of(part) for part in parts)
    return round((many - few) / (MANY - FEW), 1)


def environment(folder: str) -> dict[str, str]:
    """Nothing of the caller's: its size and contents change what is executed."""
    return {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "FASTCOMM_DIR": folder,
        "GLIBC_TUNABLES": NO_FEATURES,
    }


def total_of(part: Path) -> int:
    for line in part.read_text().splitlines():
        if line.startswith("totals:"):
            return int(line.split()[1])
    raise CountingError(f"{part.name} of callgrind has no totals")


# ---- what a number holds for


def here() -> dict[str, str]:
    """Numbers are compared only where all of this is the same."""
    optimised = (
        "optimised"
        if "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
        else "plain"
    )
    return {
        "python": f"{platform.python_implementation()} {sys.version_info[0]}.{sys.version_info[1]}",
        "python build": f"{major(platform.python_compiler())}, {optimised}",
        "compiler": major(compiler_version()),
        "machine": platform.machine(),
    }


def major(version: str) -> str:
    """`GCC 12` of `GCC 12.2.0`."""
    return version.partition(".")[0]


def compiler_version() -> str:
    command = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    version = output_of(command, "-dumpfullversion", "-dumpversion")
    return f"{'Clang' if 'clang' in output_of(command, '--version') else 'GCC'} {version}"


def versions() -> dict[str, str]:
    """Beside a number, for whoever wonders why it changed."""
    return {
        "python": platform.python_version(),
        "compiler": compiler_version(),
        "cython": importlib.metadata.version("cython"),
        "libc": " ".join(platform.libc_ver()),
        "valgrind": output_of("valgrind", "--version"),
    }


def output_of(*command: str) -> str:
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return ""


# ---- comparing and recording


def compare(counted: Counts, recorded: dict[str, Any]) -> tuple[list[str], list[str]]:
    """(what is wrong, what should be recorded), as lines."""
    wrong, better = [], []
    for name, now in counted.items():
        if name not in recorded:
            wrong.append(f"{name}: {now:,.1f}, never recorded")
            continue
        before = recorded[name]["instructions"]
        change = now / before - 1
        line = f"{name}: {before:,.1f} recorded, {now:,.1f} counted, {change:+.1%}"
        if change > TOLERANCE:
            wrong.append(line)
        elif change < -TOLERANCE:
            better.append(line)
    return wrong, better


def updated(recorded: dict[str, Any], counted: Counts, reason: str | None) -> dict[str, Any]:
    """The entries to be recorded. SystemExit if one is raised without a reason.

    What rose by less than the tolerance keeps its number: many small steps would go unnoticed otherwise.
    """
    entries, without = {}, []
    for name, now in counted.items():
        before = recorded.get(name)
        if before is None or now < before["instructions"]:
            entries[name] = {"instructions": now}
        elif now <= before["instructions"] * (1 + TOLERANCE):
            entries[name] = before
        elif reason:
            entries[name] = {"instructions": now, "reason": reason}
        else:
            without.append(f"  {name}: from {before['instructions']:,.1f} to {now:,.1f}")
    if without:
        raise SystemExit("raising a number needs its reason: --record --reason '...'\n" + "\n".join(without))
    return entries


def load() -> dict[str, Any]:
    if BASELINES.exists():
        document: dict[str, Any] = json.loads(BASELINES.read_text())
        return document
    return {"unit": "instructions an operation", "baselines": []}


def find(document: dict[str, Any], wanted: dict[str, str]) -> dict[str, Any] | None:
    return next((one for one in document["baselines"] if one["holds_for"] == wanted), None)


def record(counted: Counts, reason: str | None) -> None:
    document = load()
    baseline = find(document, here())
    if baseline is None:
        baseline = {"holds_for": here(), "counts": {}}
        document["baselines"].append(baseline)
    baseline["counts"] = updated(baseline["counts"], counted, reason)
    baseline["recorded_with"] = versions()
    BASELINES.write_text(json.dumps(document, indent=1) + "\n")
    print(f"{len(counted)} operations recorded in {BASELINES}")


def check(counted: Counts, partly: bool) -> int:
    document = load()
    baseline = find(document, here())
    if baseline is None:
        known = "\n".join(f"  {describe(one['holds_for'])}" for one in document["baselines"])
        print(f"nothing is recorded for {describe(here())}, only for\n{known}\nRecord it: {RECORD}")
        return 2 if CI else 0
    wrong, better = compare(counted, baseline["counts"])
    if not partly:
        wrong += [
            f"{name}: recorded, and no longer counted" for name in baseline["counts"] if name not in counted
        ]
    if better:
        print(f"More than {TOLERANCE:.0%} better: lower the numbers with {RECORD}")
        print("\n".join(f"  {line}" for line in better))
    if wrong:
        print(f"More than {TOLERANCE:.0%} worse, or not comparable:")
        print("\n".join(f"  {line}" for line in wrong))
        print(f"If that is the price of something: {RECORD} --reason '...', in the same commit.")
        print(f"Recorded with {baseline['recorded_with']}\nThis is       {versions()}")
    return 1 if wrong else 0


def describe(holds_for: dict[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in holds_for.items())


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--record", action="store_true", help="write what was counted")
    parser.add_argument("--reason", metavar="TEXT", help="why numbers rise")
    parser.add_argument(
        "--only", metavar="PART", default="", help="operations with that in their name; no --record"
    )
    options = parser.parse_args(arguments)
    if options.record and options.only:
        parser.error("--record takes all operations")
    return options


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    counted = count_all(name for name in OPERATIONS if options.only in name)
    for name, instructions in counted.items():
        print(f"{instructions:12,.1f}  {name}")
    if options.record:
        record(counted, options.reason)
        return 0
    return check(counted, partly=bool(options.only))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except CountingError as error:
        sys.exit(str(error))
