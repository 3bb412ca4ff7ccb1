"""The tuning scripts: what they make of measurements, and each once, quickly, from end to end."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from procs import environment
from sysfs_trees import machine, topology_of

from fastcomm import Bus
from fastcomm.affinity import AffinityProfile, plan, topology

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
PNG = b"\x89PNG"

pytestmark = pytest.mark.no_sanitizer("measures")
two_cpus = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a distance needs two CPUs")


@pytest.fixture(scope="module", autouse=True)
def scripts_on_path() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        yield


def run(script: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment())


def files(folder: Path) -> list[object]:
    return ["--json", folder / "x.json", "--png", folder / "x.png"]


def between_sockets(cpus: range) -> dict[tuple[int, int], float]:
    """Latencies of two_sockets_smt: 50 ns in a core, 100 in a socket, 300 between."""
    return {
        (one, other): 50.0 if other - one == 32 else 100.0 if one % 32 // 16 == other % 32 // 16 else 300.0
        for one, other in combinations(cpus, 2)
    }


class TestOrders:
    def test_measured_order_is_a_socket_then_the_other_and_second_threads_last(self) -> None:
        from benchlib.matrix import nearest_first

        order = nearest_first(range(64), between_sockets(range(64)), topology_of("two_sockets_smt"))
        assert (set(order[:16]), set(order[16:32])) == (set(range(16)), set(range(16, 32)))
        assert sorted(order) == list(range(64))

    def test_pairs_may_be_measured_in_either_direction(self) -> None:
        from benchlib.matrix import nearest_first, orders

        latency, on = between_sockets(range(64)), topology_of("two_sockets_smt")
        turned = {(there, here): value for (here, there), value in latency.items()}
        assert nearest_first(range(64), turned, on) == nearest_first(range(64), latency, on)
        assert orders(range(64), turned, on) == orders(range(64), latency, on)

    @given(st.lists(st.floats(1, 1000), min_size=28, max_size=28), st.sets(st.integers(0, 7), min_size=2))
    def test_every_order_has_each_measured_cpu_once_and_the_best_is_first(
        self, times: list[float], cpus: set[int]
    ) -> None:
        from benchlib.matrix import orders

        latency = dict(zip(combinations(range(8), 2), times, strict=True))
        ranking = orders(cpus, latency, topology_of("four_nodes")._replace(allowed=frozenset(range(8))))
        assert {order.name for order in ranking} == {"measured", "compact", "scatter"}
        assert all(sorted(order.cpus) == sorted(cpus) for order in ranking)
        assert ranking[0].mean_ns <= 1.04 * min(order.mean_ns for order in ranking)

    def test_measured_order_must_be_better_than_noise(self) -> None:
        from benchlib.matrix import orders

        cpus = range(8)
        level = dict.fromkeys(combinations(cpus, 2), 100.0)
        on = topology_of("four_nodes")._replace(allowed=frozenset(cpus))
        assert orders(cpus, level, on)[0].name == "compact"
        assert orders(cpus, {**level, (6, 7): 98.0}, on)[0].name == "compact"
        assert orders(cpus, {**level, (6, 7): 10.0}, on)[0].cpus[:2] == (6, 7)

    def test_matrix_is_symmetric_with_zeros_on_its_diagonal(self) -> None:
        from benchlib.matrix import matrix_of

        assert matrix_of([3, 1, 2], {(3, 1): 5.0, (3, 2): 6.0, (1, 2): 7.0}) == (
            (0, 5, 6),
            (5, 0, 7),
            (6, 7, 0),
        )


class TestTuneAffinity:
    @two_cpus
    def test_quick_run_writes_a_profile_that_a_bus_takes_a_report_and_a_picture(
        self, tmp_path: Path, name: str
    ) -> None:
        pytest.importorskip("matplotlib")
        profile = tmp_path / "profile.toml"
        done = run("tune_affinity.py", "--quick", "--profile", profile, *files(tmp_path))
        assert done.returncode == 0, done.stderr
        assert "recommended: " in done.stdout
        content = json.loads((tmp_path / "x.json").read_text())
        allowed = sorted(os.sched_getaffinity(0))
        assert len(content["pairs"]) == len(allowed) * (len(allowed) - 1) // 2
        assert all(pair["one_way_ns"] > 0 for pair in content["pairs"])
        assert (tmp_path / "x.png").read_bytes().startswith(PNG)
        assert AffinityProfile.read(profile).fingerprint == content["fingerprint"]
        made = plan(profile)
        assert frozenset().union(*made.places) == topology().allowed
        with Bus.open(name) as bus, bus.join(cpus=profile) as agent:
            assert agent.cpus == made.place(0)

    @pytest.mark.parametrize(
        ("cpus", "text"), [("0", "needs two CPUs"), ("0-x", "no list"), ("0,65000", "not among")]
    )
    def test_cpus_that_can_not_be_measured_are_an_error_in_words(
        self, cpus: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        import tune_affinity

        arguments = ["--no-png", "--cpus", cpus, "--profile", tmp_path / "x.toml", *files(tmp_path)]
        assert tune_affinity.main([*map(str, arguments)]) == 2
        assert text in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    @two_cpus
    def test_where_pinning_is_forbidden_nothing_is_measured(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        import tune_affinity

        monkeypatch.setenv("FASTCOMM_DISABLE", "affinity")
        arguments = ["--quick", "--no-png", "--profile", tmp_path / "x.toml", *files(tmp_path)]
        assert tune_affinity.main([*map(str, arguments)]) == 2
        assert "can't be measured" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    def test_echo_that_fails_ends_the_measurement(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from benchlib import matrix
        from benchlib.method import Gate
        from benchlib.processes import WorkerError

        monkeypatch.setattr(matrix, "STUCK_SECONDS", 0.1)
        effort = matrix.Effort(trips=10, rounds=1)
        with pytest.raises(WorkerError, match="CPU 60000 is not online"):
            matrix.measure([min(os.sched_getaffinity(0)), 60000], effort, Gate())

    def test_cores_are_measured_by_one_cpu_each(self, tmp_path: Path) -> None:
        import tune_affinity

        options = tune_affinity.parse(["--cores"])
        assert tune_affinity.choose_cpus(options, machine("two_sockets_smt", tmp_path)) == list(range(32))


class TestTuneAgents:
    def test_quick_run_compares_plans_and_recommends_one(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        done = run("tune_agents.py", "--quick", *files(tmp_path))
        assert done.returncode == 0, done.stderr
        content = json.loads((tmp_path / "x.json").read_text())
        assert [setting["plan"] for setting in content["settings"]] == ["none", "scatter"]
        for setting in content["settings"]:
            figures = {name: one["median"] for name, one in setting["figures"].items()}
            assert 0 < figures["p50"] <= figures["p95"] <= figures["p99"]
            assert figures["cpu"] > 0
        assert f"join(cpus={content['recommended']['plan']!r}" in done.stdout
        assert (tmp_path / "x.png").read_bytes().startswith(PNG)

    def test_least_cpu_wins_among_those_that_are_as_fast(self) -> None:
        from benchlib.agents import Knobs, recommend
        from benchlib.method import Summary

        def figures(**medians: float) -> dict[str, Summary]:
            return {name: Summary(one, one, one, 1, 0, False) for name, one in medians.items()}

        fast, frugal, slow = (Knobs(plan, 0, 4096) for plan in ("fast", "frugal", "slow"))
        found = {
            fast: figures(p95=100, cpu=90),
            frugal: figures(p95=109, cpu=50),
            slow: figures(p95=111, cpu=1),
        }
        assert recommend(found) == frugal

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (["--agents", "1"], "--agents is 1; it must be at least 2"),
            (["--size", "7"], "it must be at least 8"),
            (["--plans", "none,near"], "'near' is no plan; choose auto"),
            (["--plans", "no.toml"], "No such file"),
            (["--spins", "a"], "--spins"),
            (["--quick", "--no-png", "--inboxes", "1"], "inbox_bytes is 1; it must be"),
            (["--quick", "--no-png", "--spins", "9999"], "spin_us is 9999; it must be"),
        ],
    )
    def test_bad_settings_are_an_error_in_words(
        self, arguments: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        import tune_agents

        try:
            status: object = tune_agents.main([*arguments, *map(str, files(tmp_path))])
        except SystemExit as ended:
            status = ended.code
        assert status == 2
        assert text in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []
