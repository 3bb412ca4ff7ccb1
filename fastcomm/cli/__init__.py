"""The ``fastcomm`` command. Importing this loads neither click nor rich; `main` does, and says what is missing."""

import sys

_NEEDED = ("click", "rich")


def main() -> None:
    """Run the command line; exits with 1 and the way to install them when click or rich are missing."""
    try:
        from fastcomm.cli.group import group
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in _NEEDED:
            raise
        sys.exit(f"fastcomm: the command line needs {missing.name}: pip install 'fastcomm[cli]'")
    group(prog_name="fastcomm")
