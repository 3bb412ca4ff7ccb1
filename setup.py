"""Build one extension module per ``fastcomm/_core/*.pyx``; everything else is in pyproject.toml.

Switches, read from the environment:

FASTCOMM_DEBUG=1                   bounds checks, C assertions and the fault hooks that crash tests stop at
FASTCOMM_SANITIZE=address,undefined | thread
FASTCOMM_ANNOTATE=1                write the HTML reports of ``cython -a`` beside the sources
FASTCOMM_WERROR=1                  warnings are errors (CI)
"""

import os
import platform
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

if platform.system() != "Linux":
    raise SystemExit(
        f"fastcomm needs Linux (futex, OFD locks, posix_fallocate); this is {platform.system()}."
    )

DEBUG = os.environ.get("FASTCOMM_DEBUG", "0") not in ("", "0")
SANITIZE = os.environ.get("FASTCOMM_SANITIZE", "")
ANNOTATE = os.environ.get("FASTCOMM_ANNOTATE", "0") not in ("", "0")
WERROR = os.environ.get("FASTCOMM_WERROR", "0") not in ("", "0")

CORE = Path("fastcomm/_core")
INCLUDE = CORE / "include"

# The three exceptions are noise of the C that Cython writes, not of ours.
compile_args = [
    "-std=gnu11",
    "-O1" if DEBUG or SANITIZE else "-O3",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
    "-Wno-missing-field-initializers",
    "-Wno-cast-function-type",
    "-fvisibility=hidden",
]
link_args = []
macros = []
if WERROR:
    compile_args.append("-Werror")
if DEBUG:
    macros.append(("FC_DEBUG", "1"))
    compile_args.append("-UNDEBUG")
if SANITIZE:
    flags = [f"-fsanitize={SANITIZE}", "-g", "-fno-omit-frame-pointer"]
    compile_args += flags
    link_args += flags

extensions = [
    Extension(
        f"fastcomm._core.{source.stem}",
        [str(source)],
        include_dirs=[str(INCLUDE)],
        depends=[str(header) for header in sorted(INCLUDE.glob("*.h"))],
        define_macros=macros,
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )
    for source in sorted(CORE.glob("*.pyx"))
]

setup(
    ext_modules=cythonize(
        extensions,
        nthreads=os.cpu_count() or 1,
        annotate=ANNOTATE,
        compiler_directives={
            "language_level": 3,
            "binding": True,
            "embedsignature": True,
            "boundscheck": DEBUG,
            "wraparound": False,
            "initializedcheck": DEBUG,
            "cdivision": True,
        },
    )
)
