"""What the bus costs: private pages of a process, and the pages that the segment's file really occupies."""

import os
from typing import Final

_PRIVATE: Final = (b"Private_Clean:", b"Private_Dirty:")


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
