"""The commands by name. A command's module is imported when the command is used, so `--help` imports none of them."""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

COMMANDS = {
    "init": ("init.init", "Create a small project that runs: a CSV file, a table, a mart and a test."),
    "run": (
        "running.run",
        "Run the project: compute what is new or changed, in dependency order, with one commit per table.",
    ),
    "backfill": (
        "backfill.backfill",
        "Recompute partitions of a table from the inputs it consumed. If stopped, it resumes where it stopped.",
    ),
    "stream": (
        "streaming.stream",
        "Run streams until Ctrl-C, with an exactly-once commit every half second. `headwater streams` manages them.",
    ),
    "verify": ("streaming.verify", "Recompute a stream's table in batch and compare the two row by row."),
    "streams": (
        "streams.app",
        "List streams; pause, resume, rescale, drain or stop running streams; manage savepoints.",
    ),
    "state": ("state.app", "List, show and export the state of streams, as of their last commits."),
    "deadletter": ("deadletter.app", "List, show and replay records that streams rejected."),
    "env": (
        "environments.app",
        "List environments, create one as a clone of another, and promote what was built in it.",
    ),
    "plan": (
        "plan.plan",
        "Show what the definitions change: tables and columns, what breaks, and rows, bytes, seconds and cost.",
    ),
    "explain": (
        "explain.explain",
        "Show how, where and why each table is computed, and what the next run would do with it.",
    ),
    "ls": ("explore.ls", "List the definitions with their rows and versions."),
    "show": (
        "explore.show",
        "Show a table: its description, columns, versions and some rows; or a metric. Without a name: the last run.",
    ),
    "query": (
        "explore.query",
        "Query the lake in SQL. --json prints the rows as a list, and for several statements a list of lists.",
    ),
    "export": (
        "export.export",
        "Write a table to a file for another program, and print its path: an extract of Tableau. A version is written once.",
    ),
    "quality": ("explore.quality", "Show the results of each table's expectations when it was last computed."),
    "lineage": ("explore.lineage", "Show what a definition is computed from, and what is computed from it."),
    "report": ("explore.report", "Write the report of the last run and print its location."),
    "quarantine": ("quarantine.app", "List, show and replay quarantined rows."),
    "lake": (
        "lake.app",
        "Show the history of tables and what changed; restore versions; forget tables; plan and apply the bucket's policies.",
    ),
    "warehouse": (
        "warehouse.app",
        "Show the star schema of the warehouse and how fresh its tables are; plan and apply what a Snowflake account has.",
    ),
    "features": (
        "features.app",
        "List feature views, keep the online store at their newest versions, and read features of entities from it.",
    ),
    "experiment": (
        "experiment.app",
        "List, start and stop experiments, show their results, and the variant of a unit.",
    ),
    "monitor": ("monitor.app", "List monitors, show their open alarms, and write Evidently's reports."),
    "model": (
        "models.app",
        "List, show, compare and promote registered models; go back to an earlier one; train one again.",
    ),
    "serve": ("serving.serve", "Serve tables and models over HTTP with Ray Serve, with an OpenAPI page at /docs."),
    "keys": ("keys.app", "Create, list, rotate and revoke the keys of the callers of endpoints."),
    "client": (
        "client.client",
        "Write a client in TypeScript with the types of the tables, feature views and models that a key may use.",
    ),
    "audit": ("audit.app", "Show who read what through endpoints, and check that the records were not changed."),
    "submit": (
        "submit.submit",
        "Submit a command of this project to a Ray cluster, as a job with the project's files.",
    ),
    "cluster": (
        "cluster.app",
        "Show what runs ask of a Ray cluster, and what it costs; start and stop a local cluster.",
    ),
    "topics": (
        "topics.app",
        "Show and make the changes that the declared topics need.",
    ),
    "kafka": (
        "kafka.app",
        "Start and stop brokers of Apache Kafka on this machine, for development.",
    ),
    "schema": (
        "schema.app",
        "List, show, compare, check and register schemas; serve the registry.",
    ),
    "sources": (
        "sources.sources",
        "List the connectors: what they read, how they deliver, what they were tested against, and what is not installed.",
    ),
    "discover": (
        "discover.discover",
        "Look at a system: schemas, keys, times, partitioning and likely personal data, from a bounded sample.",
    ),
    "add": (
        "add.add",
        "Add a source to the project: look at its system, write the definition, and check that the project loads.",
    ),
    "doctor": (
        "doctor.doctor",
        "Check packages, settings, credentials, data files, lake, warehouse, catalog and disk; say what to do about problems.",
    ),
}
"""For each command, its location in this package and its help text."""
MEANT = {
    "tables": "ls",
    "list": "ls",
    "status": "show",
    "build": "run",
    "compile": "explain",
    "apply": "run",
    "docs": "report",
    **{name: f"lake {name}" for name in ("history", "diff", "restore", "vacuum", "compact", "maintain", "forget")},
    "promote": "env promote",
    "clone": "env create",
    "seed": "add",
    "logs": "show",
    "check": "doctor",
    "validate": "plan",
}
"""Commands that do not exist, because others do what users of other tools know by these names."""
CONTEXT = {"help_option_names": ["-h", "--help"]}
OF_OTHERS = {"submit"}
"""The commands whose first argument is another command: the options after it belong to that command."""


class CommandGroup(TyperGroup):
    """The group of the commands in `COMMANDS`, in this order."""

    _is_listing = False

    def __init__(self, **options: Any) -> None:
        """Create the group with a stub for each command: its name and help."""
        stubs = {name: TyperCommand(name, help=words) for name, (_, words) in COMMANDS.items()}
        super().__init__(**{**options, "commands": stubs})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command; its module is imported unless the commands are only listed."""
        if self._is_listing or cmd_name not in self.commands:
            return super().get_command(ctx, cmd_name)
        return load(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the arguments name; name the one that was meant by a command of another tool."""
        if args[0] in MEANT:
            ctx.fail(f"No such command {args[0]!r}. Did you mean 'headwater {MEANT[args[0]]}'?")
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help without importing the modules of the commands."""
        self._is_listing = True
        super().format_help(ctx, formatter)


def load(name: str) -> Any:
    """Import a command's module and return the command or command group."""
    module, _, attribute = COMMANDS[name][0].partition(".")
    command = getattr(import_module(f"cluster.cli.{module}"), attribute)
    alone = typer.Typer(add_completion=False, rich_markup_mode="rich", context_settings=CONTEXT)
    if isinstance(command, typer.Typer):
        alone.add_typer(command, name=name)
        return cast("TyperGroup", get_command(alone)).commands[name]
    settings = {**CONTEXT, "allow_interspersed_args": name not in OF_OTHERS}
    alone.command(name, context_settings=settings)(command)
    return get_command(alone)
