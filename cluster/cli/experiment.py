"""`headwater experiment`: the experiments of a project, and their results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from cluster.cli.console import as_objects, grid, open_workspace, out, print_json
from cluster.cli.options import HERE, Env, Folder, Json
from pipeline.core.errors import RequestError, did_you_mean
from pipeline.kernel.sql_text import quoted

if TYPE_CHECKING:
    import pyarrow as pa

    from ml.experiments import Experiment, Interleaving
    from ml.experiments.states import ExperimentState
    from pipeline.project.workspace import Workspace

app = typer.Typer(
    no_args_is_help=True, help="List, start and stop experiments, show their results, and the variant of a unit."
)
Name = Annotated[str, typer.Argument(help="Name of an experiment.")]
Reason = Annotated[str, typer.Option(help="Why, for those who look at it later.")]


@app.command()
def ls(env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """List the experiments and interleavings, and which experiments run."""
    from ml.experiments import Experiment, Interleaving  # noqa: PLC0415 - imports DuckDB
    from ml.experiments.states import ExperimentStates  # noqa: PLC0415 - imports DuckDB

    workspace = open_workspace(folder, env)
    states = ExperimentStates(workspace.lake.storage)
    rows = [
        {
            "name": each.name,
            "variants": dict(each.transform.variants),
            "metrics": [m.name for m in each.transform.metrics],
            "state": _state_text(each, states.state(each.name)),
        }
        for each in workspace.project.graph.all_of(Experiment)
    ]
    rows += [
        {
            "name": each.name,
            "variants": dict.fromkeys(each.transform.rankings, 1),
            "metrics": [each.clicks],
            "state": "",
        }
        for each in workspace.project.graph.all_of(Interleaving)
    ]
    if as_json:
        print_json(rows)
        return
    shown = [(row["name"], ", ".join(row["variants"]), ", ".join(row["metrics"]), row["state"]) for row in rows]
    grid(None, ("name", "variants", "metrics", "state"), shown)


@app.command()
def status(
    name: Name,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if the experiment must stop.")] = False,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Show the results of an experiment or an interleaving as of the last run, and whether it must stop."""
    from ml.experiments import Interleaving  # noqa: PLC0415 - imports DuckDB
    from ml.experiments.bandit import weights_text  # noqa: PLC0415 - imports DuckDB
    from ml.experiments.results import BROKEN, HARM  # noqa: PLC0415 - imports Arrow
    from ml.experiments.states import ExperimentStates  # noqa: PLC0415 - imports DuckDB

    workspace = open_workspace(folder, env)
    interleaving = next((each for each in workspace.project.graph.all_of(Interleaving) if each.name == name), None)
    if interleaving is not None:
        _show_interleaving(workspace, interleaving, check=check, as_json=as_json)
        return
    experiment = _named(workspace, name)
    state, weights = ExperimentStates(workspace.lake.storage).state_and_weights(name)
    table = _results(workspace, name)
    rows = table.to_pylist()
    harm = [row for row in rows if row["decision"] in {BROKEN, HARM}]
    if as_json:
        shares = dict(experiment.assignment_by(weights).variants)
        print_json(
            {"name": name, "state": state, "must_stop": bool(harm), "weights": shares, "results": as_objects(table)}
        )
    else:
        ratio = next(row for row in rows if row["metric"] is None)
        out.print(f"[bold]{name}[/]  {escape(experiment.description)}")
        if state is not None:
            out.print(f"{escape(_state_text(experiment, state))}: {escape(state.reason)}")
        tested = "" if ratio["p_value"] is None else f"; p-value of the ratio {ratio['p_value']:.3g}"
        out.print(f"{ratio['units']:,} units: {escape(ratio['reason'])}{tested}")
        if experiment.bandit and weights is not None:
            out.print(f"weights: {escape(weights_text(experiment.assignment_by(weights).variants))}")
        columns = (
            "metric",
            "variant",
            "mean",
            "control_mean",
            "relative",
            "low",
            "high",
            "p_value",
            "decision",
            "reason",
        )
        shown = [tuple(_shown(row[column], column) for column in columns) for row in rows if row["metric"] is not None]
        right = "mean, control_mean, relative, low, high, p_value"
        grid(None, columns, shown, right=right)
        if harm:
            names = sorted({row["metric"] or "the ratio of the variants" for row in harm})
            out.print(f"stop: {escape(', '.join(names))}")
    if check and harm:
        raise typer.Exit(1)


@app.command()
def start(name: Name, reason: Reason = "by hand", env: Env = None, folder: Folder = HERE) -> None:
    """Let units take part from now on, unless the results of the last run say that the experiment must stop.

    Processes that show variants know it within seconds.
    """
    from ml.experiments.states import ExperimentStates  # noqa: PLC0415 - imports DuckDB

    _require_reason(reason)
    workspace = open_workspace(folder, env)
    _require_no_harm(workspace, _named(workspace, name))
    state = ExperimentStates(workspace.lake.storage).start(name, reason)
    out.print(f"{name!r} runs since {state.at}")


