"""Feature views and training sets in a project: runs, later rows, streams, and a cluster."""

from __future__ import annotations

import pytest

from pipeline.project import Workspace, load
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from tests.streaming.runtime.conftest import streams as streams  # noqa: PLC0414 - re-exported fixture

SHOP = """
from ml import feature_service, feature_view, features, training_set
from pipeline import files, source, sql

raw_orders = source(
    files("orders/*.csv"), schema={"id": "bigint", "customer": "bigint", "at": "timestamp", "returned": "boolean"}
)
raw_weather = source(
    files("weather/*.csv"), schema={"city": "varchar", "at": "timestamp", "seen": "timestamp", "degrees": "double"}, STREAM
)
customer_orders = feature_view(
    "select customer, at, count(*) over (partition by customer order by at) as orders from raw_orders",
    entity="customer", event_time="at",
)
weather = feature_view(
    "select city, at, seen, degrees from raw_weather", entity="city", event_time="at", known_at="seen", ttl="6 hours"
)
examples = training_set(
    "select id, customer, at, 'b' as city, returned from raw_orders",
    key="id",
    event_time="at",
    features=feature_service(features("customer_orders", strict=True), features("weather", "degrees")),
)
"""
ORDERS = "id,customer,at,returned\n"
WEATHER = "city,at,seen,degrees\n"


@pytest.fixture
def shop(tmp_path):
    """A function that writes the project and returns its folder."""

    def write(stream=""):
        (tmp_path / "headwater.toml").write_text('[project]\nname = "shop"\ndefinitions = "shop.py"\n')
        (tmp_path / "shop.py").write_text(SHOP.replace("STREAM", stream))
        put(tmp_path, "orders", "1", "1,1,2024-01-01 10:00,true\n2,1,2024-01-01 12:00,false\n")
        put(tmp_path, "weather", "1", "b,2024-01-01 09:00,2024-01-01 10:30,5\n")
        return tmp_path

    return write


def put(folder, kind, name, rows):
    (folder / kind).mkdir(exist_ok=True)
    (folder / kind / f"{name}.csv").write_text((ORDERS if kind == "orders" else WEATHER) + rows)


def run(folder, **options):
    """Run the project; return what was decided for each definition."""
    decisions = {step.name: step.decision for step in Runner(load(folder), RunOptions(**options)).run().steps}
    assert "failed" not in decisions.values()
    return decisions


def rows_of(folder):
    workspace = Workspace(load(folder))
    found = workspace.lake.rows(workspace.table("examples")).select(["id", "orders", "degrees"])
    return [tuple(row.values()) for row in found.sort_by("id").to_pylist()]


def test_later_rows_change_what_was_known_and_nothing_else(shop):
    folder = shop()
    run(folder)
    assert rows_of(folder) == [(1, None, None), (2, 1, 5.0)]

    put(folder, "weather", "2", "b,2024-01-01 09:30,2024-01-01 11:30,6\nb,2024-01-01 09:00,2024-01-01 15:00,4\n")
    put(folder, "orders", "2", "3,1,2024-01-01 15:29,false\n4,2,2024-01-01 15:31,true\n")
    run(folder)
    expected = [(1, None, None), (2, 1, 6.0), (3, 2, 6.0), (4, None, None)]
    assert rows_of(folder) == expected

    assert set(run(folder).values()) == {"skip"}
    run(folder, full=True)
    assert rows_of(folder) == expected


def test_a_feature_view_over_a_stream_is_written_by_it(shop, streams):
    folder = shop('event_time="at", lateness="1 day"')
    streams.start(folder, until_caught_up=True).run()
    assert Workspace(load(folder)).version("weather").manifest.epoch is not None
    run(folder)
    assert rows_of(folder) == [(1, None, None), (2, 1, 5.0)]
