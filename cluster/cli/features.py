"""`headwater features`: the online store of features, materialised by hand, listed, and read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.changes import DIFFERENT
from cluster.cli.console import grid, open_workspace, out, print_json, print_rows, text
from cluster.cli.options import HERE, Env, Folder, Json
from pipeline.core.errors import RequestError, quantity

if TYPE_CHECKING:
    from ml.features.verification import ViewComparison
    from ml.models.served_features import ServedComparison
    from pipeline.project.workspace import Workspace

HELP = "List feature views, keep the online store at their newest versions, and read features of entities from it."
app = typer.Typer(help=HELP, no_args_is_help=True)
Views = Annotated[list[str] | None, typer.Argument(help="Names of feature views (default: all that are online).")]


@app.command()
def ls(env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """List feature views: entity, owner, time to live, and how far the online store is behind the lake."""
    from ml.features.materialization import statuses  # noqa: PLC0415 - imports Arrow

    views = statuses(open_workspace(folder, env))
    if as_json:
        print_json(views)
        return
    if not views:
        out.print("the project has no feature views")
        return
    columns = ("view", "entity", "features", "ttl", "owner", "lake", "online", "state", "newest", "written")
    rows = [
        (
            each.view,
            ", ".join(each.entity),
            each.features,
            each.ttl,
            each.owner,
            each.lake_version,
            each.online_version,
            each.state,
            _time(each.newest),
            _time(each.written_at),
        )
        for each in views
    ]
    grid(None, columns, rows, right="features, lake, online")


@app.command()
def materialize(views: Views = None, env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """Bring the online store to the newest versions of feature views. Runs and streams do this by themselves."""
    from ml.features.materialization import materialize as bring  # noqa: PLC0415 - imports Arrow

    reports = bring(open_workspace(folder, env), views or ())
    if as_json:
        print_json([{"view": view, "version": v.version, "rows": v.rows, "removed": v.removed} for view, v in reports])
        return
    for view, report in reports:
        what = f"{quantity(report.rows, 'row')}, {text(report.removed)} removed" if report.is_new else "up to date"
        out.print(f"[green]✓[/] {view}: version {report.version}, {what}")


@app.command()
def get(
    view: Annotated[str, typer.Argument(help="Name of a feature view, or of a training set for all of its features.")],
    entity: Annotated[list[str], typer.Argument(help="The entity: COLUMN=VALUE for each of its columns.")],
    at: Annotated[datetime | None, typer.Option("--at", help="A time (ISO 8601, UTC) instead of now.")] = None,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Print the features of an entity, as the online store returns them."""
    from ml.features.online_features import OnlineFeatures  # noqa: PLC0415 - imports Arrow

    pairs = [each.partition("=") for each in entity]
    bad = next((each for each, (_, equals, _) in zip(entity, pairs, strict=True) if not equals), None)
    if bad is not None:
        raise RequestError("the entity must have the form COLUMN=VALUE", got=repr(bad))
    online = OnlineFeatures(open_workspace(folder, env).project)
    print_rows(online.get(view, [{name: value for name, _, value in pairs}], at=at), as_json=as_json)


@app.command()
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Feature views or training sets (default: all online).")
    ] = None,
    served: Annotated[
        str | None, typer.Option(help="Compare what requests got instead: the name of a log of served predictions.")
    ] = None,
    sample: Annotated[int, typer.Option(help="Number of entities, or of requests, that are compared.", min=1)] = 1_000,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Compare the online store with the point-in-time join over the lake, at this moment. Exits with 3 if they differ."""
    from ml.features.verification import verify as compare  # noqa: PLC0415 - imports Arrow

    workspace = open_workspace(folder, env)
    if served is not None:
        _verify_served(workspace, served, sample, as_json=as_json)
        return
    views = compare(workspace, names or (), sample)
    if as_json:
        print_json([{**asdict(view), "at": view.at.isoformat(), "holds": view.holds} for view in views])
    for view in () if as_json else views:
        entities = "1 entity" if view.entities == 1 else f"{view.entities:,} entities"
        versions = f"; version {view.online_version} online, {view.lake_version} in the lake"
        _print_comparison(view, entities, versions)
    if not all(view.holds for view in views):
        raise typer.Exit(DIFFERENT)


def _verify_served(workspace: Workspace, log: str, sample: int, *, as_json: bool) -> None:
    from ml.models.served_features import verify_served  # noqa: PLC0415 - imports Arrow

    views = verify_served(workspace, log, sample)
    if as_json:
        print_json([{**asdict(view), "holds": view.holds} for view in views])
    for view in () if as_json else views:
        _print_comparison(view, quantity(view.requests, "request"))
    if not all(view.holds for view in views):
        raise typer.Exit(DIFFERENT)


def _print_comparison(view: ViewComparison | ServedComparison, compared: str, versions: str = "") -> None:
    mark = "[green]✓[/]" if view.holds else "[red]✗[/]"
    counts = ", ".join(f"{text(count)} {cause}" for cause, count in view.causes.items()) or "0 differ"
    out.print(f"{mark} {view.view}: {compared}, {counts}{versions}")
    if view.examples:
        rows = [
            (each.cause, *(_pairs(part) for part in (each.entity, each.online, each.offline))) for each in view.examples
        ]
        grid(None, ("cause", "entity", "online", "offline"), rows)


def _pairs(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.removeprefix('_')}={value}" for name, value in row.items())


def _time(time: datetime | None) -> str:
    return "" if time is None else f"{time:%Y-%m-%d %H:%M:%S}"
