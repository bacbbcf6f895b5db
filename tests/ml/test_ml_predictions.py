"""Predictions as a table: by the champion, of new rows only, and with clear errors for rows that do not fit."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pytest

from ml import predictions
from ml.models.fitted import FittedModel
from ml.models.predictions import scored
from ml.models.registry.versions import ModelVersions
from ml.models.tasks import task_of
from pipeline.core.errors import DefinitionError, ModelError, RequestError
from pipeline.project import Workspace, load
from pipeline.runner.decide import DecisionKind, RunOptions
from pipeline.runner.dry_run import plan_run
from pipeline.streaming.runtime.control import stream_summaries
from pipeline.streaming.runtime.job import catch_up
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from tests.ml.conftest import MODEL

SCORES = """
from ml import predictions
scores = predictions("lateness", on="trips", key="trip_id", keep="carrier")
"""
OTHER = MODEL.replace("max_iter=1000", "max_iter=1000, C=0.01")


def rows(project):
    return Workspace(load(project.root)).query("select * from scores order by trip_id")


def step(runner):
    return next(step for step in runner.run().steps if step.name == "scores")


def test_new_rows_are_predicted_by_the_champion_of_the_time(project):
    project.define(MODEL + SCORES)
    first = step(project.runner())
    assert (first.decision, first.total_rows) == ("create", 1400)
    table = rows(project)
    assert table.column_names == ["trip_id", "carrier", "predicted", "probability", "model_version"]
    assert set(table["model_version"].to_pylist()) == {1}
    assert table["predicted"].to_pylist() == [p > 0.5 for p in table["probability"].to_pylist()]
    assert step(project.runner()).decision == "skip"

    project.define(OTHER + SCORES)
    runner = project.runner()
    assert step(runner).decision == "skip"  # another champion, the same rows
    assert ModelVersions(project.store).require("lateness").number == 2
    project.add("february", first=1400, rows=100)
    assert step(project.runner()).decision == "append"
    after = rows(project)
    assert after.slice(0, 1400).equals(table)
    assert set(after.slice(1400)["model_version"].to_pylist()) == {3}  # trained on the new rows before it predicts them
    assert step(project.runner(full=True, select=("scores",))).decision == "rebuild"
    assert set(rows(project)["model_version"].to_pylist()) == {3}


def test_predictions_equal_those_of_the_server(project):
    from ml.models import load_champion  # noqa: PLC0415 - imports MLflow

    project.define(MODEL + SCORES)
    project.runner().run()
    table = rows(project).slice(0, 50)
    trips = Workspace(load(project.root)).query("select * from trips order by trip_id limit 50")
    predictor = load_champion(project.store, "lateness")
    answers = predictor.predict([{name: row[name] for name in predictor.inputs} for row in trips.to_pylist()])
    assert [each["probability"] for each in answers] == table["probability"].to_pylist()


def test_without_a_champion_the_table_waits(project):
    project.define(MODEL.replace("at_least=0.6", "at_least=0.99") + SCORES)
    with pytest.raises(ModelError, match="model 'lateness' has no champion yet; train one"):
        project.runner().run()


STREAM = """
arrivals = source(
    generate({"ride": "i", "at": "timestamp '2026-01-01' + to_seconds(i)", "carrier": "'B6'", "hour": "i % 24", "load":
              "(i % 10) / 10.0", "is_weekend": "false", "seen_at": "timestamp '2026-01-01' + to_seconds(i)"},
             partitions=1, count=500),
    schema={"ride": "bigint", "at": "timestamp", "carrier": "varchar", "hour": "integer", "load": "double",
            "is_weekend": "boolean", "seen_at": "timestamp"},
    event_time="at", stored=False,
)
live = sql("select ride, at, carrier, hour, load, is_weekend, seen_at from arrivals", key="ride", event_time="at")
live_scores = predictions("lateness", on="live", key="ride", keep="load")
"""


def streamed(model=MODEL, more=""):
    imports = "from pipeline import generate, sql\nfrom ml import predictions\n"
    return model.replace("from ml import", "") + imports + STREAM + more


def test_a_stream_predicts_each_row_once(project):
    project.define(streamed())
    project.runner(select=("+lateness",)).run()
    workspace = Workspace(load(project.root))
    options = StreamOptions(intervals=Intervals(batch_s=0.01, commit_s=0.01, idle_commit_s=0.01, batch_offsets=100))
    catch_up(workspace, ("live", "live_scores"), stream_options=options)
    table = workspace.query("select * from live_scores order by ride")
    assert table["ride"].to_pylist() == list(range(500))
    assert set(table["model_version"].to_pylist()) == {1}
    full, empty = (table.filter(pa.compute.equal(table["load"], load))["probability"][0].as_py() for load in (0.9, 0.0))
    assert full > empty + 0.2


def test_without_a_champion_the_other_streams_start_and_nothing_is_loaded_to_plan(project):
    project.define(streamed(more='\nsure = sql("select ride, predicted from live_scores where probability > 0.9")\n'))
    workspace = Workspace(load(project.root))
    plan = {step.definition.name: step.decision for step in plan_run(workspace, RunOptions(select=("live_scores",)))}
    assert plan["live_scores"].kind is DecisionKind.STREAMED
    summaries = {each.name: each.status for each in stream_summaries(workspace)}
    assert summaries == {"live": "never run", "live_scores": "never run", "sure": "not ready"}
    job = catch_up(workspace)
    assert job.names == ("live",)
    reason = "model 'lateness' has no champion yet; train one: headwater run --select +lateness"
    assert job.left_out == {"live_scores": reason, "sure": reason}
    with pytest.raises(ModelError, match="no champion yet"):
        catch_up(workspace, ("live_scores",))

    alone = "\n".join(line for line in streamed().splitlines() if not line.startswith("live = "))
    project.define(alone.replace('on="live"', 'on="arrivals"'))
    with pytest.raises(
        RequestError, match=r"no table .* can be streamed: got .*train one: headwater run --select \+lateness$"
    ):
        catch_up(Workspace(load(project.root)))

    project.define(streamed(more='\nsure = sql("select ride, predicted from live_scores where probability > 0.9")\n'))
    project.runner(select=("+lateness",)).run()
    workspace = Workspace(load(project.root))
    assert catch_up(workspace).names == ("live", "live_scores", "sure")
    assert workspace.version("live_scores").rows == 500


class _Half:
    classes_ = ("a", "b", "c")

    def predict_proba(self, features):
        return np.tile([0.5, 0.3, 0.2], (len(features), 1))

    def predict(self, features):
        return features["x"].to_numpy() * 2


@pytest.mark.parametrize(
    ("task", "classes", "columns"),
    [
        ("multiclass", ("a", "b", "c"), {"predicted": ["a", "a"], "probability": [0.5, 0.5]}),
        ("regression", (), {"predicted": [2.0, 4.0]}),
    ],
)
def test_columns_of_tasks_also_of_no_rows(task, classes, columns):
    fitted = FittedModel(_Half(), task_of(task, classes), {"x": "number"})
    table = pa.table({"id": [1, 2], "x": pa.array([1, 2], pa.int16())})
    assert scored(fitted, "m", 7, table, ["id"]).to_pydict() == {"id": [1, 2], **columns, "model_version": [7, 7]}
    empty = scored(fitted, "m", 7, table.slice(0, 0), ["id"])
    assert (empty.num_rows, empty.schema) == (0, scored(fitted, "m", 7, table, ["id"]).schema)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"id": [1], "y": [1.0]}, "the feature 'x' of model 'm' is not in the table to predict"),
        ({"x": [1.0]}, "the column 'id' of model 'm' is not in the table to predict"),
        ({"id": [1], "x": ["1"]}, "the feature 'x' of model 'm' has another type than at training: got string"),
        ({"id": [1], "x": [None]}, r"predict must return a number per row: got 1 values that are not finite"),
    ],
)
def test_rows_that_do_not_fit(table, problem):
    fitted = FittedModel(_Half(), task_of("regression"), {"x": "number"})
    with pytest.raises(ModelError, match=problem):
        scored(fitted, "m", 7, pa.table(table), ["id"])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"key": ()}, "predictions have no key"),
        ({"key": "id", "keep": "predicted"}, "the column 'predicted' has the name of a column of predictions"),
    ],
)
def test_invalid_definitions(options, problem):
    with pytest.raises(DefinitionError, match=problem):
        predictions("m", on="t", **options)


def test_what_is_predicted_with_must_be_a_model(project):
    project.define(MODEL + SCORES.replace('"lateness"', '"raw_trips"'))
    with pytest.raises(
        DefinitionError, match="predictions 'scores' uses 'raw_trips', which is not a model: got a source"
    ):
        project.runner()
