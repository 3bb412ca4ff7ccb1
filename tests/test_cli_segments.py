"""``fastcomm ls``, ``fastcomm clean`` and ``fastcomm --version``."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import fastcomm
from fastcomm import RingBuffer
from fastcomm.cli.group import group

HOLDER = """
import sys, fastcomm
ring = fastcomm.RingBuffer.create(sys.argv[1], capacity=4096)
print("ready", flush=True)
sys.stdin.read()
"""


def run(*arguments: str, directory: Path) -> str:
    result = CliRunner().invoke(group, [*arguments, "--directory", str(directory)])
    assert result.exit_code == 0, result.output
    return result.output


def listed(directory: Path) -> dict[str, dict[str, object]]:
    return {found["name"]: found for found in json.loads(run("ls", "--json", directory=directory))}


def leave_a_dead_segment(name: str, directory: Path) -> None:
    """A ring whose only participant was killed."""
    environment = {**os.environ, "FASTCOMM_DIR": str(directory)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)


def test_version_is_that_of_the_package() -> None:
    assert CliRunner().invoke(group, ["--version"]).output == f"fastcomm, version {fastcomm.__version__}\n"


def test_every_command_of_the_group_can_be_imported() -> None:
    shown = CliRunner().invoke(group, ["--help"])
    assert shown.exit_code == 0
    assert all(name in shown.output for name in ("clean", "demo", "ls"))


def test_ls_names_a_ring_and_its_live_participants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("FASTCOMM_DIR", str(tmp_path))
    with RingBuffer.create(name, capacity=4096):
        found = listed(tmp_path)[name]
        assert (found["alive"], found["problem"]) == (1, None)
        head, row = run("ls", directory=tmp_path).splitlines()
        assert head.split()[:2] == ["name", "kind"]
        assert row.split()[0] == name


def test_ls_of_an_empty_directory_says_so(tmp_path: Path) -> None:
    assert run("ls", directory=tmp_path) == "no segments\n"


def test_clean_removes_doorbells_of_segments_that_were_unlinked_unless_they_are_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("FASTCOMM_DIR", str(tmp_path))
    with fastcomm.Bus.open(name) as bus, bus.join("a") as agent:
        agent.fileno()
        bus.unlink()
        (doorbell,) = tmp_path.iterdir()
        left = doorbell.with_name(f"{doorbell.name}7")
        os.mkfifo(left)
        assert run("clean", directory=tmp_path) == f"removed {left}\n"
        assert list(tmp_path.iterdir()) == [doorbell]
    assert list(tmp_path.iterdir()) == []


def test_clean_removes_the_dead_and_leaves_the_living(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    dead = f"{name}-dead"
    leave_a_dead_segment(dead, tmp_path)
    monkeypatch.setenv("FASTCOMM_DIR", str(tmp_path))
    with RingBuffer.create(name, capacity=4096):
        before = listed(tmp_path)
        assert before.keys() == {name, dead}
        assert run("clean", directory=tmp_path) == f"removed {before[dead]['path']}\n"
        assert listed(tmp_path).keys() == {name}
        assert run("clean", directory=tmp_path) == "nothing to remove\n"
