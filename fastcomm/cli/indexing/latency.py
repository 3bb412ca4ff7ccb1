"""Log-bucketed counts of latencies: bounded, mergeable, sent as (bucket, count) pairs, within 1/16."""

from collections import defaultdict
from collections.abc import Iterable
from math import ceil

_BITS = 5  # significant bits that a bucket keeps
_HALF = 1 << (_BITS - 1)


def bucket_of(ns: int) -> int:
    """The bucket of a latency; below 2**_BITS each value has its own. Negative counts as 0."""
    if ns < 2 * _HALF:
        return max(ns, 0)
    shift = ns.bit_length() - _BITS
    return shift * _HALF + (ns >> shift)


def upper_bound(bucket: int) -> int:
    """The largest latency of a bucket, in ns."""
    if bucket < 2 * _HALF:
        return bucket
    shift = bucket // _HALF - 1
    return ((bucket % _HALF + _HALF + 1) << shift) - 1


class LatencyCounts:
    """Counts by bucket, and the exact maximum, in ns. For one thread."""

    def __init__(self) -> None:
        self._counts: defaultdict[int, int] = defaultdict(int)
        self.largest = 0

    def record(self, ns: int) -> None:
        """Count one latency."""
        self._counts[bucket_of(ns)] += 1
        if ns > self.largest:
            self.largest = ns

    def take(self) -> list[int]:
        """[largest, bucket, count, bucket, count, ...] since the last call, and begin anew."""
        flat = [self.largest]
        for pair in self._counts.items():
            flat.extend(pair)
        self._counts.clear()
        self.largest = 0
        return flat

    def put(self, flat: list[int]) -> None:
        """Add what another's `take` returned."""
        self.largest = max(self.largest, flat[0])
        for bucket, count in zip(flat[1::2], flat[2::2], strict=True):
            self._counts[bucket] += count

    def add(self, others: Iterable["LatencyCounts"]) -> "LatencyCounts":
        """Add all of `others`; returns this one."""
        for other in others:
            self.largest = max(self.largest, other.largest)
            for bucket, count in other._counts.items():
                self._counts[bucket] += count
        return self

    @property
    def total(self) -> int:
        """How many latencies were recorded."""
        return sum(self._counts.values())

    def percentile(self, share: float) -> int:
        """The latency in ns that a `share` (0..1) of all did not exceed, up to its bucket; 0 when empty."""
        remaining = ceil(share * self.total)
        for bucket in sorted(self._counts):
            remaining -= self._counts[bucket]
            if remaining <= 0:
                return min(upper_bound(bucket), self.largest)
        return 0
