"""The split by time, on tables in memory."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from ml import training_set
from ml.models.evaluation import Evaluation
from ml.models.holdout import Holdout
from ml.models.rows import split
from pipeline.core.errors import DefinitionError, ModelError, Place

PLACE = Place("here.py", 1)
VIEW = training_set("select id, at, x, late from raw", key="id", event_time="at").named("rides")


def days(*numbers):
    return pa.array(
        [None if n is None else datetime(2024, 1, n, tzinfo=UTC) for n in numbers], pa.timestamp("us", "UTC")
    )


def divided(table, **changes):
    options = {"label": "late", "holdout": Holdout(at=datetime(2024, 1, 5, tzinfo=UTC)), "min_rows": 1, **changes}
    return split(table, VIEW, Evaluation(metric="auc", at_least=0.5, **options), PLACE)


#   day    1  2  3  4 | 5  6  7  8
#   label  0  1  .  0 | 1  0  0  1
RIDES = pa.table(
    {
        "id": [8, 7, 6, 5, 4, 3, 2, 1],
        "at": days(8, 7, 6, 5, 4, 3, 2, 1),
        "x": [8, 7, 6, 5, 4, 3, 2, None],
        "late": [1, 0, 0, 1, 0, None, 1, 0],
    }
)


def test_rows_before_the_split_are_for_training_and_others_for_evaluation():
    parts = divided(RIDES)

    assert list(parts.train.features["x"].fillna(-1)) == [-1, 2, 4]  # sorted by time
    assert list(parts.train.label) == [0, 1, 0]
    assert list(parts.holdout.features["x"]) == [5, 6, 7, 8]  # a row at the split is for evaluation
    assert list(parts.holdout.label) == [1, 0, 0, 1]
    assert (parts.rows, parts.unlabelled, parts.undated) == (8, 1, 0)
    assert parts.kinds == {"x": "integer"}  # neither entity, nor event time, nor label


def test_the_order_of_the_table_does_not_matter():
    upside_down = RIDES.take(list(range(7, -1, -1)))

    assert divided(upside_down).train.features.equals(divided(RIDES).train.features)


def test_rows_without_an_event_time_are_excluded_and_counted():
    table = RIDES.set_column(1, "at", days(8, 7, None, 5, 4, None, 2, 1))

    parts = divided(table)

    assert len(parts.train.label) + len(parts.holdout.label) == 6
    assert (parts.unlabelled, parts.undated) == (1, 1)  # one has neither label nor event time


@pytest.mark.parametrize("at", [pa.timestamp("us"), pa.timestamp("ns", "America/New_York"), pa.date32(), pa.date64()])
def test_event_times_of_every_type_are_read_as_utc(at):
    table = RIDES.set_column(
        1,
        "at",
        RIDES["at"].cast(at) if "date" not in str(at) else pa.array([date(2024, 1, n) for n in range(8, 0, -1)], at),
    )

    assert list(divided(table).holdout.features["x"]) == [5, 6, 7, 8]


@pytest.mark.parametrize(
    ("values", "kind", "dtype"),
    [
        ([True, None] * 4, "boolean", "float64"),
        ([1, 2] * 4, "integer", "float64"),
        ([Decimal("1.5"), None] * 4, "number", "float64"),
        (pa.array([1.5, None] * 4, pa.float32()), "number", "float64"),
        (pa.array(["a", None] * 4, pa.large_string()), "text", "str"),
        (pa.array(["a", None] * 4), "text", "str"),
        (pa.array([date(2024, 1, 1), None] * 4), "timestamp", "datetime64[us, UTC]"),
        (days(*[1, None] * 4), "timestamp", "datetime64[us, UTC]"),
    ],
)
def test_type_of_a_column_for_the_estimator_is_independent_of_nulls(values, kind, dtype):
    parts = divided(RIDES.append_column("y", pa.array(values) if isinstance(values, list) else values))

    assert parts.kinds["y"] == kind
    assert parts.train.features["y"].dtype == dtype
    assert parts.holdout.features["y"].dtype == dtype


def test_boolean_label_is_converted_to_0_and_1():
    parts = divided(RIDES.set_column(3, "late", RIDES["late"].cast(pa.bool_())))

    assert list(parts.train.label) == [0, 1, 0]


@pytest.mark.parametrize(
    ("column", "values", "changes", "kind", "message"),
    [
        ("late", [0, 1, 2, 0, 0, 1, 1, 0], {}, ModelError, r"neither a boolean nor 0 and 1: got 0 to 2; .*here.py:1"),
        ("late", ["0", "1"] * 4, {}, ModelError, r"label 'late' is neither a boolean nor 0 and 1: got string"),
        (
            "late",
            [1, 0, 0, 1, 0, 0, 0, 0],
            {},
            ModelError,
            r"all 4 training rows have the same label: got late = 0; hold out",
        ),
        ("late", [1, 1, 1, 1, 0, 1, 0, 0], {}, ModelError, r"all 4 holdout rows have the same label: got late = 1"),
        (
            "late",
            pa.nulls(8, pa.int64()),
            {},
            ModelError,
            r"too few training rows.*: got 0, not 1; hold out other rows",
        ),
        (
            "x",
            [[1]] * 8,
            {},
            DefinitionError,
            r"the feature 'x' of 'rides' has an unsupported type: got list<.*; convert it to a number",
        ),
        ("at", list(range(8)), {}, DefinitionError, r"the event time 'at' is not a date or timestamp: got int64"),
        (
            "x",
            [1] * 8,
            {"min_rows": 5},
            ModelError,
            r"too few training rows: .* not from 2024-01-05 00:00 on: got 3, not 5",
        ),
        (
            "x",
            [1] * 8,
            {"label": "lat"},
            DefinitionError,
            r"label 'lat' is not a column of 'rides'; did you mean 'late'",
        ),
        (
            "x",
            [1] * 8,
            {"baseline": ("z",)},
            DefinitionError,
            r"baseline 'z' is not a column of 'rides'; known: 'id', 'x'",
        ),
    ],
)
def test_rows_unfit_for_training_or_evaluation_are_reported(column, values, changes, kind, message):
    table = RIDES.set_column(
        RIDES.schema.get_field_index(column), column, pa.array(values) if isinstance(values, list) else values
    )

    with pytest.raises(kind, match=message):
        divided(table, **changes)
