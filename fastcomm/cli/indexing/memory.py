"""What the bus costs: private pages of a process, and the pages that the segment's file really occupies."""

import ctypes
import os
from array import array
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final

_PRIVATE: Final = (b"Private_Clean:", b"Private_Dirty:")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_PRESENT: Final = 1 << 63  # of an entry in /proc/self/pagemap
_MADV_POPULATE_WRITE: Final = 23  # Linux 5.14

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.malloc_trim.argtypes = (ctypes.c_size_t,)
_libc.madvise.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)


def private_bytes(excluded: str = "") -> int:
    """Bytes of pages that only this process maps, apart from the mapping of the file `excluded`.

    As ``/proc/self/smaps_rollup`` adds them up, but that also counts pages of the segment which no other
    process has touched yet, and these are in `resident_bytes` already.
    """
    skipping, total = False, 0
    with open("/proc/self/smaps", "rb", buffering=4096) as lines:
        for line in lines:
            if line.startswith(_PRIVATE):
                total += 0 if skipping else int(line.split()[1])
            elif b"-" in line.partition(b" ")[0]:
                skipping = bool(excluded) and os.fsdecode(line).rstrip("\n").endswith(" " + excluded)
    return total * 1024


def resident_bytes(path: str) -> int:
    """Bytes that the file at `path` occupies: of a sparse or tmpfs file only what was reserved or written."""
    return os.stat(path).st_blocks * 512


def own_inherited_pages() -> None:
    """Copy now every page that this process shares with its parent since the fork and might write.

    A forked process is charged for such a page at its first write to it, be it to a reference count, so
    whatever is done first seems to cost a hundred kilobytes. After this, `private_bytes` grows by new memory
    only, as in a process that loaded its modules itself. Memory that was never touched stays so, and what
    malloc holds free goes back to the system, lest new objects hide in it. Before Linux 5.14 no page is
    copied, and the growth reads too high.
    """
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        for start, end in list(_writable_private()):
            pagemap.seek(start // _PAGE * 8)
            entries = array("Q", pagemap.read((end - start) // _PAGE * 8))
            for first, count in _runs(bool(entry & _PRESENT) for entry in entries):
                _libc.madvise(start + first * _PAGE, count * _PAGE, _MADV_POPULATE_WRITE)
        del entries
    _libc.malloc_trim(0)


def _writable_private() -> Iterator[tuple[int, int]]:
    with open("/proc/self/maps", "rb") as lines:
        for line in lines:
            addresses, permissions = line.split(maxsplit=2)[:2]
            if permissions == b"rw-p":
                start, _, end = addresses.partition(b"-")
                yield int(start, 16), int(end, 16)


def _runs(flags: Iterable[bool]) -> Iterator[tuple[int, int]]:
    """(first index, length) of every run of true flags."""
    position = 0
    for flag, group in groupby(flags):
        length = sum(1 for _ in group)
        if flag:
            yield position, length
        position += length
