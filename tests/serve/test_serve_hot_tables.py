"""Tables that are asked for often are read from local copies, which have the same rows and follow the lake."""

from __future__ import annotations

import shutil
import time

import pytest

from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from serve import hot_tables
from tests.serve.test_serve_access import ROWS, make, sent

QUERIES = [
    "",
    "?order=amount.desc",
    "?id=eq.3",
    "?select=region,amount.sum()&order=region",
    "?email=like.a*",
    "?limit=2&order=email.desc",
]


@pytest.fixture
def shop(tmp_path):
    return make(tmp_path / "shop", ROWS)


def copies(shop):
    return sorted(path.name for path in (shop.root / ".headwater" / "hot" / "dev").glob("*.duckdb"))


def is_hot(client, name="orders"):
    copy = client.app.state.backend.tables.hot._copies.get(name)  # noqa: SLF001 - the state that is tested
    return None if copy is None else copy.identity


def wait_until(condition):
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def ask(client, *, times=1, path="/v1/tables/orders", **more):
    answers = [client.get(f"{path}?id=gt.{-n}", **more) for n in range(times)]
    assert {answer.status_code for answer in answers} == {200}
    return answers[-1].json()


def test_a_copy_has_the_same_rows_under_the_same_policies(shop):
    callers = [
        shop.key(roles=["audit"]),
        shop.key(roles=["sales-eu"], claims={"region": "EU"}),
        shop.key(roles=["sales-eu"]),
    ]
    with shop.client(key="") as client:
        client.app.state.backend.cache._most_bytes = 0  # noqa: SLF001 - what is read is compared
        before = [client.get(f"/v1/tables/orders{q}", headers=sent(k)).json() for k in callers for q in QUERIES]
        ask(client, times=6, headers=sent(callers[0]))
        wait_until(lambda: is_hot(client))
        after = [client.get(f"/v1/tables/orders{q}", headers=sent(k)).json() for k in callers for q in QUERIES]
        assert after == before
    assert len(copies(shop)) == 1


def test_a_new_version_is_read_at_once_and_copied_when_it_is_asked_for(shop, monkeypatch):
    monkeypatch.setattr(hot_tables, "_REST", 0.0)
    monkeypatch.setattr(hot_tables, "_OUT_OF_USE_S", 0.0)
    key = shop.key(roles=["audit"])
    with shop.client(key=key) as client:
        ask(client, times=6)
        wait_until(lambda: is_hot(client))
        first = is_hot(client)
        (shop.root / "orders.csv").write_text("id,region,email,card,amount\n9,EU,z@example.com,1,2\n")
        Runner(shop.project(), RunOptions(full=True)).run()
        client.app.state.backend.tables._newest.clear()  # noqa: SLF001 - instead of waiting for a second
        assert [row["id"] for row in ask(client)["rows"]] == [9]
        ask(client, times=6)
        wait_until(lambda: is_hot(client) != first)
        assert [row["id"] for row in ask(client)["rows"]] == [9]
        wait_until(lambda: len(copies(shop)) == 1)


def test_a_table_that_was_made_again_is_another_one(shop, monkeypatch):
    """Its version has the same number."""
    monkeypatch.setattr(hot_tables, "_REST", 0.0)
    with shop.client(key=shop.key(roles=["audit"])) as client:
        ask(client, times=6)
        wait_until(lambda: is_hot(client))
        shutil.rmtree(shop.root / ".headwater/lake/gold/orders")
        (shop.root / "orders.csv").write_text("id,region,email,card,amount\n9,EU,z@example.com,1,2\n")
        Runner(shop.project(), RunOptions(full=True)).run()
        client.app.state.backend.tables._newest.clear()  # noqa: SLF001 - as above
        answer = ask(client)
        assert (answer["version"], [row["id"] for row in answer["rows"]]) == (0, [9])


def test_copies_are_bounded_and_can_be_switched_off(tmp_path):
    off = make(tmp_path / "off", ROWS, serve="hot_bytes = 0\n")
    with off.client(key=off.key(roles=["audit"])) as client:
        ask(client, times=10)
        time.sleep(0.2)
        assert copies(off) == []


def test_a_copy_that_cannot_be_made_changes_nothing(shop):
    (shop.root / ".headwater" / "hot").write_text("a file, not a folder")
    with shop.client(key=shop.key(roles=["audit"])) as client:
        assert len(ask(client, times=10)["rows"]) == 6
        time.sleep(0.2)
        assert len(ask(client)["rows"]) == 6
