"""Which CPUs agents, workers and threads run on: plans over the machine's topology, and pinning.

A **place** is a set of CPUs that one worker runs on (OpenMP's term). A **plan** cuts the CPUs that this
process may use into places, in an order: worker k takes place k, and begins again after the last.

==============  =====================================================================================
``auto``        ``per-core`` if every worker can have a core of its own, else ``per-cache``
``compact``     each CPU a place, in the order of nearness: threads of a core, cores of a cache, ...
``scatter``     each CPU a place, as far as possible from those before: packages in turn, then nodes,
                caches and cores; second threads of cores come after all first ones
``per-core``    each core, with its threads, a place; cores that are near to each other follow each other
``per-cache``   the CPUs that share a last-level cache are a place
``per-node``    the CPUs of a NUMA node are a place
``none``        one place: all that this process may use; the kernel goes on choosing
``x.toml``      the places that scripts/tune_affinity.py measured and wrote
``[2, 3, 8]``   these CPUs, each a place; ``"2-3,8"`` says the same
==============  =====================================================================================

"May use" is what the kernel says of the calling thread: control groups, taskset and earlier pins bound it,
and children inherit it. So make the plan first and pin after; a plan can be passed to other processes.

Memory gets its NUMA home when it is first touched, on the node of the CPU that touches it. So pin first, then
create or join: an agent that joins with ``cpus=`` is pinned before the pages of its inbox are reserved.
"""

from __future__ import annotations

import errno
import math
import os
from _thread import get_native_id
from collections.abc import Iterable, Iterator, Sequence
from operator import index
from typing import NamedTuple

from fastcomm._affinity_profile import AffinityProfile
from fastcomm._topology import Cache, Topology, format_cpus, online_cpus, parse_cpus, topology
from fastcomm.config import settings
from fastcomm.errors import InvalidCpusError

__all__ = [
    "PLANS",
    "AffinityProfile",
    "Cache",
    "Plan",
    "Topology",
    "count_workers",
    "format_cpus",
    "parse_cpus",
    "pin",
    "pinned",
    "plan",
    "topology",
]

Cpus = frozenset[int]

PLANS = ("auto", "compact", "scatter", "per-core", "per-cache", "per-node", "none")
FORBIDDEN = (errno.EPERM, errno.EACCES, errno.ENOSYS)  # what sandboxes answer


class Plan(NamedTuple):
    """Places for workers, as plan() made them. Immutable; pickles, so that a worker process can be given it.

    The places of a named plan are disjoint, and their union is what this process might use when it was made.
    """

    name: str
    places: tuple[Cpus, ...]

    def place(self, worker: int) -> Cpus:
        """The CPUs of worker number `worker`, counted from 0."""
        return self.places[worker % len(self.places)]

    def pin(self, worker: int) -> Cpus:
        """Pin the calling thread to its place; the CPUs that were granted. The first thing a worker process
        does: then its memory is near. As pin().
        """
        return pin(self.place(worker))


# The name of a plan, a profile, CPUs, or a plan that was made already.
PlanLike = str | os.PathLike[str] | int | Iterable[int] | Plan


def plan(which: PlanLike, workers: int | None = None, *, on: Topology | None = None) -> Plan:
    """Places for `workers` workers (None: count_workers()) by one of the PLANS, a profile, or a list of CPUs.

    on: the topology, None for that of this machine. A Plan is returned as it is. InvalidCpusError: a list
    that is empty, names a CPU twice or one that is not online. AffinityProfileError: see AffinityProfile.
    ValueError: no such plan, or no workers.
    """
    if isinstance(which, Plan):
        return which
    machine = topology() if on is None else on
    if (given := _list_in(which)) is not None:
        cpus = _listed(given, machine.online)
        return Plan(format_cpus(cpus), tuple(frozenset({cpu}) for cpu in cpus))
    if isinstance(which, os.PathLike) or (isinstance(which, str) and which.endswith(".toml")):
        return Plan(os.fspath(which), AffinityProfile.read(which).places_on(machine))
    if not isinstance(which, str) or which not in PLANS:
        raise ValueError(
            f"{which!r} is no plan; choose {', '.join(PLANS)}, a list of CPUs like '0-3,8', or a profile "
            "ending in .toml"
        )
    wanted = count_workers(machine) if workers is None else workers
    if wanted < 1:
        raise ValueError(f"a plan for {wanted} workers; there must be at least 1")
    return Plan(which, _places(which, wanted, machine))


