"""`headwater lake plan`, `apply` and `access`: the bucket of a lake on S3, as declared beside the definitions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from cluster.cli.changes import DIFFERENT, Yes, require_consent
from cluster.cli.console import grid, open_workspace, out, print_json
from cluster.cli.options import HERE, Env, Folder, Json
from pipeline.core.definitions import StoredDefinition
from pipeline.core.errors import RequestError, did_you_mean, quantity
from pipeline.core.object_store_options import aws_options
from pipeline.lake.bucket.access import role_statements
from pipeline.lake.bucket.changes import BucketAdministration, BucketChange
from pipeline.lake.bucket.desired import WRITER, DesiredBucket, PlacedTable, place_of
from pipeline.project.workspace import Workspace


def desired_bucket(workspace: Workspace) -> DesiredBucket:
    """Return what the bucket of an environment should look like."""
    settings, project = workspace.settings, workspace.project
    bucket, prefix = place_of(settings.lake)
    tables = [
        PlacedTable(each.name, f"{each.layer}/{each.name}", project.policy(each))
        for each in project.graph.all_of(StoredDefinition)
    ]
    options = aws_options(settings.storage)
    return DesiredBucket(
        bucket,
        prefix,
        f"{settings.name}/{settings.env}",
        tables,
        settings.roles,
        options.get("sse_kms_key_id", ""),
        has_tls=not options.get("endpoint_url", options.get("endpoint", "https://")).startswith("http://"),
    )


def plan(env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """Show what has to change in the bucket of the lake: rights, storage classes, encryption. Exits with 3 if it is something."""
    changes = _administration(open_workspace(folder, env)).plan()
    _show(changes, as_json=as_json)
    if changes:
        raise typer.Exit(DIFFERENT)


def apply(
    yes: Yes = False,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Make the changes that `headwater lake plan` shows; ask before something is taken away."""
    administration = _administration(open_workspace(folder, env))
    changes = administration.plan()
    _show(changes, as_json=as_json)
    lost = [change.name for change in changes if change.deletes]
    require_consent(lost, "changes would take something away", yes=yes, as_json=as_json)
    if changes:
        administration.apply(changes)
        if not as_json:
            out.print(f"made {quantity(len(changes), 'change')}")


def access(
    role: Annotated[
        str | None,
        typer.Option(help=f"Print the policy for a role, or `{WRITER}` for the processes that run the project."),
    ] = None,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Show which role may read which table in the bucket of the lake, or print the policy for a role."""
    desired = desired_bucket(open_workspace(folder, env))
    if role is not None:
        if role != WRITER and role not in desired.roles:
            problem = f"the environment has no role {role!r}"
            raise RequestError(problem, do=did_you_mean(role, (WRITER, *desired.roles)))
        statements = role_statements(desired, None if role == WRITER else role)
        out.print_json(json.dumps({"Version": "2012-10-17", "Statement": statements}))
        return
    readable = {name: [table.name for table in tables] for name, tables in desired.readers.items()}
    if as_json:
        print_json(readable)
    elif not readable:
        out.print("the environment has no roles: only the processes that run the project can read the lake")
    else:
        rows = [(t.name, *("read" if t.name in readable[name] else "" for name in readable)) for t in desired.tables]
        grid(None, ("table", *readable), rows)


def _administration(workspace: Workspace) -> BucketAdministration:
    return BucketAdministration.connect(desired_bucket(workspace), workspace.settings.storage)


def _show(changes: Sequence[BucketChange], *, as_json: bool) -> None:
    if as_json:
        print_json([{"action": change.action, "deletes": change.deletes, **asdict(change)} for change in changes])
        return
    for change in changes:
        sign = {"add": "+", "remove": "-", "change": "~"}[change.action]
        out.print(f"{sign} {change.kind} {change.name}", highlight=False)
        for word, value in (("before", change.before), ("after", change.after)):
            if value is not None and change.action == "change":
                out.print(f"    {word}  {json.dumps(value, sort_keys=True)}", highlight=False, markup=False)
    if not changes:
        out.print("the bucket is as declared")
