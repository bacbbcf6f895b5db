"""The words of requests: conditions, aggregates, pages and forms, compared with what DuckDB says of the same rows."""

from __future__ import annotations

import io
import itertools
import json

import duckdb
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.schema import Column
from serve.http_errors import HttpError
from serve.queries.values import require_value
from tests.rigs.proofs import examples

ORDERS = "/v1/tables/cafe_orders"


def ids(client, query):
    answer = client.get(f"{ORDERS}?{query}")
    assert answer.status_code == 200, answer.text
    return [row["order_id"] for row in answer.json()["rows"]]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("or=(cups.eq.1,cups.eq.3)", [1, 3, 4]),
        ("or=(cups.is.null,and(cups.gt.1,price.gt.5))", [3, 5]),
        ("not.or=(cups.eq.1,cups.eq.3)", [2]),
        ("not.and=(cups.eq.1,is_member.is.true)", [2, 3, 4, 5]),
        ("and=(cups.gte.1,or(guest.eq.Bo,guest.like.A*))", [1, 2]),
        ('or=(guest.eq."O\'Hara, \\"Kit\\"",guest.in.(Bo,Ann))', [1, 2, 3]),
        ("or=(guest.not.in.(Bo,Ann),cups.not.is.null)", [1, 2, 3, 4, 5]),
        ("cups=not.eq.1", [2, 3]),
        ("cups=not.in.(1,2)", [3]),
        ("cups=isdistinct.1", [2, 3, 5]),
        ("is_member=is.true", [1, 3]),
        ("is_member=is.unknown", [4]),
        ("is_member=not.is.true", [2, 4, 5]),
        ("guest=ilike.BO", [2]),
        ("guest=match.^[AB]", [1, 2]),
        ("guest=imatch.^b", [2]),
        ("guest=fts.hara kit", [3]),
        ("guest=fts.hara bo", []),
        ("guest=like(any).{A*,B*}", [1, 2]),
        ("guest=like(all).{*n*,A*}", [1]),
        ("cups=eq(any).{1,3}", [1, 3, 4]),
        ("order=cups.desc.nullsfirst&limit=2", [5, 3]),
        ("order=cups.nullsfirst,price.desc&limit=3", [5, 1, 4]),
    ],
)
def test_conditions(client, query, expected):
    assert ids(client, query) == expected


def test_columns_are_renamed_and_lists_are_compared(client):
    rows = client.get('/v1/tables/shapes?select=id:order_id,group by; " é&group by; " é=eq.Bo').json()["rows"]
    assert rows == [{"id": 2, 'group by; " é': "Bo"}]
    found = client.get("/v1/tables/shapes?ratings=cs.{3.0}&select=order_id").json()["rows"]
    assert found == [{"order_id": 4}]
    assert client.get("/v1/tables/shapes?ratings=ov.{3,4.5}&select=order_id").json()["rows"] == [
        {"order_id": 1},
        {"order_id": 4},
    ]


def test_any_other_name_is_a_name(client):
    for name in ("~0", "row", "t", "~n", "p", "x y", "%", "'", "1"):
        rows = client.get(ORDERS, params={"select": f"{name}:cups", "limit": 2, "order": "price"}).json()["rows"]
        assert rows[0].keys() == {name}, name


def test_rows_are_aggregated_by_the_other_columns(client):
    rows = client.get(f"{ORDERS}?select=cups,n:count(),price.sum(),rating.avg(),day.max()&order=cups").json()["rows"]
    assert rows[0] == {"cups": 1, "n": 2, "price_sum": 5.0, "rating_avg": 3.75, "day_max": "2026-01-06"}
    assert [(row["cups"], row["n"]) for row in rows] == [(1, 2), (2, 1), (3, 1), (None, 1)]
    assert client.get(f"{ORDERS}?select=count()").json()["rows"] == [{"count": 5}]
    assert client.get(f"{ORDERS}?select=day.count_distinct()&cups=gt.1").json()["rows"] == [{"day_count_distinct": 2}]
    assert client.get(f"{ORDERS}?select=cups&distinct=true").json()["rows"] == [{"cups": c} for c in (1, 2, 3, None)]


def test_pages_of_groups_contain_each_once(client):
    path, seen = f"{ORDERS}?select=guest,count()&limit=2", []
    while path:
        page = client.get(path).json()
        seen += [row["guest"] for row in page["rows"]]
        path = page["next"]
    assert sorted(seen) == sorted(set(seen))
    assert len(seen) == 5


def test_a_count_is_of_all_pages(client):
    page = client.get(f"{ORDERS}?cups=gte.1&limit=2&count=exact")
    assert page.json()["count"] == 4
    assert page.headers["content-range"] == "0-1/4"
    assert client.get(f"{ORDERS}?limit=2", headers={"Prefer": "count=planned"}).headers["content-range"] == "0-1/5"
    assert client.get(page.json()["next"]).json()["count"] == 4


@pytest.mark.parametrize(
    "order",
    ["rating", "rating.desc", "cups.desc.nullsfirst", "is_member", "paid_at.desc", "guest", "day.desc,cups", "price"],
)
def test_pages_by_cursor_are_the_order_cut_into_pages(client, order):
    """Also where values are equal, null, or NaN."""
    whole = ids(client, f"order={order}")
    for size in (1, 2, 3):
        path, seen = f"{ORDERS}?order={order}&limit={size}", []
        while path:
            page = client.get(path).json()
            seen += [row["order_id"] for row in page["rows"]]
            path = page["next"]
        assert seen == whole


