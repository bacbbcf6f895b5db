"""`headwater lake`: the tables of the lake, apart from their definitions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Annotated, Any, TypeVar

import typer

from cluster.cli import bucket
from cluster.cli.console import as_objects, err, grid, open_workspace, out, print_json, print_rows, text
from cluster.cli.leasing import leased
from cluster.cli.options import HERE, Env, Execute, Folder, Json
from pipeline.commit.commit_plan import row_key
from pipeline.core.as_of import AsOf
from pipeline.core.errors import HeadwaterError, RequestError, few, quantity
from pipeline.kernel.budget import budget_here
from pipeline.lake import VacuumPlan, Version
from pipeline.lake.diff import TableDiff, diff
from pipeline.lake.history import VersionFacts, history
from pipeline.project.forgotten import WAREHOUSE, ForgottenTable, forget, forgotten_tables, remains_of
from pipeline.project.maintenance import (
    TableMaintenance,
    compact_table,
    maintain,
    maintained_tables,
    plan_vacuums,
    vacuum_table,
)
from pipeline.project.spools import plan_spool, spools, vacuum_spool
from pipeline.project.workspace import Workspace
from pipeline.reprocessing.restore import plan_restore, restore

app = typer.Typer(
    help="Show the history of tables and what changed; restore versions; forget tables; plan and apply the bucket's policies.",
    no_args_is_help=True,
)
Table = Annotated[str, typer.Argument(help="Name of a table.")]
T = TypeVar("T")

_COLUMNS = ("table", "layer", "rows", "bytes", "place")


Tables = Annotated[
    list[str] | None, typer.Argument(help="Names of tables (default: all that exist).", show_default=False)
]


@app.command("maintain")
def maintain_(names: Tables = None, env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """Compact and vacuum tables and quarantines by their policies, and shorten their logs; without names, vacuum spools."""
    workspace = open_workspace(folder, env)
    chosen, places = _names(workspace, names), () if names else spools(workspace)
    done, errors = _each(chosen, lambda name: maintain(workspace, name))
    fetches, failed_spools = _each(places, _maintained_spool)
    errors |= failed_spools
    failed = {name: TableMaintenance(name, error=error) for name, error in errors.items()}
    _print_maintenance([{**done, **fetches, **failed}[name] for name in (*chosen, *places)], as_json=as_json)
    if errors:
        raise typer.Exit(1)


def _maintained_spool(location: str) -> TableMaintenance:
    begun = time.perf_counter()
    files = vacuum_spool(location)
    size, seconds = sum(files.values()), time.perf_counter() - begun
    return TableMaintenance(location, removed_files=len(files), removed_bytes=size, seconds=seconds)


def _print_maintenance(done: Sequence[TableMaintenance], *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(each) for each in done])
        return
    columns = (
        "table",
        "compacted",
        "into",
        "removed files",
        "removed bytes",
        "versions",
        "seconds",
        "first",
        "left for later",
    )
    rows = [
        (
            d.table,
            d.files_before,
            d.files_after,
            d.removed_files,
            d.removed_bytes,
            d.forgotten_versions,
            d.seconds,
            d.reason,
            d.note or d.error,
        )
        for d in done
    ]
    grid(None, columns, rows, right="compacted, into, removed files, removed bytes, versions, seconds")


@app.command("compact")
def compact_(names: Tables = None, env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """Compact the small files of tables, with their rows ordered by cluster_by= of the policy."""
    workspace = open_workspace(folder, env)
    chosen = _names(workspace, names)
    done, errors = _each(chosen, lambda name: compact_table(workspace, name))
    if as_json:
        compacted = {name: {} if each is None else asdict(each) for name, each in done.items()}
        facts = {**compacted, **{name: {"error": error} for name, error in errors.items()}}
        print_json([{"table": name, **facts[name]} for name in chosen])
    for name, each in () if as_json else done.items():
        out.print(
            f"{name}: no small files"
            if each is None
            else f"[green]✓[/] {name}: {quantity(each.before, 'file')} compacted into {each.after}, as version {each.number}"
        )
    _fail_for(errors)


def _each(names: Sequence[str], do: Callable[[str], T]) -> tuple[dict[str, T], dict[str, str]]:
    """Do something with each table; return the results and the errors by table, because one does not keep others from it."""
    done, errors = dict[str, T](), dict[str, str]()
    for name in names:
        try:
            done[name] = do(name)
        except HeadwaterError as error:
            errors[name] = str(error)
    return done, errors


def _fail_for(errors: Mapping[str, str]) -> None:
    """Print the errors of tables and exit with 1, if there are any."""
    for name, error in errors.items():
        err.print(f"[red]✗[/] {name}: {text(error)}", soft_wrap=True)
    if errors:
        raise typer.Exit(1)


@app.command("vacuum")
def vacuum_(
    names: Tables = None, yes: Execute = False, env: Env = None, as_json: Json = False, folder: Folder = HERE
) -> None:
    """List the files that no readable version needs; without names, also old fetches in spools. With --yes, remove them."""
    workspace = open_workspace(folder, env)
    chosen, places = _names(workspace, names), () if names else spools(workspace)
    act, act_on_spool = (vacuum_table, vacuum_spool) if yes else (plan_vacuums, plan_spool)
    plans, errors = _each(chosen, lambda name: act(workspace, name))
    fetches, failed_spools = _each(places, lambda place: (VacuumPlan(place, act_on_spool(place)),))
    plans, errors = {**plans, **fetches}, {**errors, **failed_spools}
    if as_json:
        print_json(
            [
                {
                    "table": n,
                    "removed": yes,
                    "files": dict(p.files),
                    "bytes": p.size_bytes,
                    "versions": p.versions,
                    "oldest": p.oldest,
                }
                for n, each in plans.items()
                for p in each
                if p.oldest is not None or p.files
            ]
            + [{"table": name, "error": error} for name, error in errors.items()]
        )
        _fail_for(errors)
        return
    rows = [
        (name if number == 0 else f"{name} (quarantine)", len(p.files), p.size_bytes, p.versions, p.oldest)
        for name, each in plans.items()
        for number, p in enumerate(each)
        if p.files or p.versions
    ]
    grid(
        None, ("table", "files", "bytes", "versions", "oldest kept"), rows, right="files, bytes, versions, oldest kept"
    )
    total = sum(int(row[2] or 0) for row in rows)
    out.print(f"[green]✓[/] removed {total:,} bytes" if yes else f"{total:,} bytes can be removed: do it with --yes")
    _fail_for(errors)


@app.command()
def forgotten(env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """List the tables of lake and warehouse that no definition has any more."""
    tables = forgotten_tables(open_workspace(folder, env))
    if as_json:
        print_json([asdict(table) for table in tables])
    elif tables:
        grid(None, _COLUMNS, [_row(table) for table in tables], right="rows, bytes")
    else:
        out.print("every table of the lake has a definition")


@app.command("forget")
def forget_(
    name: Annotated[str, typer.Argument(help="The name of a table that has no definition.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before the table is removed.")] = False,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Remove what is left of a table that was renamed or removed: its folders, quarantine and warehouse table."""
    workspace = open_workspace(folder, env)
    tables = remains_of(workspace, name)
    if not yes:
        if as_json or not err.is_terminal:
            rows = sum(table.rows or 0 for table in tables)
            raise RequestError(
                f"forgetting {name!r} removes {quantity(rows, 'row')} for good", do="confirm it with --yes"
            )
        grid(None, _COLUMNS, [_row(table) for table in tables], right="rows, bytes")
        typer.confirm("Remove this for good?", abort=True, err=True)
    forget(workspace, name, tables)
    if as_json:
        print_json([asdict(table) for table in tables])
        return
    for table in tables:
        out.print(f"removed {name} from {table.place}" if table.layer == WAREHOUSE else f"removed {table.place}")


