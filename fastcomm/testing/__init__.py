"""Helpers for tests of programs that use fastcomm: names that never collide, a watchdog, a leak check.

None of them needs pytest; :mod:`fastcomm.testing.fixtures` offers them as pytest fixtures.
"""

from fastcomm.testing.leaks import LeakCheck as LeakCheck
from fastcomm.testing.leaks import LeakError as LeakError
from fastcomm.testing.names import isolated_name as isolated_name
from fastcomm.testing.watchdog import Watchdog as Watchdog

__all__ = ["LeakCheck", "LeakError", "Watchdog", "isolated_name"]
