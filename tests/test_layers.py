"""The rules of dependence between the parts of fastcomm, read off the sources."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fastcomm

PACKAGE = Path(fastcomm.__file__).parent
ROOT = PACKAGE.parent
CORE = PACKAGE / "_core"

pytestmark = pytest.mark.no_sanitizer("reads sources, runs nothing")

# Built on the rest, with extras of their own or for tests: nothing below may need them.
EDGES = ("gateway", "bridges", "dashboard", "cli", "testing")
FORBIDDEN_IN_CORE = ("asyncio", "logging", "threading", "multiprocessing")
MEMORY_ORDER = re.compile(
    r"\b(__ATOMIC_\w+|memory_order\w*|__atomic_\w+|atomic_(load|store|thread_fence)\w*)\b"
)


def sources(*patterns: str, under: Path = PACKAGE) -> list[Path]:
    return sorted(path for pattern in patterns for path in under.rglob(pattern))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports_of_python(path: Path) -> Iterator[str]:
    """Full names that a module imports, wherever in it."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


CYTHON_IMPORT = re.compile(
    r"^\s*(?:from\s+(?P<source>[\w.]+)\s+c?import\b|c?import\s+(?P<names>[\w., ]+))", re.MULTILINE
)


def imports_of_cython(path: Path) -> Iterator[str]:
    """Modules that a .pyx or .pxd imports or cimports, relative ones as they are written."""
    for match in CYTHON_IMPORT.finditer(path.read_text()):
        if match["source"]:
            yield match["source"]
        else:
            yield from (name.split(" as ")[0].strip() for name in match["names"].split(","))


def is_in(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def layer_sources() -> list[Path]:
    """Modules of the package that are neither compiled core nor edges."""
    return [path for path in sources("*.py") if path.relative_to(PACKAGE).parts[0] not in ("_core", *EDGES)]


@pytest.mark.parametrize("header", sources("*.h"), ids=name_of)
def test_header_includes_only_libc_and_the_headers_beside_it(header: Path) -> None:
    text = header.read_text()
    system = re.findall(r"^\s*#\s*include\s*<([^>]+)>", text, re.MULTILINE)
    local = re.findall(r'^\s*#\s*include\s*"([^"]+)"', text, re.MULTILINE)
    assert [name for name in system if name.startswith(("Python", "numpy"))] == []
    assert [name for name in local if not (header.parent / name).exists() or name == "Python.h"] == []


@pytest.mark.parametrize("source", sources("*.pyx", "*.pxd", under=CORE), ids=name_of)
def test_core_imports_nothing_from_above_it_but_the_errors(source: Path) -> None:
    above = [
        module
        for module in imports_of_cython(source)
        if (is_in(module, "fastcomm") and not is_in(module, "fastcomm._core", "fastcomm.errors"))
        or module.startswith("..")
    ]
    assert above == []


@pytest.mark.parametrize("source", sources("*.pyx", "*.pxd", under=CORE), ids=name_of)
def test_core_has_no_event_loop_no_log_no_threads_and_reads_no_environment(source: Path) -> None:
    assert [module for module in imports_of_cython(source) if is_in(module, *FORBIDDEN_IN_CORE)] == []
    assert re.findall(r"\b(?:environ|getenv)\b", source.read_text()) == []


@pytest.mark.parametrize("source", sources("*.pyx", "*.pxd", under=CORE), ids=name_of)
def test_core_imports_numpy_and_psutil_only_where_they_are_used(source: Path) -> None:
    assert (
        re.findall(r"^(?:from|import|cimport)\s+(?:numpy|psutil)\b", source.read_text(), re.MULTILINE) == []
    )


@pytest.mark.parametrize("source", layer_sources(), ids=name_of)
def test_orchestration_imports_no_edge(source: Path) -> None:
    edges = [f"fastcomm.{edge}" for edge in EDGES]
    assert [module for module in imports_of_python(source) if is_in(module, *edges)] == []


@pytest.mark.parametrize("edge", EDGES)
def test_edge_reaches_into_no_compiled_module(edge: str) -> None:
    found = [
        (name_of(source), module)
        for source in sources("*.py", under=PACKAGE / edge)
        for module in imports_of_python(source)
        if is_in(module, "fastcomm._core")
    ]
    assert found == []


def test_core_modules_import_each_other_in_no_circle() -> None:
    needs: dict[str, set[str]] = {}
    for source in sources("*.pyx", "*.pxd", under=CORE):
        imported = needs.setdefault(source.stem, set())
        imported |= {name.removeprefix("fastcomm._core.") for name in imports_of_cython(source)}
        imported.discard(source.stem)
    assert needs["port"] > {"message", "ring"}
    TopologicalSorter(needs).prepare()


def test_memory_orders_are_named_in_one_header_only() -> None:
    everything = sources("*.h", "*.pyx", "*.pxd", "*.py")
    found = [name_of(path) for path in everything if MEMORY_ORDER.search(path.read_text())]
    assert found == ["fastcomm/_core/include/fc_atomics.h"]


def test_rules_are_checked_on_sources_that_are_there() -> None:
    assert sources("*.pyx", under=CORE)
    assert sources("*.h", under=CORE)
    assert layer_sources()


class TestTheReadersOfImports:
    def test_python_imports_are_found_in_functions_and_made_absolute(self, tmp_path: Path) -> None:
        path = PACKAGE / "bridges" / "nats.py"
        tree = "import os.path\ndef f():\n    from ..agent import Agent\n    from . import peer\n"

        class Fake(type(path)):  # type: ignore[misc]
            def read_text(self, *_: object) -> str:
                return tree

        assert list(imports_of_python(Fake(path))) == [
            "os.path",
            "fastcomm.agent.Agent",
            "fastcomm.bridges.peer",
        ]

    def test_cython_imports_are_found_in_all_their_forms(self, tmp_path: Path) -> None:
        source = tmp_path / "x.pyx"
        source.write_text(
            "cimport cython\nfrom libc.stdint cimport uint64_t\nimport os, numpy as np\n"
            "from . cimport layout\nfrom fastcomm._core.ring cimport (\n    Ring,\n)\n"
            "def f():\n    import asyncio\n"
        )
        assert list(imports_of_cython(source)) == [
            "cython",
            "libc.stdint",
            "os",
            "numpy",
            ".",
            "fastcomm._core.ring",
            "asyncio",
        ]
