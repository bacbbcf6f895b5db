"""The online store of a project: kept by runs, listed and read by commands."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from cluster.cli.app import app
from ml import features
from ml.features.materialization import materialize, statuses, store_of
from ml.features.online_features import OnlineFeatures
from pipeline.core.errors import DefinitionError, RequestError, StorageError
from pipeline.project import Workspace, load
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from tests.streaming.runtime.conftest import streams as streams  # noqa: PLC0414 - re-exported fixture

SHOP = """
from ml import feature_service, feature_view, features, training_set
from pipeline import files, source

raw_orders = source(
    files("orders/*.csv"), schema={"id": "bigint", "customer": "bigint", "at": "timestamp", "amount": "decimal(9,2)"}
)
raw_shops = source(files("shops/*.csv"), schema={"shop": "varchar", "day": "date", "city": "varchar"})
customer_orders = feature_view(
    "select customer, at, count(*) over (partition by customer order by at) as orders, amount as last_amount from raw_orders",
    entity="customer", event_time="at", owner="growth", online=True,
)
shops = feature_view("select shop, day, city from raw_shops", entity="shop", event_time="day", ttl="30 days", online=ONLINE)
examples = training_set(
    "select id, customer, 's1' as shop, at, amount from raw_orders", key="id", event_time="at",
    features=[features("customer_orders", "orders", at="seen_at"), features("shops", "city as shop_city", at="as_of")],
)
"""


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "shop"\ndefinitions = "shop.py"\n')
    define(tmp_path)
    put(tmp_path, "orders", "1", "id,customer,at,amount", "1,1,2024-01-01 10:00,5.50", "2,1,2024-01-02 10:00,7.25")
    put(tmp_path, "shops", "1", "shop,day,city", "s1,2024-01-01,Kiel")
    return tmp_path


def define(folder, **changes):
    text = SHOP.replace("ONLINE", changes.pop("ONLINE", "True"))
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "shop.py").write_text(text)


def put(folder, kind, name, *lines):
    (folder / kind).mkdir(exist_ok=True)
    (folder / kind / f"{name}.csv").write_text("\n".join(lines) + "\n")


def run(folder):
    steps = {step.name: step for step in Runner(load(folder), RunOptions()).run().steps}
    assert "failed" not in {step.decision for step in steps.values()}, steps
    return steps


def read(folder, service="examples", at=datetime(2024, 1, 5, tzinfo=UTC), **rows):
    online = OnlineFeatures(load(folder))
    try:
        return online.get(service, pa.table(rows or {"customer": [1, 2], "shop": ["s1", "s1"]}), at=at)
    finally:
        online.close()


def command(folder, *words, code=0):
    result = CliRunner().invoke(app, ["features", *words, "-C", str(folder)])
    assert result.exit_code == code, result.output
    return result.output


def test_a_run_keeps_the_online_store_at_the_newest_version(shop):
    assert run(shop)["customer_orders.online"].decision == "sent"
    first = read(shop)
    assert first.column_names == ["orders", "seen_at", "shop_city", "as_of"]
    assert first.to_pylist() == [
        {
            "orders": 2,
            "seen_at": datetime.fromisoformat("2024-01-02T10:00"),
            "shop_city": "Kiel",
            "as_of": date(2024, 1, 1),
        },
        {"orders": None, "seen_at": None, "shop_city": "Kiel", "as_of": date(2024, 1, 1)},
    ]
    lake = Workspace(load(shop)).version("examples").schema.as_dict()
    assert (str(first.schema.field("orders").type), lake["orders"]) == ("int64", "BIGINT")

    put(shop, "orders", "2", "id,customer,at,amount", "3,2,2024-01-03 10:00,1.00", "4,1,2024-01-01 09:00,9.99")
    assert run(shop)["customer_orders.online"].flow.rows_out == 4  # all rows of customer 1 have other counts now
    assert read(shop)["orders"].to_pylist() == [3, 1]
    assert run(shop)["customer_orders.online"].decision == "skip"


def test_a_changed_view_is_loaded_anew_and_readers_are_told_until_then(shop):
    run(shop)
    define(shop, **{"amount as last_amount": "amount * 2 as last_amount"})
    with pytest.raises(StorageError, match="has feature view 'customer_orders' of another definition"):
        read(shop, "customer_orders", customer=[1])
    with pytest.raises(StorageError, match="computed by another definition; run `headwater run --select"):
        materialize(Workspace(load(shop)), ["customer_orders"])
    assert "defined before" in {s.view: s.state for s in statuses(Workspace(load(shop)))}["customer_orders"]

    run(shop)
    assert read(shop, "customer_orders", customer=[1])["last_amount"].to_pylist()[0] == pytest.approx(14.5)


def test_a_view_that_is_not_online_says_so(shop):
    define(shop, ONLINE="False")
    assert "shops.online" not in run(shop)
    with pytest.raises(StorageError, match=r"'shops' is not in the online store; pass online=True .*shop.py:13"):
        read(shop)
    with pytest.raises(RequestError, match="'shops' is not an online feature view; pass online=True"):
        materialize(Workspace(load(shop)), ["shops"])


def test_views_that_are_no_longer_online_are_removed(shop):
    run(shop)
    define(shop, ONLINE="False")
    assert [name for name, _ in materialize(Workspace(load(shop)), [])] == ["customer_orders"]
    with closing(store_of(load(shop).settings)) as store:
        assert set(store.states()) == {"customer_orders"}
    with closing(sqlite3.connect(shop / ".headwater" / "features.db")) as con:
        tables = con.execute("select count(*) from sqlite_master where name like 'values %'").fetchone()
    assert tables == (1,)


def test_features_are_selected_by_service_too(shop):
    run(shop)
    twice = [features("customer_orders", "orders"), features("customer_orders", "orders", on={"customer": "buyer"})]
    for wrong, message in [
        ([features("customer_orders", "oders")], "has no feature 'oders'; did you mean 'orders'"),
        ([features("customer_orders", on={"custmer": "buyer"})], "on= names 'custmer', which is not an entity column"),
        ([features("raw_orders")], "names 'raw_orders', which is not a feature view"),
        (twice, "two features have the name 'orders'; write 'name as other'"),
    ]:
        with pytest.raises((DefinitionError, RequestError), match=message):
            read(shop, wrong, customer=[1], buyer=[1])
    chosen = [features("customer_orders", "last_amount as amount_before", on={"customer": "buyer"})]
    assert read(shop, chosen, buyer=["1", None])["amount_before"].to_pylist()[1] is None


@pytest.mark.parametrize(
    ("service", "rows", "message"),
    [
        ("raw_orders", {"customer": [1]}, "'raw_orders' is neither a training set nor a feature view: got a source"),
        ("exmples", {"customer": [1]}, "'exmples' is not defined; did you mean 'examples'"),
        (
            "customer_orders",
            {"custmer": [1]},
            "no column 'customer', the entity of 'customer_orders': got 'custmer'; pass 'customer'",
        ),
        ("customer_orders", {"customer": ["x"]}, "'customer' is not of the type of the entity of 'customer_orders'"),
    ],
)
def test_requests_that_do_not_fit_are_errors(shop, service, rows, message):
    run(shop)
    with pytest.raises(RequestError, match=message):
        read(shop, service, **rows)


def test_a_time_before_what_is_kept_is_an_error(shop):
    run(shop)
    with pytest.raises(
        RequestError, match=r"keeps the values of 'customer_orders' from 2024-01-02T10:00:00.000001\+00:00 on"
    ):
        read(shop, at=datetime(2024, 1, 1, tzinfo=UTC))


def test_commands_list_load_and_read(shop):
    run(shop)
    assert json.loads(command(shop, "get", "customer_orders", "customer=1", "--json"))[0]["orders"] == 2
    (first, second) = json.loads(command(shop, "ls", "--json"))
    assert (first["view"], first["state"], first["owner"], first["lake_version"]) == (
        "customer_orders",
        "up to date",
        "growth",
        0,
    )
    assert (second["ttl"], second["newest"]) == ("30 days", "2024-01-02T00:00:00+00:00")
    (shop / ".headwater" / "features.db").unlink()
    assert json.loads(command(shop, "ls", "--json"))[0]["state"] == "not loaded"
    assert "customer_orders: version 0, 2 rows, 0 removed" in command(shop, "materialize", "customer_orders")
    assert "customer_orders: version 0, up to date" in command(shop, "materialize", "customer_orders")
    command(shop, "get", "customer_orders", "customer", code=1)


PLANT = """
from ml import feature_view
from pipeline import files, source