@app.command()
def stop(
    name: Name,
    variant: Annotated[str, typer.Option(help="The variant that all units get; by default the control.")] = "",
    reason: Reason = "by hand",
    env: Env = None,
    folder: Folder = HERE,
) -> None:
    """Let all units get the control, or another variant, from now on."""
    from ml.experiments.states import ExperimentStates  # noqa: PLC0415 - imports DuckDB

    _require_reason(reason)
    workspace = open_workspace(folder, env)
    known = _named(workspace, name).assignment.variants
    if variant and variant not in known:
        raise RequestError(f"experiment {name!r} has no variant {variant!r}", do=did_you_mean(variant, known))
    state = ExperimentStates(workspace.lake.storage).stop(name, reason, variant)
    out.print(f"{name!r} is stopped; all units get {escape(state.variant or next(iter(known)))}")


@app.command()
def variant(
    name: Name,
    unit: Annotated[str, typer.Argument(help="The unit, for example the id of a user.")],
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Show which variant a unit gets now, and whether it takes part."""
    from ml.experiments.live import assigned  # noqa: PLC0415 - imports DuckDB
    from ml.experiments.states import ExperimentStates  # noqa: PLC0415 - imports DuckDB

    workspace = open_workspace(folder, env)
    experiment = _named(workspace, name)
    state, weights = ExperimentStates(workspace.lake.storage).state_and_weights(name)
    found = assigned(experiment, state, weights, unit)
    if as_json:
        print_json({"unit": unit, "variant": found.variant, "takes_part": found.takes_part})
        return
    is_running = state is not None and state.status == "running"
    why = "" if found.takes_part else "it does not take part" if is_running else _state_text(experiment, state)
    out.print(escape(f"{found.variant} ({why})" if why else found.variant))


def _state_text(experiment: Experiment, state: ExperimentState | None) -> str:
    """Return whether an experiment runs, and what all units get if it was stopped."""
    from ml.experiments.live import for_all  # noqa: PLC0415 - imports DuckDB

    if state is None:
        return "not started"
    since = f"{state.status} since {state.at}"
    return since if state.status == "running" else f"{since}, all units get {for_all(experiment, state)}"


def _require_reason(reason: str) -> None:
    if not reason.strip():
        raise RequestError("--reason is empty", do="say why, or leave it out")


def _require_no_harm(workspace: Workspace, experiment: Experiment) -> None:
    """Raise `RequestError` if the next run would stop an experiment at once, for exposures that are there already."""
    from ml.experiments.results import BROKEN, HARM  # noqa: PLC0415 - imports Arrow

    if not experiment.stops or workspace.version(experiment.name) is None:
        return
    bad = [row for row in _results(workspace, experiment.name).to_pylist() if row["decision"] in {BROKEN, HARM}]
    if bad:
        what = bad[0]["metric"] or "the ratio of the variants"
        raise RequestError(
            f"experiment {experiment.name!r} would be stopped by the next run",
            got=f"{bad[0]['decision']}: {what}: {bad[0]['reason']}",
            do=f"mend the variant, let since= of {experiment.name} be a time after that, "
            f"and compute the results again: headwater run --select {experiment.name}",
        )


def _show_interleaving(workspace: Workspace, interleaving: Interleaving, *, check: bool, as_json: bool) -> None:
    from ml.experiments.preference import BROKEN  # noqa: PLC0415 - imports DuckDB

    table = _results(workspace, interleaving.name)
    (row,) = table.to_pylist()
    is_broken = row["decision"] == BROKEN
    if as_json:
        print_json({"name": interleaving.name, "must_stop": is_broken, "results": as_objects(table)})
    else:
        out.print(f"[bold]{interleaving.name}[/]  {escape(interleaving.description)}")
        preferences = (
            f"{row['wins']:,} prefer {row['ranking']}, {row['losses']:,} {row['against']}, {row['ties']:,} none"
        )
        out.print(f"{row['units']:,} units: {escape(preferences)}")
        columns = ("ranking", "share", "low", "high", "p_value", "decision", "reason")
        shown = tuple(_shown(row[column], column) for column in columns)
        grid(None, columns, [shown], right="share, low, high, p_value")
    if check and is_broken:
        raise typer.Exit(1)


def _results(workspace: Workspace, name: str) -> pa.Table:
    if workspace.version(name) is None:
        raise RequestError(f"experiment {name!r} has no results yet", do=f"headwater run --select {name}")
    return workspace.query(f"select * from {quoted(name)}")


def _named(workspace: Workspace, name: str) -> Experiment:
    from ml.experiments.live import experiment_of  # noqa: PLC0415 - imports DuckDB

    return experiment_of(workspace.project, name)


def _shown(value: float | str | None, column: str) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return f"{100 * value:+.2f} %" if column == "relative" else f"{value:.4g}"
