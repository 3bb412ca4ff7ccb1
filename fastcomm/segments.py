"""Where segments lie, which there are, and removing those that nobody uses."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from fastcomm._core.segment import Segment, inspect, remove_if_dead
from fastcomm._core.segment_file import file_name

DEFAULT_DIRECTORY = "/dev/shm"
_FILE = re.compile(r"fastcomm\.\d+\.[0-9a-f]{16}")
_DOORBELL = re.compile(rf"({_FILE.pattern})\.\d+\.\d+")


def segment_path(name: str, directory: str | os.PathLike[str] | None = None, uid: int | None = None) -> str:
    """The file of a segment.

    `directory` None: FASTCOMM_DIR, else /dev/shm. `uid`: its creator's, None for this process's.
    """
    return os.path.join(_folder(directory), file_name(name, uid))


def _folder(directory: str | os.PathLike[str] | None) -> str:
    return (
        os.fspath(directory) if directory is not None else os.environ.get("FASTCOMM_DIR") or DEFAULT_DIRECTORY
    )


@contextmanager
def entered(segment: Segment) -> Iterator[Segment]:
    """For a segment just opened, whose gate is ours: leave it at the end; if the block fails, close the
    segment too.
    """
    try:
        yield segment
    except BaseException:
        segment.leave_gate()
        segment.close()
        raise
    segment.leave_gate()


class SegmentInfo(NamedTuple):
    """A segment file. `problem` says why the rest could not be read, or is None. Sizes in bytes."""

    path: str
    name: str
    kind: str
    size: int
    resident: int
    participants: int
    alive: int
    problem: str | None


def list_segments(directory: str | os.PathLike[str] | None = None) -> list[SegmentInfo]:
    """The segments in a directory, of every user whose files can be read; disturbs nobody."""
    folder = _folder(directory)
    paths = (os.path.join(folder, entry) for entry in sorted(os.listdir(folder)) if _FILE.fullmatch(entry))
    return [SegmentInfo(**found) for found in map(inspect, paths) if found is not None]


def clean_segments(directory: str | os.PathLike[str] | None = None) -> list[str]:
    """Remove the segments whose participants are all dead, and their doorbell FIFOs, also those of segments
    that were unlinked before; returns the paths removed.

    Safe beside running programs: it takes each segment's gate, as everybody does who joins. Unread records of
    a ring go with it; RingBuffer.attach() would read them.
    """
    removed = [info.path for info in list_segments(directory) if remove_if_dead(info.path)]
    return removed + [path for path in _doorbells_of_none(_folder(directory)) if _remove_unread(path)]


def _doorbells_of_none(folder: str) -> list[str]:
    """FIFOs whose segment was unlinked: of agents that were killed after that."""
    names = set(os.listdir(folder))
    found = ((entry, _DOORBELL.fullmatch(entry)) for entry in sorted(names))
    return [os.path.join(folder, entry) for entry, match in found if match and match[1] not in names]


def _remove_unread(path: str) -> bool:
    """Remove a FIFO that no process has open for reading; its agent has it so while it lives."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW))
    except OSError as error:
        if error.errno == errno.ENXIO:
            os.unlink(path)
            return True
    return False
