"""Prepares the rows of a training set for a model: the kinds of columns, the data frame, and the split by time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import pyarrow.compute as pc

from ml.features import TrainingSet
from ml.models.evaluation import Evaluation
from ml.models.tasks import Task
from pipeline.core.errors import DefinitionError, ModelError, Place, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["boolean", "integer", "number", "text", "timestamp"]
UTC_US = pa.timestamp("us", tz="UTC")
ARROW: dict[Kind, pa.DataType] = {
    "boolean": pa.float64(),
    "integer": pa.float64(),
    "number": pa.float64(),
    "text": pa.string(),
    "timestamp": UTC_US,
}
"""The Arrow type of each kind for the estimator. Numbers are always float64, so that nulls do not change the type."""


@dataclass(frozen=True)
class LabelledRows:
    """Features and labels, ordered by time; the labels of a binary task are 0 and 1."""

    features: pd.DataFrame
    label: pd.Series


@dataclass(frozen=True)
class TrainTestSplit:
    """Labelled rows before the split and from the split on, and the number of rows without label or time."""

    train: LabelledRows
    holdout: LabelledRows
    kinds: dict[str, Kind]
    task: Task
    """The task, with the classes of the training rows."""
    rows: int
    unlabelled: int
    undated: int


def split(table: pa.Table, examples: TrainingSet, evaluation: Evaluation, place: Place) -> TrainTestSplit:
    """Split the rows of a training set by time. Rows without a label or an event time are excluded and counted.

    Raises `DefinitionError` if a column is missing or has an unsupported type, and `ModelError` if the task cannot predict
    the label, or a part is too small or has only one label.
    """
    kinds = _kinds(table.schema, examples, evaluation, place)
    label = evaluation.kind.label(table[evaluation.label], evaluation.label, place)
    time = _time(table, examples.event_time, place)
    read = _with(_with(table, evaluation.label, label), examples.event_time, time)
    usable = read.filter(pc.and_(label.is_valid(), time.is_valid()))
    # tables are unordered, and the same rows must produce the same model
    ordered = usable.sort_by([(name, "ascending") for name in (examples.event_time, *examples.key)])
    before = pc.less(ordered[examples.event_time], pa.scalar(evaluation.split_at, UTC_US))
    train, holdout = ordered.filter(before), ordered.filter(pc.invert(before))
    _require_enough(train[evaluation.label], "training", evaluation, place)
    _require_enough(holdout[evaluation.label], "holdout", evaluation, place)
    return TrainTestSplit(
        train=LabelledRows(frame(train, kinds), train[evaluation.label].to_pandas()),
        holdout=LabelledRows(frame(holdout, kinds), holdout[evaluation.label].to_pandas()),
        kinds=kinds,
        task=evaluation.kind.learned(train[evaluation.label]),
        rows=table.num_rows,
        unlabelled=label.null_count,
        undated=table.num_rows - label.null_count - usable.num_rows,
    )


def frame(table: pa.Table, kinds: dict[str, Kind]) -> pd.DataFrame:
    """Return the feature columns as a pandas DataFrame, with the types of `ARROW`; null is NaN or NaT."""
    columns = {name: _cast(table[name], ARROW[kind]) for name, kind in kinds.items()}
    return pa.table(columns).to_pandas()


def _kinds(schema: pa.Schema, examples: TrainingSet, evaluation: Evaluation, place: Place) -> dict[str, Kind]:
    features = [n for n in schema.names if n not in {*examples.key, examples.event_time, evaluation.label}]
    for word, name, known in [
        ("label", evaluation.label, schema.names),
        *(("baseline", name, features) for name in evaluation.baseline),
    ]:
        if name not in known:
            raise DefinitionError(
                f"the {word} {name!r} is not a column of {examples.name!r}", do=did_you_mean(name, known), place=place
            )
    kinds = {name: _kind(schema.field(name).type) for name in features}
    for name, kind in kinds.items():
        if kind is None:
            raise DefinitionError(
                f"the feature {name!r} of {examples.name!r} has an unsupported type",
                got=str(schema.field(name).type),
                do="convert it to a number, text, a boolean or a timestamp",
                place=place,
            )
    return {name: kind for name, kind in kinds.items() if kind is not None}


def _with(table: pa.Table, name: str, column: pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, column)


def _kind(type_: pa.DataType) -> Kind | None:
    if pa.types.is_boolean(type_):
        return "boolean"
    if pa.types.is_integer(type_):
        return "integer"
    if pa.types.is_floating(type_) or pa.types.is_decimal(type_):
        return "number"
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return "text"
    if pa.types.is_timestamp(type_) or pa.types.is_date(type_):
        return "timestamp"
    return None


def _time(table: pa.Table, name: str, place: Place) -> pa.ChunkedArray:
    column = table[name]
    if _kind(column.type) != "timestamp":
        raise DefinitionError(f"the event time {name!r} is not a date or timestamp", got=str(column.type), place=place)
    return _cast(column, UTC_US)


def _cast(column: pa.ChunkedArray, type_: pa.DataType) -> pa.ChunkedArray:
    if type_ == UTC_US and (pa.types.is_date(column.type) or column.type.tz is None):
        return pc.assume_timezone(column.cast(pa.timestamp("us")), "UTC")
    return column.cast(type_, safe=False)


def _require_enough(label: pa.ChunkedArray, word: str, evaluation: Evaluation, place: Place) -> None:
    where = "before" if word == "training" else "from"
    rows = len(label)
    if rows < evaluation.min_rows:
        raise ModelError(
            f"too few {word} rows: those with a label {where} {evaluation.split_at:%Y-%m-%d %H:%M}",
            got=f"{rows:,}, not {evaluation.min_rows:,}",
            do="move split_at, wait for data, or lower min_rows",
            place=place,
        )
    labels = pc.unique(label).to_pylist()
    if len(labels) == 1 and (word == "training" or evaluation.task == "binary"):
        raise ModelError(
            f"all {rows:,} {word} rows have the same label",
            got=f"{evaluation.label} = {labels[0]}",
            do="move split_at, or check how the label is computed",
            place=place,
        )
