"""Try plans, spins and inbox sizes for so many agents at such a rate, and recommend; see docs/affinity.md.

    python scripts/tune_agents.py --agents 100 --rate 10000 --size 256     about 2 minutes
    python scripts/tune_agents.py --plans none,scatter --spins 0,50 --inboxes 32768,131072
    python scripts/tune_agents.py --quick                                  does it run? The figures are poor

Each agent is a process that sends to random others; a message counts from when it was meant to be sent.
Blocks of all settings take turns. Writes build/agents.json and .png. Exit status 2 if nothing is measured.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
if str(SCRIPTS) not in sys.path:  # with PYTHONSAFEPATH set it is not
    sys.path.insert(0, str(SCRIPTS))

from benchlib import agents, plots, report  # noqa: E402
from benchlib.method import Gate, Summary  # noqa: E402
from benchlib.processes import WorkerError  # noqa: E402

from fastcomm import AffinityProfileError, FastCommError  # noqa: E402
from fastcomm.affinity import plan  # noqa: E402

BUILD = SCRIPTS.parent / "build"
SCHEMA = 1  # of the JSON file
Found = dict[agents.Knobs, dict[str, Summary]]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--agents", metavar="N", type=int, default=100)
    parser.add_argument(
        "--rate", metavar="N", type=float, default=10_000, help="messages a second, of all agents"
    )
    parser.add_argument("--size", metavar="BYTES", type=int, default=256, help="of a message, 8 or more")
    parser.add_argument("--plans", metavar="A,B", default="none,per-cache,scatter", help="names, or profiles")
    parser.add_argument("--spins", metavar="US,US", type=numbers, default="0,50", help="microseconds")
    parser.add_argument("--inboxes", metavar="BYTES,BYTES", type=numbers, default="32768")
    parser.add_argument("--seconds", metavar="S", type=float, default=1.0, help="of a block")
    parser.add_argument("--rounds", metavar="N", type=int, default=5, help="blocks of each setting")
    parser.add_argument("--quick", action="store_true", help="few agents, short blocks, two settings")
    parser.add_argument("--json", metavar="PATH", type=Path, default=BUILD / "agents.json")
    parser.add_argument("--png", metavar="PATH", type=Path, default=BUILD / "agents.png")
    parser.add_argument("--no-png", action="store_true", help="draw nothing; matplotlib is not needed then")
    options = parser.parse_args(arguments)
    if options.quick:
        options.agents, options.rate, options.seconds, options.rounds = 4, 400, 0.2, 1
        options.plans, options.spins = "none,scatter", options.spins[:1]
    for name, least in (("agents", 2), ("rate", 1), ("size", 8), ("seconds", 0.05), ("rounds", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name} is {getattr(options, name):g}; it must be at least {least}")
    try:
        for name in options.plans.split(","):
            plan(name, options.agents)
    except (ValueError, AffinityProfileError) as unknown:
        parser.error(f"--plans: {unknown}")
    return options


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def print_table(found: Found) -> None:
    width = max(len(str(knobs)) for knobs in found)
    print(
        "\n"
        + "setting".ljust(width)
        + "".join(name.rjust(10) for name in ("p50 us", "p95 us", "p99 us", "CPU %"))
    )
    for knobs, figures in found.items():
        cells = (report.number(one.median) + ("?" if one.noisy else "") for one in figures.values())
        print(str(knobs).ljust(width) + "".join(cell.rjust(10) for cell in cells))


def as_json(options: argparse.Namespace, found: Found, chosen: agents.Knobs) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "machine": report.machine(),
        "load": {
            "agents": options.agents,
            "rate": options.rate,
            "size": options.size,
            "seconds": options.seconds,
        },
        "quick": options.quick,
        "settings": [
            {**vars(knobs), "figures": {name: vars(one) for name, one in figures.items()}}
            for knobs, figures in found.items()
        ],
        "recommended": vars(chosen),
    }


def tune(options: argparse.Namespace) -> None:
    if not options.no_png:
        plots.check()
    tried = [
        agents.Knobs(*values)
        for values in itertools.product(options.plans.split(","), options.spins, options.inboxes)
    ]
    load = agents.Load(options.agents, options.rate, options.size, options.seconds)
    title = f"{load.agents} agents, {load.rate:g} messages a second in all, {load.size} bytes"
    print(f"{title}; {len(tried)} settings, {options.rounds} blocks each or more", flush=True)
    found = agents.sweep(load, tried, options.rounds, Gate())
    print_table(found)
    chosen = agents.recommend(found)
    print(f"\nrecommended: Bus.open(inbox_bytes={chosen.inbox_bytes}), join(cpus={chosen.plan!r}, "
          f"spin_us={chosen.spin_us})\n(the least CPU of those within 10 % of the best p95)")  # fmt: skip
    report.write_json(options.json, as_json(options, found, chosen))
    if not options.no_png:
        medians = [{name: one.median for name, one in figures.items()} for figures in found.values()]
        plots.settings_bars(options.png, title, [str(knobs) for knobs in found], medians)


def main(arguments: Sequence[str]) -> int:
    try:
        tune(parse(arguments))
    except (plots.NoPlotsError, WorkerError, FastCommError, ValueError, OSError) as failed:
        print(f"tune_agents: {failed}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
