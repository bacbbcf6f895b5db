"""Prepares the rows of a training set for a model, in memory: the kinds of columns, the data frame, and the split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from ml.features import TrainingSet
from ml.models.evaluation import Evaluation
from ml.models.tasks import Task
from pipeline.core.errors import DefinitionError, ModelError, Place, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from ml.models.stored_rows import StoredRows

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
class Part:
    """What is known of all rows of a part, also if only a sample of them is in memory."""

    rows: int
    first: datetime
    """The earliest event time, in UTC."""
    last: datetime
    mean_label: float | None
    """`None` for several classes."""


@dataclass(frozen=True)
class LabelledRows:
    """Features and labels, ordered by time; the labels of a binary task are 0 and 1."""

    features: pd.DataFrame
    label: pd.Series
    time: pd.Series
    """The event time of each row, in UTC."""
    group: pd.Series
    """The values of the columns by which rows are split, as text; the same text if there are none."""
    others: pd.DataFrame
    """Columns that are not features, but segments or parts of the baseline."""
    sample_of: Part | None = None
    """What these rows are a sample of; `None` if they are all."""

    @property
    def part(self) -> Part:
        """All rows, of which these may be a sample. There is at least one."""
        if self.sample_of is not None:
            return self.sample_of
        is_number = self.label.dtype.kind in "biuf"
        mean = float(self.label.mean()) if is_number else None
        return Part(len(self), self.time.min().to_pydatetime(), self.time.max().to_pydatetime(), mean)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.label)

    def where(self, mask: np.ndarray[Any, Any]) -> LabelledRows:
        """Return some of the rows, numbered from 0."""
        every = (self.features, self.label, self.time, self.group, self.others)
        return LabelledRows(*(each[mask].reset_index(drop=True) for each in every))

    def column(self, name: str) -> pd.Series:
        """Return a feature or another column."""
        return self.features[name] if name in self.features else self.others[name]


@dataclass(frozen=True)
class TrainTestSplit:
    """Labelled rows for training and for evaluation, and the number of rows without label or time."""

    train: LabelledRows
    holdout: LabelledRows
    kinds: dict[str, Kind]
    task: Task
    """The task, with the classes of the training rows."""
    rows: int
    unlabelled: int
    undated: int
    stored: StoredRows | None = None
    """All training rows, if `train` may be a sample of them: workers read them."""

    @property
    def fitted(self) -> LabelledRows | StoredRows:
        """The rows that a trainer fits."""
        return self.train if self.stored is None else self.stored


def split(table: pa.Table, examples: TrainingSet, evaluation: Evaluation, place: Place) -> TrainTestSplit:
    """Split the rows of a training set. Rows without a label or an event time are excluded and counted.

    Raises `DefinitionError` if a column is missing or has an unsupported type, and `ModelError` if the task cannot predict
    the label, or a part is too small or has only one label.
    """
    kinds = kinds_of(table.schema, examples, evaluation, place)
    label = evaluation.kind.label(table[evaluation.label], evaluation.label, place)
    time = _time(table, examples.event_time, place)
    read = _with(_with(table, evaluation.label, label), examples.event_time, time)
    usable = read.filter(pc.and_(label.is_valid(), time.is_valid()))
    # tables are unordered, and the same rows must produce the same model
    ordered = usable.sort_by([(name, "ascending") for name in (examples.event_time, *examples.key)])
    rows = _labelled(ordered, kinds, examples, evaluation)
    held_out = evaluation.holdout.mask(rows) if len(rows) else rows.label.to_numpy(dtype=bool)
    train, holdout = rows.where(~held_out), rows.where(held_out)
    require_enough(len(train), train.label.unique().tolist(), "training", evaluation, place)
    require_enough(len(holdout), holdout.label.unique().tolist(), "holdout", evaluation, place)
    return TrainTestSplit(
        train=train,
        holdout=holdout,
        kinds=kinds,
        task=evaluation.kind.learned(
            pa.chunked_array([ordered[evaluation.label].filter(pa.array(~held_out)).combine_chunks()])
        ),
        rows=table.num_rows,
        unlabelled=label.null_count,
        undated=table.num_rows - label.null_count - usable.num_rows,
    )


def labelled_rows(
    table: pa.Table, kinds: dict[str, Kind], examples: TrainingSet, evaluation: Evaluation, place: Place
) -> LabelledRows:
    """Return rows of a training set that all have a label and an event time, in their order."""
    label = evaluation.kind.label(table[evaluation.label], evaluation.label, place)
    time = _time(table, examples.event_time, place)
    return _labelled(
        _with(_with(table, evaluation.label, label), examples.event_time, time), kinds, examples, evaluation
    )


def require_both_labels(rows: LabelledRows, evaluation: Evaluation, place: Place) -> None:
    """Raise `ModelError` unless rows that decide about a condition have both labels."""
    if evaluation.kind.has_two_labels and rows.label.nunique() < 2:  # noqa: PLR2004 - 0 and 1
        raise ModelError(
            f"all {len(rows):,} validation rows have the same label: the newest fifth of the training rows, or of the groups",
            got=f"{evaluation.label} = {rows.label.iloc[0] if len(rows) else 'none'}",
            do="wait for data, or remove calibrate=, costs= and tuning=",
            place=place,
        )


def _labelled(table: pa.Table, kinds: dict[str, Kind], examples: TrainingSet, evaluation: Evaluation) -> LabelledRows:
    import pandas as pd  # noqa: PLC0415 - needed only for training

    group = group_texts(table, evaluation.holdout.by)
    names = [n for n in dict.fromkeys((*evaluation.segments, *evaluation.baseline)) if n not in kinds]
    others = table.select(names).to_pandas() if names else pd.DataFrame(index=range(table.num_rows))
    return LabelledRows(
        frame(table, kinds), table[evaluation.label].to_pandas(), table[examples.event_time].to_pandas(), group, others
    )


def group_texts(table: pa.Table, by: Sequence[str]) -> pd.Series:
    """Return the values of columns as one text for each row; the same text for all rows without columns."""
    import pandas as pd  # noqa: PLC0415 - needed only for training

    group = pd.Series("", index=range(table.num_rows))
    for name in by:
        group = group + table[name].cast(pa.string()).to_pandas().fillna("null").astype(str) + "\x1f"
    return group


def typed(table: pa.Table, kinds: Mapping[str, Kind]) -> pa.Table:
    """Return the feature columns with the types of `ARROW`."""
    return pa.table({name: _cast(table[name], ARROW[kind]) for name, kind in kinds.items()})


def frame(table: pa.Table, kinds: Mapping[str, Kind]) -> pd.DataFrame:
    """Return the feature columns as a pandas DataFrame, with the types of `ARROW`; null is NaN or NaT."""
    return typed(table, kinds).to_pandas()


def kinds_of(schema: pa.Schema, examples: TrainingSet, evaluation: Evaluation, place: Place) -> dict[str, Kind]:
    """Return the kind of each feature; raise `DefinitionError` for a column that is missing or has an unsupported type."""
    by = evaluation.holdout.by
    aside = {*examples.key, examples.event_time, evaluation.label, *by, *evaluation.exclude}
    features = [name for name in schema.names if name not in aside]
    known = [name for name in schema.names if name not in {examples.event_time, evaluation.label}]
    for word, names, allowed in (
        ("label", (evaluation.label,), schema.names),
        ("baseline", evaluation.baseline, known),
        ("segment", evaluation.segments, known),
        ("column of split_by", by, known),
        ("excluded column", evaluation.exclude, schema.names),
        ("column of leaks", evaluation.leaks, features),
    ):
        for name in names:
            if name not in allowed:
                problem = f"the {word} {name!r} is not a column of {examples.name!r}"
                raise DefinitionError(problem, do=did_you_mean(name, allowed), place=place)
    kinds = {name: kind_of(schema.field(name).type) for name in features}
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


def kind_of(type_: pa.DataType) -> Kind | None:
    """Return the kind of a type, `None` for types that no estimator takes."""
    if pa.types.is_boolean(type_):
        return "boolean"
    if pa.types.is_integer(type_):
        return "integer"
    if pa.types.is_floating(type_) or pa.types.is_decimal(type_):
        return "number"
    if pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return "text"
    if pa.types.is_timestamp(type_) or pa.types.is_date(type_):
        return "timestamp"
    return kind_of(type_.value_type) if pa.types.is_dictionary(type_) else None


def _time(table: pa.Table, name: str, place: Place) -> pa.ChunkedArray:
    require_time(table.schema, name, place)
    return _cast(table[name], UTC_US)


def require_time(schema: pa.Schema, name: str, place: Place) -> None:
    """Raise `DefinitionError` unless a column is a date or a timestamp."""
    type_ = schema.field(name).type
    if kind_of(type_) != "timestamp":
        raise DefinitionError(f"the event time {name!r} is not a date or timestamp", got=str(type_), place=place)


def _cast(column: pa.ChunkedArray, type_: pa.DataType) -> pa.ChunkedArray:
    if type_ == UTC_US and (pa.types.is_date(column.type) or column.type.tz is None):
        return pc.assume_timezone(column.cast(pa.timestamp("us")), "UTC")
    return column.cast(type_, safe=False)


def require_enough(rows: int, labels: Sequence[object], word: str, evaluation: Evaluation, place: Place) -> None:
    """Raise `ModelError` for a part of too few rows, or with one label only; `labels` are its labels, or two of them."""
    if rows < evaluation.min_rows:
        side = "not " if word == "training" else ""
        raise ModelError(
            f"too few {word} rows: those with a label, {side}{evaluation.holdout.words}",
            got=f"{rows:,}, not {evaluation.min_rows:,}",
            do="hold out other rows, wait for data, or lower min_rows",
            place=place,
        )
    if len(labels) == 1 and (word == "training" or evaluation.kind.has_two_labels):
        raise ModelError(
            f"all {rows:,} {word} rows have the same label",
            got=f"{evaluation.label} = {labels[0]}",
            do="hold out other rows, or check how the label is computed",
            place=place,
        )
