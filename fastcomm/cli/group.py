"""The group of commands. A command's module is imported when that command is asked for, not before."""

from importlib import import_module
from typing import Final

import click

from fastcomm._version import __version__

COMMANDS: Final = {
    "clean": "fastcomm.cli.segments:clean",
    "demo": "fastcomm.cli.demo:demo",
    "doctor": "fastcomm.cli.doctor:doctor",
    "ls": "fastcomm.cli.segments:ls",
}


class LazyGroup(click.Group):
    """A click group over `COMMANDS`: name -> ``module:attribute``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, sorted."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command; None when there is none of that name."""
        target = COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fastcomm")
def group() -> None:
    """Messages between processes on one host through shared memory."""
