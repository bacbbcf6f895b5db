"""`headwater model`: shows, compares and promotes the registered versions of models."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from cluster.cli.console import grid, open_workspace, out, print_json
from cluster.cli.options import HERE, Env, Execute, Folder, Json
from ml.models.definition import Model
from ml.models.registry.roles import CHALLENGER, CHAMPION, ROLES, Role
from ml.models.registry.rollouts import Rollouts
from ml.models.registry.versions import ModelVersion, ModelVersions
from pipeline.core.errors import RequestError, did_you_mean
from pipeline.project.workspace import Workspace

app = typer.Typer(
    help="List, show, compare and promote registered models; go back to an earlier one; train one again.",
    no_args_is_help=True,
)
_SHOWN = 3
"""How many versions are shown beside the champion of a model in the list of all models."""
_NAMED = re.compile(r"(?P<name>[^@]+)(?:@(?P<version>\d+))?")
Name = Annotated[str, typer.Argument(help="Name of a model.")]
Named = Annotated[str, typer.Argument(help="Name of a model, or NAME@VERSION; by default the champion.")]
Number = Annotated[int, typer.Argument(help="Number of a registered version.", min=1)]
Reason = Annotated[str, typer.Option(help="Why, for the history of the model.")]


@app.command()
def ls(
    name: Annotated[str | None, typer.Argument(help="Name of a model, to list its versions.")] = None,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """List the models with their champions, or the versions of one model."""
    workspace = open_workspace(folder, env)
    store = ModelVersions(workspace.settings.models)
    names = _defined(workspace, store) if name is None else [name]
    versions = {each: store.of(each) for each in names}
    if name is not None and not versions[name]:
        store.require(name)  # says which models there are
    if as_json:
        print_json([_described(version) for each in names for version in versions[each]])
    elif name is None:
        _list_models(versions)
    else:
        _list_versions(versions[name])


@app.command()
def show(named: Named, env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """Show a version: its metrics, hyperparameters and origin, and how the champion changed."""
    workspace = open_workspace(folder, env)
    store = ModelVersions(workspace.settings.models)
    version = _version(store, named)
    history, decisions = store.promotions(version.name), Rollouts(workspace.settings.models).decisions(version.name)
    if as_json:
        print_json(
            {**_described(version), "params": dict(version.params), "promotions": history, "rollouts": decisions}
        )
        return
    inputs = {} if version.origin is None else version.origin.inputs
    lines = [
        ("version", str(version.number)),
        ("role", _role(version)),
        ("trained", f"{version.created:%Y-%m-%d %H:%M:%S}Z"),
        ("verdict", version.tags.get("headwater.verdict", "")),
        ("rows", ", ".join(f"{table}, version id {number}" for table, number in inputs.items())),
        (
            "stored as",
            f"{version.format}{', which runs code when it is loaded' if version.format == 'cloudpickle' else ''}",
        ),
        *version.params.items(),
        *((name, f"{int(value):,}") for name, value in version.metrics.items() if name.endswith("_rows")),
    ]
    grid(version.name, ("", "value"), lines)
    judged = [name for name in version.metrics if f"baseline_{name}" in version.metrics]
    figures = [(name, _figure(version.metrics[name]), _figure(version.metrics[f"baseline_{name}"])) for name in judged]
    grid("Holdout", ("metric", "model", "baseline"), figures, right="model,baseline")
    if history:
        rows = [(each.at, str(each.version), str(each.replaced or ""), each.reason) for each in history]
        grid("Champions", ("since", "version", "instead of", "reason"), rows, right="version")
    if decisions:
        steps = [(each.at, str(each.version), each.decision, each.reason) for each in decisions]
        grid("Rollouts", ("at", "version", "decision", "reason"), steps, right="version")


@app.command()
def compare(
    name: Name,
    first: Annotated[int | None, typer.Argument(help="A version; by default the champion.")] = None,
    second: Annotated[int | None, typer.Argument(help="Another version; by default the newest.")] = None,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Compare the metrics and hyperparameters of two versions."""
    store = ModelVersions(open_workspace(folder, env).settings.models)
    one = store.require(name, first)
    others = [each for each in store.of(name) if each.number != one.number]
    if second is None and not others:
        raise RequestError(f"model {name!r} has only version {one.number}", do="train another one")
    two = store.require(name, second if second is not None else others[0].number)
    metrics = [each for each in one.metrics if each in two.metrics and not each.startswith("baseline_")]
    differing = [each for each in {**one.params, **two.params} if one.params.get(each) != two.params.get(each)]
    if as_json:
        print_json(
            {
                "versions": [one.number, two.number],
                "metrics": {each: [one.metrics[each], two.metrics[each]] for each in metrics},
                "params": {each: [one.params.get(each), two.params.get(each)] for each in differing},
            }
        )
        return
    rows: list[tuple[Any, ...]] = [
        (each, _figure(one.metrics[each]), _figure(two.metrics[each]), f"{two.metrics[each] - one.metrics[each]:+.4f}")
        for each in metrics
    ]
    rows += [(each, one.params.get(each, ""), two.params.get(each, ""), "") for each in differing]
    heads = ("", f"{one.number} {_role(one)}".strip(), f"{two.number} {_role(two)}".strip(), "difference")
    grid(name, heads, rows, right=",".join(heads[1:]))


