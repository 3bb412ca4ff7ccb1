"""The kill campaign, briefly: it injects what it says, covers every hook, and reports what goes wrong."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from procs import environment

from fastcomm.rings import RingBuffer
from fastcomm.testing.chaos import Campaign, Violation, hooks, troop
from fastcomm.testing.chaos.__main__ import main
from fastcomm.testing.chaos.campaign import KINDS
from fastcomm.testing.chaos.history import ReaderLedger
from fastcomm.testing.chaos.plan import CONSUMER, FOUNDER, STEPS, Life, draw, theme_of
from fastcomm.testing.chaos.rounds import WAIT, QueueRound, RingRound, noted
from fastcomm.testing.chaos.troop import Tally, Troop

CAMPAIGN = "fastcomm.testing.chaos"
ENOUGH_ROUNDS = 400  # far more than it takes to come by every hook


def run_rounds(campaign: Campaign, count: int) -> None:
    with campaign.prepared():
        for _ in range(count):
            campaign.run_round()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("what", KINDS)
def test_participants_killed_and_stopped_at_random_cost_the_others_nothing(what: str) -> None:
    campaign = Campaign(what, seed=1)
    campaign.with_hooks = False
    run_rounds(campaign, 2)
    assert campaign.tally.random_kills == campaign.tally.kills > 10
    assert campaign.tally.stops > 0
    assert campaign.checked["received"] > 100


@pytest.mark.debug_build
@pytest.mark.timeout(900)
def test_somebody_is_killed_at_every_hook_of_the_sources() -> None:
    campaign = Campaign(seed=1)
    with campaign.prepared():
        while campaign.never_killed_at() and campaign.rounds.total() < ENOUGH_ROUNDS:
            campaign.run_round()
    assert campaign.never_killed_at() == []
    assert f"{len(hooks.NAMES)} of {len(hooks.NAMES)} hooks" in campaign.closing_line()
    assert set(campaign.rounds) == set(KINDS)


def test_every_hook_of_the_header_is_in_the_plan() -> None:
    planned = {hook for steps in STEPS.values() for names in steps.values() for hook in names}
    assert planned == set(hooks.NAMES)


@pytest.mark.parametrize("what", KINDS)
def test_the_same_seed_gives_the_same_plan(what: str) -> None:
    one, same, other = (
        draw(what, seed, with_hooks=True, producers=3, consumers=3, lives=6) for seed in (5, 5, 6)
    )
    assert (one.founders, one.places, one.abandoned) == (same.founders, same.places, same.abandoned)
    assert one.places != other.places


@pytest.mark.parametrize("what", KINDS)
def test_every_hook_of_every_role_is_the_theme_of_some_round(what: str) -> None:
    steps = STEPS[what]
    themes = {theme_of(steps, seed) for seed in range(1000, 1100)}
    assert themes == {(role, hook) for role, hooks in steps.items() for hook in hooks}


def test_without_hooks_nobody_is_to_stop_at_one() -> None:
    plan = draw("ring", 5, with_hooks=False, producers=3, consumers=1, lives=6)
    lives = [*plan.founders, *(life for place in plan.places for life in place)]
    assert {life.hook for life in lives} == {""}
    assert [life.role for life in plan.founders] == [FOUNDER] * 3


# ----------------------------------------------------------------------------------- what goes wrong is found


def fails(campaign: Campaign) -> str:
    with pytest.raises(Violation) as caught:
        run_rounds(campaign, 10)
    return str(caught.value)


def test_a_message_that_is_thrown_away_is_reported_with_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(self: RingRound, ring: RingBuffer, ledger: ReaderLedger, rng: object) -> int:
        return noted(ledger, 8, lambda: ring.get_many(8, timeout=WAIT)[1:])

    monkeypatch.setattr(RingRound, "take", forgetful)
    text = fails(Campaign("ring", seed=1))
    assert "lost: expected at most" in text
    assert re.search(r"repeated by: --what ring --seed \d+", text)


def test_an_error_in_a_participant_is_reported_with_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: QueueRound, queue: object, ledger: ReaderLedger, rng: object) -> int:
        raise RuntimeError("not foreseen")

    monkeypatch.setattr(QueueRound, "take", broken)
    text = fails(Campaign("queue", seed=1))
    assert "failed with exit status 1" in text
    assert "RuntimeError: not foreseen" in text


class TestTroop:
    """Whoever does not come to an end is found, and says where it is."""

    @pytest.fixture
    def hanging(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Troop]]:
        """A troop of one whose life has a given fate, and who sleeps."""
        monkeypatch.setattr(troop, "PATIENCE", 0.3)
        ended = memoryview(bytearray(2))
        made: list[Troop] = []

        def make(fate: str) -> Troop:
            life = Life(1, CONSUMER, 0, 0, fate)
            made.append(Troop([[life]], lambda life, signals: time.sleep(3600), Tally(), ended))
            return made[0]

        with troop.signals_awaited():
            yield make
            for one in made:
                one.__exit__()

    def test_that_is_to_leave_by_itself(self, hanging: Callable[[str], Troop]) -> None:
        with pytest.raises(
            Violation, match=r"hangs: expected consumer 0 \(life 1, leave\) to leave"
        ) as caught:
            hanging("leave").run()
        assert "in <lambda>" in str(caught.value)

    def test_that_is_asked_to_leave(self, hanging: Callable[[str], Troop]) -> None:
        sut = hanging("last")
        sut.run()
        with pytest.raises(
            Violation, match=r"hangs: expected consumer 0 \(life 1, last\) to leave"
        ) as caught:
            sut.finish()
        assert "in <lambda>" in str(caught.value)

    def test_that_gets_nothing_done(self, hanging: Callable[[str], Troop]) -> None:
        sut = hanging("last")
        sut.run()
        with pytest.raises(Violation, match="held up: expected a miracle within"):
            sut.wait_until(lambda: False, "a miracle")


def test_an_error_of_the_campaigns_own_is_reported_with_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RingRound, "take_now", lambda self, ring: ring.no_such_method())
    text = fails(Campaign("ring", seed=1))
    assert "unexpected: AttributeError" in text
    assert "repeated by: --what ring --seed 1" in text


# The first alarm may come within a callback of fork(), where what it raises is only printed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_call_of_the_campaigns_own_that_hangs_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastcomm.testing.chaos.campaign.ROUND_SECONDS", 0.2)
    monkeypatch.setattr(RingRound, "clear", lambda self: time.sleep(3600))
    assert "hangs: expected a round to take less than 0.2 s" in fails(Campaign("ring", seed=1))


def test_what_is_left_behind_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RingRound, "clear", lambda self: Path(os.environ["FASTCOMM_DIR"], "left").touch())
    text = fails(Campaign("ring", seed=1))
    assert "left behind: expected an empty directory of segments, got ['left']" in text


# --------------------------------------------------------------------------------------------- command line


def test_the_command_line_prints_a_summary(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--minutes", "0.001", "--seed", "3", "--what", "ring"]) == 0
    out = capfd.readouterr().out
    assert re.search(r"^chaos: \d+ kills in 1 rounds, .*, seed 3, \d+ s$", out, re.MULTILINE)
    assert re.search(r"\d+ messages sent, [\d,]+ deliveries checked", out)
    if not hooks.compiled_in():
        assert "fault hooks are compiled out" in out


def test_the_command_line_fails_if_less_happened_than_was_required(capfd: pytest.CaptureFixture[str]) -> None:
    options = ["--minutes", "0.001", "--seed", "3", "--what", "ring", "--require-kills", "1000000"]
    assert main([*options, "--require-hooks"]) == 1
    out = capfd.readouterr().out
    assert "kills, 1000000 were required" in out
    assert "nobody was killed at" in out


def test_the_command_line_fails_at_a_violation(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RingRound, "clear", lambda self: Path(os.environ["FASTCOMM_DIR"], "left").touch())
    assert main(["--minutes", "1", "--seed", "3", "--what", "ring"]) == 1
    out = capfd.readouterr().out
    assert "VIOLATION: left behind" in out
    assert "repeated by: --what ring --seed 3" in out


def test_ctrl_c_ends_it_with_the_summary_so_far() -> None:
    command = [sys.executable, "-m", CAMPAIGN, "--minutes", "5", "--what", "ring"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as campaign:
        assert campaign.stdout is not None
        assert "chaos: ring, seed" in campaign.stdout.readline()
        time.sleep(1.0)
        campaign.send_signal(signal.SIGINT)
        out, err = campaign.communicate()
    assert (campaign.returncode, err) == (0, "")
    assert re.search(r"^interrupted$", out, re.MULTILINE)
    assert re.search(r"^chaos: \d+ kills", out, re.MULTILINE)