@app.command("history")
def history_(
    name: Table,
    limit: Annotated[int, typer.Option(help="Number of versions to show.", min=1)] = 20,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Show the versions of a table that can be read: when, by which run, what they changed, and what holds them."""
    workspace = open_workspace(folder, env)
    workspace.require(name)
    facts = history(workspace.table(name).storage, limit)
    if as_json:
        print_json([{**asdict(each), "at": each.at.isoformat()} for each in facts])
        return
    columns = ("version", "committed at (UTC)", "mode", "run", "rows in", "rows out", "files", "bytes", "held by")
    grid(None, columns, [_history_row(each) for each in facts], right="version, rows in, rows out, files, bytes")


@app.command("diff")
def diff_(
    name: Table,
    before: Annotated[
        str | None,
        typer.Argument(
            help="A version, a time, or a duration ago such as 2h (default: the version before the newest).",
            show_default=False,
        ),
    ] = None,
    after: Annotated[str | None, typer.Argument(help="Another one (default: the newest).", show_default=False)] = None,
    rows: Annotated[int, typer.Option(help="Number of changed rows to show.", min=0)] = 0,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Show what changed between two versions of a table: rows by key, and columns."""
    workspace = open_workspace(folder, env)
    newest = _version(workspace, name, after)
    if before is None and not newest.number:
        raise RequestError(f"table {name!r} has only one version", do=f"show its rows: headwater show {name}")
    changes = _diff(workspace, name, (_version(workspace, name, before or str(newest.number - 1)), newest), rows)
    if as_json:
        print_json(_diff_json(changes))
    else:
        _print_diff(changes, rows)


@app.command("restore")
def restore_(
    name: Table,
    to: Annotated[str, typer.Option("--to", help="A version, a time (ISO 8601, UTC), or a duration ago such as 2h.")],
    yes: Execute = False,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Restore a table to an earlier version, in a new commit from which runs and its stream go on exactly once."""
    workspace = open_workspace(folder, env)
    with leased(workspace, "restore", [name]) if yes else nullcontext():
        plan = plan_restore(workspace, name, _as_of(name, to))
        changes = _diff(workspace, name, (plan.before, plan.target), 0)
        number = restore(workspace, plan).number if yes else None
    facts = {"table": name, "restored_to": plan.target.number, "version": number, "redefined": plan.redefined}
    if as_json:
        print_json({**facts, "read_by": plan.read_by, "diff": _diff_json(changes)})
        return
    _print_diff(changes, 0)
    if plan.redefined:
        out.print("[yellow]the definition has changed since: the next run computes the table again[/]")
    if plan.read_by:
        out.print(f"read by {few(plan.read_by)}: their next run takes over the change", soft_wrap=True)
    if number is None:
        out.print("nothing was changed; restore it with --yes")
    else:
        out.print(f"[green]✓[/] {name} has the rows of version {plan.target.number} again, as version {number}")


def _names(workspace: Workspace, names: list[str] | None) -> tuple[str, ...]:
    return tuple(workspace.stored(name).name for name in names) if names else maintained_tables(workspace)


def _as_of(name: str, text: str) -> AsOf:
    """Return what a version, a time or a duration means for a table."""
    if text.isdecimal():
        return AsOf(versions={name: int(text)})
    as_of = AsOf.of(text)
    if as_of.versions.keys() - {name}:
        do = "write its number, a time, or a duration"
        raise RequestError(f"this is not a version of {name!r}", got=repr(text), do=do)
    return as_of


def _version(workspace: Workspace, name: str, text: str | None) -> Version:
    return workspace.require(name, as_of=None if text is None else _as_of(name, text))


def _diff(workspace: Workspace, name: str, versions: tuple[Version, Version], rows: int) -> TableDiff:
    limits = budget_here(workspace.settings.memory_bytes).whole()
    return diff(workspace.table(name), versions, row_key(workspace.stored(name)), rows=rows, limits=limits)


def _diff_json(changes: TableDiff) -> Mapping[str, Any]:
    facts = asdict(replace(changes, rows=None))
    return {**facts, "rows": None if changes.rows is None else as_objects(changes.rows)}


def _print_diff(changes: TableDiff, rows: int) -> None:
    out.print(f"[bold]{changes.table}[/]  version {changes.before} → {changes.after}")
    for column in changes.columns:
        was, now = column.before or "new", column.after or "removed"
        out.print(f"column {column.name}: {was} → {now}")
    counts = [("inserted", changes.inserted), ("deleted", changes.deleted)]
    counts += [("updated", changes.updated)] if changes.key else []
    grid(None, ("change", "rows"), counts, right="rows")
    if changes.changed:
        out.print("updated columns: " + ", ".join(f"{name} ({count:,})" for name, count in changes.changed.items()))
    if changes.rows is not None:
        print_rows(changes.rows, as_json=False, most=rows)


def _history_row(facts: VersionFacts) -> tuple[object, ...]:
    added, removed = facts.added_files, facts.removed_files
    files = None if added is None else f"+{added} -{removed}"
    size = None if facts.added_bytes is None else (facts.added_bytes or 0) - (facts.removed_bytes or 0)
    return (
        facts.version,
        f"{facts.at:%Y-%m-%d %H:%M:%S}",
        facts.mode,
        facts.run_id,
        facts.rows_in,
        facts.rows_out,
        files,
        size,
        ", ".join(facts.held_by),
    )


def _row(table: ForgottenTable) -> tuple[object, ...]:
    return (table.name, table.layer, table.rows, table.size_bytes or None, table.place)


for _command in (bucket.plan, bucket.apply, bucket.access):
    app.command()(_command)
