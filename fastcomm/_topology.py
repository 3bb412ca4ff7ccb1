"""Topology: the CPUs of a machine, what they share, and which of them this process may use.

Read from the kernel's text files: cores, packages and caches below /sys/devices/system/cpu, NUMA nodes below
/sys/devices/system/node, limits of control groups as /proc/self/cgroup and mountinfo lead to them. The
formats are those of the kernel's Documentation/ABI (sysfs-devices-system-cpu), cgroup-v2.rst and
cgroup-v1/cpusets.rst, and of proc(5).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import NamedTuple

from fastcomm.errors import InvalidCpusError

Cpus = frozenset[int]
Partition = tuple[Cpus, ...]

CPUS = "sys/devices/system/cpu"
NODES = "sys/devices/system/node"
MAX_CPU = 1 << 16  # far above the kernel's own limit; so a mistyped range takes no memory
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Cache(NamedTuple):
    """A data or unified cache: its level, its size in bytes (0 if the kernel doesn't say), who shares it."""

    level: int
    size: int
    cpus: Cpus


class Topology(NamedTuple):
    """What CPUs there are, by their numbers, and how near to each other.

    online: all that run; allowed: those that the calling thread may run on, never empty; isolated: those that
    the kernel's load balancing leaves alone. quota: how many CPUs' worth of time the control groups grant,
    None without a limit. The partitions of `online`: packages (sockets), nodes (NUMA), caches (CPUs that
    share a last-level cache), cores (SMT siblings). all_caches: the data and unified caches of every level.
    model: the processor's name. Immutable; a snapshot, since CPUs go offline and limits change.
    """

    online: Cpus
    allowed: Cpus
    isolated: Cpus
    quota: float | None
    packages: Partition
    nodes: Partition
    caches: Partition
    cores: Partition
    all_caches: tuple[Cache, ...]
    model: str

    @classmethod
    def from_sysfs(
        cls, root: str | os.PathLike[str] = "/", *, allowed: Iterable[int] | None = None
    ) -> Topology:
        """Read the files below `root`. FileNotFoundError if there is no list of CPUs.

        allowed: instead of what ``proc/self/status`` says. What else is missing is left out: a CPU without
        siblings is a core, one without caches shares them with its die, one without a node is on the first.
        """
        tree = _Tree(os.fspath(root))
        online = tree.online()
        packages = _group(online, lambda cpu: tree.number(f"{CPUS}/cpu{cpu}/topology/physical_package_id"))
        all_caches = _caches(tree, online)
        return cls(
            online=frozenset(online),
            allowed=_allowed(tree, frozenset(online), allowed),
            isolated=tree.cpus(f"{CPUS}/isolated") & frozenset(online),
            quota=_quota(tree),
            packages=packages,
            nodes=_nodes(tree, online),
            caches=_last_level(tree, online, all_caches),
            cores=_partition(online, lambda cpu: tree.cpus(f"{CPUS}/cpu{cpu}/topology/thread_siblings_list")),
            all_caches=all_caches,
            model=_model(tree),
        )

    @classmethod
    def of_count(cls, count: int, allowed: Iterable[int]) -> Topology:
        """Of `count` CPUs that nothing is known of: each a core, all on one node with one cache."""
        online = frozenset(range(count)) | frozenset(allowed)
        one = (online,)
        cores = tuple(frozenset({cpu}) for cpu in sorted(online))
        return cls(online, frozenset(allowed), frozenset(), None, one, one, one, cores, (), "")

    def position(self, cpu: int) -> tuple[int, ...]:
        """Its package, node, cache, core and thread, counted from 0: near CPUs sort together.

        The node comes first if it is the larger: there are machines whose nodes have several packages.
        """
        core = self.cores[_index(self.cores, cpu)]
        outer = sorted((self.packages, self.nodes), key=len)
        parts = (*outer, self.caches, self.cores)
        return (*(_index(part, cpu) for part in parts), sorted(core).index(cpu))


def topology() -> Topology:
    """Of this machine, for the calling thread.

    Where sysfs is missing the CPUs are counted by psutil, and nothing is known of what they share.
    """
    allowed = _own_affinity()
    try:
        return Topology.from_sysfs(allowed=allowed)
    except OSError:
        return Topology.of_count(_count(), range(_count()) if allowed is None else allowed)


def online_cpus() -> Cpus:
    """topology().online, without the rest."""
    try:
        return frozenset(_Tree("/").online())
    except OSError:
        return frozenset(range(_count())) | (_own_affinity() or frozenset())


def _own_affinity() -> Cpus | None:
    try:
        return frozenset(os.sched_getaffinity(0))
    except OSError:  # a sandbox that forbids the call
        return None


def _count() -> int:
    import psutil

    return psutil.cpu_count() or 1


# ---- lists of CPUs, as the kernel writes them


def parse_cpus(text: str) -> list[int]:
    """The numbers in ``0-3,8``, in that order. InvalidCpusError if it is no such list, or names one twice."""
    found: list[int] = []
    for part in text.strip().split(","):
        matched = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part, re.ASCII)
        if matched is None:
            if not text.strip():
                break
            raise InvalidCpusError(f"{text.strip()!r} is no list of CPUs: {part!r}; one is like '0-3,8'")
        first, last = int(matched[1]), int(matched[2] or matched[1])
        if not first <= last <= MAX_CPU:
            raise InvalidCpusError(
                f"{text.strip()!r} is no list of CPUs: {part!r} goes from {first} to {last}"
            )
        found += range(first, last + 1)
    if len(set(found)) < len(found):
        raise InvalidCpusError(f"the list of CPUs {text.strip()!r} names one twice")
    return found


