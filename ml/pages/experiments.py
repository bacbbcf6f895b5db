"""The page of experiments: who saw which variant, the effects with their intervals, and why one was stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from markupsafe import Markup

from ml.experiments import Experiment, Interleaving
from ml.experiments.definition import OutcomeMetric
from ml.experiments.live import for_all
from ml.experiments.results import BROKEN, HARM, OPEN
from ml.experiments.states import ExperimentState, ExperimentStates
from ml.pages.current import current_version
from ml.pages.effects import Effect, effects_picture
from pipeline.core.errors import HeadwaterError, quantity
from pipeline.kernel.sql_text import quoted
from pipeline.project.workspace import Workspace
from pipeline.report import words
from pipeline.report.headline import Figure

_ARMS = ("Variant", "Weight", "Expected share", "Units", "Share")
_RESULTS = (
    "Metric",
    "Variant",
    "Kind",
    "Mean",
    "Control",
    "Difference",
    "Low",
    "High",
    "p-value",
    "Decision",
    "Reason",
)


@dataclass(frozen=True)
class ExperimentSummary:
    """An experiment, or two interleaved rankings, as the page shows it."""

    name: str
    description: str
    state: str = ""
    since: str = ""
    reason: str = ""
    """Why it was started, or stopped."""
    arms: tuple[tuple[str, ...], ...] = ()
    exposures: str = ""
    ratio: str = ""
    decision: str = ""
    """The decision on the ratio of the variants."""
    picture: Markup | None = None
    results: tuple[tuple[str, ...], ...] = ()
    head: tuple[str, ...] = _RESULTS
    must_stop: bool = False
    note: str = ""
    problem: str = ""


def experiment_values(workspace: Workspace, at: datetime) -> Mapping[str, Any]:
    """Return the values of the template; `at` is the time of the page."""
    del at
    graph, states = workspace.project.graph, ExperimentStates(workspace.lake.storage)
    shown = [_experiment(workspace, each, states) for each in graph.all_of(Experiment)]
    shown += [_interleaving(workspace, each) for each in graph.all_of(Interleaving)]
    running = [each.name for each in shown if each.state == "running"]
    stops = [each.name for each in shown if each.must_stop]
    figures = (
        Figure("Experiments", words.count(len(shown)), "with the results of the last run"),
        Figure("Running", words.count(len(running)), ", ".join(running) or "none"),
        Figure("Harm or broken", words.count(len(stops)), ", ".join(stops) or "none", alarm=bool(stops)),
    )
    return {"shown": shown, "figures": figures, "arm_head": _ARMS}


def _experiment(workspace: Workspace, experiment: Experiment, states: ExperimentStates) -> ExperimentSummary:
    known = ExperimentSummary(experiment.name, experiment.description)
    try:
        state, weights = states.state_and_weights(experiment.name)
        known = _with_state(known, experiment, state)
        assignment = experiment.assignment_by(weights)
        version, none = current_version(workspace, experiment)
        if version is None:
            return replace(known, arms=_arms(assignment.variants, {}), note=none)
        rows = workspace.query(f"select * from {quoted(experiment.name)}").to_pylist()
        counts = workspace.query(
            f"select variant, units from {quoted(f'{experiment.name}_sums')} where metric = ''"
        ).to_pylist()
        return _with_results(
            replace(known, arms=_arms(assignment.variants, {each["variant"]: each["units"] for each in counts})),
            experiment,
            rows,
        )
    except HeadwaterError as error:
        return replace(known, problem=str(error))


def _with_state(known: ExperimentSummary, experiment: Experiment, state: ExperimentState | None) -> ExperimentSummary:
    if state is None:
        return replace(known, state="not started")
    gets = "" if state.status == "running" else f"; all units get {for_all(experiment, state)}"
    return replace(known, state=state.status, since=state.at, reason=f"{state.reason}{gets}")


def _arms(weights: Mapping[str, float], units: Mapping[str, int]) -> tuple[tuple[str, ...], ...]:
    """Return a row for each variant, those that are unknown last."""
    total, weight = sum(units.values()), sum(weights.values())
    return tuple(
        (
            name if name in weights else f"{name} (unknown)",
            words.figure(weights[name]) if name in weights else words.ABSENT,
            words.percent(weights[name] / weight) if name in weights else words.ABSENT,
            words.count(units.get(name, 0)),
            words.percent(units.get(name, 0) / total) if total else words.ABSENT,
        )
        for name in (*weights, *sorted(units.keys() - weights.keys()))
    )


def _with_results(
    known: ExperimentSummary, experiment: Experiment, rows: Sequence[Mapping[str, Any]]
) -> ExperimentSummary:
    ratio = next(row for row in rows if row["metric"] is None)
    metrics = {metric.name: metric for metric in experiment.transform.metrics}
    results = [row for row in rows if row["metric"] is not None]
    effects = [effect for row in results if (effect := _effect(row, metrics[row["metric"]])) is not None]
    tested = ratio["p_value"]
    return replace(
        known,
        exposures=f"{quantity(ratio['units'], 'unit')} of {experiment.transform.units:,} planned: {ratio['reason']}",
        ratio="without units"
        if not ratio["units"]
        else "is not tested: the weights of a bandit follow the results"
        if tested is None
        else f"p-value {_p(tested)}",
        decision=ratio["decision"] if ratio["units"] else OPEN,
        picture=effects_picture(effects) if effects and ratio["units"] else None,
        results=tuple(_result(row, metrics[row["metric"]]) for row in results),
        must_stop=any(row["decision"] in {BROKEN, HARM} for row in rows),
        note="" if ratio["units"] else "There are no exposures yet.",
    )


def _effect(row: Mapping[str, Any], metric: OutcomeMetric) -> Effect | None:
    """Return the effect relative to the control; `None` if the control's mean is 0 or nothing is known."""
    control, relative = row["control_mean"], row["relative"]
    if relative is None or not control:
        return None
    low, high = (None if row[name] is None else row[name] / abs(control) for name in ("low", "high"))
    sign = -1 if metric.is_higher_better else 1
    margin = None if metric.margin is None else sign * metric.margin
    return Effect(
        f"{row['metric']}: {row['variant']}", row["difference"] / abs(control), low, high, row["decision"], margin
    )