def count_workers(on: Topology | None = None) -> int:
    """How many workers keep what this process may use busy: its cores, but no more than its control groups'
    quota of CPU time, rounded up.
    """
    machine = topology() if on is None else on
    cores = len(_groups(machine.cores, machine))
    return cores if machine.quota is None else max(1, min(cores, math.ceil(machine.quota)))


# ---- places


def _places(name: str, workers: int, machine: Topology) -> tuple[Cpus, ...]:
    if name == "auto":
        name = "per-core" if workers <= len(_groups(machine.cores, machine)) else "per-cache"
    if name == "none":
        return (machine.allowed,)
    if name in ("compact", "scatter"):
        near = sorted(machine.allowed, key=machine.position)
        order = near if name == "compact" else _scattered(near, machine)
        return tuple(frozenset({cpu}) for cpu in order)
    if name == "per-core":
        return _groups(machine.cores, machine)
    return _apart(
        _groups(machine.caches if name == "per-cache" else machine.nodes, machine), machine.isolated
    )


def _groups(partition: Iterable[Cpus], machine: Topology) -> tuple[Cpus, ...]:
    """The allowed CPUs of each part, if any; parts that are near to each other follow each other."""
    usable = filter(None, (part & machine.allowed for part in partition))
    return tuple(sorted(usable, key=lambda place: min(map(machine.position, place))))


def _apart(places: Iterable[Cpus], isolated: Cpus) -> tuple[Cpus, ...]:
    """Isolated CPUs each a place: the kernel would leave all workers on one of them."""
    return tuple(
        part
        for place in places
        for part in (place - isolated, *(frozenset({cpu}) for cpu in sorted(place & isolated)))
        if part
    )


def _scattered(near: Sequence[int], machine: Topology) -> list[int]:
    """First threads of all cores, then second ones, each spread over packages, nodes, caches and cores."""
    positions = {cpu: machine.position(cpu) for cpu in near}
    ranks: dict[int, list[int]] = {}
    threads: dict[tuple[int, ...], int] = {}
    for cpu in near:
        core = positions[cpu][:-1]
        rank = threads[core] = threads.get(core, -1) + 1  # among those that are allowed
        ranks.setdefault(rank, []).append(cpu)
    return [cpu for rank in sorted(ranks) for cpu in _in_turns(ranks[rank], 0, positions)]


def _in_turns(cpus: list[int], level: int, positions: dict[int, tuple[int, ...]]) -> list[int]:
    """One of each part of this level in turn, each part in turns of the level below."""
    if len(cpus) < 2:
        return cpus
    parts: dict[int, list[int]] = {}
    for cpu in cpus:
        parts.setdefault(positions[cpu][level], []).append(cpu)
    queues = [_in_turns(part, level + 1, positions) for part in parts.values()]
    longest = max(map(len, queues))
    return [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]


# ---- lists that users give


def _list_in(which: PlanLike) -> str | int | Iterable[int] | None:
    """The list of CPUs that it is; None if it names a plan or a profile."""
    if isinstance(which, str):
        return which if which[:1].isdecimal() and not which.endswith(".toml") else None
    return None if isinstance(which, os.PathLike | Plan) else which


def _listed(cpus: str | int | Iterable[int], online: Cpus) -> list[int]:
    """CPUs that are online, in the order given. InvalidCpusError."""
    if isinstance(cpus, str):
        listed = parse_cpus(cpus)
    else:
        given = [cpus] if isinstance(cpus, int) else list(cpus)
        try:
            listed = list(map(index, given))
        except TypeError:
            raise InvalidCpusError(f"{given!r} is no list of CPUs: they are whole numbers") from None
    if not listed:
        raise InvalidCpusError("the list of CPUs is empty; name at least one")
    if len(set(listed)) < len(listed):
        raise InvalidCpusError(f"the list of CPUs {listed} names one twice")
    if missing := [cpu for cpu in listed if cpu not in online]:
        raise InvalidCpusError(f"CPU {format_cpus(missing)} is not online; those are {format_cpus(online)}")
    return listed


def agent_plan(cpus: PlanLike, agents: int) -> Plan:
    """What Bus.join(cpus=) means: a list is one place, of other plans each slot of the bus takes one."""
    if (given := _list_in(cpus)) is None:
        return plan(cpus, agents)
    listed = _listed(given, online_cpus())
    return Plan(format_cpus(listed), (frozenset(listed),))


