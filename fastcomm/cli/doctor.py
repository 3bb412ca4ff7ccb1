"""``fastcomm doctor``: what is stuck, who holds it up, and what to do."""

import json
import sys

import click

from fastcomm.doctor import LOOK_SECONDS, Checkup, check_up

EXIT_FOUND = 1
EXIT_NO_SUCH = 2


@click.command()
@click.argument("name", metavar="[BUS]", required=False)
@click.option("--directory", help="Where to look  [default: $FASTCOMM_DIR, else /dev/shm]")
@click.option(
    "--seconds",
    default=LOOK_SECONDS,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Between the two looks: what stands still for so long is told.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def doctor(name: str | None, directory: str | None, seconds: float, as_json: bool) -> None:
    """Say what is stuck in a bus, ring or queue, or in all of this user, who holds it up, and what to do.

    Disturbs nobody and waits for nobody: it reads, twice, and tells what did not move. Exits with 0 when all
    is healthy, 1 when something was found, 2 when there is no such segment.
    """
    checkups = check_up(name, directory=directory, seconds=seconds)
    if name is not None and not checkups:
        click.echo(f"fastcomm doctor: there is no bus, ring or queue named {name!r}", err=True)
        sys.exit(EXIT_NO_SUCH)
    if as_json:
        click.echo(json.dumps([_as_json(checkup) for checkup in checkups], indent=2))
    else:
        click.echo("\n".join(map(_as_text, checkups)) if checkups else "no segments")
    if any(checkup.findings for checkup in checkups):
        sys.exit(EXIT_FOUND)


def _as_json(checkup: Checkup) -> dict[str, object]:
    return {**checkup._asdict(), "findings": [finding._asdict() for finding in checkup.findings]}


def _as_text(checkup: Checkup) -> str:
    state = "" if checkup.findings else "; healthy"
    lines = [f"{checkup.kind or 'segment'} {checkup.name or '?'} ({checkup.path}): {checkup.summary}{state}"]
    for finding in checkup.findings:
        lines += [f"  {finding.what}", f"    -> {finding.advice}"]
    return "\n".join(lines)
