from __future__ import annotations

import json

import pyarrow as pa
import pytest

from serve.queries.cursor import PageCursor


def ids(rows):
    return [row["order_id"] for row in rows]


def test_rows_are_in_key_order_with_json_types(rows):
    first, second, third, *_ = rows()
    assert first == {
        "order_id": 1,
        "day": "2026-01-05",
        "paid_at": "2026-01-05T08:00:00Z",
        "guest": "Ann",
        "cups": 1,
        "price": 2.5,
        "rating": 4.5,
        "is_member": True,
    }
    assert second["paid_at"] == "2026-01-05T09:30:00.250000Z"
    assert second["rating"] is None, "NaN"
    assert (third["rating"], third["paid_at"]) == (None, "2026-01-06T08:00:00Z"), "infinity; UTC"
    assert third["guest"] == 'O\'Hara, "Kit"'


@pytest.mark.parametrize(
    ("column", "condition", "expected"),
    [
        ("order_id", "eq.3", [3]),
        ("order_id", "neq.3", [1, 2, 4, 5]),
        ("cups", "gt.1", [2, 3]),
        ("cups", "gte.1", [1, 2, 3, 4]),
        ("cups", "lt.2", [1, 4]),
        ("cups", "lte.+2", [1, 2, 4]),
        ("cups", "neq.1", [2, 3]),  # null does not match
        ("cups", "is.null", [5]),
        ("cups", "is.not_null", [1, 2, 3, 4]),
        ("cups", "in.(1,3)", [1, 3, 4]),
        ("price", "eq.2.50", [1, 4]),
        ("price", "lt.-1", [5]),
        ("price", "eq.2.5", [1, 4]),
        ("rating", "gt.3.5", [1]),  # NaN and infinity are null, as in the response
        ("rating", "is.null", [2, 3, 5]),
        ("rating", "gte.3e0", [1, 4]),
        ("day", "gte.2026-01-06", [3, 4, 5]),
        ("paid_at", "lt.2026-01-05T09:00:00Z", [1]),
        ("paid_at", "eq.2026-01-05T10:00:00+02:00", [1]),
        ("paid_at", "gt.2026-01-07", [5]),
        ("is_member", "eq.true", [1, 3]),
        ("guest", "eq.Bo", [2]),
        ("guest", "eq.", []),
        ("guest", "like.*n*", [1]),
        ("guest", "like.%o", [2]),
        ("guest", "eq.Žoë 🫖", [4]),
        ("guest", 'in.("O\'Hara, \\"Kit\\"",Bo)', [2, 3]),
        ("guest", "in.(Ann,)", [1]),
        ("guest", "gt.O", [3, 4]),
    ],
)
def test_a_column_filters(rows, column, condition, expected):
    assert ids(rows((column, condition))) == expected


def test_several_filters_are_combined_by_and(rows):
    assert ids(rows(("cups", "gte.1"), ("cups", "lt.3"), ("is_member", "is.not_null"))) == [1, 2]


def test_select_order_limit_and_offset(rows):
    page = rows(select="guest,cups", order="cups.desc,order_id.asc", limit="2", offset="1")
    assert page == [{"guest": "Bo", "cups": 2}, {"guest": "Ann", "cups": 1}]


def test_nulls_are_last_in_both_directions(rows):
    assert ids(rows(order="cups"))[-1] == 5
    assert ids(rows(order="cups.desc"))[-1] == 5


def test_following_next_gives_each_row_once(client):
    path, seen, pages = "/v1/tables/cafe_orders?cups=is.not_null&limit=2&select=order_id&order=cups.desc", [], 0
    while path:
        answer = client.get(path).json()
        seen, path, pages = seen + ids(answer["rows"]), answer["next"], pages + 1
    assert (seen, pages) == ([3, 2, 1, 4], 2)


def test_next_contains_the_version_and_orders_by_the_key_last(client):
    link = client.get("/v1/tables/cafe_orders?limit=1&order=cups.desc&guest=neq.a%26b").json()["next"]
    begin, _, cursor = link.partition("&cursor=")
    assert begin == "/v1/tables/cafe_orders?guest=neq.a%26b&limit=1&order=cups.desc,order_id"
    assert PageCursor.of(cursor) == PageCursor(0, PageCursor.of(cursor).query, ("3", "3"))


def test_pages_of_a_table_without_a_key_contain_all_rows(client):
    path, cups = "/v1/tables/cups?limit=1", []
    while path:
        answer = client.get(path).json()
        cups, path = [*cups, answer["rows"][0]["cups"]], answer["next"]
    assert cups == [1, 1, 2, 3, None]


