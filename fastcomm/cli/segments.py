"""``fastcomm ls`` and ``fastcomm clean``: the segments of this user, and removing those that nobody uses."""

import json
import os
from collections.abc import Sequence

import click

from fastcomm.segments import SegmentInfo, clean_segments, list_segments

_HEADS = ("name", "kind", "size", "resident", "alive", "participants", "file")


@click.command(name="ls")
@click.option("--directory", help="Where to look  [default: $FASTCOMM_DIR, else /dev/shm]")
@click.option("--all", "everybody", is_flag=True, help="Segments of other users too, where they can be read.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list; sizes in bytes.")
def ls(directory: str | None, everybody: bool, as_json: bool) -> None:
    """List the segments of this user: name, kind, sizes in bytes, live participants."""
    found = [info for info in list_segments(directory) if everybody or _is_ours(info)]
    if as_json:
        click.echo(json.dumps([info._asdict() for info in found], indent=2))
        return
    rows = [_row(info) for info in found]
    click.echo("\n".join(_aligned([_HEADS, *rows])) if rows else "no segments")


@click.command()
@click.option("--directory", help="Where to look  [default: $FASTCOMM_DIR, else /dev/shm]")
def clean(directory: str | None) -> None:
    """Remove the segments whose participants are all dead. Safe beside running programs."""
    removed = clean_segments(directory)
    click.echo("\n".join(f"removed {path}" for path in removed) if removed else "nothing to remove")


def _is_ours(info: SegmentInfo) -> bool:
    try:
        return os.stat(info.path).st_uid == os.getuid()
    except FileNotFoundError:
        return False


def _row(info: SegmentInfo) -> tuple[str, ...]:
    if info.problem:
        return (info.name or "?", info.kind or "?", f"{info.size:,}", "", "", info.problem, info.path)
    numbers = (f"{info.size:,}", f"{info.resident:,}", str(info.alive), str(info.participants))
    return (info.name, info.kind, *numbers, info.path)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
