from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ml import model
from ml.models import Evaluation
from ml.models.holdout import Holdout
from pipeline.core.errors import DefinitionError


def define(function=None, **changes):
    def lateness(trips):
        """How likely a trip is late."""
        return sorted(trips)

    options = {"label": "late", "split_at": "2024-01-08", "at_least": 0.6, **changes}
    return model(**options)(lateness if function is None else function)


def test_a_model_is_named_after_its_function_and_reads_its_parameter():
    definition = define(baseline="carrier")

    assert (definition.name, definition.kind, definition.inputs, definition.description) == (
        "lateness",
        "model",
        ("trips",),
        "How likely a trip is late.",
    )
    split_at = datetime(2024, 1, 8, tzinfo=UTC)
    assert definition.evaluation == Evaluation("late", Holdout(at=split_at), "auc", 0.6, ("carrier",), 1000)
    assert definition.place.file == __file__


def test_calling_a_model_calls_its_function():
    assert define()([3, 1]) == define()(trips=[1, 3]) == [1, 3]


def test_split_without_a_time_zone_is_in_utc():
    assert define(split_at="2024-01-08T02:00+02:00").evaluation == define().evaluation


@pytest.mark.parametrize(
    "change",
    [
        {"at_least": 0.7},
        {"baseline": ("carrier",)},
        {"label": "is_late"},
        {"metric": "brier"},
        {"min_rows": 1},
        {"split_at": "2024-01-09"},
        {"function": lambda trips: [*trips]},
        {"function": lambda rows: sorted([*rows])},
    ],
)
def test_fingerprint_depends_on_everything_that_affects_the_model(change):
    assert define(**change).fingerprint != define().fingerprint == define().fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"function": lambda: None}, r"model '<lambda>' takes no training set; use the name .*definition.py:\d+"),
        (
            {"function": lambda trips, planes: (trips, planes)},
            r"takes one training set: got also 'planes', which has no default; give hyperparameters a default",
        ),
        ({"metric": "acc"}, r"unknown metric 'acc' of a binary task; did you mean"),
        ({"split_at": "October"}, r"split_at is not a date or time: got 'October'; write a date such as 2013-10-01"),
        ({"baseline": "late"}, r"the baseline contains the label 'late'; remove it"),
    ],
)
def test_invalid_definitions_are_rejected_with_the_reason(change, message):
    with pytest.raises(DefinitionError, match=message):
        define(**change)
