"""Another data set, nine times as large as that of the demo: three million flights of 2001, their airports' delays as features, and a model."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from ml.models.registry.versions import ModelVersions
from pipeline.project import Workspace, load
from pipeline.runner import Runner
from tests.rigs.npm_programs import npm_file

pytestmark = pytest.mark.proof

PROJECT = """\
from ml import LightGBM, feature_view, features, model, monitor, predictions, training, training_set
from pipeline import files, source, sql

raw = source(files({file!r}), schema={{
    "date": "timestamp", "delay": "bigint", "distance": "bigint", "origin": "varchar", "destination": "varchar",
}})
flights = sql(
    "select _position as flight, \\"date\\" as at, origin, destination, distance, hour(\\"date\\") as hour, "
    "isodow(\\"date\\") as weekday, delay > 15 as late from raw",
    key="flight",
)
airport_hours = feature_view(
    "select origin as airport, date_trunc('hour', at) + interval 1 hour as hour_ends, avg(late::int) as late_share, "
    "count(*) as departures from flights group by all",
    entity="airport", event_time="hour_ends", delay="30 minutes", ttl="12 hours", online=True,
)
examples = training_set(
    "select flight, at, origin, destination, distance, hour, weekday, late from flights",
    key="flight", event_time="at",
    features=[features("airport_hours", on={{"airport": "origin"}})],
)
late_flight = model("examples", LightGBM(rounds=60), label="late", split_at="2001-06-01", at_least=0.65, baseline="hour")
scores = predictions("late_flight", on="examples", key="flight", keep="at")
drift = monitor(of="examples", time="at", window="30 days", reference=training(late_flight), numerical=["late_share", "departures", "distance"])
"""
ROWS = 3_000_000


@pytest.fixture(scope="module")
def file() -> Path:
    return npm_file("vega-datasets/data/flights-3m.parquet")


@pytest.fixture(scope="module")
def workspace(file, tmp_path_factory) -> Workspace:
    root = tmp_path_factory.mktemp("flights")
    (root / "headwater.toml").write_text('[project]\nname = "flights"\ndefinitions = "flights.py"\n')
    (root / "flights.py").write_text(PROJECT.format(file=str(file)))
    Runner(load(root)).run()
    return Workspace(load(root))


def test_the_model_is_better_than_the_hour_of_the_day(workspace):
    champion = ModelVersions(workspace.settings.models).require("late_flight")
    assert champion.metrics["training_rows"] + champion.metrics["holdout_rows"] == ROWS
    assert champion.metrics["auc"] > champion.metrics["baseline_auc"] + 0.05


def test_the_features_are_those_that_were_known(workspace, file):
    """By a window over the file alone: the share of the last hour that had ended half an hour before."""
    with duckdb.connect() as con:
        con.execute(f"""
            create table hours as
            select origin, date_trunc('hour', "date") + interval 90 minutes as known, date_trunc('hour', "date") + interval 1 hour as ends,
                   avg((delay > 15)::int) as late_share, count(*) as departures
            from '{file}' group by all
        """)
        wanted = workspace.query(
            'select flight, "at", origin, late_share, departures from examples where flight % 3001 = 0'
        )
        con.register("joined", wanted)
        differing = con.sql("""
            select count(*) from joined as j left join lateral (
                select h.late_share, h.departures from hours as h
                where h.origin = j.origin and h.known <= j."at" and j."at" <= h.ends + interval 12 hours order by h.known desc limit 1
            ) as h on true
            where j.departures is distinct from h.departures or abs(j.late_share - h.late_share) > 1e-12
                or (j.late_share is null) <> (h.late_share is null)
        """).fetchall()
    assert wanted.num_rows == ROWS // 3001
    assert differing == [(0,)]


def test_every_flight_is_scored_and_every_month_compared(workspace):
    [row] = workspace.query(
        "select count(*) as n, avg(probability) filter (where late) - avg(probability) filter (where not late) as gap "
        "from scores join examples using (flight)"
    ).to_pylist()
    assert row["n"] == ROWS
    assert row["gap"] > 0.05
    windows = workspace.query(
        "select count(distinct window_start) as n, sum(rows) as rows from drift where feature = 'distance'"
    ).to_pylist()
    assert windows == [{"n": 7, "rows": ROWS}]
