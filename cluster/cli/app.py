"""The command line application, and how errors are reported.

Exit codes: 0 success, 1 an error that its message explains, 2 wrong usage, 3 success but the quality gate refused a
model or a partition failed, 130 interrupted.
"""

from __future__ import annotations

import os
import sys

import typer

from cluster.cli.commands import CONTEXT, CommandGroup
from cluster.cli.logs import LogFormat, configure
from cluster.cli.options import HERE, PROJECT, Folder, LogForm, Quiet, Verbose, Version

app = typer.Typer(
    name="headwater",
    cls=CommandGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings=CONTEXT,
)


@app.callback()
def main(
    folder: Folder = HERE,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    log_format: LogForm = LogFormat.TEXT,
    version: Version = False,
) -> None:
    """A data platform for batch and streaming: from sources to tables, models and endpoints."""
    del version  # printed by its callback
    configure(verbose=verbose, quiet=quiet, form=log_format)
    if folder != HERE:
        os.environ[PROJECT] = str(folder.absolute())  # a command's own --project takes precedence


def run() -> None:
    """Run the command and exit with its exit code."""
    try:
        app()
    except BrokenPipeError:  # the reader of a pipe has closed it
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        from cluster.cli.console import fail  # noqa: PLC0415 - not needed by commands that succeed, such as --help
        from pipeline.core.errors import HeadwaterError  # noqa: PLC0415 - likewise

        if not isinstance(error, HeadwaterError):
            raise
        fail(error, as_json="--json" in sys.argv)
        sys.exit(1)
