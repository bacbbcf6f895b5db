"""REST APIs through whole runs: what is new, exact and nested values, rejected rows, credentials, changed data."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.connectors.rest import ApiKey, Bearer, PageNumber
from pipeline.connectors.rest.source import RestApi, rest
from pipeline.core.cursors import Bound, Cursor
from pipeline.core.errors import SchemaError, SourceError, SourceUnavailableError
from pipeline.core.graph import Graph
from pipeline.core.schema import Schema
from pipeline.core.settings import Settings
from pipeline.core.source_declaration import source
from pipeline.project import Project, Workspace
from pipeline.runner import Runner, RunOptions
from tests.rigs.http_faults import Reply, http_server


@pytest.fixture(scope="module")
def running():
    with http_server() as server:
        yield server


@pytest.fixture
def server(running):
    running.routes, running.script, running.received = {}, [], []
    return running


def project(folder: Path, reader: RestApi, **options: Any) -> Project:
    home = folder / "project"
    home.mkdir()
    lake, warehouse, catalog = str(home / "lake"), str(home / "w.duckdb"), f"sqlite:///{home / 'c.db'}"
    settings = Settings("rest", home, home / "none.py", lake=lake, warehouse=warehouse, catalog=catalog)
    return Project(settings, Graph.of([source(reader.within(home), **options).named("rows")]))


def rows(made: Project, columns: str = "*") -> list[Any]:
    return Workspace(made).query(f"select {columns} from rows order by _position").to_pylist()


def kept(cursor: Cursor) -> Cursor:
    return Cursor(cursor.kind, json.loads(json.dumps(cursor.value)))


@pytest.mark.parametrize(
    ("values", "options", "asked"),
    [
        (("2026-03-01T10:00:00.5+01:00",), {}, "2026-03-01T10:00:00.5+01:00"),
        (("2026-03-01T10:00:00Z",), {"lag": "5 minutes"}, "2026-03-01T09:55:00Z"),
        (("2026-03-01T10:00:00",), {"lag": timedelta(seconds=1)}, "2026-03-01T09:59:59"),
        (("2026-03-01T10:00:00Z",), {"since_format": "epoch"}, "1772359200"),
        (("2026-03-01T10:00:00Z",), {"since_format": "epoch_ms"}, "1772359200000"),
        (("2026-03-01T10:00:00Z",), {"since_format": "date"}, "2026-03-01"),
        (("2026-03-01T10:00:00+01:00",), {"since_format": "iso"}, "2026-03-01T09:00:00Z"),
        ((7, 12), {}, "12"),
        ((7, 12), {"lag": 10}, "2"),
        ((1.5, 2), {}, "2"),
        (("a", "b"), {}, "b"),
    ],
)
def test_the_next_fetch_asks_for_rows_from_the_highest_value_on(server, tmp_path, values, options, asked):
    server.routes["/items"] = lambda _: Reply([{"at": value} for value in values])
    reader = rest(f"{server.url}/items", cursor="at", since="from", start="begin", spool=str(tmp_path), **options)
    plan = reader.plan(None)
    assert reader.plan(kept(plan.cursor)).splits == ()
    assert [received.params["from"] for received in server.received] == ["begin", asked]


def test_rows_until_a_time(server, tmp_path):
    server.routes["/items"] = lambda _: Reply([{"at": f"2026-03-0{day}T00:00:00Z"} for day in (1, 2, 3)])
    reader = rest(f"{server.url}/items", cursor="at", spool=str(tmp_path))
    first = reader.plan(None, Bound(until=datetime(2026, 3, 2, tzinfo=UTC)))
    assert first.new == "2 new rows"
    assert reader.plan(kept(first.cursor)).new == "1 new row"


def test_nested_and_exact_values(server, tmp_path):
    body = b"""{"items": [
        {"id": 9007199254740993, "price": 12345678901234567.89, "tags": ["a", null],
         "who": {"name": "Ann", "age": 3}, "at": "2026-03-01T10:00:00+01:00", "text": "two\\nlines"},
        {"id": 2, "price": 0.10, "tags": [], "who": null, "at": null, "text": ""}
    ]}"""
    server.routes["/items"] = lambda _: Reply(body)
    made = project(
        tmp_path,
        rest(f"{server.url}/items"),
        schema={
            "id": "bigint",
            "price": "decimal(19, 2)",
            "tags": "varchar[]",
            "who": "struct(name varchar, age integer)",
            "at": "timestamptz",
            "text": "varchar",
        },
    )
    Runner(made).run()
    first, second = rows(made)
    assert (first["id"], str(first["price"]), first["text"]) == (9007199254740993, "12345678901234567.89", "two\nlines")
    assert (first["tags"], first["who"]) == (["a", None], {"name": "Ann", "age": 3})
    assert first["at"] == datetime(2026, 3, 1, 9, tzinfo=UTC)
    assert (second["tags"], second["who"], str(second["price"])) == ([], None, "0.10")
    assert first["_source"] == f"{server.url}/items"


def test_inferred_types(server, tmp_path):
    server.routes["/items"] = lambda _: Reply([{"id": 1, "who": {"name": "Ann"}, "tags": [1]}, {"id": 2.5}])
    reader = rest(f"{server.url}/items", spool=str(tmp_path))
    plan = reader.plan(None)
    inferred = reader.schema(plan.splits[0].source_object).as_dict()
    assert inferred == {"id": "DOUBLE", "who": 'STRUCT("name" VARCHAR)', "tags": "BIGINT[]"}
    assert reader.beyond(plan.splits[0], Schema.of({"id": "double"})).names == ("who", "tags")


def test_rejected_rows_have_their_request_and_can_be_replayed(server, tmp_path):
    pages = {"1": [{"id": 1}, {"id": "x"}], "2": [5, {"id": 2, "other": 1}], "3": []}
    server.routes["/items"] = lambda received: Reply(pages[received.params["page"]])
    made = project(tmp_path, rest(f"{server.url}/items", pages=PageNumber()), schema={"id": "bigint"})
    Runner(made).run()
    assert [row["id"] for row in rows(made)] == [1, 2]
    reader = rest(f"{server.url}/items", pages=PageNumber(), spool=str(tmp_path / "spool"))
    split = reader.plan(None).splits[0]
    rejected = reader.read(split, Schema.of({"id": "bigint"})).rejected.to_pylist()
    assert [(row["_position"], row["row"]) for row in rejected] == [(2, '{"id": "x"}'), (3, "5")]
    assert rejected[0]["reason"].endswith(f"; row 2 of {server.url}/items?page=1")
    assert rejected[1]["reason"] == f"not a JSON object; row 1 of {server.url}/items?page=2"
    assert reader.parse(['{"id": 7}'], Schema.of({"id": "bigint"})).rows.column("id").to_pylist() == [7]


@pytest.mark.parametrize("policy", [None, "discard_row", "freeze"])
def test_fields_that_are_not_in_the_contract(server, tmp_path, policy):
    server.routes["/items"] = lambda _: Reply([{"id": 1}, {"id": 2, "new": "x"}])
    reader = rest(f"{server.url}/items", spool=str(tmp_path))
    reader = reader if policy is None else reader.evolving(policy)
    split, schema = reader.plan(None).splits[0], Schema.of({"id": "bigint"})
    if policy == "freeze":
        with pytest.raises(SchemaError, match="new column 'new'"):
            reader.read(split, schema)
        return
    reading = reader.read(split, schema)
    assert (reading.rows.num_rows, reading.rejected.num_rows) == ((2, 0) if policy is None else (1, 1))


def test_new_fields_are_added(server, tmp_path):
    content = [[{"id": 1}]]
    server.routes["/items"] = lambda _: Reply(content[-1])
    made = project(tmp_path, rest(f"{server.url}/items", cursor="id"), schema={"id": "bigint"}, new_columns="evolve")
    Runner(made).run()
    content.append([{"id": 1}, {"id": 2, "new": {"a": 1}}])
    Runner(made).run()
    assert rows(made, "id, new") == [{"id": 1, "new": None}, {"id": 2, "new": {"a": 1}}]


def test_without_a_cursor_the_table_follows_the_api(server, tmp_path):
    content: list[Any] = [{"id": 1}, {"id": 2}]
    server.routes["/items"] = lambda _: Reply(content)
    made = project(tmp_path, rest(f"{server.url}/items"), schema={"id": "bigint"})
    assert [step.decision for step in Runner(made).run().steps] == ["create"]
    content.reverse()
    assert [step.decision for step in Runner(made).run().steps] == ["skip"]
    content[0] = {"id": 3}
    assert [step.decision for step in Runner(made).run().steps] == ["rebuild"]
    assert [row["id"] for row in rows(made)] == [3, 1]
    content.clear()
    Runner(made).run()
    assert rows(made) == []


def test_a_row_that_changes_comes_again(server, tmp_path):
    content = [{"id": 1, "at": 5, "name": "a"}, {"id": 2, "at": 5, "name": "b"}]
    server.routes["/items"] = lambda _: Reply(content)
    made = project(
        tmp_path, rest(f"{server.url}/items", cursor="at"), schema={"id": "bigint", "at": "bigint", "name": "varchar"}
    )
    Runner(made).run()
    content[0] = {"id": 1, "at": 5, "name": "changed"}
    Runner(made).run()
    assert [row["name"] for row in rows(made)] == ["a", "b", "changed"]


def test_an_api_that_fails_midway_changes_nothing(server, tmp_path):
    pages = {1: Reply([{"id": 1}]), 2: Reply(b"", 404), 3: Reply([])}
    server.routes["/items"] = lambda received: pages[int(received.params["page"])]
    made = project(tmp_path, rest(f"{server.url}/items", pages=PageNumber(), cursor="id"), schema={"id": "bigint"})
    with pytest.raises(SourceError, match=r"the request was refused: got status 404 \(.*page=2\)"):
        Runner(made).run()
    pages[2] = Reply([{"id": 2}])
    Runner(made).run()
    assert [row["id"] for row in rows(made)] == [1, 2]


def test_an_api_that_is_down(server, tmp_path):
    server.routes["/items"] = lambda _: Reply(b"", 503, {"Retry-After": "600"})
    reader = rest(f"{server.url.replace('127.0.0.1', 'localhost')}/items", spool=str(tmp_path), deadline="1 second")
    with pytest.raises(
        SourceUnavailableError, match=r"/items could not be read in 1 attempt: got status 503; try again later"
    ):
        reader.plan(None)


def test_a_limited_run_reads_the_rest_later(server, tmp_path):
    server.routes["/items"] = lambda received: Reply(
        [{"id": n} for n in range(1, 8) if n > 2 * int(received.params["page"]) - 2][:2]
    )
    reader = rest(f"{server.url}/items", pages=PageNumber(), cursor="id")
    made = project(tmp_path, reader, schema={"id": "bigint"}, most_rows=3)
    for expected in (4, 7, 7):
        Runner(made).run()
        assert [row["id"] for row in rows(made)] == list(range(1, expected + 1))
    Runner(made, RunOptions(full=True)).run()
    assert len(rows(made)) == 7


def test_credentials_are_nowhere(server, tmp_path, monkeypatch):
    secret = "s3cret-0815"  # noqa: S105 - to be searched
    monkeypatch.setenv("API_KEY", secret)

    def answer(received):
        assert received.params["key"] == secret
        assert received.headers["x-team"] == secret
        page = int(received.params.get("page", 1))
        if page == 3:
            return Reply({"error": f"{secret} has no access"}, 403)
        return Reply({"items": [{"id": page}, {"id": "wrong"}], "next": f"/items?key={secret}&page={page + 1}"})

    server.routes["/items"] = answer
    auth = ApiKey("env:API_KEY", parameter="key")
    reader = rest(
        f"{server.url}/items", auth=auth, headers={"X-Team": "env:API_KEY"}, cursor="id", null_cursors="include"
    )
    made = project(tmp_path, reader, schema={"id": "bigint"}, most_rows=1)
    for _ in range(2):
        Runner(made).run()
    with pytest.raises(SourceError, match=r"\*\*\* has no access") as raised:
        Runner(made).run()
    assert secret not in str(raised.value)
    assert [row["id"] for row in rows(made)] == [1, 2]
    everything = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert everything
    assert not [content for content in everything if secret.encode() in content]
    literal = rest("https://example.com", auth=Bearer(secret), headers={"X-Key": secret})
    assert secret not in repr(literal)
    assert pickle.loads(pickle.dumps(literal)) == literal  # noqa: S301 - our own


def test_the_spool_of_another_machine(server, tmp_path):
    server.routes["/items"] = lambda _: Reply([{"id": 1}])
    split = rest(f"{server.url}/items", spool=str(tmp_path / "here")).plan(None).splits[0]
    there = rest(f"{server.url}/items", spool=str(tmp_path / "there"))
    with pytest.raises(
        SourceError, match=r"fetched rows are not in the spool: got no .*\.ndjson below .*there.*; run again"
    ):
        there.read(split, Schema.of({"id": "bigint"}))


def test_a_spool_in_an_object_store(server):
    server.routes["/items"] = lambda _: Reply([{"id": 1}, {"id": "x"}])
    reader = rest(f"{server.url}/items", spool="memory://spool")
    plan = reader.plan(None)
    reading = reader.read(plan.splits[0], Schema.of({"id": "bigint"}))
    assert (reading.rows.num_rows, reading.rejected.num_rows) == (1, 1)
    with pytest.raises(SourceError, match="fetched rows are not in the spool"):
        rest(f"{server.url}/items", spool="memory://other").read(plan.splits[0], Schema.of({"id": "bigint"}))


def test_a_spool_that_cannot_be_written(server, tmp_path):
    server.routes["/items"] = lambda _: Reply([{"id": 1}])
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="cannot write the spool below"):
        rest(f"{server.url}/items", spool=str(tmp_path / "file")).plan(None)


def test_old_segments_are_removed(server, tmp_path):
    server.routes["/items"] = lambda _: Reply([{"id": 1}])
    reader = rest(f"{server.url}/items", spool=str(tmp_path))
    reader.plan(None)
    segments = reader.segments
    assert len(list(Path(segments.location).iterdir())) == 1
    segments.remove_old(kept=-timedelta(seconds=1))
    assert list(Path(segments.location).iterdir()) == []


def test_it_is_checked_without_reading_all(server, tmp_path):
    server.routes["/items"] = lambda _: Reply([{"id": 1}], headers={"Link": '</items?p=2>; rel="next"'})
    (finding,) = rest(f"{server.url}/items", spool=str(tmp_path)).check()
    assert finding.detail == "the first of several pages has 1 row"
    assert len(server.received) == 1