def test_all_rows_are_streamed_in_every_form_but_json(client):
    def get(accept):
        answer = client.get(f"{ORDERS}?limit=all&order=order_id", headers={"Accept": accept})
        assert answer.status_code == 200, answer.text
        return answer.content

    lines = [json.loads(line) for line in get("application/x-ndjson").splitlines()]
    assert lines == client.get(ORDERS).json()["rows"]
    arrow = pa.ipc.open_stream(get("application/vnd.apache.arrow.stream")).read_all()
    parquet = pa.parquet.read_table(io.BytesIO(get("application/vnd.apache.parquet")))
    assert arrow.to_pylist()[0] == parquet.to_pylist()[0]
    assert arrow.num_rows == parquet.num_rows == 5
    assert get("text/csv").count(b"\n") == 6
    refused = client.get(f"{ORDERS}?limit=all")
    assert (refused.status_code, refused.json()["detail"]) == (400, "'limit' takes all only for a stream")
    empty = client.get(f"{ORDERS}?limit=all&cups=gt.99", headers={"Accept": "application/vnd.apache.arrow.stream"})
    assert pa.ipc.open_stream(empty.content).read_all().num_rows == 0


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("or=(cups.eq.1", "the condition cannot be read"),
        ("or=cups.eq.1", "the condition cannot be read"),
        ("or=()", "there is no column ''"),
        ("or=(gest.eq.1)", "there is no column 'gest'"),
        ("or=" + "(or" * 20, "the condition cannot be read"),
        ("or=" + "(and" * 3000, "the condition cannot be read"),
        ("or=(" + ",".join(["cups.eq.1"] * 300) + ")", "a condition has more than 200 terms"),
        ("guest=match.(", "the regular expression is not valid"),
        ("guest=match.(a{1000}){1000}", "the regular expression is not valid"),
        ("cups=match.1", "'match' applies to text"),
        ("guest=cs.{a}", "'cs' applies to lists"),
        ("guest=in(any).{a}", "'in' cannot be combined with any"),
        ("select=cups.median()", "there is no aggregate 'median'"),
        ("select=a:cups,A:guest", "'A' is selected twice"),
        ("select=guest,n:count(),N:cups.max()", "'N' is selected twice"),
        ("select=guest.sum()", "'sum' applies to numbers, and column 'guest' is VARCHAR"),
        ("select=sum()", "'sum' needs a column"),
        ("select=cups,cups:price", "'cups' is selected twice"),
        ("select=\ue0000:cups", "a column cannot be called"),
        ("select=\ue000:count()", "a column cannot be called"),
        ("select=guests(guest)", "no table 'guests' is related to 'cafe_orders'"),
        ("select=cups.sum()&distinct=true", "'distinct' cannot be combined"),
        ("select=cups.sum()&order=price", "there is no column 'price'"),
        ("distinct=yes", "'distinct' takes false or true"),
        ("count=all", "'count' takes none or exact or planned"),
        ("cups=is.true", "cups=is. takes null or not_null"),
        ("cursor=x", "'cursor' is not one of this query"),
    ],
)
def test_what_is_wrong_is_said(client, query, problem):
    answer = client.get(f"{ORDERS}?{query}")
    assert answer.status_code == 400, answer.text
    assert problem in answer.json()["detail"]


KINDS = [
    "TINYINT",
    "INTEGER",
    "BIGINT",
    "HUGEINT",
    "FLOAT",
    "DOUBLE",
    "DECIMAL(6,2)",
    "DATE",
    "TIMESTAMP",
    "TIMESTAMPTZ",
    "BOOLEAN",
]
TEXTS = st.one_of(
    st.integers(-(1 << 130), 1 << 130).map(str),
    st.floats().map(repr),
    st.decimals(allow_nan=False, allow_infinity=False, places=2).map(str),
    st.dates().map(str),
    st.datetimes().map(lambda each: each.isoformat()),
    st.from_regex(
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2})?(Z|[+-][0-9]{2}:[0-9]{2})?", fullmatch=True
    ),
    st.from_regex(r"[+-]?[0-9]{0,5}\.?[0-9]{0,3}(e[+-]?[0-9]{1,3})?", fullmatch=True),
    st.text(max_size=8),
)


@settings(max_examples=examples(200, 5_000), deadline=None)
@given(TEXTS, st.sampled_from(KINDS))
def test_values_that_are_accepted_can_be_cast(text, kind):
    try:
        require_value(Column("x", kind), text)
    except HttpError:
        return
    with duckdb.connect() as con:
        [[cast]] = con.execute(f"select try_cast(? as {kind}) is not null", [text]).fetchall()
    assert cast, (kind, text)


def test_every_word_is_described(client):
    described = {each["name"] for each in client.get("/openapi.json").json()["paths"][ORDERS]["get"]["parameters"]}
    assert {"select", "order", "limit", "cursor", "distinct", "count", "or", "and", "version", "at"} <= described
    assert list(itertools.islice(described, 1))
