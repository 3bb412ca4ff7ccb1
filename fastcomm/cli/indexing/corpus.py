"""Which files are indexed, what a word is, and how a text is cut into batches without cutting a word.

A **word** is a run of letters, digits and underscores (``\\w``, Unicode); a run of more than 64 is cut
every 64 characters, so that one word always fits in a message. Files are read as bytes and decoded as UTF-8
with undecodable bytes replaced, so any corpus works.
"""

import os
import re
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from fastcomm.cli.indexing import IndexingError

LONGEST_WORD: Final = 64
WORD: Final = re.compile(rf"\w{{1,{LONGEST_WORD}}}")

PYTHON_SUFFIXES: Final = frozenset({".py"})
_PROSE: Final = {".txt", ".md", ".rst", ".html"}
_SOURCES: Final = {
    ".pyi",
    ".pyx",
    ".pxd",
    ".c",
    ".h",
    ".cc",
    ".cpp",
    ".hpp",
    ".rs",
    ".go",
    ".java",
    ".js",
    ".ts",
}
TEXT_SUFFIXES: Final = PYTHON_SUFFIXES | _PROSE | _SOURCES
_SKIPPED_DIRECTORIES: Final = frozenset({"site-packages", "dist-packages", "__pycache__"})


@dataclass(frozen=True, slots=True)
class Corpus:
    """The files of one run, in a fixed order; `sizes` are their bytes when they were listed."""

    root: str
    paths: tuple[str, ...]
    sizes: tuple[int, ...]
    unreadable: int

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self.sizes)


class Piece(NamedTuple):
    """Characters [start, end) of a text, with the lines (from 1) that they lie in."""

    start: int
    end: int
    first_line: int
    last_line: int


def standard_library() -> Corpus:
    """The .py files of this interpreter's standard library, without site-packages."""
    return discover(Path(sysconfig.get_paths()["stdlib"]), PYTHON_SUFFIXES)


def discover(root: Path, suffixes: frozenset[str] = TEXT_SUFFIXES) -> Corpus:
    """List the files under `root` with one of `suffixes`, without hidden and installed-package directories.

    Files that may not be read are left out and counted. Raises IndexingError when nothing is left.
    """
    if not root.is_dir():
        raise IndexingError(f"{root} is not a directory; give one with --corpus")
    found, unreadable = [], 0
    for path in _walk(root):
        if os.path.splitext(path)[1].lower() not in suffixes or not os.path.isfile(path):
            continue
        if os.access(path, os.R_OK):
            found.append(path)
        else:
            unreadable += 1
    if not found:
        raise IndexingError(
            f"{root} holds no readable file ending in {' '.join(sorted(suffixes))};"
            f" {unreadable} can't be read"
        )
    return Corpus(str(root), tuple(found), tuple(map(os.path.getsize, found)), unreadable)


def _walk(root: Path) -> Iterator[str]:
    for directory, subdirectories, names in os.walk(root):
        subdirectories[:] = sorted(
            name for name in subdirectories if name not in _SKIPPED_DIRECTORIES and not name.startswith(".")
        )
        for name in sorted(names):
            yield os.path.join(directory, name)


def read_text(path: str) -> str:
    """The text of one file. Raises OSError when it can't be read."""
    with open(path, "rb") as file:
        return file.read().decode("utf-8", errors="replace")


def pieces(text: str, limit: int) -> Iterator[Piece]:
    """Cut `text` into pieces of whole lines, at most `limit` bytes of UTF-8; longer lines are cut inside.

    The words of all pieces are the words of the text: newlines are not part of words, and `_cuts` keeps the
    rest.
    """
    ascii_only = text.isascii()
    start = position = size = 0
    first_line = 1
    for number, line in enumerate(text.split("\n"), 1):
        line_size = 1 + (len(line) if ascii_only else len(line.encode()))
        if size + line_size > limit:
            if position > start:
                yield Piece(start, position, first_line, number - 1)
            start, first_line, size = position, number, 0
        end = position + len(line)
        if line_size > limit:
            for cut in _cuts(text, start, end, limit if ascii_only else limit // 4):
                yield Piece(start, cut, number, number)
                start = cut
            size = limit
        position = min(end + 1, len(text))
        size += line_size
    if position > start:
        yield Piece(start, position, first_line, text.count("\n", 0, position) + 1 - text.endswith("\n"))


def _cuts(text: str, start: int, end: int, width: int) -> Iterator[int]:
    """Where to cut text[start:end] so that no part is longer than `width` (> LONGEST_WORD) characters.

    `WORD` looks at nothing outside its match, so a text may be cut wherever a match begins or between
    matches.
    """
    while end - start > width:
        cut = start + width
        words = list(WORD.finditer(text, start, cut))
        if words and words[-1].end() == cut:  # perhaps only the beginning of a word
            cut = words[-1].start()
        yield cut
        start = cut


def deal(corpus: Corpus, hands: int) -> list[list[int]]:
    """Split the file numbers into `hands` lists of about equal bytes: largest first, to the lightest hand."""
    dealt: list[list[int]] = [[] for _ in range(hands)]
    weights = [0] * hands
    for number in sorted(range(len(corpus.paths)), key=lambda n: -corpus.sizes[n]):
        lightest = weights.index(min(weights))
        dealt[lightest].append(number)
        weights[lightest] += corpus.sizes[number]
    return dealt


def count_words(corpus: Corpus, between_files: Callable[[], None] = lambda: None) -> Counter[str]:
    """The plain count in this one process: the truth that the agents' result is held against."""
    counts: Counter[str] = Counter()
    for path in corpus.paths:
        counts.update(WORD.findall(read_text(path)))
        between_files()
    return counts
