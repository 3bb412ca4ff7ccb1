"""Check that every memory order of the core says what it is for: ``python scripts/check_sync_points.py``.

An ordered access is a call of an fc_atomics.h function whose name ends in acquire, release, acqrel or seqcst.
Right above its line stands a comment with the sync points that it is an end of:

    # SYNC record-committed (release), wake-up (B): a reason, if there is one to give
    # NO SYNC: why it has an order and no other end

Ends are `release` and `acquire`; or `A` and `B`, where both sides first write, then look, and all four
accesses are seq_cst. An access names exactly the ends that its order is needed for: each half of acquire
and release, and for seq_cst an A or B. Every sync point has both of its ends in the code, a row in the
table of _core/README.md, and for each access that is an end of it a row in docs/verification.md: what turns
red without that order.
"""

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
CORE = Path("fastcomm/_core")
README = CORE / "README.md"
VERIFICATION = Path("docs/verification.md")
MODELS = Path("tests/model/run.py")
DEFINITIONS = ("atomics.pxd", "fc_atomics.h", "fc_mutants.h")  # of the accesses themselves

ACCESS = re.compile(r"\bfc_\w+?_(acquire|release|acqrel|seqcst)_u(?:32|64)\(")
FUNCTION = re.compile(r"^(\s*)(?:cdef|cpdef|def|static inline)\b[^=(]*?\b(\w+)\(")
SYNC = re.compile(r"(?<!NO )SYNC ([\w-]+ \(\w+\)(?:, [\w-]+ \(\w+\))*)")
NO_SYNC = re.compile(r"NO SYNC: \S")
MENTION = re.compile(r"(?<!NO )\bSYNC ([a-z][\w-]*)")
NEEDED = {"acquire": {"acquire"}, "release": {"release"}, "acqrel": {"acquire", "release"}, "seqcst": set()}
ORDERS = ("release", "acquire")
LOOKS = ("A", "B")
NO_POINT = "none"


class End(NamedTuple):
    """One end of a sync point; what a mutant leaves out. `point` is NO_POINT for a NO SYNC."""

    point: str
    end: str
    site: str  # module.function

    def __str__(self) -> str:
        return f"{self.point} ({self.end}) in {self.site}"


class Place(NamedTuple):
    path: Path
    line: int  # from 1

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


class Row(NamedTuple):
    """Of docs/verification.md. `caught`: "TSan", "model" or "argued"; `by`: which pair, model; why."""

    end: End
    caught: str
    by: str


class Problem(NamedTuple):
    place: Place
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


# ---- what is in the sources


def sources(root: Path) -> list[Path]:
    found = [path for pattern in ("*.pyx", "*.pxd", "include/*.h") for path in (root / CORE).glob(pattern)]
    return sorted(path.relative_to(root) for path in found if path.name not in DEFINITIONS)


def comment_above(lines: list[str], line: int) -> tuple[str, range]:
    """The block of comment lines right above `line`, as one text; and the lines that it takes."""
    first = line
    while first > 1 and lines[first - 2].lstrip().startswith(("#", "/*", "*", "//")):
        first -= 1
    block = range(first, line)
    return " ".join(lines[number - 1].strip(" #/*") for number in block), block


def function_around(lines: list[str], line: int) -> str:
    indent = len(lines[line - 1]) - len(lines[line - 1].lstrip())
    for text in reversed(lines[: line - 1]):
        found = FUNCTION.match(text)
        if found and len(found[1]) < indent:
            return found[2]
    return "?"


def split_ends(text: str) -> list[tuple[str, str]]:
    return [
        (point, end)
        for group in SYNC.findall(text)
        for point, end in re.findall(r"([\w-]+) \((\w+)\)", group)
    ]


def problems_of_access(order: str, text: str) -> Iterator[str]:
    """What the comment of an access of that order lacks, or has too much."""
    if NO_SYNC.search(text):
        return
    named = {end for _, end in split_ends(text)}
    allowed = NEEDED[order] if order != "seqcst" else {*ORDERS, *LOOKS}
    if not named:
        yield f"{order} access without a comment `SYNC name (end)` or `NO SYNC: reason` right above it"
        return
    if extra := sorted(named - allowed):
        yield f"a {order} access can't be the {' or '.join(extra)} end of a sync point"
    if missing := sorted(NEEDED[order] - named):
        yield f"no sync point for the {' and '.join(missing)} of this access: name one, or weaken it"
    if order == "seqcst" and not named & set(LOOKS):
        yield "seq_cst, and the A or B end of no sync point: name one, or weaken it"


def ends_in(path: Path, text: str) -> tuple[dict[End, Place], list[Problem]]:
    """Every end of a sync point in one source."""
    found: dict[End, Place] = {}
    problems: list[Problem] = []
    lines = text.splitlines()
    explained: set[int] = set()
    for line, code in enumerate(lines, 1):
        accesses = ACCESS.findall(code.partition("#")[0])
        if not accesses:
            continue
        place = Place(path, line)
        comment, block = comment_above(lines, line)
        explained.update(block)
        if len(accesses) > 1:
            problems.append(Problem(place, "two ordered accesses on one line: a mutant could not tell them"))
        problems += [Problem(place, problem) for problem in problems_of_access(accesses[0], comment)]
        site = f"{path.stem}.{function_around(lines, line)}"
        ends = split_ends(comment) or [(NO_POINT, end) for end in sorted(NEEDED[accesses[0]])]
        for end in (End(*named, site) for named in ends):
            if end in found:
                problems.append(Problem(place, f"{end} twice: give one of them a function of its own"))
            found[end] = place
    for line, code in enumerate(lines, 1):
        if re.search(r"(?:#|/\*|//).*\bSYNC\b", code) and line not in explained:
            problems.append(Problem(Place(path, line), "this SYNC stands right above no ordered access"))
    return found, problems