@app.command()
def promote(
    name: Name,
    number: Number,
    to: Annotated[str, typer.Option(help="The role: champion, challenger or shadow.")] = CHAMPION,
    traffic: Annotated[float, typer.Option(help="Share of the traffic that a challenger gets, from 0 to 1.")] = 0.0,
    reason: Reason = "by hand",
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Make a version the champion, or the challenger or shadow. Servers use it within seconds."""
    store = ModelVersions(open_workspace(folder, env).settings.models)
    version = store.promote(name, number, _role_of(to), reason, traffic)
    if as_json:
        print_json({"name": name, "version": version.number, "roles": version.roles})
    else:
        share = f" and predicts {traffic:.0%} of the units" if to == CHALLENGER else ""
        out.print(f"version {version.number} of {name!r} is the {to}{share}")


@app.command()
def rollback(
    name: Name, reason: Reason = "by hand", env: Env = None, as_json: Json = False, folder: Folder = HERE
) -> None:
    """Make the version that the champion replaced the champion again."""
    champion, withdrawn = ModelVersions(open_workspace(folder, env).settings.models).rollback(name, reason)
    if as_json:
        print_json({"name": name, "version": champion.number, "withdrawn": withdrawn.number})
    else:
        out.print(f"version {champion.number} of {name!r} is the champion again, instead of {withdrawn.number}")


@app.command()
def withdraw(
    name: Name,
    number: Number,
    reason: Reason = "by hand",
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Take away the role of a challenger, a shadow or a version that waits; this ends its rollout."""
    version = ModelVersions(open_workspace(folder, env).settings.models).withdraw(name, number, reason)
    if as_json:
        print_json({"name": name, "version": version.number, "state": version.state})
    else:
        out.print(f"version {number} of {name!r} has no role any more")


@app.command()
def freeze(name: Name, reason: Reason = "by hand", env: Env = None, folder: Folder = HERE) -> None:
    """Keep the champion of a model as it is: runs do not train it again until it is unfrozen."""
    ModelVersions(open_workspace(folder, env).settings.models).freeze(name, reason)
    out.print(f"{name!r} is frozen; let runs train it again: headwater model unfreeze {name}")


@app.command()
def unfreeze(name: Name, env: Env = None, folder: Folder = HERE) -> None:
    """Let runs train a frozen model again."""
    ModelVersions(open_workspace(folder, env).settings.models).unfreeze(name)
    out.print(f"{name!r} is trained again when it is due")


@app.command()
def retire(
    name: Name, number: Number, yes: Execute = False, env: Env = None, as_json: Json = False, folder: Folder = HERE
) -> None:
    """Delete a version that has no role. The rows that it was trained from are no longer held."""
    store = ModelVersions(open_workspace(folder, env).settings.models)
    store.require_unused(name, number)
    if yes:
        store.retire(name, number)
    if as_json:
        print_json({"name": name, "version": number, "deleted": yes})
    elif yes:
        out.print(f"version {number} of {name!r} is deleted")
    else:
        out.print(f"nothing was changed; delete version {number} of {name!r} with --yes")


@app.command("reproduce")
def reproduce_(named: Named, env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """Train a version again from its rows, and compare. Ends with code 3 if metrics or predictions differ."""
    from ml.models.reproduction import reproduce  # noqa: PLC0415 - imports pandas and MLflow

    workspace = open_workspace(folder, env)
    version = _version(ModelVersions(workspace.settings.models), named)
    definition = workspace.definition(version.name)
    if not isinstance(definition, Model):
        raise RequestError(f"{version.name!r} is not a model of this project", got=f"a {definition.kind}")
    found = reproduce(workspace, definition, version)
    if as_json:
        print_json({"equal": found.is_equal, "same_predictions": found.same_predictions, "metrics": dict(found.again)})
    else:
        rows = [(name, str(found.registered.get(name, "")), str(value)) for name, value in found.again.items()]
        grid(f"{version.name} {version.number}", ("metric", "registered", "again"), rows, right="registered,again")
        out.print("the same model" if found.is_equal else "another model: the predictions or metrics differ")
    if not found.is_equal:
        raise typer.Exit(3)


def _defined(workspace: Workspace, store: ModelVersions) -> list[str]:
    """Return the models of the project, and those that are only registered."""
    defined = [each.name for each in workspace.project.graph.all_of(Model)]
    return [*defined, *(name for name in store.names() if name not in defined)]


def _version(store: ModelVersions, named: str) -> ModelVersion:
    match = _NAMED.fullmatch(named)
    if match is None:
        raise RequestError("this is not the name of a version", got=repr(named), do="write NAME or NAME@VERSION")
    return store.require(match["name"], int(match["version"]) if match["version"] else None)


def _role_of(text: str) -> Role:
    for role in ROLES:
        if role == text:
            return role
    raise RequestError(f"there is no role {text!r}", do=did_you_mean(text, ROLES))


def _figure(value: float) -> str:
    return f"{int(value):,}" if value.is_integer() and abs(value) > 1 else f"{value:.4f}"


def _role(version: ModelVersion) -> str:
    return ", ".join((*version.roles, *((version.state,) if version.state else ())))


def _metric(version: ModelVersion) -> tuple[str, float | None]:
    """Return the metric that decides on a model, and its value for a version."""
    name = version.params.get("metric", "")
    return name, version.metrics.get(name)


def _described(version: ModelVersion) -> dict[str, Any]:
    return {
        "name": version.name,
        "version": version.number,
        "roles": version.roles,
        "state": version.state,
        "trained": version.created,
        "format": version.format,
        "metrics": dict(version.metrics),
    }


def _list_models(versions: dict[str, list[ModelVersion]]) -> None:
    rows = []
    for name, known in versions.items():
        champion = next((each for each in known if CHAMPION in each.roles), None)
        waiting = _others(known)
        if champion is None:
            rows.append((name, "", "", "", "", waiting or "not trained yet"))
            continue
        metric, value = _metric(champion)
        rows.append(
            (
                name,
                champion.params.get("task", ""),
                str(champion.number),
                "" if value is None else f"{metric} {value:.4f}",
                f"{champion.created:%Y-%m-%d %H:%M}",
                waiting,
            )
        )
    if rows:
        grid(None, ("model", "task", "champion", "metric", "trained", "others"), rows, right="champion")
    else:
        out.print("this project has no models")


def _others(versions: Sequence[ModelVersion]) -> str:
    """Return the versions with a role or a state besides the champion: of those that were withdrawn, a few, and no reasons."""
    named = [each for each in versions if each.state or set(each.roles) - {CHAMPION}]
    in_use = [each for each in named if each.roles or not each.state.startswith("withdrawn")]
    withdrawn = [each for each in named if each not in in_use]
    chosen = in_use + withdrawn[: max(_SHOWN - len(in_use), 0)]
    shown = [", ".join((*each.roles, each.state.partition(":")[0])).removesuffix(", ") for each in chosen]
    texts = [f"{each.number} {text}" for each, text in zip(chosen, shown, strict=True)]
    left = len(named) - len(chosen)
    return ", ".join(texts + ([f"{left:,} more"] if left else []))


def _list_versions(versions: Sequence[ModelVersion]) -> None:
    rows = []
    for each in versions:
        metric, value = _metric(each)
        shown = "" if value is None else f"{metric} {value:.4f}"
        rows.append((str(each.number), _role(each), shown, f"{each.created:%Y-%m-%d %H:%M}", each.format))
    grid(None, ("version", "role", "metric", "trained", "stored as"), rows, right="version")