def format_cpus(cpus: Iterable[int]) -> str:
    """``0-3,8``, ascending."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and runs[-1][1] == cpu - 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


# ---- files


class _Tree:
    """Files below a root; one that is missing, unreadable or malformed says nothing."""

    def __init__(self, root: str) -> None:
        self.root = root

    def online(self) -> list[int]:
        """The one list that must be there: OSError."""
        with open(os.path.join(self.root, CPUS, "online")) as file:
            return parse_cpus(file.read())

    def text(self, path: str) -> str:
        try:
            with open(os.path.join(self.root, path)) as file:
                return file.read().strip()
        except (OSError, UnicodeDecodeError):
            return ""

    def number(self, path: str) -> int | None:
        try:
            return int(self.text(path))
        except ValueError:
            return None

    def cpus(self, path: str) -> Cpus:
        return _cpus_in(self.text(path))

    def numbered(self, folder: str, prefix: str) -> list[str]:
        """Folders ``prefix0``, ``prefix1`` ... in the order of their numbers."""
        try:
            names = os.listdir(os.path.join(self.root, folder))
        except OSError:
            return []
        numbers = [name[len(prefix) :] for name in names if name.startswith(prefix)]
        return [f"{folder}/{prefix}{number}" for number in sorted(filter(str.isdecimal, numbers), key=int)]


def _cpus_in(text: str) -> Cpus:
    try:
        return frozenset(parse_cpus(text))
    except InvalidCpusError:
        return frozenset()


# ---- partitions


def _index(partition: Partition, cpu: int) -> int:
    return next(index for index, part in enumerate(partition) if cpu in part)


def _partition(online: Iterable[int], peers: Callable[[int], Cpus]) -> Partition:
    """Sets without common members, even if the files of two CPUs contradict each other."""
    left = set(online)
    parts = []
    for cpu in sorted(left):
        if cpu in left:
            part = frozenset(left & (peers(cpu) | {cpu}))
            left -= part
            parts.append(part)
    return tuple(parts)


def _group(online: Iterable[int], key: Callable[[int], Hashable]) -> Partition:
    """CPUs with the same key are together."""
    groups: dict[Hashable, set[int]] = {}
    for cpu in sorted(online):
        groups.setdefault(key(cpu), set()).add(cpu)
    return tuple(frozenset(group) for group in groups.values())


def _nodes(tree: _Tree, online: Iterable[int]) -> Partition:
    members = [cpus for folder in tree.numbered(NODES, "node") if (cpus := tree.cpus(f"{folder}/cpulist"))]
    return _group(online, lambda cpu: next((i for i, cpus in enumerate(members) if cpu in cpus), 0))


def _caches(tree: _Tree, online: Iterable[int]) -> tuple[Cache, ...]:
    found: dict[Cache, None] = {}
    for cpu in sorted(online):
        for folder in tree.numbered(f"{CPUS}/cpu{cpu}/cache", "index"):
            level, cpus = tree.number(f"{folder}/level"), tree.cpus(f"{folder}/shared_cpu_list")
            if level is not None and tree.text(f"{folder}/type") in ("Data", "Unified"):
                shared = (cpus | {cpu}) & frozenset(online)
                found[Cache(level, _bytes(tree.text(f"{folder}/size")), shared)] = None
    return tuple(found)


def _bytes(text: str) -> int:
    """Of ``32K``."""
    matched = re.fullmatch(r"(\d+)([KMG]?)", text, re.ASCII)
    return int(matched[1]) * UNITS[matched[2]] if matched else 0


def _last_level(tree: _Tree, online: Iterable[int], caches: Iterable[Cache]) -> Partition:
    """The CPUs that share the outermost cache that each has."""
    outermost: dict[int, Cache] = {}
    for cache in caches:
        for cpu in cache.cpus:
            if cpu not in outermost or outermost[cpu].level < cache.level:
                outermost[cpu] = cache
    without = [cpu for cpu in online if cpu not in outermost]
    dies = _group(without, lambda cpu: _die(tree, cpu))
    return tuple(
        sorted((*_partition(outermost, lambda cpu: outermost[cpu].cpus), *dies), key=lambda part: min(part))
    )


def _die(tree: _Tree, cpu: int) -> Hashable:
    folder = f"{CPUS}/cpu{cpu}/topology"
    return tree.number(f"{folder}/physical_package_id"), tree.number(f"{folder}/die_id")


def _model(tree: _Tree) -> str:
    """x86 names it; arm64 gives numbers of the implementer and the part."""
    lines = [line.partition(":") for line in tree.text("proc/cpuinfo").splitlines()]
    first: dict[str, str] = {}
    for key, _, value in lines:
        first.setdefault(key.strip(), value.strip())
    parts = [first[key] for key in ("CPU implementer", "CPU part") if key in first]
    return first.get("model name") or " ".join(parts)


# ---- what this process may use


def _allowed(tree: _Tree, online: Cpus, given: Iterable[int] | None) -> Cpus:
    """Limits that leave nothing are not believed."""
    if given is None:
        listed = re.search(r"^Cpus_allowed_list:(.*)$", tree.text("proc/self/status"), re.MULTILINE)
        given = _cpus_in(listed[1] if listed else "")
    allowed = online
    for limit in (frozenset(given), _cpuset(tree)):
        allowed = (allowed & limit) or allowed
    return allowed


def _cpuset(tree: _Tree) -> Cpus:
    names = ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus")
    for folder in _control_groups(tree, "cpuset"):
        for name in names:
            if cpus := tree.cpus(f"{folder}/{name}"):
                return cpus
    return frozenset()


def _quota(tree: _Tree) -> float | None:
    """The least that this process's control group and those above it grant."""
    return min(filter(None, map(_quota_of, _quota_texts(tree))), default=None)


