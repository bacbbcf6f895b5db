from __future__ import annotations

import subprocess
import sys

import pyarrow as pa
import pytest

import ml
from ml.features import TrainingSet
from pipeline import warn
from pipeline.core.errors import DefinitionError

TEXT = """
-- One row per trip.
select trip_id, started_at, load from raw_trips
"""


def test_the_package_exports_what_definitions_need():
    assert (
        ml.__all__
        == sorted(ml.__all__)
        == [
            "LightGBM",
            "Torch",
            "XGBoost",
            "alarms",
            "choice",
            "experiment",
            "feature_service",
            "feature_view",
            "features",
            "integers",
            "interleaving",
            "loguniform",
            "model",
            "monitor",
            "on_demand",
            "outcome_metric",
            "performance",
            "prediction_log",
            "predictions",
            "retrain",
            "rollout",
            "rows_of",
            "same_weekday",
            "trailing",
            "training",
            "training_set",
            "tune",
            "uniform",
        ]
    )


def test_import_loads_no_machine_learning_library():
    heavy = "{'mlflow', 'pandas', 'sklearn'}"
    code = f"import ml, ml.models, sys; print({heavy} & set(sys.modules))"

    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert process.stdout == "set()\n"


def test_a_training_set_is_a_gold_table_with_a_key():
    examples = ml.training_set(TEXT, key="trip_id", event_time="started_at", expect=[warn("known", "load is not null")])

    assert isinstance(examples, TrainingSet)
    assert (examples.layer, examples.kind, examples.key) == ("gold", "training set", ("trip_id",))
    assert (examples.event_time, examples.inputs) == ("started_at", ("raw_trips",))
    assert examples.description == "One row per trip."
    assert [e.name for e in examples.expect] == ["known"]
    assert examples.place.file == __file__


def test_a_training_set_can_be_called_on_tables():
    examples = ml.training_set(TEXT, key=["trip_id"], event_time="started_at")

    rows = examples(raw_trips=pa.table({"trip_id": [1], "started_at": [2], "load": [0.5], "other": [3]}))

    assert rows.to_pylist() == [{"trip_id": 1, "started_at": 2, "load": 0.5}]


def test_fingerprint_depends_on_the_event_time():
    text = "select trip_id, started_at, ended_at from raw_trips"
    started = ml.training_set(text, key="trip_id", event_time="started_at")

    assert started.fingerprint != ml.training_set(text, key="trip_id", event_time="ended_at").fingerprint
    assert started.fingerprint == ml.training_set(f"{text} -- same", key="trip_id", event_time="started_at").fingerprint


@pytest.mark.parametrize(
    ("text", "key", "event_time", "message"),
    [
        (TEXT, "trip", "started_at", r"no column 'trip', its key; did you mean 'trip_id'\? \(.*training_set.py:\d+\)"),
        (TEXT, ["trip_id", "leg"], "started_at", r"no column 'leg', its key"),
        (TEXT, "trip_id", "started", r"no column 'started', its event time; did you mean 'started_at'"),
        (TEXT, (), "started_at", r"a training set has no key; name the column"),
        (
            "select * from raw_trips",
            "trip_id",
            "started_at",
            r"a training set must name its columns: got \*; list them",
        ),
        ("select 1 as trip_id, 2 as started_at", "trip_id", "started_at", r"the SELECT reads no table"),
    ],
)
def test_a_training_set_without_its_columns_is_rejected(text, key, event_time, message):
    with pytest.raises(DefinitionError, match=message):
        ml.training_set(text, key=key, event_time=event_time)
