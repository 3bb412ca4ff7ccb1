"""Measure how far the CPUs of this machine are from each other, and write a plan; see docs/affinity.md.

    python scripts/tune_affinity.py                    all allowed CPUs; build/affinity.{toml,json,png}
    python scripts/tune_affinity.py --cores            one CPU of each core: a quarter of the pairs or less
    python scripts/tune_affinity.py --cpus 0-7,16      these
    python scripts/tune_affinity.py --quick            a second or so: does it run? The figures are poor

Two processes, each pinned to one CPU, send 64 bytes to and fro through two rings. Give it a quiet machine.
``Bus.join(cpus="build/affinity.toml")`` takes the plan. Exit status 2 if nothing can be measured here.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
if str(SCRIPTS) not in sys.path:  # with PYTHONSAFEPATH set it is not
    sys.path.insert(0, str(SCRIPTS))

from benchlib import matrix, plots, report  # noqa: E402
from benchlib.method import Gate, Summary  # noqa: E402
from benchlib.processes import WorkerError  # noqa: E402

from fastcomm import FastCommError  # noqa: E402
from fastcomm.affinity import AffinityProfile, Topology, format_cpus, parse_cpus, plan, topology  # noqa: E402

BUILD = SCRIPTS.parent / "build"
SCHEMA = 1  # of the JSON file


class CanNotTune(Exception):
    """The text is for the user."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--cpus", metavar="LIST", help="these, like 0-3,8, instead of all that are allowed")
    which.add_argument("--cores", action="store_true", help="one CPU of each core")
    parser.add_argument("--quick", action="store_true", help="few and short blocks: for seeing that it runs")
    parser.add_argument("--profile", metavar="PATH", type=Path, default=BUILD / "affinity.toml")
    parser.add_argument("--json", metavar="PATH", type=Path, default=BUILD / "affinity.json")
    parser.add_argument("--png", metavar="PATH", type=Path, default=BUILD / "affinity.png")
    parser.add_argument("--no-png", action="store_true", help="draw nothing; matplotlib is not needed then")
    return parser.parse_args(arguments)


def choose_cpus(options: argparse.Namespace, machine: Topology) -> list[int]:
    if options.cpus is not None:
        cpus = parse_cpus(options.cpus)
        if outside := set(cpus) - machine.allowed:
            raise CanNotTune(
                f"CPU {format_cpus(outside)} is not among those allowed here, {format_cpus(machine.allowed)}"
            )
    elif options.cores:
        cpus = [min(place) for place in plan("per-core", on=machine).places]
    else:
        cpus = [min(place) for place in plan("compact", on=machine).places]
    if len(cpus) < 2:
        raise CanNotTune(f"a distance needs two CPUs, and there is {format_cpus(cpus) or 'none'}")
    return cpus


def print_matrix(cpus: Sequence[int], rows: Sequence[Sequence[float]]) -> None:
    width = max(len(f"{value:.0f}") for row in rows for value in row) + 2
    print("one way, ns".ljust(12) + "".join(str(cpu).rjust(width) for cpu in cpus))
    for cpu, row in zip(cpus, rows, strict=True):
        figures = (f"{value:.0f}" if value else "-" for value in row)
        print(f"CPU {cpu}".ljust(12) + "".join(figure.rjust(width) for figure in figures))


def tune(options: argparse.Namespace) -> None:
    machine = topology()
    cpus = choose_cpus(options, machine)
    if not options.no_png:
        plots.check()
    effort = matrix.QUICK if options.quick else matrix.FULL
    print(f"{len(cpus) * (len(cpus) - 1) // 2} pairs of CPUs, {effort.rounds} blocks each or more")
    started = time.monotonic()
    summaries = matrix.measure(cpus, effort, Gate())
    latency = {pair: summary.median for pair, summary in summaries.items()}
    ranking = matrix.orders(cpus, latency, machine)
    places = tuple(frozenset({cpu}) for cpu in ranking[0].cpus)
    profile = AffinityProfile.of(machine, places, tuple(cpus), matrix.matrix_of(cpus, latency))
    print(profile.machine)
    print_matrix(cpus, profile.one_way_ns)
    write(options, profile, ranking, summaries)
    print(f"{time.monotonic() - started:.0f} s; {count_noisy(summaries)} pairs had no quiet block")
    for order in ranking:
        print(f"  {order.name:<9}{order.mean_ns:8.0f} ns on average among the first of {head(order.cpus)}")
    print(f"recommended: {ranking[0].name}; Bus.join(cpus={str(options.profile)!r}) uses it")


def count_noisy(summaries: "dict[matrix.Pair, Summary]") -> int:
    return sum(summary.noisy for summary in summaries.values())


def head(cpus: Sequence[int]) -> str:
    return ", ".join(map(str, cpus[:12])) + (", ..." if len(cpus) > 12 else "")


def write(
    options: argparse.Namespace,
    profile: AffinityProfile,
    ranking: Sequence[matrix.Order],
    summaries: "dict[matrix.Pair, Summary]",
) -> None:
    """The profile, the JSON file and the picture."""
    options.profile.parent.mkdir(parents=True, exist_ok=True)
    profile.write(options.profile)
    content = {
        "schema": SCHEMA,
        "machine": report.machine(),
        "topology": profile.machine,
        "fingerprint": profile.fingerprint,
        "quick": options.quick,
        "pairs": [
            {"cpus": pair, "one_way_ns": one.median, "spread": [one.low, one.high], "noisy": one.noisy}
            for pair, one in summaries.items()
        ],
        "orders": [vars(order) for order in ranking],
        "recommended": ranking[0].name,
    }
    report.write_json(options.json, content)
    if not options.no_png:
        plots.heat_map(options.png, profile.machine, profile.cpus, profile.one_way_ns)


def main(arguments: Sequence[str]) -> int:
    try:
        tune(parse(arguments))
    except (
        CanNotTune,
        FastCommError,
        matrix.NotPinnedError,
        plots.NoPlotsError,
        WorkerError,
        OSError,
    ) as failed:
        print(f"tune_affinity: {failed}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
