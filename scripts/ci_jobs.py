"""The jobs behind `make`: set up, build variants, test them, check the sources, pack.

    python3 scripts/ci_jobs.py setup                      makes .venv and installs fastcomm into it, editable
    .venv/bin/python scripts/ci_jobs.py lint asan ...     runs jobs; the list is JOBS below

Needs nothing but the standard library of Python 3.11; see job_runner.py for when a job fails or is skipped.
"""

import os
import re
import shutil
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from job_runner import (
    CI,
    ROOT,
    STEP_SECONDS,
    Count,
    Job,
    JobFailed,
    JobSkipped,
    count_tests,
    output_of,
    run,
    run_jobs,
)

CORE = ROOT / "fastcomm" / "_core"
BUILD = ROOT / "build"
DIST = ROOT / "dist"
VENV = ROOT / ".venv"
EXTRAS = ("test", "lint", "cli")
MODEL_FULL_SECONDS = 7500.0  # of one run; its own limit is a little lower
FUZZ_SECONDS = int(os.environ.get("FUZZ_SECONDS") or 120)
# `make test` runs on this Python, `wheel` on the last of the others, CI's jobs py3xx on those between.
PYTHONS = ("3.11", "3.12", "3.13")
THIS_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
*BUILT_FOR, WHEEL_PYTHON = (version for version in PYTHONS if version != THIS_PYTHON)
# What runs with each optimisation off alone; with all off the whole of tests/bus does.
FLAG_TESTS = [
    f"tests/bus/test_bus_{part}.py"
    for part in ("asyncio", "codec", "full", "handlers", "messages", "priorities")
]
COMPILER = re.compile(r"(.+-)?(cc|gcc|g\+\+|c\+\+|c89|c99|clang|clang\+\+|tcc|icx)(-[\d.]+)?")
NO_QUESTIONS = {"DEBIAN_FRONTEND": "noninteractive"}


@dataclass(frozen=True)
class Variant:
    """A way to compile; setup.py gives each a folder of its own."""

    name: str
    switches: Mapping[str, str] = field(default_factory=dict)


RELEASE = Variant("release")
DEBUG = Variant("debug", {"FASTCOMM_DEBUG": "1"})
ASAN = Variant("asan", {"FASTCOMM_SANITIZE": "address,undefined"})
TSAN = Variant("tsan", {"FASTCOMM_SANITIZE": "thread"})
FUZZ = Variant("fuzz", {"FASTCOMM_SANITIZE": "address,undefined,fuzzer-no-link", "CC": "clang"})
WERROR = Variant("release-werror", {"FASTCOMM_WERROR": "1"})


# ---- setting up


def setup() -> None:
    """Everything that `make demo` and `make test` need, from Python and a C compiler on."""
    check_compiler()
    python = make_venv(sys.executable, VENV)
    pip_install(python, *requirements(*EXTRAS))
    remove_stale_modules()
    pip_install(python, "--no-build-isolation", "--no-deps", "--editable", str(ROOT))


def check_compiler() -> None:
    if not shutil.which(compiler()):
        raise JobFailed(
            f"no C compiler: {compiler()!r} is not on PATH; install gcc (Debian: apt install gcc) or set CC"
        )
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.exists():
        raise JobFailed(f"no {header}; install the headers of this Python (Debian: apt install python3-dev)")


def compiler() -> str:
    command = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    return str(command).split()[0]


