"""The method of scripts/bench.py on made-up data, and one benchmark from end to end."""

import itertools
import json
import math
import operator
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastcomm import RingBuffer
from fastcomm._core.segment import SECTION_RING

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"

pytestmark = pytest.mark.no_sanitizer("measures")


@pytest.fixture(scope="module", autouse=True)
def scripts_on_path() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        yield


def gate_of(*readings: int):  # type: ignore[no-untyped-def]
    """A gate whose loop takes these nanoseconds, one after the other, the last for ever."""
    from benchlib.method import Gate

    times = itertools.chain(readings, itertools.repeat(readings[-1]))
    return Gate(loop=lambda: next(times))


def counting(values: list[float]) -> Callable[[], dict[str, float]]:
    """A contender whose blocks measure 1, 2, 3 ..."""

    def measure() -> dict[str, float]:
        values.append(len(values) + 1.0)
        return {"": values[-1]}

    return measure


class TestGate:
    def test_block_is_dropped_if_the_loop_was_slow_before_or_after_it(self) -> None:
        from benchlib.method import Block

        gate = gate_of(100)
        gate.time_loop()
        assert gate.admits(Block("a", {}, 125, 125))
        assert not gate.admits(Block("a", {}, 126, 100))
        assert not gate.admits(Block("a", {}, 100, 126))

    def test_yardstick_is_the_fastest_loop_even_if_it_came_later(self) -> None:
        from benchlib.method import Block

        gate = gate_of(200, 100)
        gate.time_loop()
        early = Block("a", {}, 200, 200)
        assert gate.admits(early)
        gate.time_loop()
        assert not gate.admits(early)

    def test_figures_of_slow_blocks_are_counted_but_not_in_the_median(self) -> None:
        from benchlib.method import Block, summarise

        gate = gate_of(100)
        gate.time_loop()
        blocks = [
            Block("a", {"p50": figure}, loop, loop)
            for figure, loop in [(1, 100), (900, 200), (3, 110), (2, 100)]
        ]
        summary = summarise(blocks, "p50", gate)
        assert (summary.median, summary.kept, summary.dropped, summary.noisy) == (2, 3, 1, False)

    def test_without_a_quiet_block_the_summary_says_that_it_is_noisy(self) -> None:
        from benchlib.method import Block, summarise

        gate = gate_of(100)
        gate.time_loop()
        summary = summarise([Block("a", {"": 5.0}, 300, 300)], "", gate)
        assert (summary.median, summary.kept, summary.dropped, summary.noisy) == (5, 0, 1, True)


class TestInterleaving:
    def test_contenders_take_turns(self) -> None:
        from benchlib.method import interleave

        blocks = interleave({"a": counting([]), "b": counting([])}, 3, gate_of(100))
        assert [block.contender for block in blocks] == ["a", "b"] * 3
        assert [block.figures[""] for block in blocks] == [1, 1, 2, 2, 3, 3]

    def test_each_block_has_a_loop_of_its_own_before_and_after(self) -> None:
        from benchlib.method import interleave

        blocks = interleave({"a": counting([]), "b": counting([])}, 1, gate_of(100, 101, 102, 103))
        assert [(block.before, block.after) for block in blocks] == [(100, 101), (102, 103)]

    def test_dropped_blocks_are_made_up_for(self) -> None:
        from benchlib.method import count_kept, interleave

        gate = gate_of(100, 100, 200, 200, 100)
        blocks = interleave({"a": counting([])}, 3, gate)
        assert len(blocks) == 4
        assert count_kept(blocks, "a", gate) == 3

    def test_rounds_end_at_twice_their_number_if_it_never_gets_quiet(self) -> None:
        from benchlib.method import interleave

        assert len(interleave({"a": counting([])}, 3, gate_of(100, 200))) == 6

    def test_one_that_gives_up_has_no_more_turns_and_the_others_go_on(self) -> None:
        from benchlib.method import GaveUpError, interleave

        taken: list[int] = []

        def lose() -> dict[str, float]:
            taken.append(1)
            if len(taken) == 2:
                raise GaveUpError("9 of 10 arrived")
            return {"": 1.0}

        gave_up: dict[str, str] = {}
        blocks = interleave({"a": lose, "b": counting([])}, 3, gate_of(100), gave_up)
        assert [block.contender for block in blocks] == ["a", "b", "b", "b"]
        assert gave_up == {"a": "9 of 10 arrived"}

    def test_one_that_gives_up_is_reported_as_skipped(self) -> None:
        from benchlib.contest import Contender, Contest, Setting, run_contest
        from benchlib.method import GaveUpError
        from benchlib.processes import Placement

        def lose() -> dict[str, float]:
            raise GaveUpError("9 of 10 arrived")

        both = [Contender("ours", "sleeps", lambda: {"": 1.0}, "ours"), Contender("theirs", "sleeps", lose)]
        contest = Contest("made up", "nothing", "us", 64, lambda setting, stack: both)
        result = run_contest(contest, Setting(Placement(), quick=True), gate_of(100))
        assert [line.contender.name for line in result.lines] == ["ours"]
        assert [(skip.name, skip.reason) for skip in result.skipped] == [("theirs", "9 of 10 arrived")]


