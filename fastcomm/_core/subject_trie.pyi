from typing import Final

# All of it is for cimport from other modules of fastcomm._core; Python sees nothing else.
__pyx_capi__: Final[dict[str, object]]