def requirements(*extras: str) -> list[str]:
    """What pyproject.toml asks for to build and run, and for the extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    optional = project["project"]["optional-dependencies"]
    always = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    return always + [requirement for extra in extras for requirement in optional[extra]]


def make_venv(python: str, folder: Path) -> str:
    """Path of the Python in the virtual environment `folder`, which is made unless it is there and works."""
    inside = folder / "bin" / "python"
    if not output_of(inside, "-m", "pip", "--version"):
        shutil.rmtree(folder, ignore_errors=True)
        try:
            run(f"virtual environment {folder.name}", [python, "-m", "venv", folder])
        except JobFailed as failure:
            raise JobFailed(
                f"{failure}; is the venv module there? (Debian: apt install python3-venv)"
            ) from None
    return str(inside)


def pip_install(python: str, *wanted: str, env: Mapping[str, str] | None = None) -> None:
    quietly = ["--disable-pip-version-check", "--no-input", "install", "--quiet"]
    run(f"pip install {' '.join(wanted)}", [python, "-m", "pip", *quietly, *wanted], env=env)


def remove_stale_modules() -> None:
    """A module whose .pyx was renamed or deleted would still be imported from the source tree."""
    for module in CORE.glob("*.so"):
        if not (CORE / f"{module.name.split('.')[0]}.pyx").exists():
            module.unlink()


# ---- building and testing a variant


def build(variant: Variant, python: str = sys.executable) -> Path:
    """Compile `variant` for `python`; the folder that is to be put on PYTHONPATH."""
    tag = output_of(python, "-c", "import sys; print(sys.implementation.cache_tag)")
    library = BUILD / variant.name / f"tested-{tag}"
    command = [python, "setup.py", "--quiet", "build", "--build-lib", library]
    run(f"{variant.name} build for {tag}", command, env=variant.switches)
    return library


def run_tests(
    count: Count,
    library: Path,
    variant: Variant,
    marks: str,
    python: str = sys.executable,
    env: Mapping[str, str] | None = None,
    tree: Path = ROOT,
    tests: Sequence[str] = (),
) -> None:
    """Count the tests of `tree` that `marks` selects, run on the modules in `library`; none is a failure.

    `tests`: files and folders; all unless said.
    """
    with tempfile.TemporaryDirectory(prefix="fastcomm-test-", dir="/dev/shm") as scratch:
        report = Path(scratch) / "report.xml"
        environment = {
            "FASTCOMM_TEST_BUILD": str(library),
            "FASTCOMM_TEST_VARIANT": variant.name,
            "FASTCOMM_DIR": scratch,  # here, and not in conftest.py alone: pytest may be killed
            "PYTHONPATH": str(library),
            # Keeps the folder that a Python is started in off its path: sources and release build are there.
            "PYTHONSAFEPATH": "1",
            **(env or {}),
        }
        command = [python, "-m", "pytest", "-q", "-m", marks, f"--junitxml={report}", *tests]
        what = f" without {off}" if (off := environment.get("FASTCOMM_DISABLE")) else ""
        passed = Count().step(f"tests on the {variant.name} build{what}", command, env=environment, cwd=tree)
        counted = count_tests(report)
    if not passed and not counted.failed:
        counted.failed = 1  # no test was selected, or pytest itself failed
    count.add(counted)


def test(count: Count) -> None:
    """The suite on the release build; then, on the debug build, the tests that need its fault hooks."""
    run_tests(count, ROOT, RELEASE, "not debug_build")
    run_tests(count, build(DEBUG), DEBUG, "debug_build")


def sanitizer_tests(count: Count, variant: Variant, sanitizer: str, options: str, marks: str) -> None:
    """Tests on a sanitizer build. Reports go to files: output is captured, and a child may die unnoticed."""
    library = f"lib{sanitizer}.so"
    runtime = Path(output_of(compiler(), f"-print-file-name={library}"))
    if not runtime.is_absolute():  # the compiler echoes the name of what it does not have
        raise JobSkipped(f"{compiler()} has no {library}")
    modules = build(variant)
    reports = BUILD / variant.name / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir()
    env = {
        f"{sanitizer.upper()}_OPTIONS": f"{options}:log_path={reports}/report",
        "LD_PRELOAD": str(runtime.resolve()),
        "PYTHONMALLOC": "malloc",  # pymalloc's arenas would hide overruns of small objects
        "FASTCOMM_TEST_SLOWDOWN": "4",
    }
    run_tests(count, modules, variant, marks, env=env)
    written = sorted(reports.iterdir())
    for report in written:
        print(report.read_text(errors="replace"), flush=True)
    if written:
        raise JobFailed(f"{len(written)} reports of {sanitizer}, printed above, kept in {reports}")


def asan(count: Count) -> None:
    """Python never frees all it has at exit; a size beyond all memory must be a MemoryError, as elsewhere."""
    options = "detect_leaks=0:halt_on_error=1:allocator_may_return_null=1:handle_sigill=2"
    sanitizer_tests(count, ASAN, "asan", options, "not debug_build and not large and not no_sanitizer")


def tsan(count: Count) -> None:
    """Threads that share one mapping; between two mappings of a segment TSan sees nothing.

    Then the memory orders: with all of them nothing is reported, without any one something is.
    """
    sanitizer_tests(count, TSAN, "tsan", "halt_on_error=1:die_after_fork=0:report_signal_unsafe=0", "tsan")
    runner = [sys.executable, ROOT / "tests" / "orders" / "run.py"]
    cases = output_of(*runner, "--list").splitlines()
    if not cases:
        raise JobFailed("no scenario of memory orders to run")
    for case in cases:
        count.step(f"orders: {case}", [*runner, "--only", case])


def fuzz(count: Count) -> None:
    """Inputs chosen by their coverage, to the decoders under ASan and UBSan: FUZZ_SECONDS of them."""
    install_tool("clang", "clang", "libclang-rt-dev")
    library = build(FUZZ)
    runner = [sys.executable, ROOT / "tests" / "fuzz" / "run.py"]
    command = [*runner, "--library", library, "--seconds", FUZZ_SECONDS]
    count.step(f"fuzz for {FUZZ_SECONDS} s", command, seconds=FUZZ_SECONDS + STEP_SECONDS)


def chaos(count: Count) -> None:
    """The kill campaign: 1,200 kills at least in all, and somebody killed at each fault hook."""
    kill_campaign(count, build(DEBUG), DEBUG, 2, "--require-kills", 800, "--require-hooks")
    kill_campaign(count, ROOT, RELEASE, 1, "--require-kills", 400)


def kill_campaign(count: Count, library: Path, variant: Variant, minutes: int, *options: object) -> None:
    with tempfile.TemporaryDirectory(prefix="fastcomm-chaos-", dir="/dev/shm") as scratch:
        environment = {"FASTCOMM_DIR": scratch, "PYTHONPATH": str(library), "PYTHONSAFEPATH": "1"}
        command = [sys.executable, "-m", "fastcomm.testing.chaos", "--minutes", minutes, *options]
        count.step(f"kill campaign on the {variant.name} build", command, env=environment)


def flags(count: Count) -> None:
    """The tests of the bus with all optimisations off, and a part of them with each off alone."""
    names = output_of(sys.executable, "-c", "from fastcomm.config import FLAGS; print(*FLAGS)").split()
    if not names:
        raise JobFailed("fastcomm.config names no flags")
    without(count, names, ["tests/bus"])
    for name in names:
        without(count, [name], FLAG_TESTS)


def without(count: Count, names: Sequence[str], tests: Sequence[str]) -> None:
    env = {"FASTCOMM_DISABLE": ",".join(names)}
    run_tests(count, ROOT, RELEASE, "not debug_build", env=env, tests=tests)


# ---- other Pythons


def find_python(version: str) -> str:
    """A Python of that version, from PATH or pyenv. It is run to see: pyenv has shims on PATH for all."""
    prefix = output_of("pyenv", "prefix", version)
    for candidate in (f"python{version}", f"{prefix}/bin/python"):
        found = output_of(
            candidate, "-c", "import sys; print(sys.executable, '%d.%d' % sys.version_info[:2])"
        )
        if found.endswith(f" {version}"):
            return found.removesuffix(f" {version}")
    raise JobSkipped(f"no Python {version} on PATH or with pyenv")


def job_name(version: str) -> str:
    return f"py{version.replace('.', '')}"


def other_python(version: str) -> Job:
    def job(count: Count) -> None:
        python = make_venv(find_python(version), BUILD / f"venv-{version}")
        pip_install(python, *requirements(*EXTRAS))
        run_tests(count, build(RELEASE, python), RELEASE, "not debug_build and not large", python)

    return job


# ---- checks and packages


def lint(count: Count) -> None:
    sources = sorted([*CORE.glob("*.pyx"), *CORE.glob("*.pxd"), *(ROOT / "tests").rglob("*.pyx")])
    if not sources:
        raise JobFailed(f"no Cython sources in {CORE.relative_to(ROOT)}")
    tool = [sys.executable, "-m"]
    count.step("ruff check", [*tool, "ruff", "check"])
    count.step("ruff format", [*tool, "ruff", "format", "--check"])
    scripts = Path(sys.executable).parent
    path = {"PATH": f"{scripts}:{os.environ['PATH']}"}  # cython-lint starts pycodestyle
    count.step("cython-lint", [scripts / "cython-lint", *sources], env=path)
    count.step("mypy", [*tool, "mypy"])
    count.step("stubtest", [*tool, "mypy.stubtest", "fastcomm"])
    count.step("sync points", [sys.executable, ROOT / "scripts" / "check_sync_points.py"])
    shutil.rmtree(BUILD / WERROR.name, ignore_errors=True)  # a module that is up to date shows no warnings
    command = [sys.executable, "setup.py", "--quiet", "build_ext"]
    count.step("build with warnings as errors", command, env=WERROR.switches)


def model(count: Count) -> None:
    """The models of the protocol, each variant a step of its own."""
    check_models(count)


def model_full(count: Count) -> None:
    """Their larger bounds, exhaustively: each in at most 8 GB and two hours, or it fails."""
    check_models(count, "--full", seconds=MODEL_FULL_SECONDS)


def check_models(count: Count, *options: str, seconds: float = STEP_SECONDS) -> None:
    install_tool("spin")
    runner = [sys.executable, ROOT / "tests" / "model" / "run.py", *options]
    for case in output_of(*runner, "--list").splitlines():
        count.step(f"model {case}", [*runner, "--only", case], seconds=seconds)


def install_tool(name: str, *packages: str) -> None:
    """CI's machine gets it if it can; on anybody else's nothing is installed.

    `packages`: exactly those instead of the one of that name with what it recommends.
    """
    wanted = ["--no-install-recommends", *packages] if packages else [name]
    if not shutil.which(name) and CI and os.geteuid() == 0 and shutil.which("apt-get"):
        run("apt-get update", ["apt-get", "update", "-q"])
        run(f"apt-get install {name}", ["apt-get", "install", "-q", "-y", *wanted], env=NO_QUESTIONS)
    if not shutil.which(name):
        raise JobSkipped(f"no {name} on PATH (Debian: apt install {' '.join(packages or [name])})")


def wheel(count: Count) -> None:
    """The sdist, a wheel made from it alone, what is in them; the sdist's tests on the wheel, no compiler."""
    base = wheel_python()
    shutil.rmtree(DIST, ignore_errors=True)
    run("sdist", [sys.executable, "setup.py", "--quiet", "sdist"])
    (sdist,) = DIST.glob("*.tar.gz")
    with tempfile.TemporaryDirectory(prefix="fastcomm-wheel-") as folder:
        outside = Path(folder)
        builder = make_venv(base, outside / "builder")
        pip = ["-m", "pip", "--disable-pip-version-check"]
        run("wheel from the sdist", [builder, *pip, "wheel", "--quiet", "--no-deps", "-w", DIST, sdist])
        (packed,) = DIST.glob("*.whl")
        count.step("contents", [sys.executable, ROOT / "scripts" / "check_packages.py", sdist, packed])
        run("unpack the sdist", ["tar", "-xf", sdist, "-C", outside])
        (tree,) = outside.glob("fastcomm-*")
        shutil.rmtree(tree / "fastcomm")
        env = without_compilers(outside / "bin")
        python = make_venv(base, outside / "venv")
        pip_install(python, "--only-binary", ":all:", str(packed), env=env)
        count.step("smoke test of the wheel", [python, "-I", tree / "scripts" / "smoke_test.py"], env=env)
        pip_install(python, "--only-binary", ":all:", f"{packed}[{','.join(EXTRAS)}]", env=env)
        site_packages = output_of(python, "-c", "import sysconfig; print(sysconfig.get_path('platlib'))")
        env["PYTHONPATH"] = ""
        run_tests(count, Path(site_packages), RELEASE, "not debug_build and not large", python, env, tree)