# ---- what is in the tables


def table_rows(text: str, heading: str) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of the rows under a heading, without the two lines of the table's own head."""
    seen = 0
    inside = False
    for line, code in enumerate(text.splitlines(), 1):
        if code.startswith("#"):
            inside, seen = code.strip("# ") == heading, 0
        elif inside and code.startswith("|"):
            seen += 1
            if seen > 2:
                yield line, [cell.strip() for cell in code.strip("|").split("|")]


def points_of_readme(text: str) -> dict[str, Place]:
    return {cells[0].strip("`"): Place(README, line) for line, cells in table_rows(text, "Sync points")}


def rows_of_verification(text: str) -> tuple[dict[End, Row], list[Problem]]:
    rows: dict[End, Row] = {}
    problems = []
    for line, cells in table_rows(text, "The orders, one by one"):
        place = Place(VERIFICATION, line)
        caught, colon, by = cells[-1].partition(": ")
        if len(cells) != 4 or not colon or caught not in ("TSan", "model", "argued"):
            form = (
                "| `point` | end | `module.function` | TSan: scenario, or model: NAME FLAGS, or argued: why |"
            )
            problems.append(Problem(place, f"a row has the form {form}"))
            continue
        end = End(cells[0].strip("`"), cells[1], cells[2].strip("`"))
        if end in rows:
            problems.append(Problem(place, f"{end} has two rows"))
        rows[end] = Row(end, caught, by.strip("`"))
        if caught == "TSan" and end.end in LOOKS:
            problems.append(Problem(place, "TSan can't see what seq_cst adds: this needs a model"))
    return rows, problems


def broken_models(root: Path) -> set[str]:
    command = [sys.executable, str(root / MODELS), "--list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    return {line for line in listed.stdout.splitlines() if " " in line}


# ---- the checks


def one_sided(ends: dict[End, Place]) -> Iterator[Problem]:
    points: dict[str, dict[str, Place]] = {}
    for end, place in ends.items():
        if end.point != NO_POINT:
            points.setdefault(end.point, {})[end.end] = place
    for point, places in points.items():
        if set(places) not in ({*ORDERS}, {*LOOKS}):
            place = next(iter(places.values()))
            yield Problem(place, f"{point} has the ends {sorted(places)}: it needs {ORDERS} or {LOOKS}")


def unlisted(ends: dict[End, Place], listed: dict[str, Place]) -> Iterator[Problem]:
    used = {end.point: place for end, place in ends.items() if end.point != NO_POINT}
    for point, place in used.items():
        if point not in listed:
            yield Problem(place, f"{point} has no row in {README}")
    for point, place in listed.items():
        if point not in used:
            yield Problem(place, f"{point} has no end in the code")


def unverified(ends: dict[End, Place], rows: dict[End, Row], models: Iterable[str]) -> Iterator[Problem]:
    table = Place(VERIFICATION, 1)
    for end, place in ends.items():
        if end not in rows:
            yield Problem(place, f"{end} has no row in {VERIFICATION}")
    for end, row in rows.items():
        if end not in ends:
            yield Problem(table, f"{end} is not in the code")
        if row.caught == "model" and row.by not in models:
            yield Problem(table, f"{end}: {MODELS} has no broken variant {row.by!r}")


def misspelt(path: Path, text: str, points: Iterable[str]) -> Iterator[Problem]:
    """Sync points that prose speaks of and nobody knows."""
    for line, code in enumerate(text.splitlines(), 1):
        for point in MENTION.findall(code):
            if point not in points:
                yield Problem(Place(path, line), f"there is no sync point {point!r}")


def ends_of_core(root: Path) -> tuple[dict[End, Place], list[Problem]]:
    ends: dict[End, Place] = {}
    problems: list[Problem] = []
    for path in sources(root):
        found, wrong = ends_in(path, (root / path).read_text())
        problems += wrong
        problems += [Problem(found[end], f"{end} stands at {ends[end]} too") for end in found if end in ends]
        ends |= found
    return ends, problems


def check(root: Path, models: Iterable[str]) -> list[Problem]:
    ends, problems = ends_of_core(root)
    listed = points_of_readme((root / README).read_text())
    rows, wrong_rows = rows_of_verification((root / VERIFICATION).read_text())
    problems += wrong_rows
    problems += one_sided(ends)
    problems += unlisted(ends, listed)
    problems += unverified(ends, rows, models)
    for path in [*sources(root), README]:
        problems += misspelt(path, (root / path).read_text(), listed)
    if not ends:
        problems.append(Problem(Place(CORE, 0), "no ordered access was found"))
    return problems


def main() -> int:
    problems = check(ROOT, broken_models(ROOT))
    print(*problems, sep="\n")
    if not problems:
        print(f"{len(ends_of_core(ROOT)[0])} ends of sync points, each with its other end and its proof")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
