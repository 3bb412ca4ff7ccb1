"""The segment of a ring: spoiled contents, too little memory, what the rest of Python does with the file."""

import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import pytest
from procs import fork, join, python, run_python

from fastcomm._core.ring import Ring
from fastcomm._core.segment import KIND_BUS, PAGE, Segment
from fastcomm.errors import (
    AbiMismatchError,
    CorruptSegmentError,
    SegmentError,
    SegmentNotFoundError,
    ShmFullError,
)
from fastcomm.rings import RingBuffer

MNT_DETACH = 2  # the test's variables may still map a file
RING = PAGE + 256 * 64  # where the ring's section begins


@pytest.fixture
def at_rest(name: str) -> Iterator[Path]:
    """The file of a ring with one record in it and no handles."""
    ring = RingBuffer.create(name, capacity=1024)
    ring.put(b"record")
    ring.close()
    path = Path(ring.path)
    yield path
    path.unlink(missing_ok=True)


def patch(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


# ------------------------------------------------------------------------------------------ spoiled contents


def test_a_file_with_another_magic_is_no_segment(name: str, at_rest: Path) -> None:
    patch(at_rest, 0, b"notmagic")
    for call in (RingBuffer.attach, RingBuffer.create):
        with pytest.raises(
            CorruptSegmentError, match="is not a fastcomm segment: it begins with 6e6f746d61676963"
        ):
            call(name)


def test_another_layout_version_is_an_error_with_both_numbers(name: str, at_rest: Path) -> None:
    patch(at_rest, 8, (99).to_bytes(4, "little"))
    for call in (RingBuffer.attach, RingBuffer.create):
        with pytest.raises(
            AbiMismatchError, match="has layout version 99, this build of fastcomm reads version 3"
        ) as e:
            call(name)
        assert (e.value.found, e.value.expected) == (99, 3)


@pytest.mark.parametrize("size", [640, PAGE, RING, RING + 767])
def test_a_truncated_file_is_corrupt(name: str, at_rest: Path, size: int) -> None:
    whole = at_rest.stat().st_size
    os.truncate(at_rest, size)
    for call in (RingBuffer.attach, RingBuffer.create):
        with pytest.raises(CorruptSegmentError, match=f"has {size} bytes and its header says {whole}"):
            call(name)


@pytest.mark.parametrize("size", [0, 1, 639])
def test_a_file_without_a_whole_header_was_never_completed_and_is_made_anew(
    name: str, at_rest: Path, size: int
) -> None:
    os.truncate(at_rest, 0)
    os.truncate(at_rest, size)
    with pytest.raises(SegmentNotFoundError, match="was never completed by its creator"):
        RingBuffer.attach(name)
    with RingBuffer.create(name, capacity=2048) as ring:
        ring.put(b"x")
        assert ring.get() == b"x"


def test_a_segment_of_another_kind_is_not_a_ring(name: str, at_rest: Path) -> None:
    patch(at_rest, 12, KIND_BUS.to_bytes(4, "little"))
    with pytest.raises(SegmentError, match=f"'{name}' is a bus, not a ring"):
        RingBuffer.attach(name)


def test_a_name_with_the_same_hash_is_noticed(name: str, at_rest: Path) -> None:
    patch(at_rest, 256, b"other-")
    with pytest.raises(SegmentError, match="another name whose hash is the same"):
        RingBuffer.attach(name)


USE = """if True:
    import sys
    from fastcomm.errors import FastCommError
    from fastcomm.rings import RingBuffer

    GOOD = {b"record", b"more", b"claimed", b"peeked"}

    def use(path):
        ring = RingBuffer.attach(sys.argv[1])
        try:
            assert set(ring.try_get_many()) <= GOOD
            ring.try_put(b"more")
            with ring.claim(7, timeout=0.001) as view:
                view[:] = b"claimed"
            ring.put_many([b"more"] * 40, timeout=0.001)
        finally:
            try:
                with ring.peek(timeout=0.001) as view:
                    assert bytes(view) in GOOD
                ring.get(timeout=0.001)
                ring.stats(), repr(ring)
            finally:
                ring.close()

    good = open(sys.argv[2], "rb").read()
    outcomes = {}
    for offset in eval(sys.argv[3]):
        for garbage in (
            bytes(8), b"\\xff" * 8, b"\\x01\\0\\0\\0\\0\\0\\0\\x80", b"\\0\\x10\\0\\0\\x05\\x11\\0\\0",
            b"PQRSTUVW",
        ):
            with open(sys.argv[2], "wb") as file:
                file.write(good[:offset] + garbage + good[offset + 8:])
            sys.stdout.write(f"{offset} {garbage!r}\\n"); sys.stdout.flush()
            try:
                use(sys.argv[2])
                outcome = "ok"
            except (FastCommError, ValueError, OSError) as error:
                outcome = type(error).__name__
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
    print("END", sorted(outcomes))
"""

PARTS = {
    "header": "range(0, 640, 8)",
    "participants": f"[*range({PAGE}, {PAGE} + 128, 8), {RING} - 64, {RING} - 8]",
    "ring": f"range({RING}, {RING} + 768, 8)",
    "headers and cells": f"range({RING} + 768, {RING} + 768 + 16 * 8 + 256, 8)",
}


@pytest.mark.parametrize("part", PARTS)
def test_garbage_in_any_word_is_an_error_of_ours_or_harmless(name: str, at_rest: Path, part: str) -> None:
    """In a process of its own, which must neither crash nor hang."""
    out = run_python(USE, name, str(at_rest), PARTS[part])
    end = out.splitlines()[-1]
    assert end.startswith("END [")
    assert "OverflowError" not in end


SPOIL = """if True:
    import sys
    from fastcomm.errors import FastCommError
    from fastcomm.rings import RingBuffer

    for offset in range(0, 768, 8):
        for garbage in (bytes(8), b"\\xff" * 8, b"\\x01\\0\\0\\0\\0\\0\\0\\x80", b"PQRSTUVW"):
            ring = RingBuffer.create(sys.argv[1], capacity=1024)
            other = RingBuffer.attach(sys.argv[1])
            ring.put_many([b"x"] * 10)
            assert other.get() == b"x"
            view = ring._segment.memory(*ring._segment.section(1))
            view[offset:offset + 8] = garbage
            print(offset, garbage, flush=True)
            for call in (
                other.try_get, lambda: ring.try_put(b"y" * 200), lambda: ring.put(b"z", timeout=0.001),
                lambda: other.get(timeout=0.001), other.try_get_many,
                lambda: ring.put_many([b"z"] * 20, timeout=0.001),
                ring.stats, other._unread, lambda: other.get(timeout=0.001), ring.fileno, other.fileno,
            ):
                try:
                    call()
                except (FastCommError, ValueError):
                    pass
            ring.unlink()
            del view
            other.close()
            ring.close()
    print("END")
"""


def test_control_words_that_are_overwritten_while_in_use_make_errors_of_ours(name: str) -> None:
    assert run_python(SPOIL, name).endswith("END\n")


# ----------------------------------------------------------------------------------------- too little memory


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 64 KiB."""
    if os.getuid() != 0:
        pytest.skip("mounting needs root; the test with a limit on file sizes runs without")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", bytes(tmp_path), b"tmpfs", 0, b"size=64k"):
        pytest.skip(f"mounting is not allowed here: {os.strerror(ctypes.get_errno())}")
    yield tmp_path
    assert libc.umount2(bytes(tmp_path), MNT_DETACH) == 0


def test_too_little_shared_memory_is_an_error_at_creation_that_says_what_to_do(name: str, tiny: Path) -> None:
    with pytest.raises(
        ShmFullError, match=r"65536 are free on .*--shm-size.*directory= or FASTCOMM_DIR"
    ) as e:
        RingBuffer.create(name, capacity=1 << 16, directory=tiny)
    assert e.value.needed > 1 << 16
    assert e.value.free == 1 << 16
    assert list(tiny.iterdir()) == []
    with RingBuffer.create(name, capacity=4096, directory=tiny) as ring:
        ring.put(b"fits")
        assert ring.get() == b"fits"


def test_a_ring_that_was_created_goes_on_when_the_file_system_is_full(name: str, tiny: Path) -> None:
    with RingBuffer.create(name, capacity=8192, directory=tiny) as ring:
        with open(tiny / "filler", "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            deque(file.write(bytes(4096)) for _ in range(100))
        for _ in range(3):
            ring.put_many([bytes(100)] * 60)
            assert len(ring.get_many()) == 60
        with RingBuffer.attach(name, directory=tiny) as other:
            other.put(b"x")
            assert ring.get() == b"x"
        (tiny / "filler").unlink()


def test_a_limit_on_file_sizes_is_an_error_at_creation(name: str) -> None:
    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        with pytest.raises(OSError, match="File too large"):
            RingBuffer.create(name, capacity=1 << 20)

    assert join(fork(work)) == 0
    with pytest.raises(SegmentNotFoundError):
        RingBuffer.attach(name)


# ------------------------------------------------------------------------------------ the rest of the system


USE_AND_EXIT = """if True:
    import sys
    from fastcomm.rings import RingBuffer
    ring = RingBuffer.attach(sys.argv[1])
    ring.put(sys.version.encode())
    sys.exit(0) if sys.argv[2] == "exit" else None
"""


@pytest.mark.parametrize("flags", [(), ("-X", "dev"), ("-W", "error")])
@pytest.mark.parametrize("end", ["exit", "return"])
def test_processes_that_attach_and_end_leave_the_segment_and_say_nothing(
    name: str, flags: tuple[str, ...], end: str
) -> None:
    with RingBuffer.create(name, capacity=4096) as ring:
        for _ in range(3):
            run_python(USE_AND_EXIT, name, end, flags=flags)
            assert os.path.exists(ring.path)
        assert ring.get_many() == [sys.version.encode()] * 3
        assert ring._segment.deaths[0] == 0


def test_no_resource_tracker_is_started_and_no_shared_memory_module_loaded(name: str) -> None:
    code = """if True:
        import sys
        from fastcomm.rings import RingBuffer
        with RingBuffer.create(sys.argv[1]) as ring:
            ring.put(b"x")
            assert ring.get() == b"x"
        unwanted = {"multiprocessing", "numpy", "psutil", "asyncio"}
        print(sorted(m for m in sys.modules if m.split(".")[0] in unwanted))
    """
    assert run_python(code, name) == "[]\n"


def test_shared_memory_of_multiprocessing_attaches_to_the_file_and_a_ring_can_be_laid_over_it(
    name: str,
) -> None:
    with RingBuffer.create(name, capacity=1024, directory="/dev/shm") as ring:
        untracked = {"track": False} if sys.version_info >= (3, 13) else {}
        shared = SharedMemory(os.path.basename(ring.path), **untracked)
        if not untracked:
            from multiprocessing import resource_tracker

            resource_tracker.unregister(shared._name, "shared_memory")  # type: ignore[attr-defined]
        assert shared.size >= os.stat(ring.path).st_size
        view = shared.buf[RING:]
        laid_over = Ring(view, owner=200)
        laid_over.put(b"through SharedMemory")
        assert ring.get() == b"through SharedMemory"
        del laid_over
        view.release()
        shared.close()
        assert os.path.exists(ring.path)


def test_a_segments_descriptors_are_not_inherited_by_programs(name: str) -> None:
    with RingBuffer.create(name) as ring:
        ring.fileno()
        listing = subprocess.run(
            ["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, close_fds=False, check=True
        ).stdout
        assert "fastcomm" not in listing


def test_a_handle_uses_two_descriptors_and_closing_gives_them_back(name: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    ring = RingBuffer.create(name)
    assert len(os.listdir("/proc/self/fd")) == before + 2
    ring.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_symbolic_link_in_place_of_the_segment_is_not_followed(name: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    with RingBuffer.create(name) as ring:
        path = Path(ring.path)
    path.symlink_to(target)
    try:
        for call in (RingBuffer.create, RingBuffer.attach):
            with pytest.raises(OSError, match="symbolic links"):
                call(name)
    finally:
        path.unlink()
    assert target.read_bytes() == b"precious"


def test_creators_who_race_make_one_ring(name: str) -> None:
    code = """if True:
        import sys
        from fastcomm.errors import SegmentExistsError
        from fastcomm.rings import RingBuffer
        sys.stdin.readline()
        try:
            ring = RingBuffer.create(sys.argv[1], capacity=4096)
            print("created", flush=True)
        except SegmentExistsError:
            ring = RingBuffer.attach(sys.argv[1])
            print("attached", flush=True)
        ring.put(b"here")
        sys.stdin.readline()
    """
    children = [python(code, name) for _ in range(4)]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    said = sorted(child.stdout.readline() for child in children if child.stdout is not None)
    with RingBuffer.attach(name) as ring:
        assert [ring.get(timeout=60) for _ in children] == [b"here"] * 4
        for child in children:
            assert child.communicate("end\n", timeout=60) == ("", "")
    assert said == ["attached\n"] * 3 + ["created\n"]


def test_reserved_pages_can_be_given_back_and_read_as_zeroes(name: str) -> None:
    def plan() -> tuple[int, list[tuple[int, int]], int, list[int]]:
        return 4, [(PAGE, 256), (2 * PAGE, 4 * PAGE)], 2 * PAGE, [1, 2]

    path = f"/dev/shm/{name}"
    segment, created = Segment.open(path, name=name, kind=KIND_BUS, plan=plan)
    segment.publish()
    assert created
    before = os.stat(path).st_blocks
    segment.reserve(2 * PAGE, 4 * PAGE)
    assert os.stat(path).st_blocks == before + 4 * PAGE // 512
    view = segment.memory(2 * PAGE, 4 * PAGE)
    view[:] = b"\xff" * len(view)
    segment.punch(2 * PAGE + 1, 3 * PAGE)
    assert bytes(view) == b"\xff" * PAGE + bytes(2 * PAGE) + b"\xff" * PAGE
    assert segment.parameters == [1, 2, 0, 0, 0, 0, 0, 0]
    for offset, size in ((-1, 8), (0, 6 * PAGE + 1), (6 * PAGE, 1), (8, -1)):
        with pytest.raises(CorruptSegmentError, match="lie outside"):
            segment.memory(offset, size)
    segment.unlink()
    segment.leave_gate()
    segment.close()
    del view
