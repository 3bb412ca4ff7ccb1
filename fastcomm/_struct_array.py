"""StructArray: rows of a Struct class as a numpy array that keeps their text. Imports numpy."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    RowArray = np.ndarray[Any, np.dtype[np.void]]
else:
    RowArray = np.ndarray


class StructArray(RowArray):
    """A structured array, and in `heap` the bytes that its str and bytes fields point into.

    Slices, selections and copies share the heap of the array that they came from. What numpy makes of several
    arrays has none, nor has one that was pickled: see Type.pack_many().
    """

    heap: bytearray | None

    def __array_finalize__(self, source: Any) -> None:
        self.heap = getattr(source, "heap", None)


def make_array(rows: bytearray, heap: bytearray, dtype: np.dtype[Any], count: int) -> StructArray:
    array = StructArray((count,), dtype, rows)
    array.heap = heap
    return array


def contiguous_rows(array: Any, dtype: np.dtype[Any], name: str) -> tuple[Any, bytearray]:
    """The bytes of the rows, one after the other, and their heap."""
    if array.dtype != dtype:
        raise TypeError(f"the array's dtype is {array.dtype}; {name}.dtype is {dtype}")
    flat = np.ascontiguousarray(array).reshape(-1)
    rows = flat.view(np.ndarray).view(np.uint8) if flat.size else b""
    return rows, getattr(array, "heap", None) or bytearray()