class TestWorker:
    def test_call_returns_what_the_function_returns_in_the_other_process(self) -> None:
        from benchlib.processes import Worker

        with Worker(None, operator.attrgetter, "numerator") as worker:
            assert worker.call(3) == 3

    def test_failure_in_the_other_process_is_an_error_with_its_traceback(self) -> None:
        from benchlib.processes import Worker, WorkerError

        with (
            Worker(None, operator.attrgetter, "numerator") as worker,
            pytest.raises(WorkerError, match="numer"),
        ):
            worker.call("no number")

    def test_process_that_can_not_begin_is_an_error_and_ended(self) -> None:
        from benchlib.processes import Worker, WorkerError

        with pytest.raises(WorkerError, match="ZeroDivisionError"), Worker(None, operator.truediv, 1, 0):
            pass


class TestStatistics:
    def test_percentile_is_nearest_rank(self) -> None:
        from benchlib.method import percentile

        hundred = list(range(1, 101))
        assert [percentile(hundred, p) for p in (50, 95, 99, 100)] == [50, 95, 99, 100]
        assert percentile([1, 2, 3], 50) == 2
        assert percentile([1, 2], 50) == 1
        assert percentile([7], 1) == 7

    @given(st.lists(st.integers(), min_size=1), st.integers(1, 100))
    def test_percentile_is_the_smallest_value_that_so_many_do_not_exceed(
        self, values: list[int], percent: int
    ) -> None:
        from benchlib.method import percentile

        needed = math.ceil(percent * len(values) / 100)
        expected = min(value for value in values if sum(other <= value for other in values) >= needed)
        assert percentile(sorted(values), percent) == expected

    @pytest.mark.parametrize(("values", "percent"), [([], 50), ([1], 0), ([1], 101)])
    def test_percentile_of_nothing_or_out_of_range_is_refused(self, values: list[int], percent: int) -> None:
        from benchlib.method import percentile

        with pytest.raises(ValueError, match=f"percentile {percent} of {len(values)} values"):
            percentile(values, percent)

    def test_percentiles_sort_scale_and_name(self) -> None:
        from benchlib.method import percentiles

        assert percentiles([3000, 1000, 2000], (50, 99), 1e-3) == {"p50": 2.0, "p99": 3.0}

    def test_quartiles_interpolate(self) -> None:
        from benchlib.method import quartiles

        assert quartiles([4, 1, 3, 2]) == (1.75, 2.5, 3.25)
        assert quartiles([5, 1, 4, 2, 3]) == (2, 3, 4)
        assert quartiles([7]) == (7, 7, 7)

    def test_calibration_doubles_until_it_lasts_and_scales_to_the_goal(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from benchlib import method

        now, counts = [0.0], list[int]()

        def measure(count: int) -> None:
            counts.append(count)
            now[0] += count * 0.001

        monkeypatch.setattr(method.time, "perf_counter", lambda: now[0])
        assert method.calibrate(measure, 10, 0.2) == pytest.approx(200, abs=1)
        assert counts == [10, 20, 40, 80, 160]


class TestContest:
    def contest(self, prepare, unit="us", **options):  # type: ignore[no-untyped-def]
        from benchlib.contest import Contest, Setting, run_contest
        from benchlib.processes import Placement

        contest = Contest("made up", "nothing", unit, 64, prepare, **options)
        return run_contest(contest, Setting(Placement(), quick=True), gate_of(100))

    def test_ratio_is_that_of_the_medians_to_each_other_contender(self) -> None:
        from benchlib.contest import Contender

        result = self.contest(
            lambda setting, stack: [
                Contender("ours", "spins", lambda: {"p50": 2.0, "p99": 9.0}, "ours"),
                Contender("peer", "sleeps", lambda: {"p50": 8.0, "p99": 3.0}),
            ]
        )
        lines = {(line.contender.name, line.statistic): line for line in result.lines}
        assert lines["ours", "p50"].ratios == {"peer": 0.25}
        assert lines["peer", "p50"].ratios == {"ours": 4.0}
        assert lines["ours", "p99"].ratios == {"peer": 3.0}

    @pytest.mark.parametrize(("unit", "limit", "peer"), [("us", "tight", "fast"), ("msg/s", "loose", "slow")])
    def test_ours_is_compared_with_the_best_limit_and_the_best_peer(
        self, unit: str, limit: str, peer: str
    ) -> None:
        from benchlib.contest import Contender

        figures = {"tight": 1.0, "loose": 2.0, "fast": 8.0, "slow": 16.0}
        result = self.contest(
            lambda setting, stack: [
                Contender("ours", "", lambda: {"": 4.0}, "ours"),
                *(
                    Contender(name, "", lambda name=name: {"": figures[name]}, "limit")
                    for name in ("tight", "loose")
                ),
                *(Contender(name, "", lambda name=name: {"": figures[name]}) for name in ("fast", "slow")),
            ],
            unit=unit,
        )
        ours, *others = (line.as_json() for line in result.lines)
        assert ours["limit"] == {"name": limit, "median": figures[limit], "ratio": 4.0 / figures[limit]}
        assert ours["best_peer"] == {"name": peer, "median": figures[peer], "ratio": 4.0 / figures[peer]}
        assert all(other["limit"] is other["best_peer"] is None for other in others)

    def test_each_key_of_a_line_in_the_json_file_is_documented(self) -> None:
        from benchlib.contest import Contender

        result = self.contest(lambda setting, stack: [Contender("ours", "", lambda: {"": 1.0}, "ours")])
        documented = (SCRIPTS.parent / "docs" / "benchmarks.md").read_text()
        (line,) = result.lines
        assert [key for key in line.as_json() if f"`{key}`" not in documented] == []

    def test_what_is_skipped_is_reported_with_its_reason(self) -> None:
        from benchlib.contest import Contender, Skipped

        skipped = Skipped("limit", "no C compiler")
        result = self.contest(lambda setting, stack: [Contender("ours", "", lambda: {"": 1.0}), skipped])
        assert result.skipped == [skipped]
        assert [line.contender.name for line in result.lines] == ["ours"]

    def test_machine_speed_drops_no_block_of_a_benchmark_that_it_does_not_matter_to(self) -> None:
        from benchlib.contest import Contender

        result = self.contest(
            lambda setting, stack: [Contender("ours", "", lambda: {"": 1.0})], gated=False, rounds=(2, 2)
        )
        assert (result.lines[0].summary.kept, result.lines[0].summary.dropped) == (2, 0)

    def test_what_was_opened_is_closed_when_a_contender_fails(self) -> None:
        from benchlib.contest import Contender

        closed = []

        def prepare(setting, stack):  # type: ignore[no-untyped-def]
            stack.callback(closed.append, True)
            return [Contender("ours", "", lambda: {"": 1 / 0})]

        with pytest.raises(ZeroDivisionError):
            self.contest(prepare)
        assert closed == [True]


@pytest.fixture(scope="module")
def limits():  # type: ignore[no-untyped-def]
    from benchlib import limits

    try:
        limits.compiled()
    except limits.NoCompilerError as missing:
        pytest.skip(str(missing))
    return limits


class TestTwin:
    """The C twin of the ring and ours read each other's records, for more than a lap, with padding."""

    ROUNDS = 10
    RECORDS = 20

    @pytest.fixture
    def ring(self, name: str) -> Iterator[RingBuffer]:
        with RingBuffer.create(name, capacity=1 << 13) as ring:
            yield ring

    @staticmethod
    def place(ring: RingBuffer) -> tuple[str, int]:
        offset, _ = ring._segment.section(SECTION_RING)
        return ring.path, offset

    def records(self, nbytes: int) -> list[bytes]:
        return [bytes((number + k) % 256 for k in range(nbytes)) for number in range(self.RECORDS)]

    @pytest.mark.parametrize("batch", [1, 4])
    @pytest.mark.parametrize("nbytes", [1, 56, 57, 300])
    def test_ring_reads_what_the_twin_put(self, limits, ring, nbytes: int, batch: int) -> None:  # type: ignore[no-untyped-def]
        for _ in range(self.ROUNDS):
            limits.run("fill", *self.place(ring), self.RECORDS, nbytes, batch)
            assert ring.try_get_many() == self.records(nbytes)
        assert ring.depth == 0

    @pytest.mark.parametrize("batch", [1, 4])
    @pytest.mark.parametrize("nbytes", [1, 56, 57, 300])
    def test_twin_reads_what_the_ring_put(self, limits, ring, nbytes: int, batch: int) -> None:  # type: ignore[no-untyped-def]
        records = self.records(nbytes)
        for _ in range(self.ROUNDS):
            for first in range(0, self.RECORDS, batch):
                ring.put_many(records[first : first + batch])
            limits.run("drain", *self.place(ring), self.RECORDS, nbytes)
        assert ring.depth == 0


class TestCrowd:
    @pytest.mark.parametrize("cpus", [[], sorted(os.sched_getaffinity(0))])
    def test_every_record_of_a_crowd_arrives(self, limits, cpus: list[int]) -> None:  # type: ignore[no-untyped-def]
        figures = limits.run("crowd", 5, 1000, 100, 256, *cpus)
        assert 0 < figures["p50"] <= figures["p95"] <= figures["p99"]

    def test_one_agent_has_nobody_to_send_to(self, limits) -> None:  # type: ignore[no-untyped-def]
        with pytest.raises(subprocess.CalledProcessError) as failed:
            limits.run("crowd", 1, 1000, 100, 256)
        assert "it must be 2 to 1000" in failed.value.stderr


class TestPinnedContenders:
    def test_line_says_that_a_contender_pins_itself(self) -> None:
        from benchlib.contest import Contender, Contest, Setting, run_contest
        from benchlib.processes import Placement

        one = Contender("ours", "sleeps", lambda: {"": 1.0}, "ours", pinned=True)
        contest = Contest("made up", "nothing", "us", 64, lambda setting, stack: [one])
        (line,) = run_contest(contest, Setting(Placement(), quick=True), gate_of(100)).lines
        assert line.as_json()["pinned"] is True


class TestInstructions:
    def recorded(self, **counts: float) -> dict[str, dict[str, float]]:
        return {name: {"instructions": value} for name, value in counts.items()}

    def test_more_than_three_percent_is_wrong_and_less_is_reported(self) -> None:
        from count_instructions import compare

        before = self.recorded(same=100, more=100, less=100, within=100)
        wrong, better = compare({"same": 100, "more": 103.1, "less": 96.9, "within": 102.9, "new": 1}, before)
        assert [line.partition(":")[0] for line in wrong] == ["more", "new"]
        assert [line.partition(":")[0] for line in better] == ["less"]

    def test_raised_number_needs_a_reason_which_is_kept_beside_it(self) -> None:
        from count_instructions import updated

        with pytest.raises(SystemExit, match=r"needs its reason(.|\n)*a: from 100.0 to 110.0"):
            updated(self.recorded(a=100), {"a": 110.0}, None)
        assert updated(self.recorded(a=100), {"a": 110.0}, "checks more") == {
            "a": {"instructions": 110.0, "reason": "checks more"}
        }

    def test_number_is_lowered_at_once_and_not_raised_in_small_steps(self) -> None:
        from count_instructions import updated

        assert updated(self.recorded(a=100, b=100), {"a": 99.0, "b": 102.0, "c": 5.0}, None) == self.recorded(
            a=99.0, b=100, c=5.0
        )

    def test_operations_of_the_baselines_are_those_that_are_counted(self) -> None:
        from benchlib.hot_operations import OPERATIONS
        from count_instructions import load

        for baseline in load()["baselines"]:
            assert list(baseline["counts"]) == list(OPERATIONS)

    def test_publishing_costs_about_the_same_beside_many_subscriptions_that_do_not_match(self) -> None:
        from count_instructions import load

        for counts in (baseline["counts"] for baseline in load()["baselines"]):
            for kind in ("", "a new subject, "):
                few, many = (
                    counts[f"bus publish + receive, {kind}{others} others"]["instructions"]
                    for others in ("10", "100,000")
                )
                assert many <= 1.5 * few


def run_bench(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(SCRIPTS / "bench.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))


class TestCommand:
    def test_ring_put_and_get_from_end_to_end(self, tmp_path: Path) -> None:
        path = tmp_path / "bench.json"
        done = run_bench("--quick", "--only", "ring put+get", "--json", path)
        assert done.returncode == 0, done.stderr
        assert "fastcomm ring" in done.stdout
        content = json.loads(path.read_text())
        ours, pipe, *_ = content["lines"]
        assert (ours["contender"], pipe["contender"]) == ("fastcomm ring", "mp.Pipe")
        assert ours["median"] > 0
        assert ours["ratios"]["mp.Pipe"] == pytest.approx(ours["median"] / pipe["median"])
        assert ours["quiet_blocks"] + ours["dropped_blocks"] >= 3
        assert (content["schema"], ours["name"], ours["role"]) == (1, "ring put+get", "ours")
        assert ours["best_peer"] == {
            "name": "mp.Pipe",
            "median": pipe["median"],
            "ratio": ours["ratios"]["mp.Pipe"],
        }
        assert (ours["unit"], ours["payload"], content["failed"]) == ("us", 512, {})
        assert len(content["lines"]) + len(content["skipped"]) == 3

    def test_pattern_that_fits_no_benchmark_is_an_error_that_lists_the_names(self, tmp_path: Path) -> None:
        done = run_bench("--only", "no such thing", "--json", tmp_path / "bench.json")
        assert done.returncode == 2
        assert "ring put+get" in done.stderr

    def test_failed_benchmark_makes_the_exit_status_1(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        import bench as command
        from benchlib.contest import Contest

        def prepare(setting, stack):  # type: ignore[no-untyped-def]
            raise OSError("no room")

        monkeypatch.setattr(command, "CONTESTS", [Contest("broken", "nothing", "us", None, prepare)])
        path = tmp_path / "bench.json"
        assert command.main(["--quick", "--no-pin", "--json", str(path)]) == 1
        assert "no room" in json.loads(path.read_text())["failed"]["broken"]
        assert "no room" in capsys.readouterr().err


class TestPromises:
    """scripts/promises.py over made-up benchmarks."""

    @pytest.fixture
    def run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
        """Run it with a benchmark of the given contenders: exit status, and the promises in its file."""
        import promises as command
        from benchlib.contest import Contest

        def run(prepare, unit: str, bound: float, statistic: str = ""):  # type: ignore[no-untyped-def]
            promise = command.Promise("made up", "contest", "fastcomm", bound, statistic)
            contest = Contest("contest", "nothing", unit, None, prepare, rounds=(1, 1))
            monkeypatch.setattr(command, "PROMISES", [promise])
            monkeypatch.setattr(command, "contests", lambda: {"contest": contest})
            path = tmp_path / "promises.json"
            status = command.main(["--no-pin", "--json", str(path)])
            return status, json.loads(path.read_text())["promises"]

        return run

    @staticmethod
    def measures(**figures: float):  # type: ignore[no-untyped-def]
        from benchlib.contest import Contender

        return lambda setting, stack: [
            Contender("fastcomm", "", lambda: figures, "ours"),
            Contender("peer", "", lambda: pytest.fail("others were measured")),
        ]

    @pytest.mark.parametrize(
        ("unit", "bound", "kept"),
        [("us", 5.1, True), ("us", 5, False), ("msg/s", 4.9, True), ("msg/s", 5, False)],
    )
    def test_times_stay_below_their_bound_and_rates_above(  # type: ignore[no-untyped-def]
        self, run, capsys: pytest.CaptureFixture[str], unit: str, bound: float, kept: bool
    ) -> None:
        status, (promise,) = run(self.measures(p95=5.0, p50=1.0), unit, bound, "p95")
        assert status == (0 if kept else 1)
        assert (promise["kept"], promise["measured"], promise["bound"]) == (kept, 5.0, bound)
        assert ("NOT KEPT" not in capsys.readouterr().out) == kept

    def test_what_can_not_be_measured_is_not_kept(self, run, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
        status, (promise,) = run(lambda setting, stack: 1 / 0, "us", 5)
        assert status == 1
        assert (promise["kept"], promise["measured"]) == (False, None)
        assert "not measured" in capsys.readouterr().out

    def test_each_promise_is_about_a_benchmark_and_one_of_our_contenders(self) -> None:
        import promises as command
        from benchlib.channels import is_ours

        known = command.contests()
        assert [
            one for one in command.PROMISES if one.contest not in known or not is_ours(one.contender)
        ] == []


def test_the_comparison_of_buses_runs_with_the_peers_that_are_there(tmp_path: Path) -> None:
    report = tmp_path / "compare.json"
    command = [sys.executable, str(SCRIPTS / "compare_peers.py"), "bus", "--quick", "--no-pin"]
    command += ["--only", "one way, sleeping", "--json", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    asked = {line["contender"] for line in found["lines"]} | {skip["name"] for skip in found["skipped"]}
    assert {"fastcomm bus", "mp.Queue", "pyzmq", "cloudtoid", "kickmsg"} <= asked
    peers = [skip for skip in found["skipped"] if not skip["name"].startswith("C ")]
    assert [skip for skip in peers if not skip["reason"].endswith("pip install 'fastcomm[peers]'")] == []


@pytest.mark.parametrize(
    ("group", "benchmark", "contenders"),
    [
        ("codec", "seed: encode, fresh", {"fastcomm", "fastcomm, interning off", "pickle 5", "marshal"}),
        ("codec", "8 numbers: unpack", {"fastcomm", "struct.Struct", "ctypes Structure", "numpy row"}),
        ("inprocess", "dispatch to 10", {"fastcomm", "bare loop"}),
        ("inprocess", "lookup cold, 1,000,000", {"fastcomm", "dict"}),
        ("inprocess", "memory of a queued item", {"fastcomm", "fastcomm, with keys", "heapq"}),
    ],
)
def test_the_comparison_with_peers_runs_with_those_that_are_there(
    group: str, benchmark: str, contenders: set[str], tmp_path: Path
) -> None:
    report = tmp_path / "compare.json"
    command = [sys.executable, str(SCRIPTS / "compare_peers.py"), group, "--quick", "--no-pin"]
    command += ["--only", benchmark, "--json", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert contenders <= {line["contender"] for line in found["lines"]}
    reasons = [skip["reason"] for skip in found["skipped"]]
    expected = ("not installed", "No module", "patterns one after the other")
    assert all(any(text in reason for text in expected) for reason in reasons)
    assert all(line["best_peer"] or line["limit"] for line in found["lines"] if line["role"] == "ours")


def test_the_comparison_ends_with_the_table_for_the_documentation(tmp_path: Path) -> None:
    report = tmp_path / "compare.json"
    command = [sys.executable, str(SCRIPTS / "compare_peers.py"), "codec", "--quick", "--no-pin"]
    command += ["--only", "seed: encode, fresh", "--json", str(report), "--markdown"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = json.loads(report.read_text())["lines"]
    (row,) = [line for line in done.stdout.splitlines() if line.startswith(f"| {lines[0]['name']} |")]
    _, _, ours, ratio, peers, _ = row.split("|")
    assert ours.split()[-1] == "ns"
    assert float(ratio.split(";")[0]) > 0
    assert all(line["contender"] in peers for line in lines if line["role"] == "peer")
