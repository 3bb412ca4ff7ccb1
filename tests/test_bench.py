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
    def contest(self, prepare, **options):  # type: ignore[no-untyped-def]
        from benchlib.contest import Contest, Setting, run_contest
        from benchlib.processes import Placement

        contest = Contest("made up", "nothing", "us", 64, prepare, **options)
        return run_contest(contest, Setting(Placement(), quick=True), gate_of(100))

    def test_ratio_is_that_of_the_medians_to_each_other_contender(self) -> None:
        from benchlib.contest import Contender

        result = self.contest(
            lambda setting, stack: [
                Contender("ours", "spins", lambda: {"p50": 2.0, "p99": 9.0}),
                Contender("peer", "sleeps", lambda: {"p50": 8.0, "p99": 3.0}),
            ]
        )
        lines = {(line.contender, line.statistic): line for line in result.lines}
        assert lines["ours", "p50"].ratios == {"peer": 0.25}
        assert lines["peer", "p50"].ratios == {"ours": 4.0}
        assert lines["ours", "p99"].ratios == {"peer": 3.0}
        assert lines["ours", "p50"].as_json()["median"] == 2.0

    def test_what_is_skipped_is_reported_with_its_reason(self) -> None:
        from benchlib.contest import Contender, Skipped

        skipped = Skipped("limit", "no C compiler")
        result = self.contest(lambda setting, stack: [Contender("ours", "", lambda: {"": 1.0}), skipped])
        assert result.skipped == [skipped]
        assert [line.contender for line in result.lines] == ["ours"]

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
        assert ours["kept"] + ours["dropped"] >= 3
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
