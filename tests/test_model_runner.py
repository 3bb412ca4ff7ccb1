"""What run.py makes of spin's reports: a search that did not take place never counts as one that held."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "model"))

import run

HELD = "   1.35e+08 states, stored\nState-vector 84 byte, depth reached 9, errors: 0\n"


def test_a_complete_search_holds() -> None:
    outcome = run.judge(HELD)
    assert (outcome.states, outcome.violation, outcome.problem) == (135_000_000, "", "")


def test_a_violation_is_one_though_the_search_ends_there() -> None:
    report = "pan:1: invalid end state (at depth 49)\nSearch not completed\n 99 states, stored\nerrors: 1\n"
    outcome = run.judge(report)
    assert (outcome.violation, outcome.problem) == ("invalid end state", "")


def test_no_report_an_empty_search_and_an_incomplete_one_are_problems() -> None:
    assert run.judge("").problem
    assert run.judge(HELD.replace("1.35e+08", "0")).problem
    assert run.judge("pan: reached -DMEMLIM bound\nWarning: Search not completed\n" + HELD).problem


def test_each_seq_cst_variant_has_a_run() -> None:
    wanted = {"FLAG_ACQREL", "LOOK_ACQUIRE", "MADE_RELEASE", "SLEEPERS_ACQUIRE", "UNLOCK_ACQREL"}
    wanted |= {"COMMIT_ACQREL", "CHECK_ACQUIRE", "EPOCH_RELEASE", "DRAIN_ACQUIRE"}
    assert wanted <= {flag for case in run.CASES if case.broken for flag in case.flags}


def test_a_run_that_does_not_exist_fails() -> None:
    assert run.chosen(run.CASES[0], ["--only", str(run.CASES[0])])
    assert not any(run.chosen(case, ["--only", "nothing"]) for case in run.CASES)
