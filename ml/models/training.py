"""Training: reads and splits the rows, tunes and fits, evaluates model and baseline on the holdout, and logs the result."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ml.features import TrainingSet
from ml.models.calibration import Calibration
from ml.models.card import Card, html_card, markdown_card
from ml.models.evaluation import Evaluation, gate
from ml.models.fitted import FittedModel, with_threshold
from ml.models.gain import bootstrapped_gains
from ml.models.importance import permutation_importance
from ml.models.leakage import leaks
from ml.models.memory import require_memory
from ml.models.registry.registry import (
    AWAITS_APPROVAL,
    AWAITS_ROLLOUT,
    COMPARED,
    REFUSED,
    ROW_METRICS,
    Champion,
    Origin,
    Registry,
    Trained,
)
from ml.models.registry.rollouts import end_rollout
from ml.models.retraining import alarmed_monitors, decision
from ml.models.rows import LabelledRows, TrainTestSplit, require_both_labels, split
from ml.models.segments import Segment, segments_of
from ml.models.stored_rows import StoredRows
from ml.models.stored_split import split_stored
from ml.models.tasks import Multiclass
from ml.models.trainers.trainer import SEED, FitRequest
from pipeline.core.definitions import BuildContext, Verdict
from pipeline.core.errors import DefinitionError, ModelError, Place, StorageError, quantity
from pipeline.core.fingerprint import fingerprint
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.scan import Scan

if TYPE_CHECKING:
    import fsspec

    from ml.models.definition import Model
    from ml.models.tuning.search import Trial


@dataclass(frozen=True)
class Evaluated:
    """The metrics of a model and of its baseline on the holdout, and what is wrong with it."""

    metrics: Mapping[str, float]
    baseline: Mapping[str, float]
    segments: list[Segment]
    importance: Mapping[str, float]
    faults: tuple[str, ...]
    predictions: str
    """The digest of the predictions."""
    gain: str = ""
    """How much better it is than the champion on the same rows."""


def verdict(model: Model, context: BuildContext) -> Verdict | None:
    """Return the verdict on exactly these inputs and this definition, if there is one. See `Model.verdict`."""
    origin, store = _origin(model, context), Registry(context.store)
    if store.origin(model.name) == origin:
        return Verdict(accepted=True, reason="up to date", version=store.champion_version(model.name))
    kept = store.kept_back(model.name, origin)
    if kept is not None and (model.rollout is not None or kept[1] != AWAITS_ROLLOUT):
        return Verdict(accepted=True, reason=f"version {kept[0]} {kept[1]}", version=kept[0])
    frozen = _frozen(model, store)
    if frozen is not None:
        return frozen
    refused = store.refused_verdict(model.name, origin)
    if refused is not None:
        return replace(refused, rows=int(sum(refused.metrics.get(name, 0) for name in ROW_METRICS)))
    is_due, why = occasion(model, context, store)
    return None if is_due else Verdict(accepted=True, reason=why, version=store.champion_version(model.name))


def build(model: Model, context: BuildContext) -> Verdict:
    """Train, evaluate and log a model; it becomes the champion if it passes its gate. See `Model.build`."""
    store = Registry(context.store)
    store.require()  # fail before minutes of training
    frozen = _frozen(model, store)
    if frozen is not None:
        return frozen
    why = occasion(model, context, store)[1]
    examples = training_set_of(model, context)
    origin = _origin(model, context)  # read before the rows: if they change in between, the next run trains again
    parts = parts_of(model, examples, context.scan(examples.name), context.lake.filesystem())
    values, trials = _tuned(model, parts, origin, context)
    fitted = fit(model, parts, values)
    found = against_champion(model, evaluated(model, fitted, parts), fitted, parts, store)
    segments = {each.name: each.metric for each in found.segments if each.metric is not None}
    judgement = gate(model.evaluation, found.metrics, found.baseline, segments=segments, faults=found.faults)
    reason = f"{judgement.reason}; {found.gain}" if found.gain else judgement.reason
    reason += f"; trained again because of {why}" if why else ""
    reason += _excluded(parts, model.evaluation.label)
    figures = {
        **found.metrics,
        **{f"baseline_{name}": value for name, value in found.baseline.items()},
        **_shares(parts),
    }
    params = {**model.trainer.hyperparameters, **values}
    card = Card(model, params, parts, found, judgement.accepted, reason, origin, context.run_id, trials)
    trained = Trained(
        name=model.name,
        run_id=context.run_id,
        origin=origin,
        fitted=fitted,
        params=_recorded(model, params),
        metrics=figures,
        verdict=f"{'accepted: ' if judgement.accepted else REFUSED}{reason}",
        documents={"card.md": markdown_card(card), "card.html": html_card(card)},
        trials=trials,
        values=values,
        predictions=found.predictions,
        compared=comparable(model),
    )
    if model.rollout is None:
        end_rollout(context.store, model.name, "the model has no rollout any more")
    awaits = AWAITS_APPROVAL if model.approval == "manual" else ""
    if model.rollout is not None and store.champion_version(
        model.name
    ):  # the first version has nothing to compare it with
        awaits = AWAITS_ROLLOUT
    uri, version = store.log(trained, register=judgement.accepted, awaits=awaits)
    if version and awaits:
        does = f": headwater model promote {model.name} {version}" if awaits == AWAITS_APPROVAL else ""
        reason += f"; it {awaits}{does}"
    return Verdict(judgement.accepted, reason, figures, uri, version, parts.rows)


def parts_of(
    model: Model, examples: TrainingSet, scan: Scan, filesystem: fsspec.AbstractFileSystem | None
) -> TrainTestSplit:
    """Return the parts of the rows of a training set: in memory, or where they are stored if workers fit the model."""
    if model.trainer.has_workers:
        return split_stored(scan, examples, model.evaluation, model.place, filesystem)
    require_memory(scan, model.name, model.place)
    with connect(filesystem=filesystem) as con:
        return split(arrow(con, scan.query()), examples, model.evaluation, model.place)


def _frozen(model: Model, store: Registry) -> Verdict | None:
    """Return the verdict on a model that is frozen, if it has a champion."""
    why, champion = store.frozen(model.name), store.champion_version(model.name)
    return Verdict(accepted=True, reason=f"frozen: {why}", version=champion) if why and champion else None


def occasion(model: Model, context: BuildContext, store: Registry) -> tuple[bool, str]:
    """Return whether a model is due to be trained, and why or why not; without `retrain`, it is due whenever rows change."""
    if model.retraining is None:
        return True, ""
    last = store.last_training(model.name, model.fingerprint)
    if last is None:
        return True, ""
    alarms = alarmed_monitors(context, model.retraining.on)
    return decision(model.retraining, last, datetime.now(UTC), context.row_count(model.training_set), alarms)


def training_set_of(model: Model, context: BuildContext) -> TrainingSet:
    """Return the training set of a model; raise `DefinitionError` if it is another kind of table."""
    examples = context.definition(model.training_set)
    if isinstance(examples, TrainingSet):
        return examples
    raise DefinitionError(
        f"model {model.name!r} is trained on {model.training_set!r}, which is not a training set",
        got=f"a {getattr(examples, 'kind', 'definition')}",
        do="define it with training_set(…)",
        place=model.place,
    )


def fit(model: Model, parts: TrainTestSplit, values: Mapping[str, object]) -> FittedModel:
    """Return the model that is fitted to the training rows with values of hyperparameters.

    If probabilities are calibrated or a threshold is chosen, a fifth of the training rows is for that, and the others are for the
    estimator. Raises `ModelError` if the estimator cannot be fitted.
    """
    evaluation = model.evaluation
    if evaluation.calibrate is None and evaluation.costs is None:
        whole = FittedModel(model.trainer.fit(request_of(model, parts, parts.fitted, values)), parts.task, parts.kinds)
        return with_threshold(whole, parts.train, model.place)
    others, rest = _validated(parts, evaluation, model.place)
    plain = FittedModel(model.trainer.fit(request_of(model, parts, others, values)), parts.task, parts.kinds)
    label, scores = rest.label.to_numpy(), plain.predictions(rest.features, model.place)
    if evaluation.calibrate is not None:
        plain = replace(plain, calibration=Calibration.fitted(evaluation.calibrate, label, scores))
    if evaluation.costs is None:
        return plain
    threshold = evaluation.costs.best_threshold(label, plain.predictions(rest.features, model.place))
    return replace(plain, threshold=threshold)


def _validated(
    parts: TrainTestSplit, evaluation: Evaluation, place: Place
) -> tuple[LabelledRows | StoredRows, LabelledRows]:
    """Return the training rows for the estimator, and those that calibrate it and decide about its threshold."""
    if parts.stored is not None:
        return parts.stored.validated()
    aside = evaluation.holdout.validation(parts.train)
    rest = parts.train.where(aside)
    require_both_labels(rest, evaluation, place)
    return parts.train.where(~aside), rest


def request_of(
    model: Model, parts: TrainTestSplit, rows: LabelledRows | StoredRows, values: Mapping[str, object]
) -> FitRequest:
    """Return what a trainer fits to rows."""
    return FitRequest(model.name, rows, model.evaluation.label, parts.task, parts.kinds, values, model.place)


def against_champion(
    model: Model, found: Evaluated, fitted: FittedModel, parts: TrainTestSplit, store: Registry
) -> Evaluated:
    """Compare a model with the champion on the holdout, if it must be better by `min_gain`; a fault says by how much it is not."""
    least, evaluation, rows = model.evaluation.min_gain, model.evaluation, parts.holdout
    if least is None:
        return found
    try:
        champion = _comparable_champion(model, parts, store)
        if champion is None:
            return found
        models = (fitted, champion.fitted)
        predictions = [each.predictions(rows.features[list(each.kinds)], model.place) for each in models]
    except (ModelError, StorageError) as error:
        return replace(found, gain=f"not compared with the champion: {error.problem}")
    low, gain, high = bootstrapped_gains(models, rows, predictions, evaluation)
    words = (
        f"{gain:+.4f} against champion {champion.version} on the same rows (90 % interval {low:+.4f} to {high:+.4f})"
    )
    if gain >= least:
        return replace(found, gain=words)
    return replace(found, faults=(*found.faults, f"{words} is below the minimum gain of {least:g}"))


def _comparable_champion(model: Model, parts: TrainTestSplit, store: Registry) -> Champion | None:
    """Return the champion, `None` if there is none; raise `ModelError` if it cannot be compared on the holdout."""
    champion = store.champion(model.name)
    if champion is None:
        return None
    if store.champion_tags(model.name).get(COMPARED) != comparable(model):
        raise ModelError(f"version {champion.version} was trained for another label, holdout or training set")
    if champion.fitted.task != parts.task or any(name not in parts.holdout.features for name in champion.fitted.kinds):
        raise ModelError(f"version {champion.version} has other features or classes")
    return champion


def comparable(model: Model) -> str:
    """Return what must be equal for two models to be compared on the same rows."""
    evaluation = model.evaluation
    parts = (evaluation.label, evaluation.task, evaluation.holdout, model.training_set, evaluation.exclude)
    return fingerprint(*map(repr, parts))


def evaluated(model: Model, fitted: FittedModel, parts: TrainTestSplit) -> Evaluated:
    """Return the metrics on the holdout."""
    evaluation, holdout = model.evaluation, parts.holdout
    label, predictions = holdout.label.to_numpy(), fitted.predictions(holdout.features, model.place)
    return Evaluated(
        fitted.measure(label, predictions, evaluation.costs, holdout.group.to_numpy()),
        _baseline(evaluation, parts),
        segments_of(fitted, holdout, predictions, evaluation),
        permutation_importance(fitted, holdout, evaluation),
        leaks(parts.train, parts.kinds, parts.task, evaluation.leaks),
        hashlib.sha256(predictions.tobytes()).hexdigest(),
    )


def _tuned(
    model: Model, parts: TrainTestSplit, origin: Origin, context: BuildContext
) -> tuple[dict[str, object], tuple[Trial, ...]]:
    if model.tuning is None:
        return {}, ()
    from ml.models.tuning.search import folder_of, search  # noqa: PLC0415 - importing Ray Tune takes seconds

    return search(model, model.tuning, parts, folder_of(model, origin.tags(), context.state))


def _baseline(evaluation: Evaluation, parts: TrainTestSplit) -> dict[str, float]:
    train, holdout = (rows.features.assign(**rows.others) for rows in (parts.train, parts.holdout))
    predictions = parts.task.baseline(train, parts.train.label, holdout, evaluation.baseline)
    simple = FittedModel(None, parts.task, parts.kinds, threshold=evaluation.threshold)
    label, groups = parts.holdout.label.to_numpy(), parts.holdout.group.to_numpy()
    return simple.measure(label, predictions, evaluation.costs, groups)


def _origin(model: Model, context: BuildContext) -> Origin:
    examples = context.definition(model.training_set)
    views = examples.views if isinstance(examples, TrainingSet) else {}
    return Origin(model.fingerprint, {model.training_set: context.version(model.training_set)}, views)


def _recorded(model: Model, hyperparameters: Mapping[str, object]) -> dict[str, object]:
    """Return the options and hyperparameters of a model for MLflow; a hyperparameter with the name of an option gets a prefix."""
    evaluation = model.evaluation
    options = {
        "label": evaluation.label,
        "task": evaluation.task,
        "holdout": f"rows {evaluation.holdout.words}",
        "metric": evaluation.metric,
        "at_least": evaluation.at_least,
        "baseline": ", ".join(evaluation.baseline),
        "training_set": model.training_set,
    }
    named = {f"fit.{name}" if name in options else name: value for name, value in hyperparameters.items()}
    return {**options, "seed": SEED, **named}


def _shares(parts: TrainTestSplit) -> dict[str, float]:
    """Return the number of rows of each part and, for numbers, the mean label: for a condition, the share of 1."""
    train, holdout = parts.train.part, parts.holdout.part
    means = (
        {}
        if isinstance(parts.task, Multiclass)
        else {
            "training_mean": float(train.mean_label or 0.0),
            "holdout_mean": float(holdout.mean_label or 0.0),
        }
    )
    return {
        **means,
        "training_rows": float(train.rows),
        "holdout_rows": float(holdout.rows),
        "unlabelled_rows": float(parts.unlabelled),
        "undated_rows": float(parts.undated),
    }


def _excluded(parts: TrainTestSplit, label: str) -> str:
    excluded = [(parts.unlabelled, f"without {label!r}"), (parts.undated, "without an event time")]
    return "".join(
        f"; {quantity(rows, 'row')} {why} {'was' if rows == 1 else 'were'} excluded" for rows, why in excluded if rows
    )
