"""Divides the rows of a training set where they are stored, by the same rules as `rows.split` does in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ml.features import TrainingSet
from ml.models.evaluation import Evaluation
from ml.models.rows import TrainTestSplit, kinds_of, require_enough, require_time
from ml.models.stored_rows import StoredRows
from ml.models.tasks import Multiclass
from ml.models.tasks.numbers import require_finite
from pipeline.core.errors import Place
from pipeline.kernel.engine import arrow
from pipeline.kernel.scan import Scan, no_rows
from pipeline.kernel.sql_text import quoted

if TYPE_CHECKING:
    import duckdb
    import fsspec


def split_stored(
    scan: Scan,
    examples: TrainingSet,
    evaluation: Evaluation,
    place: Place,
    filesystem: fsspec.AbstractFileSystem | None = None,
) -> TrainTestSplit:
    """Split the rows of files; the rows of each part are in memory, or a sample of them. Raises what `rows.split` raises."""
    with StoredRows(scan, examples, evaluation, {}, place, filesystem).open() as con:
        schema = arrow(con, no_rows(scan.schema)).schema
        rows = StoredRows(scan, examples, evaluation, kinds_of(schema, examples, evaluation, place), place, filesystem)
        require_time(schema, examples.event_time, place)
        total, unlabelled, undated = _excluded(rows, con)
        _require_label(rows, schema.field(evaluation.label).type, con)
        train, holdout = rows.only("true", con).holdout(con)
        classes: list[Any] = []
        for part, word in ((train, "training"), (holdout, "holdout")):
            labels = _labels(part, con)
            require_enough(part.count, labels, word, evaluation, place)
            classes = classes or labels
        task = evaluation.kind.learned(pa.chunked_array([pa.array(classes)]))
        return TrainTestSplit(
            train=train.sample(con, classes=len(task.classes)),
            holdout=holdout.sample(con, classes=len(task.classes)),
            kinds=rows.kinds,
            task=task,
            rows=total,
            unlabelled=unlabelled,
            undated=undated,
            stored=train,
        )


def _excluded(rows: StoredRows, con: duckdb.DuckDBPyConnection) -> tuple[int, int, int]:
    """Return the number of all rows, of those without a label, and of those with a label and without an event time."""
    label, time = quoted(rows.evaluation.label), quoted(rows.examples.event_time)
    query = f"select count(*), count(*) - count({label}), count({label}) filter ({time} is null)"
    return tuple(con.sql(f"{query} from ({rows.scan.query()})").fetchall()[0])


def _require_label(rows: StoredRows, type_: pa.DataType, con: duckdb.DuckDBPyConnection) -> None:
    """Raise `ModelError` for labels that the task cannot predict."""
    evaluation, label = rows.evaluation, quoted(rows.evaluation.label)
    evaluation.kind.label(pa.chunked_array([], type_), evaluation.label, rows.place)
    if pa.types.is_floating(type_):
        # a condition would be compared with the bounds of files, which leave out NaN
        query = f"select count(*) filter (not isfinite({label})) from labelled"
        require_finite(int(con.sql(query).fetchall()[0][0]), evaluation.label, rows.place)
        return
    # which values are allowed follows from the least and the greatest, and for classes from how many there are
    bounds = f"unnest([min({label}), max({label})])"
    values = f"distinct {label}" if isinstance(evaluation.kind, Multiclass) else bounds
    evaluation.kind.label(arrow(con, f"select {values} as y from labelled")["y"], evaluation.label, rows.place)


def _labels(rows: StoredRows, con: duckdb.DuckDBPyConnection) -> list[Any]:
    """Return the labels of classes, and two of the labels of numbers."""
    if rows.evaluation.kind.has_two_labels or isinstance(rows.evaluation.kind, Multiclass):
        return list(rows.labels(con))
    label = quoted(rows.evaluation.label)
    found = con.sql(f"select min({label}), max({label}) from labelled where {rows.condition}").fetchall()[0]
    return list(dict.fromkeys(found))
