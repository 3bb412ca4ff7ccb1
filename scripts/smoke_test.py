"""First sign of life of an installed fastcomm, without its extras: run it outside the source tree."""

import importlib
import sys
from pathlib import Path

import fastcomm
from fastcomm.testing import LeakCheck, isolated_name

HOME = Path(fastcomm.__file__).parent


def check_that_it_is_the_installed_one() -> None:
    assert HOME.is_relative_to(sys.prefix), f"{HOME} is not in {sys.prefix}"
    assert (HOME / "py.typed").exists()


def check_every_compiled_module() -> int:
    sources = sorted((HOME / "_core").glob("*.pyx"))
    for source in sources:
        module = importlib.import_module(f"fastcomm._core.{source.stem}")
        assert str(module.__file__).endswith(".so"), module.__file__
    assert sources, "no compiled modules"
    return len(sources)


def check_every_public_name() -> int:
    for name in fastcomm.__all__:
        assert getattr(fastcomm, name) is not None, name
    return len(fastcomm.__all__)


def check_a_round_trip() -> None:
    message = {"task": 7, "owner": "worker-3", "scores": [0.5, 1.5]}
    ring = fastcomm.RingBuffer.create(isolated_name("smoke"), capacity=1 << 16)
    try:
        ring.put(fastcomm.encode(message))
        assert fastcomm.decode(ring.get(timeout=5)) == message
    finally:
        ring.unlink()
        ring.close()


def main() -> None:
    with LeakCheck():
        check_that_it_is_the_installed_one()
        modules = check_every_compiled_module()
        names = check_every_public_name()
        check_a_round_trip()
    print(f"fastcomm {fastcomm.__version__}: {modules} compiled modules, {names} names, a message went round")


if __name__ == "__main__":
    main()