def wheel_python() -> str:
    try:
        return find_python(WHEEL_PYTHON)
    except JobSkipped:
        if CI:
            raise
        return sys.executable


def without_compilers(folder: Path) -> dict[str, str]:
    """An environment with links to all that is on PATH, but for C compilers, in `folder`."""
    folder.mkdir()
    for place in map(Path, reversed(os.environ["PATH"].split(":"))):
        for program in place.iterdir() if place.is_dir() else ():
            if not COMPILER.fullmatch(program.name):
                link = folder / program.name
                link.unlink(missing_ok=True)
                link.symlink_to(program)
    return {"PATH": str(folder), "CC": "/bin/false"}


def bench(count: Count) -> None:
    """Each benchmark once and briefly: do they still run?"""
    count.step("benchmarks, briefly", [sys.executable, ROOT / "scripts" / "bench.py", "--quick"])
    pip_install(sys.executable, *requirements("bench"))
    home = BUILD / "asv"  # where asv looks for, and writes, what it knows of the machine
    home.mkdir(parents=True, exist_ok=True)
    asv = [Path(sys.executable).parent / "asv", "--config", ROOT / "asv_bench" / "asv.conf.json"]
    for title, arguments in (
        ("asv's benchmarks can be imported", ["check"]),
        ("asv knows the machine", ["machine", "--yes"]),
        ("asv's benchmarks, each once", ["run", "--quick", "--show-stderr"]),
    ):
        existing = [] if arguments[0] == "machine" else ["-E", f"existing:{sys.executable}"]
        count.step(title, [*asv, *arguments, *existing], env={"HOME": str(home)})


