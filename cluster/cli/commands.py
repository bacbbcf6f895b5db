"""The commands by their names. A command's module is imported when the command is used: `--help` needs none of them."""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

COMMANDS = {
    "init": ("init.init", "Make a small project that runs: a CSV file, a table, a mart and a test."),
    "run": ("running.run", "Run the project: what is new or changed, in order, each table committed once."),
    "backfill": (
        "backfill.backfill",
        "Recompute partitions of a table from what it consumed of its inputs; stopped, it goes on where it was.",
    ),
    "stream": (
        "streaming.stream",
        "Run streams: rows are committed exactly once, every half second, until Ctrl-C. `headwater streams` manages them.",
    ),
    "verify": ("streaming.verify", "Compute a stream's table in batch and compare the two, row by row."),
    "streams": ("streams.app", "Streams: list them; pause, resume, drain or stop those that run; savepoints."),
    "state": ("state.app", "What streams remember, as of their last commits: list, show, export."),
    "deadletter": ("deadletter.app", "Rows that streams set aside: list, show, replay after a fix."),
    "explain": (
        "planning.explain",
        "Show how each table is computed, where, and why, and what a run would do with it.",
    ),
    "ls": ("explore.ls", "List the definitions with their rows and versions."),
    "show": (
        "explore.show",
        "Show a table: what it is, its columns, its versions and some rows. Without a name: the last run.",
    ),
    "query": (
        "explore.query",
        "Ask the lake in SQL; with --json the rows as a list, of several statements a list of lists.",
    ),
    "quality": ("explore.quality", "Show how each table met what is expected of it when it was last made."),
    "lineage": ("explore.lineage", "Show what a definition is made from, and what is made from it."),
    "report": ("explore.report", "Write the report of the last run and print where it is."),
    "quarantine": ("quarantine.app", "Rows that were set aside: list, show, replay after a fix."),
    "lake": ("lake.app", "Tables that no definition has any more: list them, forget one."),
    "serve": ("serving.serve", "Serve the tables and models over HTTP on Ray Serve, with an OpenAPI page at /docs."),
    "doctor": (
        "doctor.doctor",
        "Check packages, settings, credentials, data files, lake, warehouse, catalog and disk; say what to do about problems.",
    ),
}
"""For each command where it is defined in this package, and its help."""
CONTEXT = {"help_option_names": ["-h", "--help"]}


class CommandGroup(TyperGroup):
    """The commands of `COMMANDS`, in its order."""

    _is_listing = False

    def __init__(self, **options: Any) -> None:
        """Know each command by its name and its help."""
        stubs = {name: TyperCommand(name, help=words) for name, (_, words) in COMMANDS.items()}
        super().__init__(**{**options, "commands": stubs})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, which is imported unless it is only to be listed."""
        if self._is_listing or cmd_name not in self.commands:
            return super().get_command(ctx, cmd_name)
        return load(cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help from what is known of the commands without their modules."""
        self._is_listing = True
        super().format_help(ctx, formatter)


def load(name: str) -> Any:
    """Import a command's module and return the command, or the group of commands."""
    module, _, attribute = COMMANDS[name][0].partition(".")
    command = getattr(import_module(f"cluster.cli.{module}"), attribute)
    alone = typer.Typer(add_completion=False, rich_markup_mode="rich", context_settings=CONTEXT)
    if isinstance(command, typer.Typer):
        alone.add_typer(command, name=name)
        return cast("TyperGroup", get_command(alone)).commands[name]
    alone.command(name)(command)
    return get_command(alone)
