"""What an import loads: each agent process pays for it in memory and in time."""

import subprocess
import sys
from pathlib import Path

import pytest

import fastcomm

pytestmark = pytest.mark.no_sanitizer("counts what an import loads, not what it does")

HEAVY = (
    "numpy",
    "psutil",
    "asyncio",
    "multiprocessing",
    "multiprocessing.shared_memory",
    "logging",
    "pytest",
)


def modules_after(statement: str) -> set[str]:
    script = f"{statement}\nimport sys\nprint(*sys.modules)"
    path = [str(Path(fastcomm.__file__).parent.parent), *filter(None, sys.path)]
    # -S: what the site module loads for editable installs and the like is not ours. -P: nor is the working
    # folder.
    command = [sys.executable, "-S", "-P", "-c", script]
    env = {"PYTHONPATH": ":".join(path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("heavy", HEAVY)
def test_import_does_not_load(heavy: str) -> None:
    assert heavy not in modules_after("import fastcomm")


def test_import_loads_no_module_of_ours_but_the_version() -> None:
    ours = {module for module in modules_after("import fastcomm") if module.startswith("fastcomm")}
    assert ours == {"fastcomm", "fastcomm._version"}


def test_using_the_codec_does_not_load_the_bus() -> None:
    loaded = modules_after("import fastcomm; fastcomm.encode")
    assert "fastcomm._core.codec" in loaded
    assert loaded.isdisjoint({"fastcomm.bus", "fastcomm.agent", "fastcomm.rings"})


def test_being_pinned_loads_little_more_than_the_bus() -> None:
    loaded = modules_after("import fastcomm.affinity; fastcomm.affinity.topology()")
    assert loaded.isdisjoint({"numpy", "psutil", "pathlib", "tomllib", "hashlib", "fastcomm.bus"})


def test_errors_are_loaded_by_the_first_use() -> None:
    assert "fastcomm.errors" in modules_after("import fastcomm; fastcomm.Full")
