"""Changes since a version: what turns the rows of one version into those of another, as each caller sees both."""

from __future__ import annotations

import csv
import io
import itertools
import json
import random
import time
from collections import Counter

import anyio
import pytest

from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from serve.client import ApiClient, AsyncApiClient
from tests.rigs.in_process_server import served
from tests.serve.conftest import Cafe, problem_of
from tests.serve.test_serve_access import sent

DEFINITIONS = """
from pathlib import Path

from pipeline import access_policy, files, mart, source

raw_orders = source(files(Path(__file__).parent / "orders.csv"), schema={
    "id": "bigint", "region": "varchar", "email": "varchar", "card": "varchar", "amount": "double",
})
orders = mart("select id, region, email, card, amount from raw_orders", key="id")
amounts = mart("select region, email, card, amount from raw_orders")
feed = mart("select id, region as _change_type from raw_orders", key="id")
sales = access_policy(
    "orders", "amounts", roles="sales-*", rows="region = claim('region')", mask={"email": "left(email, 1)"}, hide="card"
)
blind = access_policy("orders", roles="blind", mask={"id": "id % 3"})
blind_amounts = access_policy("amounts", roles="blind", mask={"amount": "round(amount)"})
auditors = access_policy("orders", "amounts", "feed", roles="audit")
"""
VERSIONS = 4
"""The last differs from the one before it in the column `card` only."""
CALLERS = ("sales", "blind", "audit")


def written(dice, card):
    for number in range(14):
        if dice.random() < 0.6:
            yield (
                number,
                dice.choice(["EU", "US", ""]),
                dice.choice(["ann@x", "amy@x", "bo@x"]),
                dice.choice("45") + card,
                dice.choice([1.5, 2.5, ""]),
            )


def run(cafe, version):
    is_last = version == VERSIONS - 1
    dice = random.Random(version - is_last)  # noqa: S311 - test data
    with (cafe.root / "orders.csv").open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "region", "email", "card", "amount"])
        rows.writerows(written(dice, "*" if is_last else ""))
    Runner(cafe.project(), RunOptions(full=True)).run()


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    root = tmp_path_factory.mktemp("changes")
    (root / "headwater.toml").write_text(
        '[project]\nname = "shop"\ndefinitions = "shop.py"\n[env.dev.serve]\nburst = 5000\n'
    )
    (root / "shop.py").write_text(DEFINITIONS)
    cafe = Cafe(root)
    for version in range(VERSIONS):
        run(cafe, version)
    return cafe


@pytest.fixture(scope="module")
def client(shop):
    with shop.client() as client:
        yield client


@pytest.fixture(scope="module")
def keys(shop):
    return {
        "sales": sent(shop.key(scopes=["read"], roles=["sales-eu"], claims={"region": "EU"})),
        "blind": sent(shop.key(scopes=["read"], roles=["blind"])),
        "audit": sent(shop.key(scopes=["read"], roles=["audit"])),
    }


def paged(client, path, headers):
    rows = []
    while path:
        answer = client.get(path, headers=headers)
        assert answer.status_code == 200, answer.text
        rows, path = rows + answer.json()["rows"], answer.json()["next"]
    return rows


def counted(rows):
    return Counter(json.dumps(row) for row in rows)


