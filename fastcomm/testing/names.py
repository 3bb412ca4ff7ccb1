"""Names of buses and rings that no other test uses, on this machine and at any time."""

import os
import secrets


def isolated_name(prefix: str = "test") -> str:
    """A name of letters, digits and hyphens that no other call returned, in any process.

    The pid in it tells whose segment a listing shows; the random part keeps forked children and reused pids
    apart. Thread- and process-safe.
    """
    return f"{prefix}-{os.getpid()}-{secrets.token_hex(4)}"
