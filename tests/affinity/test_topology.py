"""What is read of a machine's files, on machines of every kind, on this one, and where files are missing."""

import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest
from hypothesis import given
from hypothesis import strategies as st
from procs import environment
from sysfs_trees import FOLDER, MACHINES, machine, unfold

from fastcomm import InvalidCpusError, _topology
from fastcomm.affinity import Topology, format_cpus, parse_cpus, topology

pytestmark = pytest.mark.no_sanitizer("reads text files")


def lists(partition: tuple[frozenset[int], ...]) -> list[str]:
    return [format_cpus(part) for part in partition]


class TestLists:
    @given(st.sets(st.integers(0, 500), min_size=1))
    def test_list_that_is_written_is_read_again(self, cpus: set[int]) -> None:
        assert parse_cpus(format_cpus(cpus)) == sorted(cpus)

    def test_order_of_the_list_is_kept(self) -> None:
        assert parse_cpus("8,0-2, 5\n") == [8, 0, 1, 2, 5]

    def test_empty_text_is_an_empty_list(self) -> None:
        assert parse_cpus("\n") == []

    @pytest.mark.parametrize(
        "text", ["a", "1,", "3-1", "-1", "1--2", "0-1:2", "0,0", "1-3,2", "0-9999999999", "²"]
    )
    def test_what_is_no_list_is_refused_with_its_text(self, text: str) -> None:
        with pytest.raises(InvalidCpusError, match=text[:1]):
            parse_cpus(text)