def _quota_texts(tree: _Tree) -> Iterator[tuple[str, str]]:
    """(quota, period) in microseconds, of version 2 and of version 1."""
    for folder in _control_groups(tree, "cpu"):
        quota, _, period = tree.text(f"{folder}/cpu.max").partition(" ")
        yield quota, period
        yield tree.text(f"{folder}/cpu.cfs_quota_us"), tree.text(f"{folder}/cpu.cfs_period_us")


def _quota_of(texts: tuple[str, str]) -> float | None:
    """None without a limit, which is ``max`` in version 2 and -1 in version 1."""
    quota, period = texts
    if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):
        return int(quota) / int(period)
    return None


def _control_groups(tree: _Tree, controller: str) -> Iterator[str]:
    """Folders of the process's control groups with that controller, each before the one above it.

    A container may see its own group as the root, or the host's path to it while only the group is mounted.
    """
    for line in tree.text("proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2) if line.count(":") >= 2 else ("", "", "")
        unified = not controllers
        if not unified and controller not in controllers.split(","):
            continue
        for mounted, place in _mounts(tree, None if unified else controller):
            rest = _below(path, mounted)
            yield f"{place}/{rest}"
            while rest:
                rest = rest.rpartition("/")[0]
                yield f"{place}/{rest}"


def _below(path: str, mounted: str) -> str:
    """The rest of `path` below `mounted`, if it is there; nothing, which is the mounted folder, otherwise."""
    rest = (path + "/").removeprefix(mounted.rstrip("/") + "/").strip("/")
    inside = (path + "/").startswith(mounted.rstrip("/") + "/") and ".." not in rest.split("/")
    return rest if inside else ""


def _mounts(tree: _Tree, controller: str | None) -> Iterator[tuple[str, str]]:
    """(folder of the hierarchy, where it is mounted); `controller` None: of version 2."""
    for line in tree.text("proc/self/mountinfo").splitlines():
        mount, _, filesystem = line.partition(" - ")
        fields, (kind, *options) = mount.split(), filesystem.split() or [""]
        if len(fields) < 5:
            continue
        wanted = kind == "cgroup2" if controller is None else kind == "cgroup"
        if wanted and (controller is None or controller in ",".join(options[1:]).split(",")):
            yield fields[3], fields[4].strip("/")
