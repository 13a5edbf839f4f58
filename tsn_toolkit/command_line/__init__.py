"""The command `tsn`. Errors that a user can mend end here: one message, exit code 1; wrong usage is 2."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from tsn_toolkit import __version__
from tsn_toolkit.command_line import lists, packages, runs, stores
from tsn_toolkit.errors import TsnError
from tsn_toolkit.termination import ending_cleanly


class _Boundary(click.Group):
    """Turns the errors of the toolkit into a message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with ending_cleanly():
                return super().invoke(ctx)
        except TsnError as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"error: {error}", err=True)
            ctx.exit(1)
        except BrokenPipeError:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the reader has gone; nothing may be written at exit
            ctx.exit(1)
        except OSError as error:
            if ctx.params.get("debug") or error.filename is None:
                raise
            reason = error.strerror or type(error).__name__
            click.echo(f"error: {error.filename}: {reason}. Check the path, its permissions and the space on the disk.", err=True)
            ctx.exit(1)


@click.group(cls=_Boundary, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, prog_name="tsn")
def main(debug: bool) -> None:
    """Compress one trained PyTorch model into many small per-task models that share their weights to the bit."""


for _module in (runs, stores, packages, lists):
    for _command in _module.COMMANDS:
        main.add_command(_command)