class TestMachines:
    @pytest.mark.parametrize("name", MACHINES)
    def test_partitions_cover_the_cpus_that_are_online_once(self, name: str, tmp_path: Path) -> None:
        found = machine(name, tmp_path)
        for partition in (found.packages, found.nodes, found.caches, found.cores):
            assert sorted(cpu for part in partition for cpu in part) == sorted(found.online)
        assert found.allowed
        assert found.allowed <= found.online
        assert len({found.position(cpu) for cpu in found.online}) == len(found.online)

    @pytest.mark.parametrize("name", MACHINES)
    def test_file_says_where_it_is_from(self, name: str) -> None:
        content = json.loads((FOLDER / f"{name}.json").read_text())
        opening = "Recorded" if content["recorded"] else "Composed after the kernel's formats"
        assert content["about"].startswith(opening)
        if "source" in content:
            assert content["source"].keys() == {"repository", "path", "commit", "licence"}

    def test_positions_of_two_sockets_with_threads(self, tmp_path: Path) -> None:
        found = machine("two_sockets_smt", tmp_path)
        assert found.position(0)[:-1] == found.position(32)[:-1] < found.position(1) < found.position(16)
        assert found.position(63) == (1, 1, 7, 31, 1)

    def test_larger_of_node_and_package_comes_first_in_a_position(self, tmp_path: Path) -> None:
        assert machine("eight_nodes_smt", tmp_path).position(30) == (1, 5, 10, 30, 0)
        assert machine("four_nodes", tmp_path).position(25) == (1, 5, 5, 25, 0)

    def test_instruction_caches_are_left_out_and_sizes_are_bytes(self, tmp_path: Path) -> None:
        found = machine("eight_nodes_smt", tmp_path)
        sizes = {(cache.level, cache.size, len(cache.cpus)) for cache in found.all_caches}
        assert sizes == {(1, 32 << 10, 2), (2, 512 << 10, 2), (3, 8 << 20, 6)}
        assert len(found.all_caches) == 48 + 48 + 16
        assert found.model == "AMD EPYC 7451 24-Core Processor"

    def test_caches_between_core_and_node_are_found(self, tmp_path: Path) -> None:
        found = machine("four_nodes", tmp_path)
        pairs = [format_cpus(cache.cpus) for cache in found.all_caches if cache.level == 2]
        assert (len(pairs), pairs[:3]) == (48, ["0,4", "1,5", "2,6"])

    def test_caches_that_some_cpus_lack(self, tmp_path: Path) -> None:
        caches = machine("hybrid", tmp_path).all_caches
        second = [(cache.size, format_cpus(cache.cpus)) for cache in caches if cache.level == 2]
        fast = ["0,5", "1-2", "3-4", "6-7", "8-9", "10-11"]
        assert second == [(2 << 20, cpus) for cpus in (*fast, "12-15", "16-19", "20-21")]
        assert len([cache for cache in caches if cache.level == 1]) == 14

    def test_quota_of_a_group_further_up_holds_too(self, tmp_path: Path) -> None:
        unfold("container_v2", tmp_path)
        (tmp_path / "sys/fs/cgroup/jobs/one/cpu.max").write_text("max 100000\n")
        assert Topology.from_sysfs(tmp_path).quota == 4.0

    def test_limits_of_the_group_that_is_mounted_in_a_container_of_version_1(self, tmp_path: Path) -> None:
        unfold("container_v1", tmp_path)
        found = Topology.from_sysfs(tmp_path, allowed=[0, 1])
        assert (format_cpus(found.allowed), found.quota) == ("1", 0.5)

    def test_no_quota_in_version_1_is_minus_one(self, tmp_path: Path) -> None:
        unfold("container_v1", tmp_path)
        (tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").write_text("-1\n")
        assert Topology.from_sysfs(tmp_path).quota is None

    def test_processor_without_a_name_has_its_numbers(self, tmp_path: Path) -> None:
        assert machine("arm_without_caches", tmp_path).model == "0x41 0xd0b"


class TestAllowed:
    def test_given_cpus_replace_those_of_the_process(self, tmp_path: Path) -> None:
        assert machine("two_sockets_smt", tmp_path, allowed=[3, 5]).allowed == {3, 5}

    def test_cpuset_bounds_what_is_given(self, tmp_path: Path) -> None:
        assert machine("container_v2", tmp_path, allowed=range(16)).allowed == {4, 5, 6, 7}

    def test_limits_that_leave_nothing_are_not_believed(self, tmp_path: Path) -> None:
        assert machine("container_v2", tmp_path, allowed=[0]).allowed == {0}
        assert machine("hybrid", tmp_path, allowed=[99]).allowed == set(range(22))


class TestDamage:
    def test_without_a_list_of_cpus_it_is_no_machine(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            Topology.from_sysfs(tmp_path)

    def test_list_of_cpus_alone_is_enough(self, tmp_path: Path) -> None:
        folder = tmp_path / "sys/devices/system/cpu"
        folder.mkdir(parents=True)
        (folder / "online").write_text("0-2\n")
        found = Topology.from_sysfs(tmp_path)
        assert lists(found.cores) == ["0", "1", "2"]
        assert found.packages == found.nodes == found.caches == (found.allowed,)

    def test_siblings_that_contradict_each_other_still_make_a_partition(self, tmp_path: Path) -> None:
        unfold("hybrid", tmp_path)
        siblings = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
        (tmp_path / siblings.format(1)).write_text("1-3\n")
        (tmp_path / siblings.format(4)).write_text("nonsense\n")
        (tmp_path / siblings.format(8)).write_text("9,77\n")
        found = Topology.from_sysfs(tmp_path)
        assert lists(found.cores) == ["0,5", "1-3", "4", "6-7", "8-9", "10-11", *map(str, range(12, 22))]

    @pytest.mark.parametrize("text", ["", "1", "a:b", "0::/../other", "3:cpu"])
    def test_strange_control_groups_are_no_limit_or_that_of_the_mount(
        self, text: str, tmp_path: Path
    ) -> None:
        unfold("container_v2", tmp_path)
        (tmp_path / "proc/self/cgroup").write_text(text)
        assert Topology.from_sysfs(tmp_path).quota in (None, 4.0)

    def test_strange_mounts_are_no_limit(self, tmp_path: Path) -> None:
        unfold("container_v2", tmp_path)
        (tmp_path / "proc/self/mountinfo").write_text("1 2\n- \n36 35 98:0 / /mnt -\n\n")
        assert Topology.from_sysfs(tmp_path).quota is None


class TestHere:
    def test_this_machine_allows_what_the_kernel_says(self) -> None:
        found = topology()
        assert found.allowed == os.sched_getaffinity(0)
        assert found.online >= found.allowed

    @pytest.mark.skipif(which("taskset") is None, reason="no taskset")
    def test_taskset_bounds_it(self) -> None:
        one = max(os.sched_getaffinity(0))
        script = "from fastcomm.affinity import *; print(*topology().allowed, *map(set, plan('auto').places))"
        done = subprocess.run(
            ["taskset", "-c", str(one), sys.executable, "-c", script],
            capture_output=True, text=True, env=environment(), check=True,
        )  # fmt: skip
        assert done.stdout.split() == [str(one), f"{{{one}}}"]

    def test_without_sysfs_psutil_counts_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        psutil = pytest.importorskip("psutil")
        allowed = os.sched_getaffinity(0)
        monkeypatch.setattr(_topology, "CPUS", "sys/no/such/folder")
        monkeypatch.setattr(psutil, "cpu_count", lambda: max(allowed) + 3)
        found = topology()
        assert found.allowed == allowed
        assert found.online == _topology.online_cpus() == set(range(max(allowed) + 3))
        assert len(found.cores) == len(found.online)
        assert found.caches == (found.online,)