def test_nan_in_nested_values_is_null(rows):
    first = rows(table="shapes")[0]
    assert first == {
        "order_id": 1,
        "clock": "2026-01-05T08:00:00",
        "ratings": [4.5, None],
        "nested": {"at": "2026-01-05T08:00:00Z", "guest": "Ann", "scores": [{"x": None}]},
        "scores": {"rating": None, "one": 1.0},
        "bytes": "QW5u",
        "order": 1,
        'group by; " é': "Ann",
    }


def test_any_column_name_is_allowed(rows):
    assert ids(rows(('group by; " é', "eq.Bo"), table="shapes", select="order_id")) == [2]
    assert ids(rows(("order", "eq.2"), ("order", "clock.desc"), table="shapes", select="order_id")) == [2]


def test_time_without_a_zone_is_compared_without_a_zone(rows):
    assert ids(rows(clock="eq.2026-01-05T08:00:00", table="shapes", select="order_id")) == [1]


def test_nested_columns_can_be_filtered_by_null(rows):
    assert rows(nested="is.null", table="shapes") == []


def test_a_table_without_rows(client):
    assert client.get("/v1/tables/nobody").json() == {"table": "nobody", "version": 0, "rows": [], "next": None}


def test_csv_has_plain_columns(client):
    answer = client.get(
        "/v1/tables/cafe_orders?limit=2&select=order_id,paid_at,guest,rating", headers={"accept": "text/csv"}
    )
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.text.splitlines() == [
        '"order_id","paid_at","guest","rating"',
        '1,"2026-01-05T08:00:00Z","Ann",4.5',
        '2,"2026-01-05T09:30:00.250000Z","Bo",',
    ]
    assert answer.headers["table-version"] == "0"
    assert answer.links["next"]["url"].startswith("/v1/tables/cafe_orders?")


def test_csv_contains_nested_values_as_json(client):
    answer = client.get("/v1/tables/shapes?select=nested&limit=1", headers={"accept": "text/csv"})
    nested = answer.text.splitlines()[1].strip('"').replace('""', '"')
    assert json.loads(nested)["scores"] == [{"x": None}]


def test_arrow_keeps_the_types(client):
    answer = client.get("/v1/tables/cafe_orders", headers={"accept": "application/vnd.apache.arrow.stream"})
    table = pa.ipc.open_stream(answer.content).read_all()
    assert table.schema.field("paid_at").type == pa.timestamp("us", "UTC")
    assert table.schema.field("price").type == pa.decimal128(10, 2)
    assert table.num_rows == 5
    empty = client.get("/v1/tables/nobody", headers={"accept": "application/vnd.apache.arrow.stream"})
    assert pa.ipc.open_stream(empty.content).schema.names == ["order_id", "guest"]


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("*/*", "application/json"),
        ("text/*", "text/csv"),
        ("text/html,*/*;q=0.5", "application/json"),
        ("application/json;q=0.2, text/csv;q=0.9", "text/csv"),
        ("application/json;q=0, */*", "text/csv"),
        ("TEXT/CSV", "text/csv"),
    ],
)
def test_accept_chooses_the_media_type(client, accept, media_type):
    answer = client.get("/v1/tables/cafe_orders", headers={"accept": accept})
    assert answer.headers["content-type"].partition(";")[0] == media_type


def test_gold_tables_are_served(client):
    tables = {table["name"]: table for table in client.get("/v1/tables").json()["tables"]}
    assert set(tables) == {"cafe_orders", "guests", "cups", "shapes", "nobody", "later"}
    assert tables["cafe_orders"] | {"columns": None} == {
        "name": "cafe_orders",
        "kind": "mart",
        "layer": "gold",
        "description": "One row per order.",
        "key": ["order_id"],
        "version": 0,
        "rows": 5,
        "columns": None,
    }
    assert tables["cafe_orders"]["columns"][5] == {"name": "price", "type": "DECIMAL(10,2)"}
    assert tables["later"]["version"] is None


def test_other_layers_are_served_if_configured(cafe):
    with cafe.client(layers=("silver",)) as client:
        assert [table["name"] for table in client.get("/v1/tables").json()["tables"]] == ["orders"]
        assert client.get("/v1/tables/orders?limit=1").status_code == 200
        assert client.get("/v1/tables/guests").status_code == 404
