from __future__ import annotations

import subprocess
import sys

import pyarrow as pa
import pytest

import ml
from ml.features import FeatureView
from pipeline import warn
from pipeline.core.errors import DefinitionError

TEXT = """
-- One row per trip.
select trip_id, started_at, load from raw_trips
"""


def test_the_package_exports_what_definitions_need():
    assert ml.__all__ == sorted(ml.__all__) == ["features", "model"]


def test_import_loads_no_machine_learning_library():
    heavy = "{'mlflow', 'pandas', 'sklearn'}"
    code = f"import ml, ml.models, sys; print({heavy} & set(sys.modules))"

    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert process.stdout == "set()\n"


def test_a_feature_view_is_a_gold_table_with_its_entity_as_key():
    view = ml.features(TEXT, entity="trip_id", event_time="started_at", expect=[warn("known", "load is not null")])

    assert isinstance(view, FeatureView)
    assert (view.layer, view.kind, view.key, view.entity) == ("gold", "features", ("trip_id",), ("trip_id",))
    assert (view.event_time, view.inputs, view.description) == ("started_at", ("raw_trips",), "One row per trip.")
    assert [e.name for e in view.expect] == ["known"]
    assert view.place.file == __file__


def test_feature_view_can_be_called_on_tables():
    view = ml.features(TEXT, entity=["trip_id"], event_time="started_at")

    rows = view(raw_trips=pa.table({"trip_id": [1], "started_at": [2], "load": [0.5], "other": [3]}))

    assert rows.to_pylist() == [{"trip_id": 1, "started_at": 2, "load": 0.5}]


def test_fingerprint_depends_on_the_event_time():
    text = "select trip_id, started_at, ended_at from raw_trips"
    started = ml.features(text, entity="trip_id", event_time="started_at")

    assert started.fingerprint != ml.features(text, entity="trip_id", event_time="ended_at").fingerprint
    assert started.fingerprint == ml.features(f"{text} -- same", entity="trip_id", event_time="started_at").fingerprint


@pytest.mark.parametrize(
    ("text", "entity", "event_time", "message"),
    [
        (TEXT, "trip", "started_at", r"no column 'trip', its entity; did you mean 'trip_id'\? \(.*features.py:\d+\)"),
        (TEXT, ["trip_id", "leg"], "started_at", r"no column 'leg', its entity"),
        (TEXT, "trip_id", "started", r"no column 'started', its event time; did you mean 'started_at'"),
        (TEXT, (), "started_at", r"a feature view has no entity; name the column"),
        (
            "select * from raw_trips",
            "trip_id",
            "started_at",
            r"a feature view must name its columns: got \*; list them",
        ),
        ("select 1 as trip_id", "trip_id", "started_at", r"the SELECT reads no table"),
    ],
)
def test_view_without_its_columns_is_rejected(text, entity, event_time, message):
    with pytest.raises(DefinitionError, match=message):
        ml.features(text, entity=entity, event_time=event_time)