def _result(row: Mapping[str, Any], metric: OutcomeMetric) -> tuple[str, ...]:
    kind = "goal" if metric.margin is None else f"guardrail, {100 * metric.margin:g} % tolerated"
    numbers = (_number(row[name]) for name in ("mean", "control_mean", "difference", "low", "high"))
    return (row["metric"], row["variant"], kind, *numbers, _p(row["p_value"]), row["decision"], row["reason"])


def _interleaving(workspace: Workspace, interleaving: Interleaving) -> ExperimentSummary:
    known = ExperimentSummary(
        interleaving.name,
        interleaving.description,
        state="interleaving",
        head=(
            "Ranking",
            "Against",
            "Units",
            "Wins",
            "Losses",
            "Ties",
            "Share",
            "Low",
            "High",
            "p-value",
            "Decision",
            "Reason",
        ),
    )
    try:
        version, none = current_version(workspace, interleaving)
        if version is None:
            return replace(known, note=none)
        (row,) = workspace.query(f"select * from {quoted(interleaving.name)}").to_pylist()
    except HeadwaterError as error:
        return replace(known, problem=str(error))
    counts = (words.count(row[name]) for name in ("units", "wins", "losses", "ties"))
    shares = (words.ABSENT if row[name] is None else words.percent(row[name]) for name in ("share", "low", "high"))
    line = (row["ranking"], row["against"], *counts, *shares, _p(row["p_value"]), row["decision"], row["reason"])
    return replace(
        known,
        results=(line,),
        must_stop=row["decision"] == BROKEN,
        note="" if row["units"] else "There are no clicks yet.",
    )


def _number(value: float | None) -> str:
    return words.ABSENT if value is None else words.figure(value)


def _p(value: float | None) -> str:
    return words.ABSENT if value is None else f"{value:.3g}"
