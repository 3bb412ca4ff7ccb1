"""Build one extension module per ``fastcomm/_core/*.pyx``; everything else is in pyproject.toml.

Switches, read from the environment:

FASTCOMM_DEBUG=1                   bounds checks, C assertions and the fault hooks that crash tests stop at
FASTCOMM_SANITIZE=address,undefined | thread   (thread: also tests/orders, and mutants of memory orders)
FASTCOMM_SANITIZE=address,undefined,fuzzer-no-link   the codec, its edges counted, for tests/fuzz (clang)
FASTCOMM_ANNOTATE=1                write the HTML reports of ``cython -a`` beside the generated C
FASTCOMM_WERROR=1                  warnings of Cython and of the C compiler are errors (CI)

Each combination of switches is a variant with a folder of its own, ``build/<variant>``, for generated C,
objects and modules: a variant never picks up what another one left.
"""

import os
import platform
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

if platform.system() != "Linux":
    raise SystemExit(
        f"fastcomm needs Linux (futex, OFD locks, posix_fallocate); this is {platform.system()}."
    )


def switch(name: str) -> bool:
    return os.environ.get(name, "0") not in ("", "0")


FUZZER = "address,undefined,fuzzer-no-link"
SANITIZERS = {"": "", "address,undefined": "asan", "thread": "tsan", FUZZER: "fuzz"}

DEBUG = switch("FASTCOMM_DEBUG")
ANNOTATE = switch("FASTCOMM_ANNOTATE")
WERROR = switch("FASTCOMM_WERROR")
SANITIZE = os.environ.get("FASTCOMM_SANITIZE", "")
if SANITIZE not in SANITIZERS:
    raise SystemExit(f"FASTCOMM_SANITIZE={SANITIZE!r}: choose one of {sorted(filter(None, SANITIZERS))}.")

VARIANT = "-".join(
    filter(
        None,
        (
            SANITIZERS[SANITIZE],
            "debug" if DEBUG else "" if SANITIZE else "release",
            "annotate" if ANNOTATE else "",
            "werror" if WERROR else "",
        ),
    )
)
BUILD_BASE = Path("build") / VARIANT
CORE = Path("fastcomm/_core")
INCLUDE = CORE / "include"
JOBS = len(os.sched_getaffinity(0))

DIRECTIVES = {
    "language_level": 3,
    "binding": True,
    "embedsignature": True,
    "boundscheck": DEBUG,
    "wraparound": False,
    "initializedcheck": DEBUG,
    "cdivision": True,
    # No names that the stubs would have to list. A class without __reduce__ then refuses to be pickled.
    "auto_pickle": False,
    "autotestdict": False,
}


# What fastcomm.Codec and fastcomm.Struct load.
CODEC = {"codec", "compression", "decoder", "encoder", "extended", "reader", "schema", "strings", "writer"}
CODEC |= {"struct_array", "struct_base", "struct_reader", "struct_view", "struct_writer"}


def compile_args() -> list[str]:
    # The three exceptions are noise of the C that Cython writes, not of ours.
    args = [
        "-std=gnu11",
        "-O1" if DEBUG or SANITIZE else "-O3",
        "-Wall",
        "-Wextra",
        "-Wno-unused-parameter",
        "-Wno-missing-field-initializers",
        "-Wno-cast-function-type",
        "-fvisibility=hidden",
    ]
    if WERROR:
        args.append("-Werror")
    if DEBUG:
        args += ["-g", "-UNDEBUG"]
    if SANITIZE:
        args += [*sanitize_args(), "-g", "-fno-omit-frame-pointer"]
    return args


def sanitize_args() -> list[str]:
    """Undefined behaviour traps: ASan then reports it where it reports all else, and the process ends.

    Messages of UBSan would go to standard error, where a test's captured output hides them.
    """
    flags = [f"-fsanitize={SANITIZE}"] if SANITIZE else []
    return [*flags, "-fsanitize-undefined-trap-on-error"] if "undefined" in SANITIZE else flags


def macros() -> list[tuple[str, str | None]]:
    switches = {"FC_DEBUG": DEBUG, "FC_MUTANTS": SANITIZE == "thread"}
    return [(name, "1") for name, on in switches.items() if on]


def extension(source: Path) -> Extension:
    package = "fastcomm._core." if source.parent == CORE else ""
    return Extension(
        package + source.stem,
        [str(source)],
        include_dirs=[str(INCLUDE)],
        depends=[str(header) for header in sorted(INCLUDE.glob("*.h"))],
        define_macros=macros(),
        extra_compile_args=compile_args(),
        extra_link_args=sanitize_args(),
    )


class BuildExt(build_ext):
    """Translates to C when compiling, not when metadata are read or an sdist is packed."""

    def run(self) -> None:
        if self.editable_mode:
            # An editable install would compile in a temporary folder, all of it each time.
            self.build_lib = str(BUILD_BASE / f"lib.{self.plat_name}-{sys.implementation.cache_tag}")
        self.translate()
        super().run()

    def translate(self) -> None:
        from Cython.Build import cythonize
        from Cython.Compiler import Options

        Options.warning_errors = WERROR
        translated = cythonize(
            self.extensions,
            nthreads=JOBS,
            annotate=ANNOTATE,
            build_dir=str(BUILD_BASE / "cython"),
            compiler_directives=DIRECTIVES,
            # Mutants are chosen by lines of the Cython sources, and reports speak of them.
            emit_linenums=SANITIZE == "thread",
        )
        sources = {module.name: module.sources for module in translated}
        for module in self.extensions:
            module.sources = sources[module.name]


SOURCES = sorted(CORE.glob("*.pyx"))
if SANITIZE == "thread":
    SOURCES += sorted(Path("tests/orders").glob("*.pyx"))
if SANITIZE == FUZZER:
    SOURCES = [source for source in SOURCES if source.stem in CODEC]

setup(
    ext_modules=[extension(source) for source in SOURCES],
    cmdclass={"build_ext": BuildExt},
    options={"build": {"build_base": str(BUILD_BASE)}, "build_ext": {"parallel": JOBS}},
)