def without(row, *names):
    return {name: value for name, value in row.items() if name not in names}


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("table", ["orders", "amounts"])
def test_changes_turn_the_rows_of_one_version_into_those_of_another(client, keys, table, caller):
    headers = keys[caller]
    versions = [paged(client, f"/v1/tables/{table}?version={n}", headers) for n in range(VERSIONS)]
    assert len({json.dumps(rows) for rows in versions}) >= VERSIONS - 1
    for before, after in itertools.combinations_with_replacement(range(VERSIONS), 2):
        rows = paged(client, f"/v1/tables/{table}/changes?since={before}&version={after}&limit=3", headers)
        changed = [without(row, "_change_type", "_changed") for row in rows]
        gone = [r for r, row in zip(changed, rows, strict=True) if row["_change_type"] in {"delete", "update_preimage"}]
        new = [r for r, row in zip(changed, rows, strict=True) if row["_change_type"] in {"insert", "update_postimage"}]
        old, now = counted(versions[before]), counted(versions[after])
        assert old - counted(gone) + counted(new) == now
        assert counted(gone) == old - now, "nothing that stays is told"
        assert all(bool(row["_changed"]) == row["_change_type"].startswith("update") for row in rows)
        if table == "orders" and caller != "blind":  # whose key is masked
            by_kind = Counter(row["_change_type"] for row in rows)
            seen = [{row["id"] for row in versions[n]} for n in (before, after)]
            assert by_kind["insert"] == len(seen[1] - seen[0])
            assert by_kind["delete"] == len(seen[0] - seen[1])
            assert by_kind["update_preimage"] == by_kind["update_postimage"]
        else:
            assert not any(row["_change_type"].startswith("update") for row in rows)


def test_what_a_policy_hides_does_not_change(shop, client, keys):
    rows = paged(client, "/v1/tables/orders/changes?since=0", keys["sales"])
    assert rows
    assert {name for row in rows for name in row} == {"_change_type", "_changed", "id", "region", "email", "amount"}
    assert not any("card" in row["_changed"] for row in rows)
    last = f"/v1/tables/orders/changes?since={VERSIONS - 2}"
    assert {tuple(row["_changed"]) for row in paged(client, last, keys["audit"])} == {("card",)}
    assert paged(client, last, keys["sales"]) == []
    refused = client.get("/v1/tables/orders/changes?since=0&card=eq.4", headers=keys["sales"])
    assert problem_of(refused)["problem"] == "there is no column 'card'"
    assert client.get("/v1/tables/orders/changes?since=0", headers=sent(shop.key(scopes=["read"]))).status_code == 404


def test_all_the_words_of_tables(client, keys):
    headers, path = keys["audit"], "/v1/tables/orders/changes?since=1&version=3"
    every = paged(client, path, headers)
    assert [(row["id"], row["_change_type"]) for row in every] == sorted(
        (row["id"], row["_change_type"]) for row in every
    )
    kinds = paged(client, f"{path}&select=_change_type,n:count()&order=_change_type", headers)
    assert {row["_change_type"]: row["n"] for row in kinds} == Counter(row["_change_type"] for row in every)
    amounts = paged(client, f"{path}&_changed=cs.{{amount}}&select=id,amount&order=amount.desc&limit=2", headers)
    expected = [row for row in every if "amount" in row["_changed"]]
    assert counted(amounts) == counted(
        without(row, "_changed", "_change_type", "region", "email", "card") for row in expected
    )
    exact = client.get(f"{path}&count=exact&limit=1", headers=headers)
    assert (exact.json()["count"], exact.headers["content-range"]) == (len(every), f"0-0/{len(every)}")
    planned = client.get(f"{path}&count=planned&limit=1", headers=headers)
    assert planned.headers["content-range"] == "0-0/*"
    text = client.get(f"{path}&limit=all", headers=headers | {"accept": "text/csv"}).text
    assert [row["_change_type"] for row in csv.DictReader(io.StringIO(text))] == [row["_change_type"] for row in every]
    same = client.get(path, headers=headers)
    assert same.headers["table-version"] == "3"
    again = client.get(path, headers=headers | {"if-none-match": same.headers["etag"]})
    assert again.status_code == 304
    other = client.get("/v1/tables/orders/changes?since=0&version=3", headers=headers)
    assert other.headers["etag"] != same.headers["etag"]
    assert client.get("/v1/tables/orders/changes?since=3", headers=headers).json()["rows"] == []


