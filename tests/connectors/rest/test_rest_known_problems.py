"""Inputs on which other tools that read APIs lose, double or bend rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.connectors.rest import BodyCursor, PageNumber
from pipeline.connectors.rest.source import rest
from pipeline.core.errors import SchemaError, SourceError
from pipeline.core.graph import Graph
from pipeline.core.settings import Settings
from pipeline.core.source_declaration import source
from pipeline.project import Project, Workspace
from pipeline.runner import Runner
from tests.rigs.http_faults import Reply, http_server


@pytest.fixture(scope="module")
def running():
    with http_server() as server:
        yield server


class Shop:
    """An API whose rows a test sets, and a project with a table of them."""

    def __init__(self, server, folder: Path) -> None:
        self.rows: list[Any] = []
        self.folder = folder
        server.routes, server.script, server.received = {"/items": self.answer}, [], []
        self.server = server

    def answer(self, received) -> Reply:
        number = int(received.params.get("page", 1))
        return Reply({"items": self.rows[2 * number - 2 : 2 * number]})

    def project(self, schema: dict[str, str] | None, key: str | None = None, **options: Any) -> Project:
        home = self.folder / "project"
        home.mkdir()
        reader = rest(f"{self.server.url}/items", pages=PageNumber(), **options).within(home)
        lake, warehouse, catalog = str(home / "lake"), str(home / "w.duckdb"), f"sqlite:///{home / 'c.db'}"
        settings = Settings("shop", home, home / "none.py", lake=lake, warehouse=warehouse, catalog=catalog)
        return Project(settings, Graph.of([source(reader, schema=schema, key=key).named("items")]))


@pytest.fixture
def shop(running, tmp_path):
    return Shop(running, tmp_path)


def table(made: Project, columns: str = "id", order: str = "_position") -> list[Any]:
    rows = Workspace(made).query(f"select {columns} from items order by {order}").to_pylist()
    return [row[columns] if columns in row else tuple(row.values()) for row in rows]


def test_rows_that_share_the_highest_value_are_neither_lost_nor_doubled(shop):
    made = shop.project({"id": "bigint", "at": "bigint"}, cursor="at")
    shop.rows = [{"id": n, "at": 16} for n in range(3)]
    for _ in range(3):
        Runner(made).run()
    assert table(made) == [0, 1, 2]
    shop.rows += [{"id": n, "at": 16} for n in range(3, 60)]
    for _ in range(2):
        Runner(made).run()
    assert table(made) == list(range(60))


def test_a_row_that_is_committed_late_is_read_within_the_lag(shop):
    made = shop.project({"id": "bigint", "at": "timestamp"}, cursor="at", lag="5 minutes")
    shop.rows = [{"id": 1, "at": "2026-03-01T02:30:00"}]
    Runner(made).run()
    shop.rows.append({"id": 2, "at": "2026-03-01T02:29:59"})
    Runner(made).run()
    Runner(made).run()
    assert table(made) == [1, 2]


def test_a_page_without_any_cursor_value_does_not_end_the_fetch(shop):
    made = shop.project({"id": "bigint", "at": "bigint"}, cursor="at", null_cursors="include")
    shop.rows = [{"id": 1, "at": None}, {"id": 2}, {"id": 3, "at": 5}, {"id": 4, "at": 6}]
    for _ in range(2):
        Runner(made).run()
    assert table(made) == [1, 2, 3, 4]
    shop.rows.append({"id": 5, "at": None})
    Runner(made).run()
    assert table(made) == [1, 2, 3, 4, 5]


def test_zoned_cursors_are_compared_as_instants(shop):
    made = shop.project({"id": "bigint", "at": "timestamptz"}, cursor="at")
    shop.rows = [{"id": 1, "at": "2024-10-20T15:30:00-0030"}, {"id": 2, "at": "2024-10-20T15:45:00Z"}]
    Runner(made).run()
    shop.rows.append({"id": 3, "at": "2024-10-20T15:59:00Z"})  # before the first row, although its text is greater
    Runner(made).run()
    assert table(made) == [1, 2]
    shop.rows.append({"id": 4, "at": "2024-10-20T13:00:01-03:00"})
    Runner(made).run()
    assert table(made) == [1, 2, 4]


def test_names_are_kept_as_they_are(shop):
    made = shop.project({"id": "bigint", "na!e": "bigint", "na%e": "bigint"})
    shop.rows = [{"id": 1, "na!e": 1, "na%e": 2}]
    Runner(made).run()
    assert table(made, '"na!e", "na%e"') == [(1, 2)]


def test_names_that_differ_only_in_case_are_refused(shop):
    made = shop.project(None)
    shop.rows = [{"id": 1, "Aa": 1, "aA": 2}]
    with pytest.raises((SchemaError, SourceError), match=r"(?i)aa"):
        Runner(made).run()


def test_a_list_that_shrinks_leaves_nothing_behind(shop):
    made = shop.project({"id": "bigint", "at": "bigint", "items": "bigint[]"}, cursor="at")
    shop.rows = [{"id": 1, "at": 1, "items": [1, 2]}]
    Runner(made).run()
    shop.rows = [{"id": 1, "at": 2, "items": [1]}]
    Runner(made).run()
    assert table(made, "items") == [[1, 2], [1]]


def test_a_run_without_new_rows_leaves_the_cursor(shop):
    made = shop.project({"id": "bigint"}, cursor="id", since="after")
    shop.rows = [{"id": 7}]
    Runner(made).run()
    shop.rows = []
    Runner(made).run()
    shop.server.received.clear()
    Runner(made).run()
    assert shop.server.received[0].params["after"] == "7"


def test_an_initial_value_is_sent_as_it_is_written(shop):
    made = shop.project({"id": "bigint"}, cursor="id", since="after", start="2026-01-01")
    shop.rows = [{"id": 7}]
    Runner(made).run()
    assert shop.server.received[0].params["after"] == "2026-01-01"


def test_a_value_that_becomes_a_fraction_is_rejected_by_the_contract_and_not_by_another_column(shop):
    made = shop.project({"id": "bigint", "score": "bigint"}, cursor="id")
    shop.rows = [{"id": 1, "score": 5}, {"id": 2, "score": 3.7}]
    Runner(made).run()
    assert table(made, "score") == [5]
    assert Workspace(made).lake.quarantine("items").version().rows == 1


def test_has_more_is_believed_before_the_cursor(shop, tmp_path):
    pages = [
        {"items": [{"id": 1}], "next_cursor": "a", "has_more": True},
        {"items": [{"id": 2}], "next_cursor": "b", "has_more": False},
    ]
    shop.server.routes["/items"] = lambda received: Reply(pages["cursor" in received.params])
    reader = rest(f"{shop.server.url}/items", pages=BodyCursor(more="$.has_more"), spool=str(tmp_path / "spool"))
    assert reader.plan(None).new == "2 new rows"
    assert len(shop.server.received) == 2
