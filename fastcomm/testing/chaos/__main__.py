"""python -m fastcomm.testing.chaos: see the package."""

import argparse
import os
import random
import sys

from fastcomm.testing import chaos
from fastcomm.testing.chaos.campaign import KINDS, Campaign, run
from fastcomm.testing.chaos.history import Violation
from fastcomm.testing.watchdog import Watchdog

SLACK = 600.0  # seconds that a campaign may take longer than it was given


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m fastcomm.testing.chaos",
        description=chaos.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=1.0, help="how long; the round that runs is ended")
    parser.add_argument("--seed", type=int, help="of the first round; a random one is printed")
    parser.add_argument("--what", choices=[*KINDS, "all"], default="all")
    parser.add_argument("--require-kills", type=int, default=0, metavar="N", help="fail if there were fewer")
    parser.add_argument(
        "--require-hooks", action="store_true", help="fail if nobody was killed at some fault hook"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    seed = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    campaign = Campaign(options.what, seed)
    seconds = options.minutes * 60
    build = "debug build" if campaign.with_hooks else "release build, fault hooks compiled out"
    print(f"chaos: {options.what}, seed {seed}, {options.minutes:g} minutes, {build}", flush=True)
    group = os.getpgrp() if os.getpgrp() == os.getpid() else None
    with Watchdog(seconds + SLACK, process_group=group):
        try:
            whole = run(campaign, seconds)
        except Violation as violation:
            print(campaign.summary())
            print(f"VIOLATION: {violation}", flush=True)
            return 1
    print(campaign.summary() if whole else f"interrupted\n{campaign.summary()}", flush=True)
    return 0 if not whole else verdict(campaign, options.require_kills, options.require_hooks)


def verdict(campaign: Campaign, kills: int, all_hooks: bool) -> int:
    """1 and a reason if less happened than was asked for."""
    problems = []
    if campaign.tally.kills < kills:
        problems.append(f"{campaign.tally.kills} kills, {kills} were required")
    if all_hooks and (never := campaign.never_killed_at()):
        problems.append(f"nobody was killed at {', '.join(never)}")
    for problem in problems:
        print(f"FAILED: {problem}", flush=True)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
