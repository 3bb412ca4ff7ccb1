from typing import Final

# For cimport from other modules; no use in Python.
__pyx_capi__: Final[dict[str, object]]

def monotonic_ns() -> int: ...
