from __future__ import annotations

import pytest

from pipeline.core.clock import now
from pipeline.project.workspace import Workspace
from serve.http_errors import UnknownError
from serve.tables import FRESH_S, Tables


def test_new_version_is_served_after_a_delay(cafe):
    """requested at  0 s    1 s   1.1 s
    newest in lake   0      1     1
    served           0      0     1
    """
    now = [0.0]
    tables = Tables(Workspace(cafe.project()), ["gold"], lambda: now[0])
    assert tables.version("cafe_orders").number == 0
    cafe.add("more", "6,2026-01-08,2026-01-08T08:00:00Z,Di,1,2,3,true\n")
    cafe.run()
    now[0] = FRESH_S
    assert tables.version("cafe_orders").number == 0
    now[0] = FRESH_S + 0.1
    assert tables.version("cafe_orders").number == 1
    assert tables.version("cafe_orders", 0).rows == 5
    assert tables.version("cafe_orders", 0) is tables.version("cafe_orders", 0), "a requested version is read once"


def test_rows_as_of_a_time(cafe):
    before = now()
    cafe.add("more", "6,2026-01-08,2026-01-08T08:00:00Z,Di,1,2,3,true\n")
    cafe.run()
    with cafe.client() as client:
        then = client.get("/v1/tables/cafe_orders", params={"at": before.isoformat(), "limit": 2}).json()
        assert then["version"] == 0
        assert "&at=" not in then["next"]
        assert client.get(then["next"]).json()["version"] == 0
        answer = client.get("/v1/tables/cafe_orders", params={"at": "0 s ago"}).json()
        assert (answer["version"], len(answer["rows"])) == (1, 6)


def test_unknown_versions_and_tables_are_rejected(cafe):
    tables = Tables(Workspace(cafe.project()), ["gold"])
    with pytest.raises(UnknownError, match="has no such version: got 3; its newest version is 0"):
        tables.version("cafe_orders", 3)
    with pytest.raises(UnknownError, match="table 'later' is not computed yet"):
        tables.version("later")
    assert tables.definition_or_none("orders") is None
