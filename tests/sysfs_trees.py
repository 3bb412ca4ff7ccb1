"""Machines as files: tests/affinity/machines/*.json hold path -> text, which unfold() writes to a folder.

``cpu{0-1,4}`` in a path stands for cpu0, cpu1 and cpu4. `about` says of each what it is, `recorded` whether
it was recorded on a machine or composed after the formats that the kernel documents, `source` where the
recording was published: of it the files hold what is read here.
"""

import json
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastcomm.affinity import Topology, parse_cpus

FOLDER = Path(__file__).parent / "affinity" / "machines"
MACHINES = sorted(path.stem for path in FOLDER.glob("*.json"))


def unfold(machine: str, root: Path) -> Path:
    """Write the files of `machine` below `root`, which is returned."""
    for path, text in json.loads((FOLDER / f"{machine}.json").read_text())["files"].items():
        for one in alternatives(path):
            (root / one).parent.mkdir(parents=True, exist_ok=True)
            (root / one).write_text(text + "\n")
    return root


def alternatives(path: str) -> list[str]:
    found = re.search(r"\{([\d,-]+)\}", path)
    if found is None:
        return [path]
    return [path[: found.start()] + str(number) + path[found.end() :] for number in parse_cpus(found[1])]


@cache
def topology_of(name: str) -> Topology:
    with TemporaryDirectory() as folder:
        return machine(name, Path(folder))


def machine(name: str, root: Path, **options: Any) -> Topology:
    return Topology.from_sysfs(unfold(name, root / name), **options)
