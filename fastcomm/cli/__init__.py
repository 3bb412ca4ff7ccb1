"""The ``fastcomm`` command.

Importing this loads neither click nor rich; `main` does, or names what is missing.
"""

import sys

_NEEDED = ("click", "rich")


def main() -> None:
    """Run the command line; exits with 1 and the way to install them when click or rich are missing."""
    try:
        from fastcomm.cli.group import group

        group(prog_name="fastcomm")
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if package not in _NEEDED:
            raise
        sys.exit(f"fastcomm: the command line needs {package}: pip install 'fastcomm[cli]'")
