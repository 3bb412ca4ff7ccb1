"""Plans over machines of machines/ or made up; and the profiles that plans are read from."""

import os
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sysfs_trees import MACHINES, topology_of

from fastcomm import AffinityProfileError, InvalidCpusError
from fastcomm._affinity_profile import describe, fingerprint
from fastcomm.affinity import (
    PLANS,
    AffinityProfile,
    Plan,
    Topology,
    agent_plan,
    count_workers,
    format_cpus,
    plan,
)

pytestmark = pytest.mark.no_sanitizer("sorts numbers")


def places(made: Plan) -> list[str]:
    return [format_cpus(place) for place in made.places]


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Packages of nodes of caches of cores of threads, with numbers in any order; a part of them allowed."""
    shapes = st.integers(1, 3)
    for most in (3, 2, 2, 2):
        shapes = st.lists(shapes, min_size=1, max_size=most)  # type: ignore[assignment]
    shape: Any = draw(shapes)
    count = sum(threads for package in shape for node in package for cache in node for threads in cache)
    numbers = iter(draw(st.permutations(range(2 * count)))[:count])
    levels: tuple[list[frozenset[int]], ...] = ([], [], [], [])
    for package in shape:
        in_package = set[int]()
        for node in package:
            in_node = set[int]()
            for cache in node:
                in_cache = set[int]()
                for threads in cache:
                    levels[3].append(frozenset(next(numbers) for _ in range(threads)))
                    in_cache |= levels[3][-1]
                levels[2].append(frozenset(in_cache))
                in_node |= in_cache
            levels[1].append(frozenset(in_node))
            in_package |= in_node
        levels[0].append(frozenset(in_package))
    online = frozenset().union(*levels[0])
    some = st.sets(st.sampled_from(sorted(online)))
    allowed = frozenset(draw(some)) or online
    quota = draw(st.none() | st.floats(0.01, 100))
    return Topology(online, allowed, frozenset(draw(some)), quota, *map(tuple, levels), (), "made up")  # type: ignore[arg-type]


class TestEveryPlan:
    @given(topologies(), st.sampled_from(PLANS), st.none() | st.integers(1, 40))
    def test_places_are_disjoint_and_cover_exactly_the_allowed_cpus(
        self, on: Topology, name: str, workers: int | None
    ) -> None:
        made = plan(name, workers, on=on)
        assert all(made.places)
        assert sorted(cpu for place in made.places for cpu in place) == sorted(on.allowed)

    @given(topologies(), st.sampled_from(PLANS))
    def test_workers_take_the_places_in_turn(self, on: Topology, name: str) -> None:
        made = plan(name, on=on)
        taken = [made.place(worker) for worker in range(2 * len(made.places))]
        assert taken == [*made.places, *made.places]

    def test_plan_of_a_plan_is_that_plan(self) -> None:
        made = plan("compact")
        assert plan(made) is made

    @pytest.mark.parametrize("name", MACHINES)
    @pytest.mark.parametrize("which", PLANS)
    def test_machines_are_covered_exactly(self, name: str, which: str, tmp_path: Path) -> None:
        on = topology_of(name)
        made = plan(which, on=on)
        assert sorted(cpu for place in made.places for cpu in place) == sorted(on.allowed)

    @given(topologies())
    def test_there_is_a_worker_at_least_and_none_without_a_core_or_time(self, on: Topology) -> None:
        workers = count_workers(on)
        assert 1 <= workers <= len(plan("per-core", on=on).places)
        assert on.quota is None or workers < on.quota + 1


class TestCompactAndScatter:
    @given(topologies())
    def test_compact_finishes_each_part_before_the_next(self, on: Topology) -> None:
        order = [min(place) for place in plan("compact", on=on).places]
        for partition in (on.packages, on.nodes, on.caches, on.cores):
            owners = [next(i for i, part in enumerate(partition) if cpu in part) for cpu in order]
            changes = sum(a != b for a, b in pairwise(owners))
            assert changes == len(set(owners)) - 1

    @given(topologies())
    def test_scatter_uses_no_second_thread_before_all_cores_have_one(self, on: Topology) -> None:
        order = [min(place) for place in plan("scatter", on=on).places]
        usable = [core & on.allowed for core in on.cores if core & on.allowed]
        first = set(order[: len(usable)])
        assert all(len(core & first) == 1 for core in usable)

    @given(topologies())
    def test_scatter_is_on_as_many_packages_as_there_can_be_from_the_start(self, on: Topology) -> None:
        order = [min(place) for place in plan("scatter", on=on).places]
        usable = [part & on.allowed for part in on.packages if part & on.allowed]
        assert all(part & set(order[: len(usable)]) for part in usable)

    def test_scatter_is_on_all_nodes_first_where_they_have_several_packages(self) -> None:
        on = topology_of("four_nodes")
        assert places(plan("scatter", on=on))[:5] == ["0", "24", "48", "72", "1"]


class TestGroups:
    def test_per_cache_and_per_node(self, tmp_path: Path) -> None:
        on = topology_of("two_sockets_smt")._replace(allowed=frozenset({0, 1, 5, 33, 9, 63}))
        assert places(plan("per-cache", on=on)) == ["0-1,33", "5", "9", "63"]
        assert places(plan("per-node", on=on)) == ["0-1,5,9,33", "63"]
        assert places(plan("per-core", on=on)) == ["0", "1,33", "5", "9", "63"]


class TestAuto:
    def test_each_worker_has_a_core_if_there_are_enough(self, tmp_path: Path) -> None:
        on = topology_of("two_sockets_smt")
        assert plan("auto", 32, on=on).places == plan("per-core", on=on).places
        assert plan("auto", 33, on=on).places == plan("per-cache", on=on).places

    def test_workers_are_as_many_as_cores_or_as_the_quota_allows(self, tmp_path: Path) -> None:
        assert count_workers(topology_of("two_sockets_smt")) == 32
        assert count_workers(topology_of("container_v2")) == 2  # 2 cores, 1.5 CPUs
        assert count_workers(topology_of("container_v1")) == 1  # 1 core, half a CPU

    def test_no_workers_are_refused(self) -> None:
        with pytest.raises(ValueError, match="0 workers"):
            plan("auto", 0)


class TestLists:
    def test_each_cpu_is_a_place_in_the_order_given(self, tmp_path: Path) -> None:
        on = topology_of("two_sockets_smt")
        assert places(plan([9, 2, 30], on=on)) == ["9", "2", "30"]
        assert plan("8-9,2", on=on).places == plan([8, 9, 2], on=on).places

    @pytest.mark.parametrize(
        ("cpus", "text"),
        [
            ([], "empty"),
            ([1, 1], "twice"),
            ([1, 99], "CPU 99 is not online; those are 0-63"),
            ([-1], "CPU -1 is not online"),
            ("1-x", "no list"),
            (["1"], "whole numbers"),
            ([1.5], "whole numbers"),
        ],
    )
    def test_bad_lists_are_refused_with_what_is_wrong(self, cpus: object, text: str, tmp_path: Path) -> None:
        with pytest.raises(InvalidCpusError, match=text):
            plan(cpus, on=topology_of("two_sockets_smt"))  # type: ignore[arg-type]

    def test_unknown_plan_lists_those_that_there_are(self) -> None:
        with pytest.raises(ValueError, match=r"'spread' is no plan; choose auto, compact.*\.toml"):
            plan("spread")

    def test_profile_whose_name_begins_with_a_digit_is_no_list(self) -> None:
        with pytest.raises(AffinityProfileError, match=r"'2nodes\.toml'"):
            agent_plan("2nodes.toml", 3)

    @pytest.mark.parametrize("which", [None, "", "Auto"])
    def test_what_is_neither_a_list_nor_a_name_is_no_plan(self, which: Any) -> None:
        with pytest.raises((ValueError, TypeError), match="no plan"):
            plan(which)

    def test_list_for_an_agent_is_one_place(self) -> None:
        cpu = min(os.sched_getaffinity(0))
        assert agent_plan([cpu], 10).places == agent_plan(str(cpu), 10).places == ({cpu},)
        assert agent_plan("none", 10) == plan("none")

    def test_plan_can_be_passed_to_another_process(self) -> None:
        made = plan("scatter")
        assert pickle.loads(pickle.dumps(made)) == made


class TestProfile:
    def profile(self, on: Topology, *groups: set[int]) -> AffinityProfile:
        return AffinityProfile(
            describe(on), fingerprint(on), tuple(map(frozenset, groups)), (0, 1), ((0, 9), (9, 0))
        )

    def test_profile_that_is_written_is_read_again(self, tmp_path: Path) -> None:
        on = topology_of("container_v1")
        written = self.profile(on, {3}, {2, 4})._replace(machine='a "big" \\ one\n')
        written.write(tmp_path / "profile.toml")
        assert AffinityProfile.read(tmp_path / "profile.toml") == written._replace(machine='a "big" \\ one ')

    def test_its_places_without_those_not_allowed_and_with_all_others_after_them(
        self, tmp_path: Path
    ) -> None:
        on = topology_of("four_nodes")._replace(allowed=frozenset(range(2, 7)))
        self.profile(on, {3}, {2, 7}, {0, 1}).write(tmp_path / "profile.toml")
        assert places(plan(str(tmp_path / "profile.toml"), on=on)) == ["3", "2", "4", "5", "6"]
        assert plan(tmp_path / "profile.toml", on=on) == plan(str(tmp_path / "profile.toml"), on=on)

    @given(topologies(), st.data())
    def test_places_cover_exactly_the_allowed_cpus_whatever_was_measured(
        self, on: Topology, data: st.DataObject
    ) -> None:
        order = data.draw(st.permutations(sorted(on.online)))
        cut = sorted(data.draw(st.sets(st.integers(1, len(order)), min_size=1)))
        groups = [set(order[first:end]) for first, end in pairwise([0, *cut])]
        made = self.profile(on, *groups).places_on(on)
        assert all(made)
        assert sorted(cpu for place in made for cpu in place) == sorted(on.allowed)

    def test_profile_of_another_machine_is_refused_and_names_both(self, tmp_path: Path) -> None:
        self.profile(topology_of("hybrid"), {0}).write(tmp_path / "profile.toml")
        with pytest.raises(AffinityProfileError, match=r"Ultra 9 185H.*this is 'AMD EPYC.*tune_affinity"):
            plan(tmp_path / "profile.toml", on=topology_of("container_v1"))

    @pytest.mark.parametrize("name", MACHINES)
    def test_fingerprint_is_of_the_machine_not_of_the_limits_of_a_process(
        self, name: str, tmp_path: Path
    ) -> None:
        on = topology_of(name)
        assert fingerprint(on._replace(allowed=frozenset({0}), quota=0.5)) == fingerprint(on)
        same = {name, "guest", "container_v1"} if name in ("guest", "container_v1") else {name}
        others = [topology_of(other) for other in MACHINES if other not in same]
        assert {fingerprint(topology_of(other)) for other in same} == {fingerprint(on)}
        assert fingerprint(on) not in map(fingerprint, others)

    def test_missing_profile_says_what_writes_one(self, tmp_path: Path) -> None:
        with pytest.raises(AffinityProfileError, match=r"No such file.*tune_affinity"):
            plan(tmp_path / "profile.toml")

    @pytest.mark.parametrize(
        ("old", "new", "text"),
        [
            ("schema = 1", "schema = 2", "its schema is 2"),
            ("schema = 1", "schema = ", "no TOML"),
            ("schema = 1", "\xff", "no TOML"),
            ("places", "plaice", "'places'"),
            ('["3", "4"]', "[]", "places is"),
            ('["3", "4"]', '["3", ""]', "each must name a CPU"),
            ('["3", "4"]', '["3", "3-4"]', "in common"),
            ('["3", "4"]', '["3", "x"]', "no list of CPUs"),
            ('["3", "4"]', "[3, 4]", "is no affinity profile of schema 1"),
            ("[0, 9]", "[0]", "rows and columns"),
            ("cpus = [0, 1]", "cpus = 7", "is no affinity profile"),
        ],
    )
    def test_damaged_profile_is_refused_with_what_is_wrong(
        self, old: str, new: str, text: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "profile.toml"
        self.profile(topology_of("container_v1"), {3}, {4}).write(path)
        content = path.read_text()
        assert old in content
        path.write_bytes(content.replace(old, new).encode("latin-1"))
        with pytest.raises(AffinityProfileError, match=text):
            AffinityProfile.read(path)
