"""What fastcomm has for one process, beside what else there is, in the same run.

cd scripts && python -m benchlib.inprocess [--quick]
"""

import sys
from collections.abc import Sequence

from benchlib import peers_events, peers_heap, report
from benchlib.contest import Contest, Setting, run_contest
from benchlib.method import Gate
from benchlib.processes import plan_placement


def contests() -> list[Contest]:
    return [*peers_heap.contests(), *peers_events.contests()]


def main(arguments: Sequence[str]) -> None:
    setting = Setting(plan_placement(True), "--quick" in arguments)
    gate = Gate()
    for contest in contests():
        result = run_contest(contest, setting, gate)
        report.print_table(f"{contest.name}: {contest.measured}", result.lines)
        for skip in result.skipped:
            print(f"  skipped: {skip.name}: {skip.reason}")


if __name__ == "__main__":
    main(sys.argv[1:])