raw_weather = source(
    files("weather/*.csv"), schema={"city": "varchar", "at": "timestamp", "seen": "timestamp", "degrees": "double"},
    event_time="at", lateness="1 day",
)
weather = feature_view(
    "select city, at, seen, degrees from raw_weather", entity="city", event_time="at", known_at="seen", online=True
)
"""


def test_a_stream_keeps_the_online_store_at_its_newest_epoch(tmp_path, streams):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "plant"\ndefinitions = "plant.py"\n')
    (tmp_path / "plant.py").write_text(PLANT)
    head = "city,at,seen,degrees"
    put(
        tmp_path, "weather", "1", head, "b,2024-01-01 09:00,2024-01-01 10:30,5", "c,2024-01-01 09:00,2024-01-01 09:00,7"
    )
    streams.start(tmp_path, until_caught_up=True).run()
    at = datetime(2024, 1, 1, 12, tzinfo=UTC)
    assert read(tmp_path, "weather", at, city=["b", "c"])["degrees"].to_pylist() == [5, 7]

    late = [
        "b,2024-01-01 09:00,2024-01-01 11:00,6",
        "b,2024-01-01 08:00,2024-01-01 11:30,1",
        "c,2024-01-01 11:00,2024-01-01 12:30,8",
    ]
    put(tmp_path, "weather", "2", head, *late)
    streams.start(tmp_path, until_caught_up=True).run()
    assert read(tmp_path, "weather", datetime(2024, 1, 1, 13, tzinfo=UTC), city=["b", "c"])["degrees"].to_pylist() == [
        6,
        8,
    ]
    assert statuses(Workspace(load(tmp_path)))[0].state == "up to date"
    assert run(tmp_path)["weather.online"].reason == "delivered by `headwater stream`"


def test_the_doctor_tells_whether_the_store_is_behind(shop):
    run(shop)
    assert "2 feature views up to date" in CliRunner().invoke(app, ["doctor", "-C", str(shop)]).output
    (shop / ".headwater" / "features.db").unlink()
    assert "customer_orders: not loaded" in CliRunner().invoke(app, ["doctor", "-C", str(shop)]).output
