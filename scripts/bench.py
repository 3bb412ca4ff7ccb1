"""Measure fastcomm beside the standard library and plain C, in the same run; see docs/benchmarks.md.

    python scripts/bench.py                     all, several minutes; build/bench.json
    python scripts/bench.py --quick             all, about 30 s: do they still run?
    python scripts/bench.py --only 'ring 1:1'   those whose name has that in it; --list shows the names

Exit status 1 if a benchmark failed or nothing was measured.
"""

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
if str(SCRIPTS) not in sys.path:  # with PYTHONSAFEPATH set it is not
    sys.path.insert(0, str(SCRIPTS))

from benchlib import delivery, footprint, latency, limits, load, report, throughput  # noqa: E402
from benchlib.contest import Contest, Line, Setting, Skipped, run_contest  # noqa: E402
from benchlib.method import Gate  # noqa: E402
from benchlib.processes import plan_placement  # noqa: E402

CONTESTS = [*throughput.CONTESTS, *latency.CONTESTS, *delivery.CONTESTS, *load.CONTESTS, *footprint.CONTESTS]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few and short blocks: for seeing that all runs")
    parser.add_argument(
        "--only", metavar="PATTERN", action="append", help="part of a name; may be given again"
    )
    parser.add_argument("--no-pin", action="store_true", help="leave processes where the kernel puts them")
    parser.add_argument("--json", metavar="PATH", type=Path, default=SCRIPTS.parent / "build" / "bench.json")
    parser.add_argument("--list", action="store_true", help="print the names of the benchmarks")
    return parser.parse_args(arguments)


def choose(patterns: Sequence[str] | None) -> list[Contest]:
    wanted = [pattern.lower() for pattern in patterns or [""]]
    return [contest for contest in CONTESTS if any(pattern in contest.name.lower() for pattern in wanted)]


def run_all(contests: Sequence[Contest], setting: Setting, gate: Gate) -> report.Report:
    """Prints tables as it goes on."""
    lines: list[Line] = []
    skipped: list[Skipped] = []
    failed: dict[str, str] = {}
    distances: dict[str, list[float | None]] = {}
    for contest in contests:
        try:
            far_before = limits.core_to_core_ns(setting.placement)
            result = run_contest(contest, setting, gate)
            far_after = limits.core_to_core_ns(setting.placement)
        except Exception:
            failed[contest.name] = traceback.format_exc()
            print(f"\n{contest.name}: FAILED\n{failed[contest.name]}", file=sys.stderr, flush=True)
            continue
        lines += result.lines
        skipped += result.skipped
        distances[contest.name] = [far_before, far_after]
        if result.lines:
            report.print_table(f"{contest.name}: {contest.measured}", result.lines)
        if far_before and far_after:
            print(f"  core to core: {far_before:.0f} ns before, {far_after:.0f} ns after", flush=True)
        for skip in result.skipped:
            print(f"  skipped: {skip.name}: {skip.reason}", flush=True)
    return report.Report(lines, skipped, failed, distances)


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    contests = choose(options.only)
    if options.list or not contests:
        print(
            "\n".join(contest.name for contest in CONTESTS), file=sys.stdout if options.list else sys.stderr
        )
        return 0 if options.list else 2
    setting = Setting(plan_placement(not options.no_pin), options.quick)
    gate = Gate()
    measured = run_all(contests, setting, gate)
    report.write_json(options.json, report.document(setting, gate, measured))
    failed = f"{len(measured.failed)} of {len(contests)} benchmarks failed"
    print(f"\n{len(measured.lines)} lines in {options.json}; {failed}")
    return 1 if measured.failed or not measured.lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