def perf_check(count: Count) -> None:
    """Instructions of the hot operations against asv_bench/instructions.json."""
    install_tool("valgrind")
    count.step("instruction counts", [sys.executable, ROOT / "scripts" / "count_instructions.py"])


JOBS: dict[str, Job] = {
    "test": test,
    "lint": lint,
    "model": model,
    "model-full": model_full,
    "asan": asan,
    "tsan": tsan,
    "fuzz": fuzz,
    "chaos": chaos,
    "flags": flags,
    "wheel": wheel,
    **{job_name(version): other_python(version) for version in PYTHONS},
    "bench": bench,
    "perf-check": perf_check,
}
CI_EXTRA = (
    *("lint", "model", "asan", "tsan", "fuzz", "chaos", "flags", "wheel"),
    *map(job_name, BUILT_FOR),
    *("bench", "perf-check"),
)


def main(arguments: list[str]) -> int:
    if arguments == ["setup"]:
        try:
            setup()
        except JobFailed as failure:
            print(f"setup: {failure}", file=sys.stderr)
            return 1
        return 0
    names = [name for argument in arguments for name in (CI_EXTRA if argument == "ci-extra" else (argument,))]
    unknown = [name for name in names if name not in JOBS]
    if unknown or not names:
        print(f"unknown jobs {unknown}; choose from: setup, {', '.join(JOBS)}, ci-extra", file=sys.stderr)
        return 2
    return 0 if run_jobs(JOBS, names) else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)  # as shells say it of a command that Ctrl-C ended
