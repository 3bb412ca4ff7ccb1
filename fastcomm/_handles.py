"""Live handles of this process, and what happens to them when it forks or ends.

A process that ends without closing a handle would look as if it had died; so handles are closed at exit, also
in a child of multiprocessing, which skips `atexit`. In the child of a fork the parent's handles are told to
forget what is the parent's.
"""

import atexit
import os
import sys
import weakref
from typing import Protocol


class Handle(Protocol):
    def close(self) -> None: ...

    def _forget(self) -> None: ...


_live: "weakref.WeakSet[Handle]" = weakref.WeakSet()
_exit_registered_in = 0


def track(handle: Handle) -> None:
    """Call at each join: in the child of a fork the exit hook of multiprocessing must be set anew."""
    global _exit_registered_in
    _live.add(handle)
    if _exit_registered_in != os.getpid():
        _exit_registered_in = os.getpid()
        util = sys.modules.get("multiprocessing.util")
        if util is not None:
            _close_at_exit_of_multiprocessing()
            # Its processes forget their finalizers once their arguments are unpickled, then call this.
            util.register_after_fork(_live, _close_at_exit_of_multiprocessing)


def _close_at_exit_of_multiprocessing(_: object = None) -> None:
    sys.modules["multiprocessing.util"].Finalize(None, _close_all, exitpriority=-100)


def _close_all() -> None:
    for handle in list(_live):
        handle.close()


def _forget_all() -> None:
    for handle in list(_live):
        handle._forget()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all)