@pytest.mark.parametrize(
    ("query", "status", "problem"),
    [
        ("", 400, "'since' is missing"),
        ("since=", 400, "'since' takes a time"),
        ("since=soon", 400, "'since' takes a time"),
        ("since=-1", 400, "'since' takes a time"),
        ("since=2&version=1", 400, "'since' is later than version 1"),
        ("since=2020-01-01T00:00:00Z", 410, "table 'orders' cannot be read as of"),
        ("since=9", 404, "table 'orders' has no such version"),
        ("since=1&since=2", 400, "'since' is given twice"),
        ("since=1&at=-1h&version=2", 400, "'at' and 'version' are both given"),
        ("since=1&_change=eq.insert", 400, "there is no column '_change'"),
        ("since=1&select=amounts(card)", 400, "there is no column"),
        ("since=99999999999999999999", 400, "'since' takes an integer"),
    ],
)
def test_what_cannot_be_asked(client, keys, query, status, problem):
    answer = client.get(f"/v1/tables/orders/changes?{query}", headers=keys["audit"])
    assert answer.status_code == status
    assert problem in problem_of(answer)["problem"]


def test_a_table_with_a_column_of_that_name_cannot_tell_changes(client, keys):
    answer = client.get("/v1/tables/feed/changes?since=0", headers=keys["audit"])
    assert answer.status_code == 400
    assert (
        problem_of(answer)["problem"]
        == "the rows have a column '_change_type', which is the name of one that tells changes"
    )


def test_clients_follow_a_table(shop):
    """Who applies all changes to all rows has the rows of the newest version."""
    key = shop.key(roles=["audit"])
    with served(shop.project()) as url, ApiClient(url, key) as client:
        rows = {row["id"]: row for row in client.rows("orders", version=0)}
        version, changes = client.changes("orders", since=0, limit=2)

        async def ask():
            async with AsyncApiClient(url, key) as other:
                number, found = await other.changes("orders", since=0, limit=3)
                return number, [row async for row in found]

        told = list(changes)
        assert anyio.run(ask) == (version, told)
        for change in sorted(told, key=lambda row: row["_change_type"] in {"insert", "update_postimage"}):
            row = without(change, "_change_type", "_changed")
            if change["_change_type"] in {"delete", "update_preimage"}:
                assert rows.pop(row["id"]) == row
            else:
                rows[row["id"]] = row
        assert list(rows.values()) != list(client.rows("orders", version=0))
        assert sorted(rows.values(), key=lambda row: row["id"]) == list(client.rows("orders"))


def test_since_is_a_column_of_its_own_elsewhere(client, keys):
    answer = client.get("/v1/tables/orders?since=1", headers=keys["audit"])
    assert problem_of(answer)["problem"] == "there is no column 'since'"


def test_pages_and_kept_responses_as_new_versions_come(tmp_path):
    """A page stays of its versions; what is asked by a time is never answered from memory."""
    (tmp_path / "headwater.toml").write_text('[project]\nname = "shop"\ndefinitions = "shop.py"\n')
    (tmp_path / "shop.py").write_text(DEFINITIONS)
    cafe = Cafe(tmp_path)
    run(cafe, 0)
    run(cafe, 1)
    graphql = '{ orders(at: "2199-01-01T00:00:00Z", first: 1) { version } }'
    asked = [
        "/v1/tables/orders?at=2199-01-01T00:00:00Z&limit=1",
        "/v1/tables/orders/changes?since=2199-01-01T00:00:00Z",
        "/v1/tables/orders/changes?since=0",
    ]
    with cafe.client(key=cafe.key(roles=["audit"])) as client:
        first = client.get("/v1/tables/orders/changes?since=0&limit=1&count=exact").json()
        seen = [client.get(path).json()["version"] for path in asked for _ in range(3)]
        assert seen == [1] * 9
        for _ in range(3):
            assert client.get("/v1/graphql", params={"query": graphql}).json()["data"]["orders"]["version"] == 1
        run(cafe, 2)
        until = time.monotonic() + 10
        while client.get("/v1/tables/orders?limit=1").json()["version"] == 1 and time.monotonic() < until:
            time.sleep(0.1)
        assert [client.get(path).json()["version"] for path in asked] == [2, 2, 2]
        assert client.get("/v1/graphql", params={"query": graphql}).json()["data"]["orders"]["version"] == 2
        rest = paged(client, first["next"], {})
        assert len(rest) + 1 == first["count"]
