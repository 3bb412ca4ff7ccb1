"""The fault hooks of the debug build: their names, and arming them in this process."""

import re
import sys
from pathlib import Path

import fastcomm

HEADER = Path(fastcomm.__file__).parent / "_core" / "include" / "fc_hooks.h"
HOOKS = {
    name: number for number, name in enumerate(re.findall(r"^    FC_HOOK_(\w+)", HEADER.read_text(), re.M))
}
"""Number of each hook; NONE, which is 0, disarms."""

NAMES = tuple(name for name in HOOKS if name != "NONE")


def arm(hook: str, countdown: int = 1) -> bool:
    """Stop this process when it passes `hook` for the `countdown`-th time. False: hooks are compiled out.

    Each compiled module counts by itself, and all that are loaded are armed: whoever continues a process that
    stopped may see it stop again, in another module.
    """
    modules = [module for name, module in sys.modules.items() if name.startswith("fastcomm._core.")]
    try:
        for module in modules:
            if hasattr(module, "_arm_hook"):
                module._arm_hook(HOOKS[hook], countdown)
    except RuntimeError:
        return False
    return True


def compiled_in() -> bool:
    """Whether this is the debug build."""
    return arm("NONE")
