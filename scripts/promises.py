"""Measure what fastcomm promises, and say of each promise whether this run keeps it; see docs/benchmarks.md.

    python scripts/promises.py                  all, about two minutes; build/promises.json
    python scripts/promises.py --only agents    those with that in their text

Exit status 1 if a promise was not kept, or could not be measured. The promises are absolute figures, so they
hold for a machine that has nothing else to do; `?` marks those that were measured while it had.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent
if str(SCRIPTS) not in sys.path:  # with PYTHONSAFEPATH set it is not
    sys.path.insert(0, str(SCRIPTS))

import bench  # noqa: E402
from benchlib import codec, delivery, load, peers_heap, report, throughput  # noqa: E402
from benchlib.channels import is_ours  # noqa: E402
from benchlib.contest import Contender, Contenders, Contest, Line, Prepare, Setting  # noqa: E402
from benchlib.footprint import CONTESTS as FOOTPRINT  # noqa: E402
from benchlib.method import Gate  # noqa: E402
from benchlib.processes import plan_placement  # noqa: E402


@dataclass(frozen=True)
class Promise:
    """A figure of one of our contenders, and what it must stay below, or above if more of it is better.

    `bound`: in the unit of the contest.
    """

    text: str
    contest: str
    contender: str
    bound: float
    statistic: str = ""


PROMISES = [
    Promise(
        f"ring: put and get of {throughput.ONE_THREAD_PAYLOAD} bytes", "ring put+get", "fastcomm ring", 5.0
    ),
    Promise("serialization: encode a message of 15 fields", "codec agent: encode", "fastcomm", 10_000),
    Promise("serialization: decode it", "codec agent: decode", "fastcomm", 10_000),
    Promise("events: emit to listener, 95 %", "event delivery", "fastcomm EventBus", 50.0, "p95"),
    Promise(f"PriorityQueue: put, at {peers_heap.QUEUED:,} items", "heap push", "fastcomm", 5000),
    Promise(f"PriorityQueue: get, at {peers_heap.QUEUED:,} items", "heap pop", "fastcomm", 5000),
    Promise("Queue: put and get", "queue put+get", "fastcomm Queue", 5.0),
    Promise(f"100 agents at {load.RATE:,} msg/s: 95 %", "bus agents at rate", "fastcomm bus", 1000.0, "p95"),
    Promise("100 agents: messages a second", "bus agents saturated", "fastcomm bus", 100_000),
    Promise("100 agents: memory", "memory of 100 agents", "fastcomm bus", 10.0, "joined"),
]


def contests() -> dict[str, Contest]:
    found = [
        *throughput.CONTESTS,
        *codec.contests(),
        *delivery.CONTESTS,
        *peers_heap.contests(),
        *load.CONTESTS,
        *FOOTPRINT,
    ]
    return {contest.name: contest for contest in found}


def ours_alone(contest: Contest) -> Contest:
    """Promises are about us; `make bench` and compare_peers.py have the others beside."""
    return replace(contest, prepare=without_others(contest.prepare))


def without_others(prepare: Prepare) -> Prepare:
    def alone(setting: Setting, stack: Any) -> Contenders:
        found = prepare(setting, stack)
        return [one for one in found if isinstance(one, Contender) and is_ours(one.name)]

    return alone


@dataclass(frozen=True)
class Verdict:
    """`line` None: it could not be measured, and is not kept."""

    promise: Promise
    contest: Contest
    line: Line | None

    @property
    def kept(self) -> bool:
        if self.line is None:
            return False
        median = self.line.summary.median
        return median > self.promise.bound if self.contest.more_is_better else median < self.promise.bound

    def cells(self) -> tuple[str, ...]:
        sign = ">" if self.contest.more_is_better else "<"
        return (
            self.promise.text,
            f"{sign} {report.number(self.promise.bound)} {self.contest.unit}",
            "not measured" if self.line is None else report.median_of(self.line),
            "kept" if self.kept else "NOT KEPT",
        )

    def as_json(self) -> dict[str, Any]:
        summary = self.line and self.line.summary
        return {
            "promise": self.promise.text,
            "bound": self.promise.bound,
            "better": "more" if self.contest.more_is_better else "less",
            "unit": self.contest.unit,
            "measured": summary and summary.median,
            "noisy": summary and summary.noisy,
            "kept": self.kept,
        }


def judge(promises: Sequence[Promise], known: dict[str, Contest], lines: Sequence[Line]) -> list[Verdict]:
    measured = {(line.contest.name, line.contender.name, line.statistic): line for line in lines}
    return [
        Verdict(
            promise,
            known[promise.contest],
            measured.get((promise.contest, promise.contender, promise.statistic)),
        )
        for promise in promises
    ]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only", metavar="PATTERN", action="append", help="part of a promise's text; may be given again"
    )
    parser.add_argument("--no-pin", action="store_true", help="leave processes where the kernel puts them")
    parser.add_argument(
        "--json", metavar="PATH", type=Path, default=SCRIPTS.parent / "build" / "promises.json"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    patterns = [pattern.lower() for pattern in options.only or [""]]
    promises = [one for one in PROMISES if any(pattern in one.text.lower() for pattern in patterns)]
    if not promises:
        print(*(one.text for one in PROMISES), sep="\n", file=sys.stderr)
        return 2
    known = contests()
    needed = dict.fromkeys(one.contest for one in promises)
    setting = Setting(plan_placement(not options.no_pin))
    gate = Gate()
    measured = bench.run_all([ours_alone(known[name]) for name in needed], setting, gate)
    verdicts = judge(promises, known, measured.lines)
    content = report.document(setting, gate, measured)
    report.write_json(options.json, {**content, "promises": [verdict.as_json() for verdict in verdicts]})
    print("\nwhat is promised, and what this run measured")
    report.print_aligned([("promise", "bound", "measured", ""), *(verdict.cells() for verdict in verdicts)])
    broken = sum(not verdict.kept for verdict in verdicts)
    print(f"\n{len(verdicts) - broken} of {len(verdicts)} promises kept; {options.json}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
