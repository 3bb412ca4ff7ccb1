"""What each of machines/ is and which places each plan makes on it, worked out by hand from its files."""

from typing import NamedTuple

import pytest
from sysfs_trees import MACHINES, topology_of

from fastcomm.affinity import PLANS, format_cpus, plan

pytestmark = pytest.mark.no_sanitizer("reads text files")


class Machine(NamedTuple):
    """Partitions and places as lists of CPUs; compact and scatter, whose places are single CPUs, as orders.

    allowed None: all; per_core None: as `cores`, and so on.
    """

    packages: list[str]
    nodes: list[str]
    caches: list[str]
    cores: list[str]
    compact: list[int]
    scatter: list[int]
    allowed: str | None = None
    per_core: list[str] | None = None
    per_cache: list[str] | None = None
    per_node: list[str] | None = None
    quota: float | None = None
    isolated: str = ""


def runs(length: int, end: int, apart: int) -> list[str]:
    """``0-3,32-35``, ``4-7,36-39`` ...: each `length` CPUs below `end`, and those `apart` from them."""
    first = [(cpu, cpu + length - 1) for cpu in range(0, end, length)]
    return [f"{low}-{high},{low + apart}-{high + apart}" for low, high in first]


def singles(cpus: range) -> list[str]:
    return [str(cpu) for cpu in cpus]


def listed(cpus: range) -> str:
    return ",".join(singles(cpus))


SOCKETS_OF_FOUR_NODES = [
    listed(range(24 * node + p, 24 * node + 24, 4)) for node in range(4) for p in range(4)
]

EXPECTED = {
    # CPU c and c + 32 are a core; sockets of 16 cores in 4 caches of 4.
    "two_sockets_smt": Machine(
        packages=["0-15,32-47", "16-31,48-63"],
        nodes=["0-15,32-47", "16-31,48-63"],
        caches=runs(4, 32, 32),
        cores=[f"{cpu},{cpu + 32}" for cpu in range(32)],
        compact=[cpu + thread for cpu in range(32) for thread in (0, 32)],
        scatter=[
            thread + core + 4 * cache + 16 * socket
            for thread in (0, 32)
            for core in range(4)
            for cache in range(4)
            for socket in range(2)
        ],
    ),
    # CPU c and c + 48 are a core; sockets of 24 cores in 4 nodes of 6, in 2 caches of 3.
    "eight_nodes_smt": Machine(
        packages=["0-23,48-71", "24-47,72-95"],
        nodes=runs(6, 48, 48),
        caches=runs(3, 48, 48),
        cores=[f"{cpu},{cpu + 48}" for cpu in range(48)],
        compact=[cpu + thread for cpu in range(48) for thread in (0, 48)],
        scatter=[
            thread + core + 3 * cache + 6 * node + 24 * socket
            for thread in (0, 48)
            for core in range(3)
            for cache in range(2)
            for node in range(4)
            for socket in range(2)
        ],
    ),
    # CPU c and c + 32 are a core; socket c % 4. Those that no node lists are on the first.
    "four_sockets_smt": Machine(
        packages=[listed(range(socket, 64, 4)) for socket in range(4)],
        nodes=["0-63"],
        caches=[listed(range(socket, 64, 4)) for socket in range(4)],
        cores=[f"{cpu},{cpu + 32}" for cpu in range(32)],
        compact=[
            cpu + thread for socket in range(4) for cpu in range(socket, 32, 4) for thread in (0, 32)
        ],
        scatter=list(range(64)),
        per_core=[f"{cpu},{cpu + 32}" for socket in range(4) for cpu in range(socket, 32, 4)],
    ),
    # Nodes of 24 CPUs; socket c % 4 in each.
    "four_nodes": Machine(
        packages=SOCKETS_OF_FOUR_NODES,
        nodes=["0-23", "24-47", "48-71", "72-95"],
        caches=SOCKETS_OF_FOUR_NODES,
        cores=singles(range(96)),
        compact=[
            24 * node + socket + 4 * core for node in range(4) for socket in range(4) for core in range(6)
        ],
        scatter=[
            24 * node + socket + 4 * core for core in range(6) for socket in range(4) for node in range(4)
        ],
        per_core=[
            f"{24 * node + socket + 4 * core}"
            for node in range(4)
            for socket in range(4)
            for core in range(6)
        ],
    ),
    "hybrid": Machine(
        packages=["0-21"],
        nodes=["0-21"],
        caches=["0-19", "20-21"],
        cores=["0,5", "1-2", "3-4", "6-7", "8-9", "10-11", *singles(range(12, 22))],
        compact=[0, 5, 1, 2, 3, 4, *range(6, 22)],
        scatter=[0, 20, 1, 21, 3, 6, 8, 10, *range(12, 20), 5, 2, 4, 7, 9, 11],
    ),
    "guest": Machine(["0-1"], ["0-1"], ["0-1"], ["0", "1"], compact=[0, 1], scatter=[0, 1]),
    "container_v1": Machine(
        ["0-1"], ["0-1"], ["0-1"], ["0", "1"], compact=[1], scatter=[1],
        allowed="1", per_core=["1"], per_cache=["1"], per_node=["1"], quota=0.5,
    ),
    "container_v2": Machine(
        packages=["0-15"],
        nodes=["0-15"],
        caches=["0-15"],
        cores=[f"{cpu}-{cpu + 1}" for cpu in range(0, 16, 2)],
        compact=[4, 5, 6, 7],
        scatter=[4, 6, 5, 7],
        allowed="4-7", per_core=["4-5", "6-7"], per_cache=["4-7"], per_node=["4-7"], quota=1.5,
    ),
    "arm_without_caches": Machine(
        ["0-7"], ["0-7"], ["0-7"], singles(range(8)), compact=list(range(8)), scatter=list(range(8))
    ),
    "isolated_and_offline": Machine(
        packages=["0-2,4-7"],
        nodes=["0-2,4-7"],
        caches=["0-2,4-7"],
        cores=["0,4", "1,5", "2,6", "7"],
        compact=[0, 4, 1, 5, 2, 6, 7],
        scatter=[0, 1, 2, 7, 4, 5, 6],
        per_cache=["0-2,4-5", "6", "7"],
        per_node=["0-2,4-5", "6", "7"],
        isolated="6-7",
    ),
}  # fmt: skip


