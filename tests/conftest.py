"""What every test gets unasked: a watchdog and a leak check. And `name`: a bus or ring name of its own.

A run of the tests has a folder for its segments (FASTCOMM_DIR), so that runs at the same time don't meet.
"""

import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

import fastcomm
from fastcomm.config import settings
from fastcomm.testing import LeakCheck, Watchdog, isolated_name

# Set by scripts/ci_jobs.py: where the tested build lies, which variant it is, how much slower than the
# release build.
BUILD = os.environ.get("FASTCOMM_TEST_BUILD", "")
VARIANT = os.environ.get("FASTCOMM_TEST_VARIANT", "release")
SLOWDOWN = float(os.environ.get("FASTCOMM_TEST_SLOWDOWN", "1"))

SECONDS_PER_TEST = 120
MARKERS = (
    "timeout(seconds): the watchdog's time for this test instead of 120 s",
    "large: a thousand agents; only `make test` runs it, other jobs and builds do not",
    "debug_build: needs the fault hooks of the debug build; `make test` runs it there",
    "no_sanitizer(reason): not run under ASan: it tests the sources, measures, or starts compilers",
    "needs(flag): tests that optimisation itself, which FASTCOMM_DISABLE may have turned off",
    "tsan: threads that share one mapping; `make tsan` runs it under ThreadSanitizer as well",
)
WATCHDOG = pytest.StashKey[Watchdog]()
CALL_PASSED = pytest.StashKey[bool]()

# No test asserts how long something takes at most, on machines that are shared.
hypothesis.settings.register_profile("fastcomm", deadline=None, print_blob=True)
hypothesis.settings.register_profile(
    "slow build",
    parent=hypothesis.settings.get_profile("fastcomm"),
    max_examples=25,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
# pytest --hypothesis-profile=long, for time that is to spare: docs/verification.md.
hypothesis.settings.register_profile(
    "long",
    parent=hypothesis.settings.get_profile("fastcomm"),
    max_examples=20_000,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("slow build" if SLOWDOWN > 1 else "fastcomm")


# A shell that runs this in the background has SIGINT ignored, here and in what is started here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    loaded = Path(fastcomm.__file__).parent.parent
    if BUILD and loaded != Path(BUILD):
        raise pytest.UsageError(
            f"the build in {BUILD} was to be tested, but fastcomm was imported from {loaded}"
        )
    # Only a group of our own is killed as a whole: the group of a `make` may have an editor or a CI agent in
    # it.
    group = os.getpgrp() if os.getpgrp() == os.getpid() else None
    config.stash[WATCHDOG] = Watchdog(SECONDS_PER_TEST, process_group=group)
    if "FASTCOMM_DIR" not in os.environ:
        directory = tempfile.mkdtemp(prefix="fastcomm-test-", dir="/dev/shm")
        config.add_cleanup(lambda: shutil.rmtree(directory))
        os.environ["FASTCOMM_DIR"] = directory


def pytest_unconfigure(config: pytest.Config) -> None:
    watchdog = config.stash.get(WATCHDOG, None)
    if watchdog is not None:
        watchdog.close()


def pytest_report_header() -> str:
    return f"fastcomm {fastcomm.__version__}, {VARIANT} build, from {Path(fastcomm.__file__).parent}"


def pytest_collection_finish() -> None:
    # The leak check collects garbage twice a test: let it look at what the test made, not at all of pytest.
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for needs in item.iter_markers("needs"):
            if not getattr(settings(), needs.args[0]):
                item.add_marker(pytest.mark.skip(reason=f"FASTCOMM_DISABLE names {needs.args[0]}"))
    if "debug" in VARIANT:
        return
    skip = pytest.mark.skip(reason="needs the debug build: `make test` runs it there")
    for item in items:
        if item.get_closest_marker("debug_build"):
            item.add_marker(skip)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[CALL_PASSED] = report.passed
    return report


@pytest.fixture(autouse=True)
def guarded(request: pytest.FixtureRequest) -> Iterator[None]:
    """Watchdog outside, leak check inside: a check that hangs is ended too."""
    watchdog = request.config.stash[WATCHDOG]
    watchdog.arm(seconds_for(request.node) * SLOWDOWN)
    check = LeakCheck()
    check.__enter__()
    yield
    # The traceback of a failure keeps the test's locals alive, so there a leak says nothing.
    if request.node.stash.get(CALL_PASSED, False):
        request.node.funcargs.clear()  # fixtures have ended; what they gave would keep its mappings
        check.__exit__(None, None, None)
    watchdog.disarm()


def seconds_for(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker else SECONDS_PER_TEST


@pytest.fixture
def name() -> str:
    """A name of a bus or ring that no other test uses."""
    return isolated_name()
