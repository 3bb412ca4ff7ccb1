"""Check what is in an sdist and in a wheel: ``python scripts/check_packages.py dist/*.tar.gz dist/*.whl``.

Both hold the Cython sources, stubs and headers of the source tree, and no C that some build generated; the
sdist holds the tests and what they need; the wheel holds a compiled module and a stub for each .pyx, and
nothing but the package.
"""

import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fastcomm"
SHIPPED = ("*.py", "*.pyx", "*.pxd", "*.pyi", "*.h", "py.typed")


def files_of_the_package() -> set[str]:
    return {str(path.relative_to(ROOT)) for pattern in SHIPPED for path in PACKAGE.rglob(pattern)}


def files_that_test() -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for folder in ("tests", "scripts")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def files_of_sdist(path: Path) -> set[str]:
    with tarfile.open(path) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def files_of_wheel(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


# Written by hand; any other .c in the sdist is generated.
C_SOURCES = {"scripts/benchlib/limits.c", "tests/fuzz/heap.c"}


def problems_of_sdist(files: set[str]) -> list[str]:
    wanted = (
        files_of_the_package()
        | files_that_test()
        | {"pyproject.toml", "setup.py", "LICENSE", "README.md", "CHANGELOG.md"}
    )
    return [f"the sdist lacks {name}" for name in sorted(wanted - files)] + [
        f"the sdist has {name}" for name in sorted(files - C_SOURCES) if name.endswith((".c", ".so", ".pyc"))
    ]


def problems_of_wheel(files: set[str]) -> list[str]:
    modules = {name.partition(".")[0] for name in files if name.endswith(".so")}
    sources = {name.removesuffix(".pyx") for name in files if name.endswith(".pyx")}
    foreign = {name for name in files if not name.startswith("fastcomm") or name.endswith((".c", ".pyc"))}
    return [
        *(f"the wheel lacks {name}" for name in sorted(files_of_the_package() - files)),
        *(f"the wheel has no compiled {name}" for name in sorted(sources - modules)),
        *(f"the wheel has a module {name} without a source" for name in sorted(modules - sources)),
        *(f"the wheel has {name}" for name in sorted(foreign)),
    ]


def main(sdist: str, wheel: str) -> int:
    in_sdist, in_wheel = files_of_sdist(Path(sdist)), files_of_wheel(Path(wheel))
    problems = problems_of_sdist(in_sdist) + problems_of_wheel(in_wheel)
    print(
        "\n".join(problems)
        or f"{len(in_sdist)} entries in the sdist, {len(in_wheel)} in the wheel, all as they should be"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