def places(name: str) -> dict[str, list[str]]:
    """Of every plan. By default each core has a worker, so that ``auto`` is ``per-core``."""
    machine = EXPECTED[name]
    per_core = machine.per_core or machine.cores
    return {
        "auto": per_core,
        "compact": [str(cpu) for cpu in machine.compact],
        "scatter": [str(cpu) for cpu in machine.scatter],
        "per-core": per_core,
        "per-cache": machine.per_cache or machine.caches,
        "per-node": machine.per_node or machine.nodes,
        "none": [machine.allowed or format_cpus(machine.compact)],
    }


def test_every_machine_and_plan_is_expected_to_be_something() -> None:
    assert list(EXPECTED.keys() ^ MACHINES) == []
    assert list(places("guest").keys() ^ PLANS) == []


@pytest.mark.parametrize("partition", ["packages", "nodes", "caches", "cores"])
@pytest.mark.parametrize("name", MACHINES)
def test_partitions(name: str, partition: str) -> None:
    found = getattr(topology_of(name), partition)
    assert [format_cpus(part) for part in found] == getattr(EXPECTED[name], partition)


@pytest.mark.parametrize("name", MACHINES)
def test_what_the_process_may_use(name: str) -> None:
    found, machine = topology_of(name), EXPECTED[name]
    assert format_cpus(found.allowed) == (machine.allowed or format_cpus(found.online))
    assert (found.quota, format_cpus(found.isolated)) == (machine.quota, machine.isolated)


@pytest.mark.parametrize("which", PLANS)
@pytest.mark.parametrize("name", MACHINES)
def test_places(name: str, which: str) -> None:
    found = plan(which, on=topology_of(name)).places
    assert [format_cpus(place) for place in found] == places(name)[which]
