"""Monitors in a project: later rows, counts of splits, a model's training rows, and what is selected."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from pipeline.batch.planning import strategy
from pipeline.core.errors import DefinitionError
from pipeline.project import Workspace, load
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner

PROJECT = """
from ml import alarms, monitor, training, training_set, model, trailing
from pipeline import files, source

requests = source(files("requests/*.csv"), schema={
    "id": "bigint", "at": "timestamp", "place": "varchar", "x": "double", "late": "boolean",
})
examples = training_set("select id, at, place, x, late from requests", key="id", event_time="at")

@model(label="late", split_at="2026-01-04", at_least=0.5)
def lateness(examples): ...

drift = monitor(of="requests", time="at", numerical=["x"], categorical=["place"], segment="place", REFERENCE)
"""


@pytest.fixture
def project(tmp_path):
    """A function that writes the project with a reference, and returns its folder."""

    def write(reference):
        (tmp_path / "headwater.toml").write_text('[project]\ndefinitions = "shop.py"\n')
        (tmp_path / "shop.py").write_text(PROJECT.replace("REFERENCE", reference))
        (tmp_path / "requests").mkdir(exist_ok=True)
        return tmp_path

    return write


def put(folder, day, mean=0.0, rows=2000):
    """Write the requests of a day."""
    rng = np.random.default_rng(day)
    start = datetime(2026, 1, 1) + timedelta(days=day)  # noqa: DTZ001 - naive, as in the file
    table = pa.table(
        {
            "id": pa.array(range(day * rows, (day + 1) * rows)),
            "at": pa.array([start + timedelta(seconds=i) for i in range(rows)], pa.timestamp("us")),
            "place": pa.array(np.array(["a", "b"])[rng.integers(0, 2, rows)]),
            "x": pa.array(rng.normal(mean, 1, rows)),
            "late": pa.array(rng.random(rows) > 0.5),
        }
    )
    pa.csv.write_csv(table, folder / "requests" / f"{day}.csv")


def run(folder, *select, **options):
    """Run all but the model, or what is selected; return what was decided for each definition."""
    chosen = select or ("requests", "examples", "drift")
    return {step.name: step.decision for step in Runner(load(folder), RunOptions(select=chosen, **options)).run().steps}


def rows(folder, table, columns):
    workspace = Workspace(load(folder))
    found = workspace.lake.rows(workspace.table(table)).select(columns)
    return sorted((tuple(row.values()) for row in found.to_pylist()), key=repr)


def test_later_windows_are_counted_by_the_bins_of_the_first_run(project):
    folder = project('reference=trailing("3 days")')
    for day in range(4):
        put(folder, day)
    run(folder)
    bins = rows(folder, "drift_bins", ["low_0", "high_0"])
    for day in (4, 5):
        put(folder, day, mean=2)
    again = run(folder)
    assert (again["drift_bins"], again["drift_counts"], again["drift"]) == ("skip", "rebuild", "rebuild")
    assert rows(folder, "drift_bins", ["low_0", "high_0"]) == bins
    x = [r[1:] for r in rows(folder, "drift", ["window_start", "feature", "segment", "state"]) if r[1] == "x"]
    assert [state for _, segment, state in x if segment is None][-2:] == ["suspected", "alarm"]

    # counts are the same if everything is computed at once, and bins follow with --full
    counted = rows(folder, "drift_counts", ["window_start", "segment", "feature", "bin", "rows"])
    run(folder, full=True)
    assert rows(folder, "drift_bins", ["low_0", "high_0"]) != bins
    assert sum(r[-1] for r in rows(folder, "drift_counts", ["window_start", "rows"])) == sum(r[-1] for r in counted)


def test_the_training_rows_of_a_model_are_a_reference(project):
    folder = project("reference=training(lateness)")
    for day in range(5):
        put(folder, day, mean=0 if day < 3 else 3)
    graph = load(folder).graph
    assert "TIMESTAMPTZ" in graph["drift_reference"].transform.tree.sql("duckdb").upper()
    run(folder)
    reference = rows(folder, "drift_reference", ["feature", "rows"])
    assert sum(count for feature, count in reference if feature == "x") == 3 * 2000
    states = {
        r[0].day: r[3]
        for r in rows(folder, "drift", ["window_start", "feature", "segment", "state"])
        if r[1:3] == ("x", None)
    }
    assert states == {1: "quiet", 2: "quiet", 3: "quiet", 4: "suspected", 5: "alarm"}


def test_a_monitor_selects_its_counts_too(project):
    folder = project('reference=trailing("3 days")')
    put(folder, 0)
    run(folder, "requests")
    assert list(run(folder, "drift")) == ["drift_bins", "drift_counts", "drift"]


def test_training_needs_a_training_set(project):
    folder = project("reference=training(lateness)")
    (folder / "shop.py").write_text(
        (folder / "shop.py").read_text().replace("def lateness(examples)", "def lateness(requests)")
    )
    with pytest.raises(DefinitionError, match="needs the training set of a model, but 'requests' is a source"):
        load(folder)


def test_new_rows_are_added_to_the_counts_of_the_others(project):
    """From 100,000 rows on, their aggregates are kept, and only new files are read."""
    folder = project('reference=trailing("3 days")')
    for day in range(3):
        put(folder, day, rows=35_000)
    run(folder)
    put(folder, 3, rows=35_000)
    again = run(folder)
    assert (again["drift_bins"], again["drift_counts"]) == ("skip", "refresh")
    refreshed = rows(folder, "drift_counts", ["window_start", "segment", "feature", "bin", "rows", "low", "high"])
    assert sum(row[4] for row in refreshed if row[2] == "x") == 4 * 35_000

    graph = load(folder).graph
    assert strategy(graph["drift_counts"]).strategy == strategy(graph["drift_bins"]).strategy == "partial"
    workspace = Workspace(load(folder))
    inputs = {name: workspace.lake.rows(workspace.table(name)) for name in ("requests", "drift_bins")}
    at_once = (
        graph["drift_counts"]
        .transform(**inputs)
        .select(["window_start", "segment", "feature", "bin", "rows", "low", "high"])
    )
    expected = sorted((tuple(row.values()) for row in at_once.to_pylist()), key=repr)
    assert [row[1:] for row in refreshed] == [row[1:] for row in expected]


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ('numerical=["y"]', "table 'requests' has no column 'y'"),
        ('numerical={"z": "x + lage"}', "has no column 'lage'; did you mean 'late'"),
        ('numerical={"z": "x +"}', "invalid SQL"),
        ('segment="plaze"', "has no column 'plaze'; did you mean 'place'"),
        ('by="version"', "has no column 'version'"),
        ('time="time"', "has no column 'time'"),
    ],
)
def test_a_column_that_does_not_exist_is_found_before_any_data_moves(project, changed, problem):
    folder = project('reference=trailing("3 days")')
    text = (folder / "shop.py").read_text()
    option = changed.partition("=")[0]
    kept = re.sub(rf"{option}=(\[.*?\]|\".*?\")", changed, text) if f"{option}=" in text.partition("drift =")[2] else ""
    (folder / "shop.py").write_text(kept or text.replace("of=", f"{changed}, of="))
    with pytest.raises(DefinitionError, match=re.escape(problem)):
        load(folder)


def test_columns_that_exist_are_no_mistake(project):
    folder = project("reference=trailing('3 days')")
    text = (folder / "shop.py").read_text()
    (folder / "shop.py").write_text(
        text.replace('numerical=["x"]', 'numerical={"X": "X", "hour": "hour(at)", "line": "_position"}')
    )
    assert "drift" in load(folder).graph.names


def test_performance_names_columns_that_exist(project):
    folder = project("reference=trailing('3 days')")
    more = 'p = performance(of="requests", time="at", prediction="score", label="late", at_least=0.5)\n'
    (folder / "shop.py").write_text("from ml import performance\n" + (folder / "shop.py").read_text() + more)
    with pytest.raises(DefinitionError, match="has no column 'score'"):
        load(folder)
