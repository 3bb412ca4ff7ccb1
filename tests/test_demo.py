"""``fastcomm demo`` end to end: agent processes over a real bus, killed and interrupted from outside."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastcomm import Bus
from fastcomm.cli.indexing.corpus import count_words, discover, standard_library

pytestmark = pytest.mark.no_sanitizer("the demo measures private memory, of which a sanitizer has terabytes")

COMMAND = [sys.executable, "-m", "fastcomm.cli", "demo"]
DEADLINE = 60.0


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Some real sources, one file with a line longer than any message, and one that is not UTF-8."""
    directory = tmp_path / "corpus"
    directory.mkdir()
    for path in standard_library().paths[:12]:
        (directory / os.path.basename(path)).write_bytes(Path(path).read_bytes())
    (directory / "long.txt").write_text("word " * 5000 + "x" * 20000 + "\n" + "été漢字 " * 3000)
    (directory / "latin.txt").write_bytes(b"caf\xe9 \xff\xfe\n" * 500)
    (directory / "empty.txt").write_bytes(b"")
    return directory


def demo(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=DEADLINE)


def eventually(check: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + DEADLINE
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def exists(pid: int) -> bool:
    """Whether a process of this pid still runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def running(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], dict[str, int], str]]:
    """A demo over a large corpus that has begun to index:

    Process, pids of its agents, path of its segment.
    """
    command = [*COMMAND, "--no-live", *map(str, arguments)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            assert any("indexing" in line for line in process.stdout)
            with Bus.open(f"demo-{process.pid}", create=False) as bus:
                agents = {agent.name: agent.pid for agent in bus.agents()}
                path = bus.path
            yield process, agents, path
        finally:
            process.kill()


class TestResult:
    def test_ten_agents_count_what_one_process_counts(self, corpus: Path) -> None:
        done = demo("--agents", 10, "--corpus", corpus)
        words = count_words(discover(corpus))
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == (
            f"OK: {words.total():,} words, {len(words):,} distinct, equal to the single-process count"
        )

    def test_fewest_agents_do_the_job(self, corpus: Path) -> None:
        assert demo("--agents", 4, "--corpus", corpus).returncode == 0

    def test_a_corpus_smaller_than_the_agents_is_counted(self, tmp_path: Path) -> None:
        (tmp_path / "one.txt").write_text("just three words")
        done = demo("--agents", 30, "--corpus", tmp_path)
        assert done.stdout.splitlines()[-1].startswith("OK: 3 words, 3 distinct")

    @pytest.mark.parametrize("seed", [1, 2, 3])
    def test_counted_and_lost_add_up_when_tokenizers_are_killed(
        self, corpus: Path, tmp_path: Path, seed: int
    ) -> None:
        report = tmp_path / "lost"
        done = demo(
            "--agents", 10, "--corpus", corpus, "--kill", 6, "--seed", seed, "--json", "--lost-report", report
        )
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout)
        check = summary["verification"]
        assert summary["kills"] == 6
        assert summary["equal"]
        assert summary["words"] + check["lost_words"] == check["words"]
        assert report.read_text().splitlines() == summary["lost"]

    def test_json_alone_is_on_standard_output_and_has_the_promised_figures(self, corpus: Path) -> None:
        summary = json.loads(demo("--agents", 10, "--corpus", corpus, "--json").stdout)
        assert summary["memory_total"] == summary["memory"]["segment"] + summary["memory"]["growth"] > 0
        assert summary["latency"]["all"]["messages"] == summary["messages"] > 0
        assert summary["latency"]["all"]["p50"] <= summary["latency"]["all"]["max"]
        assert (summary["lost"], summary["kills"]) == ([], 0)


class TestErrors:
    def test_missing_corpus_is_named(self, tmp_path: Path) -> None:
        done = demo("--corpus", tmp_path / "nowhere")
        assert (done.returncode, "nowhere is not a directory" in done.stderr) == (1, True)

    def test_empty_corpus_is_named(self, tmp_path: Path) -> None:
        done = demo("--corpus", tmp_path)
        assert (done.returncode, "holds no readable file" in done.stderr) == (1, True)

    @pytest.mark.parametrize("victim", ["owner-0", "tokenizer-1", "reader-0", "aggregator-0"])
    def test_a_role_that_dies_unasked_is_an_error_that_names_it(self, victim: str) -> None:
        with running("--agents", 10) as (process, agents, path):
            os.kill(agents[victim], signal.SIGKILL)
            _, errors = process.communicate(timeout=DEADLINE)
            assert process.returncode == 1
            assert f"{victim} (pid {agents[victim]}) was killed by SIGKILL" in errors
            assert not any(map(exists, agents.values()))
            assert not os.path.exists(path)

    @pytest.mark.parametrize("module", ["click", "rich"])
    def test_without_the_extra_the_text_says_how_to_get_it(self, module: str) -> None:
        code = (
            f"import sys; sys.modules[{module!r}] = None; sys.argv = ['fastcomm', 'demo'];"
            " from fastcomm.cli import main; main()"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE)
        assert done.returncode == 1
        assert done.stderr.strip() == (
            f"fastcomm: the command line needs {module}: pip install 'fastcomm[cli]'"
        )


class TestEnd:
    @pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_interrupted_it_leaves_no_process_and_no_segment(self, signum: int, code: int) -> None:
        with running("--agents", 10) as (process, agents, path):
            os.killpg(process.pid, signum) if signum == signal.SIGINT else process.send_signal(signum)
            _, errors = process.communicate(timeout=DEADLINE)
            assert process.returncode == code
            assert "Traceback" not in errors
            assert not any(map(exists, agents.values()))
            assert not os.path.exists(path)

    def test_agents_end_when_their_supervisor_is_killed(self) -> None:
        with running("--agents", 10) as (process, agents, path):
            process.kill()
            assert eventually(lambda: not any(map(exists, agents.values())))
            if os.path.exists(path):
                with Bus.open(f"demo-{process.pid}", create=False) as bus:
                    bus.unlink()
