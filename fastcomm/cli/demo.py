"""``fastcomm demo``: 100 agents index the standard library's sources, checked against a plain count."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import click

from fastcomm.cli.indexing.corpus import Corpus, discover, standard_library
from fastcomm.cli.indexing.display import display
from fastcomm.cli.indexing.plan import FEWEST_AGENTS, split
from fastcomm.cli.indexing.report import Summary, as_text, summarise, verdict, verify
from fastcomm.cli.indexing.supervisor import Supervisor
from fastcomm.errors import FastCommError

EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


@click.command()
@click.option(
    "--agents", default=100, show_default=True, type=click.IntRange(FEWEST_AGENTS), help="Agent processes."
)
@click.option(
    "--corpus",
    "directory",
    type=click.Path(path_type=Path),
    help="Index the text and source files under this directory  [default: this Python's standard library]",
)
@click.option(
    "--kill", "kills", default=0, type=click.IntRange(0), help="Kill so many tokenizers on the way."
)
@click.option("--seed", default=1, show_default=True, help="Which tokenizers are killed, and when.")
@click.option("--live/--no-live", default=True, help="A live table, on a terminal; else a line a second.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON; progress goes to stderr.")
@click.option(
    "--lost-report",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write file:lines of everything that was lost with a killed tokenizer.",
)
def demo(
    agents: int,
    directory: Path | None,
    kills: int,
    seed: int,
    live: bool,
    as_json: bool,
    lost_report: Path | None,
) -> None:
    """Index the words of a real corpus with 100 agents, and prove the result.

    Readers address batches of lines to tokenizers, these send words to the owners of parts of the
    vocabulary, an aggregator collects the counts. The result must equal a plain single-process count, even
    when tokenizers are killed on the way: what was counted and what is reported lost must add up to it,
    word by word. Exits with 1 when it does not, or when an agent dies unasked.
    """
    try:
        with _terminated_as_exit():
            corpus = discover(directory) if directory else standard_library()
            summary = index(corpus, agents, kills, seed, live and not as_json, quiet=as_json)
    except FastCommError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        click.echo("fastcomm demo: interrupted; all agents ended", err=True)
        sys.exit(EXIT_INTERRUPTED)
    if lost_report:
        lost_report.write_text("".join(f"{line}\n" for line in summary.lost), encoding="utf-8")
    click.echo(json.dumps(summary.as_json(), indent=2) if as_json else "\n".join(as_text(summary)))
    if not summary.equal:
        click.echo(f"fastcomm demo: {verdict(summary)}", err=True)
        sys.exit(1)


def index(corpus: Corpus, agents: int, kills: int, seed: int, live: bool, quiet: bool = False) -> Summary:
    """One run, from the first process to the comparison. `quiet` keeps standard output for the result.

    Raises IndexingError when an agent dies unasked, fails, or nothing moves any more.
    """
    roles = split(agents)
    with display(live, sys.stderr if quiet else sys.stdout) as shown:
        with Supervisor(corpus, roles, kills, seed, shown) as supervisor:
            outcome = supervisor.run()
        supervisor.progress.phase = "verifying"
        verification = verify(corpus, outcome)
    return summarise(corpus, roles, outcome, supervisor.progress, verification)


@contextmanager
def _terminated_as_exit() -> Iterator[None]:
    """SIGTERM unwinds like an exception, so that the agents are ended and the segment is removed."""

    def leave(signum: int, frame: object) -> NoReturn:
        sys.exit(EXIT_TERMINATED)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(text: str) -> NoReturn:
    click.echo(f"fastcomm demo: {text}", err=True)
    sys.exit(1)
