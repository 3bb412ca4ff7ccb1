"""What /proc says of processes. One that ends while it is looked at has no children, text or open files."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

GONE = (FileNotFoundError, ProcessLookupError)


def read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except GONE:
        return ""


def links(directory: str) -> Iterator[tuple[str, str]]:
    """Name and target of each symbolic link in `directory`, as far as they may be read."""
    try:
        names = os.listdir(directory)
    except (*GONE, PermissionError):
        return
    for name in names:
        with contextlib.suppress(*GONE, PermissionError):
            yield name, os.readlink(f"{directory}/{name}")


def processes() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def descendants(pid: int) -> Iterator[int]:
    """Children of `pid`, and theirs, zombies included."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except GONE:
        return
    for task in tasks:
        for child in map(int, read(f"/proc/{pid}/task/{task}/children").split()):
            yield child
            yield from descendants(child)


def process_group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def describe(pid: int) -> str:
    """The pid, and the command line or what became of it."""
    state = read(f"/proc/{pid}/stat").rpartition(")")[2].split()[:1]
    if state == ["Z"]:
        return f"process {pid} (zombie: it ended and nobody waited for it)"
    command = read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()
    return f"process {pid} ({command or 'ended'})"
