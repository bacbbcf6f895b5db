from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from pipeline.project.project import load
from pipeline.runner.runner import Runner, RunOptions

SETTINGS = """
[project]
name = "trips"
definitions = "trips_project.py"

[env.dev]
"""
DEFINITIONS = """
from pathlib import Path
from ml import model, training_set
from pipeline import files, source

raw_trips = source(files(Path(__file__).parent / "trips" / "*.csv"), schema={
    "trip_id": "bigint", "started_at": "timestamptz", "carrier": "varchar", "hour": "integer",
    "load": "double", "is_weekend": "boolean", "seen_at": "timestamp", "late": "boolean",
})
trips = training_set(
    "select trip_id, started_at, carrier, hour, load, is_weekend, seen_at, late from raw_trips",
    key="trip_id", event_time="started_at",
)
"""
MODEL = """
@model(label="late", split_at="2024-01-08", at_least=0.6, baseline="carrier", min_rows=100)
def lateness(trips):
    "How likely a trip is late."
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder

    late = trips.pop("late")
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["carrier"]), (SimpleImputer(), ["hour", "load", "is_weekend"])
    )
    return make_pipeline(columns, LogisticRegression(max_iter=1000)).fit(trips, late)
"""


@dataclass(frozen=True)
class Trips:
    """A project of one source of synthetic trips, a feature view and a model."""

    root: Path

    @property
    def store(self) -> str:
        return f"sqlite:///{self.root}/.headwater/mlflow.db"

    def define(self, text: str = MODEL, **changes: str) -> None:
        for old, new in changes.items():
            assert old in text, f"the model has no {old!r}"
            text = text.replace(old, new)
        (self.root / "trips_project.py").write_text(DEFINITIONS + text)

    def add(self, file: str, *, first: int = 0, rows: int = 1400, seed: int = 7) -> None:
        """Write a file of trips, one per quarter of an hour, starting on 1 January."""
        pyarrow.csv.write_csv(trips(first, rows, seed), self.root / "trips" / f"{file}.csv")

    def run(self, **options):
        """Run the project and return the step of its model."""
        return self.runner(**options).run().steps[-1]

    def runner(self, **options) -> Runner:
        return Runner(load(self.root), RunOptions(**options))


def trips(first: int, rows: int, seed: int) -> pa.Table:
    """The probability of a late trip depends on carrier and load; a tenth has no label, and some have no load."""
    random = np.random.default_rng(seed)
    number = np.arange(first, first + rows)
    carrier = random.choice(["AA", "B6", "UA"], rows)
    load_ = random.random(rows)
    late = random.random(rows) < 0.1 + 0.6 * load_ + 0.2 * (carrier == "B6")
    started = np.datetime64("2024-01-01T00:00:00", "us") + number * np.timedelta64(15, "m")
    return pa.table(
        {
            "trip_id": number,
            "started_at": pa.array(started, pa.timestamp("us", "UTC")),
            "carrier": carrier,
            "hour": number // 4 % 24,
            "load": pa.array(load_, mask=random.random(rows) < 0.05),
            "is_weekend": number // 96 % 7 >= 5,
            "seen_at": pa.array(started),
            "late": pa.array(late, mask=number % 10 == 9),
        }
    )


def start(root: Path) -> Trips:
    (root / "headwater.toml").write_text(SETTINGS)
    (root / "trips").mkdir()
    trips = Trips(root)
    trips.define()
    trips.add("january")
    return trips


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """A model store with its tables; MLflow takes more than a second to create them."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns while it creates its tables; warnings of runs are errors
        mlflow.MlflowClient(tracking_uri=f"sqlite:///{file}")
    return file


@pytest.fixture
def project(tmp_path, empty_store) -> Trips:
    """A project that has not run yet."""
    (tmp_path / ".headwater").mkdir()
    shutil.copy(empty_store, tmp_path / ".headwater")
    return start(tmp_path)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Trips:
    """A project with a champion and the store that its run created; tests must not change it."""
    trips = start(tmp_path_factory.mktemp("trained"))
    assert trips.run().decision == "accepted"
    return trips