# ---- pinning


def pin(cpus: int | str | Iterable[int], *, pid: int | None = None, thread: int | None = None) -> Cpus:
    """Have a thread or a process run on `cpus` only; returns the CPUs that were granted, which may be fewer.

    Neither pid nor thread: the calling thread, and those that it starts from then on. thread: that native id
    (``threading.get_native_id()``). pid: all threads that the process has now. A list may go beyond what this
    thread was pinned to, but not beyond its control group: of CPUs outside the kernel grants the rest.
    InvalidCpusError if that is none; ProcessLookupError. Where pinning is forbidden it changes nothing, and
    warns once a process (RuntimeWarning); with ``affinity`` in FASTCOMM_DISABLE it changes nothing.
    """
    wanted = frozenset(_listed(cpus, online_cpus()))
    if pid is None:
        return _set(0 if thread is None else thread, wanted)
    if thread is not None:
        raise TypeError("pin() takes pid or thread, not both")
    granted = frozenset[int]()
    for task in _threads(pid):
        try:
            granted |= _set(task, wanted)
        except ProcessLookupError:
            continue  # that thread has ended
    if not granted:
        raise ProcessLookupError(errno.ESRCH, f"there is no process {pid}")
    return granted


def _threads(pid: int) -> Iterator[int]:
    """Native ids of all threads, also of those that others start meanwhile."""
    seen = set[int]()
    while new := _listed_threads(pid) - seen:
        seen |= new
        yield from new


def _listed_threads(pid: int) -> set[int]:
    try:
        return set(map(int, os.listdir(f"/proc/{pid}/task")))
    except FileNotFoundError:
        return set()


class pinned:
    """``with pinned([2, 3]) as granted:`` the calling thread runs on these CPUs for the block; see pin().

    Afterwards it may run where it might before. Blocks of a thread may end in any order: while one lasts the
    thread is where the last one that began has put it. Threads that were started in the block stay pinned. A
    block that a forked child leaves unpins the child. Thread safety: a block is entered and left by one
    thread; another may leave it if the first has nothing to do with pinning at that moment.
    """

    granted: Cpus

    def __init__(self, cpus: int | str | Iterable[int]) -> None:
        self._cpus = cpus

    def __enter__(self) -> Cpus:
        self._thread, self._pid = get_native_id(), os.getpid()
        before = _get(0)
        self.granted = pin(self._cpus)
        _before_first.setdefault(self._thread, before)
        _blocks.setdefault(self._thread, []).append(self)
        return self.granted

    def __exit__(self, *exc_info: object) -> None:
        blocks = _blocks[self._thread]
        blocks.remove(self)
        if blocks:
            cpus = blocks[-1].granted
        else:
            del _blocks[self._thread]
            cpus = _before_first.pop(self._thread)
        forked = self._pid != os.getpid()
        if forked or os.path.exists(f"/proc/self/task/{self._thread}"):  # else that thread has ended
            _set(0 if forked else self._thread, cpus)


# Of each thread that is in a `pinned` block: the blocks, and the CPUs before the first.
_blocks: dict[int, list[pinned]] = {}
_before_first: dict[int, Cpus] = {}
_warned = False


def _set(thread: int, cpus: Cpus) -> Cpus:
    try:
        if settings().affinity:
            os.sched_setaffinity(thread, cpus)
    except OSError as refused:
        if refused.errno == errno.EINVAL:
            raise InvalidCpusError(
                f"none of the CPUs {format_cpus(cpus)} is granted to this process; its control group allows "
                f"{format_cpus(topology().allowed)} or more"
            ) from refused
        if refused.errno not in FORBIDDEN:
            raise
        _warn(refused)
    return _get(thread)


def _get(thread: int) -> Cpus:
    try:
        return frozenset(os.sched_getaffinity(thread))
    except OSError as refused:
        if refused.errno not in FORBIDDEN:
            raise
        return online_cpus()


def _warn(refused: OSError) -> None:
    global _warned
    if _warned:
        return
    _warned = True
    import warnings

    warnings.warn(
        f"processes can't be pinned to CPUs here ({refused.strerror}); they run where the kernel puts them",
        RuntimeWarning,
        stacklevel=4,
    )
