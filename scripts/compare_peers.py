"""Measure a part of fastcomm beside the libraries that one would take instead, in the same run.

    python scripts/compare_peers.py bus                 15 minutes or more; build/compare_bus.json
    python scripts/compare_peers.py calls               a request and its answer: half a minute
    python scripts/compare_peers.py codec               about 6 minutes; build/compare_codec.json
    python scripts/compare_peers.py codec --quick       do they still run?
    python scripts/compare_peers.py codec --only seed   those with that in their name; --list shows them
    python scripts/compare_peers.py codec --markdown    ends with the table that docs/wire.md has
    python scripts/compare_peers.py inprocess           SubjectRegistry, EventBus, PriorityQueue: about 4

The method is that of scripts/bench.py (docs/benchmarks.md). Peers: pip install 'fastcomm[peers]'; one that is
not installed is reported as skipped. Exit status 1 if a benchmark failed or nothing was measured.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
if str(SCRIPTS) not in sys.path:  # with PYTHONSAFEPATH set it is not
    sys.path.insert(0, str(SCRIPTS))

import bench  # noqa: E402
from benchlib import codec, peers_bus, peers_calls, peers_events, peers_heap, peers_subjects, report, structs  # noqa: E402
from benchlib.contest import Contest, Setting  # noqa: E402
from benchlib.method import Gate  # noqa: E402
from benchlib.processes import plan_placement  # noqa: E402

GROUPS: dict[str, Callable[[], list[Contest]]] = {
    "bus": peers_bus.contests,
    "calls": peers_calls.contests,
    "codec": lambda: [*codec.contests(), *structs.contests()],
    "inprocess": lambda: [*peers_subjects.contests(), *peers_events.contests(), *peers_heap.contests()],
}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("group", choices=sorted(GROUPS))
    parser.add_argument("--quick", action="store_true", help="few and short blocks: for seeing that all runs")
    parser.add_argument(
        "--only", metavar="PATTERN", action="append", help="part of a name; may be given again"
    )
    parser.add_argument("--no-pin", action="store_true", help="leave the process where the kernel puts it")
    parser.add_argument("--json", metavar="PATH", type=Path)
    parser.add_argument("--markdown", action="store_true", help="end with one table, for the documentation")
    parser.add_argument("--list", action="store_true", help="print the names of the benchmarks")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    patterns = [pattern.lower() for pattern in options.only or [""]]
    contests = [
        contest
        for contest in GROUPS[options.group]()
        if any(pattern in contest.name.lower() for pattern in patterns)
    ]
    if options.list or not contests:
        print(*(contest.name for contest in contests), sep="\n")
        return 0 if options.list else 2
    setting = Setting(plan_placement(not options.no_pin), options.quick)
    gate = Gate()
    measured = bench.run_all(contests, setting, gate)
    path = options.json or SCRIPTS.parent / "build" / f"compare_{options.group}.json"
    report.write_json(path, report.document(setting, gate, measured))
    if options.markdown:
        print("\n" + report.markdown(measured.lines))
    failed = f"{len(measured.failed)} of {len(contests)} benchmarks failed"
    print(f"\n{len(measured.lines)} lines in {path}; {failed}")
    return 1 if measured.failed or not measured.lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
