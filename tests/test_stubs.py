"""Every compiled module has a stub, and the stubs say what the modules have."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastcomm

ROOT = Path(__file__).resolve().parent.parent
CORE = Path(fastcomm.__file__).parent / "_core"

pytestmark = pytest.mark.no_sanitizer("compares signatures")


def stems(suffix: str) -> set[str]:
    return {path.stem for path in CORE.glob(f"*{suffix}")}


def test_every_compiled_module_has_a_stub_and_every_stub_a_module() -> None:
    assert stems(".pyx")
    assert stems(".pyi") == stems(".pyx")


def test_no_source_uses_a_stubtest_allowlist() -> None:
    assert list(ROOT.glob("*allowlist*")) == []


@pytest.mark.timeout(400)
def test_stubs_agree_with_the_compiled_modules() -> None:
    if importlib.util.find_spec("mypy") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("mypy is not installed")
        pytest.skip("mypy is not installed: pip install -e '.[lint]'")
    command = [sys.executable, "-m", "mypy.stubtest", "fastcomm", "--mypy-config-file", "pyproject.toml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
