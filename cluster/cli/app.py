"""The command line: which commands there are, and what becomes of errors.

Exit codes: 0 done, 1 an error that its message explains, 2 a wrong command line, 3 done but a model was refused or a
partition failed, 130 interrupted.
"""

from __future__ import annotations

import os
import sys

import typer

from cluster.cli import (
    backfill,
    deadletter,
    doctor,
    explore,
    init,
    planning,
    quarantine,
    running,
    serving,
    state,
    streaming,
    streams,
)
from cluster.cli.console import HERE, PROJECT, Folder, fail
from pipeline.core.errors import HeadwaterError

app = typer.Typer(
    name="headwater",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(init.init)
app.command()(running.run)
app.command()(backfill.backfill)
app.command()(streaming.stream)
app.command()(streaming.verify)
app.add_typer(streams.app, name="streams")
app.add_typer(state.app, name="state")
app.add_typer(deadletter.app, name="deadletter")
app.command()(planning.explain)
app.command()(explore.ls)
app.command()(explore.show)
app.command()(explore.query)
app.command()(explore.quality)
app.command()(explore.lineage)
app.command()(explore.report)
app.add_typer(quarantine.app, name="quarantine")
app.command()(serving.serve)
app.command()(doctor.doctor)


@app.callback()
def main(folder: Folder = HERE) -> None:
    """Data from its sources through lake and warehouse to models and endpoints, from one set of definitions."""
    if folder != HERE:
        os.environ[PROJECT] = str(folder.absolute())  # a command's own --project comes before it


def run() -> None:
    """Run the command and end the process with its exit code."""
    try:
        app()
    except HeadwaterError as error:
        fail(error, as_json="--json" in sys.argv)
        sys.exit(1)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        sys.exit(0)
