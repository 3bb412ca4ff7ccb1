"""Fuzz the decoders: libFuzzer chooses inputs by what they cover of the compiled code, under ASan and UBSan.

    python tests/fuzz/run.py --library build/fuzz/tested-cpython-311 --seconds 600

`make fuzz` builds that library: the codec, compiled by clang to count its edges. libFuzzer and heap.c become
one shared object here, which is loaded before AddressSanitizer, as that has empty functions of the names by
which edges are counted. Inputs that covered something new are kept in build/fuzz/corpus for the next run.

The exit status is 0 if inputs were run, the code counted its edges and no input failed.
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent.parent / "build" / "fuzz"
CORPUS, SEEDS, FAILED = BUILD / "corpus", BUILD / "seeds", BUILD / "failed"
FEWEST_EDGES = 2000  # the first messages alone cover more
COMMON = {
    "PYTHONMALLOC": "malloc",  # pymalloc's arenas would hide overruns, and what is held from heap.c
    "PYTHONHASHSEED": "0",  # the order of sets, so that an input does the same again
    "PYTHONSAFEPATH": "1",
    # The rest is speed: a short way back from an allocation, little freed memory kept from use.
    "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0:allocator_may_return_null=1:handle_abort=0:"
    "malloc_context_size=2:quarantine_size_mb=1:thread_local_quarantine_size_kb=64",
}


def runtime(name: str, suffix: str) -> Path:
    """A library of clang's. SystemExit if it is not there."""
    for file in (f"libclang_rt.{name}-{platform.machine()}{suffix}", f"libclang_rt.{name}{suffix}"):
        done = subprocess.run(
            ["clang", f"-print-file-name={file}"], capture_output=True, text=True, check=True
        )
        if os.path.isabs(done.stdout.strip()):
            return Path(done.stdout.strip())
    raise SystemExit(f"clang has no {file} (Debian: apt install libclang-rt-dev)")


def link() -> Path:
    library = BUILD / "libfuzzer.so"
    archive = runtime("fuzzer_no_main", ".a")
    whole = ["-Wl,--whole-archive", archive, "-Wl,--no-whole-archive"]
    command = ["clang", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", HERE / "heap.c", *whole]
    subprocess.run([*command, "-lstdc++", "-lm", "-o", library], check=True)
    return library


def fuzz(library: Path, seconds: int) -> tuple[int, str]:
    """The exit status of libFuzzer, and what it printed."""
    for folder in (CORPUS, SEEDS, FAILED):
        folder.mkdir(parents=True, exist_ok=True)
    preloaded = f"{link()} {runtime('asan', '.so')}"
    options = {"max_len": 4096, "max_total_time": seconds, "timeout": 30, "artifact_prefix": f"{FAILED}/"}
    options |= {"rss_limit_mb": 2048, "malloc_limit_mb": 64, "detect_leaks": 0, "print_final_stats": 1}
    options |= {"entropic": 0, "reload": 0}  # a fifth faster
    flags = [f"-{name}={value}" for name, value in options.items()]
    command = [sys.executable, HERE / "target.py", *flags, CORPUS, SEEDS]
    env = {**os.environ, **COMMON, "LD_PRELOAD": preloaded, "PYTHONPATH": str(library)}
    lines = []
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        for line in process.stderr or ():
            lines.append(line)
            if not re.match(r"#\d+\s+(NEW|REDUCE)|\s+NEW_FUNC", line):
                sys.stderr.write(line)
    return process.returncode, "".join(lines)


def last_number(pattern: str, text: str) -> int:
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--library", type=Path, required=True, help="the build that counts its edges")
    parser.add_argument("--seconds", type=int, default=120)
    options = parser.parse_args()
    shutil.rmtree(FAILED, ignore_errors=True)
    status, printed = fuzz(options.library.resolve(), options.seconds)
    inputs = last_number(r"stat::number_of_executed_units: (\d+)", printed)
    counters = last_number(r"\((\d+) inline 8-bit counters\)", printed)
    edges = last_number(r" cov: (\d+)", printed)
    failed = sorted(FAILED.iterdir())
    print(
        f"fuzz: {inputs} inputs, {edges} of {counters} edges, corpus of {len(list(CORPUS.iterdir()))}, "
        f"{len(failed)} failed"
    )
    for path in failed:
        print(f"{path}: {path.read_bytes().hex()}")
    if edges < FEWEST_EDGES:
        print(
            f"the code does not count its edges: {edges} were covered, at least {FEWEST_EDGES} are expected"
        )
    return int(status != 0 or bool(failed) or not inputs or edges < FEWEST_EDGES)


if __name__ == "__main__":
    sys.exit(main())
