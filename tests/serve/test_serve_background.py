"""SQL in the background: results are those of the caller who asked, bounded, and removed after a while."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.governance.api_keys import ApiKeys
from pipeline.governance.audit_records import records
from pipeline.project.workspace import Workspace
from serve.access import authentication
from serve.access.caller import Caller
from serve.background import rows as background_rows
from serve.background import store as query_store
from serve.background.records import ACTIVE, BackgroundQuery, BackgroundWork, QueryStatus, read_status, write
from serve.http_errors import HttpError
from serve.queries.formats import MEDIA_TYPES
from tests.rigs.proofs import SEED
from tests.serve.conftest import open_cafe, problem_of
from tests.serve.test_serve_access import ROWS, make, sent

NAMES = "abcdefghijklmnopqrstuvwx"
LONG = (
    f"select count(*) as n from {', '.join(f'orders {name}' for name in NAMES)} "
    f"where {' + '.join(f'{name}.id' for name in NAMES)} = 47"
)
"""Hours."""
ASYNC = {"Prefer": "respond-async"}
SALES = {"scopes": ["read", "query"], "roles": ["sales-eu"], "claims": {"region": "EU"}}


@pytest.fixture(autouse=True)
def _many(monkeypatch):
    """One caller submits all."""
    monkeypatch.setattr(query_store, "MOST_OF_A_CALLER", 1_000)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return make(tmp_path_factory.mktemp("shop"), ROWS)


@pytest.fixture(scope="module")
def client(shop):
    with shop.client(key=shop.key(**SALES)) as client:
        yield client


def submit(client, sql, limit=None, **headers):
    body = {"sql": sql} | ({} if limit is None else {"limit": limit})
    answer = client.post("/v1/query", json=body, headers=ASYNC | headers)
    assert answer.status_code == 202, answer.text
    assert answer.headers["preference-applied"] == "respond-async"
    assert answer.headers["location"] == f"/v1/query/{answer.json()['id']}"
    return answer.headers["location"]


def ended(client, path, **headers):
    until = time.monotonic() + 30
    while (status := client.get(path, headers=headers).json())["status"] in {"queued", "running"}:
        assert time.monotonic() < until, status
        time.sleep(0.02)
    return status


def folder_of(shop, path):
    return shop.root / ".headwater" / "queries" / "dev" / path.rpartition("/")[2]


def test_rows_are_those_of_the_request_in_every_form(client, shop):
    sql = "select id, region, email, amount, [amount] as l, {'a': region} as s, amount::decimal(9, 2) as d, timestamptz '2026-01-01 00:00:00+00' as t, date '2026-01-01' as day, 'x'::blob as b from orders order by id desc"
    path = submit(client, sql)
    status = ended(client, path)
    assert (status["status"], status["row_count"], status["is_truncated"]) == ("done", 3, False)
    assert status["versions"] == {"orders": 0}
    assert "problem" not in status
    direct = client.post("/v1/query", json={"sql": sql})
    body = client.get(f"{path}/rows").json()
    assert body["rows"] == direct.json()["rows"]
    assert body["columns"] == direct.json()["columns"] == status["columns"]
    assert body["next"] is None
    for media_type in MEDIA_TYPES[1:]:
        for limit in ("2", "all"):
            kept = client.get(f"{path}/rows", params={"limit": limit}, headers={"Accept": media_type})
            asked = {"sql": sql, "limit": 2 if limit == "2" else limit}
            now = client.post("/v1/query", json=asked, headers={"Accept": media_type})
            assert kept.headers["content-type"].partition(";")[0] == media_type
            assert table_of(kept, media_type) == table_of(now, media_type)
    again = client.get(f"{path}/rows")
    same = client.get(f"{path}/rows", headers={"If-None-Match": again.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    assert client.delete(path).status_code == 204
    assert (
        client.delete(path).status_code == client.get(path).status_code == client.get(f"{path}/rows").status_code == 404
    )
    assert not folder_of(shop, path).exists()


def table_of(answer, media_type):
    if "arrow" in media_type:
        return pa.ipc.open_stream(answer.content).read_all()
    return pq.read_table(io.BytesIO(answer.content)) if "parquet" in media_type else answer.content


def test_pages_of_several_files_have_each_row_once(client, monkeypatch):
    monkeypatch.setattr(background_rows, "_FILE_ROWS", 4)
    monkeypatch.setattr(background_rows, "_GROUP_ROWS", 1)
    monkeypatch.setattr("serve.queries.engine._BATCH_ROWS", 2)
    path = submit(client, "select a.id as a, b.id as b from orders a, orders b, orders c order by 1, 2")
    assert ended(client, path)["row_count"] == 27
    expected = [(a, b) for a in (1, 3, 6) for b in (1, 3, 6) for _ in range(3)]
    for limit in (1, 3, 4, 5, 27, 100):
        rows, following = [], f"{path}/rows?limit={limit}"
        while following:
            answer = client.get(following)
            assert len(answer.json()["rows"]) <= limit
            rows += [(each["a"], each["b"]) for each in answer.json()["rows"]]
            following = answer.json()["next"]
            assert ("link" in answer.headers) == (following is not None)
        assert rows == expected
    assert client.get(f"{path}/rows", params={"offset": 27}).json()["rows"] == []
    assert client.get(f"{path}/rows", params={"offset": 10_000_000}).json()["rows"] == []


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_limit_cuts_the_result(client, limit):
    path = submit(client, "select id from orders order by id", limit)
    status = ended(client, path)
    assert (status["row_count"], status["is_truncated"]) == (limit, limit < 3)
    assert [each["id"] for each in client.get(f"{path}/rows").json()["rows"]] == [1, 3, 6][:limit]


def test_no_rows_have_columns(client):
    path = submit(client, "select id, email from orders where id < 0")
    assert ended(client, path)["row_count"] == 0
    body = client.get(f"{path}/rows").json()
    assert (body["rows"], [each["name"] for each in body["columns"]]) == ([], ["id", "email"])
    arrow = client.get(f"{path}/rows?limit=all", headers={"Accept": MEDIA_TYPES[2]})
    assert pa.ipc.open_stream(arrow.content).read_all().column_names == ["id", "email"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"sql": "select * from staff_only"}, 400),
        ({"sql": "select card from orders"}, 400),
        ({"sql": "copy orders to 'x'"}, 400),
        ({"sql": "select 1 as x", "limit": 0}, 400),
        ({"sql": "select 1 as x", "limit": True}, 400),
        ({"sql": "select 1 as x", "limit": "some"}, 400),
        ({"sql": "select 1 as x", "limits": 1}, 400),
        ({}, 400),
    ],
)
def test_wrong_statements_are_refused_when_they_are_submitted(client, body, status):
    assert client.post("/v1/query", json=body, headers=ASYNC).status_code == status


def test_errors_of_a_statement_are_in_its_status(client):
    path = submit(client, "select cast(email as integer) as x from orders")
    status = ended(client, path)
    assert status["status"] == "failed"
    assert status["problem"]["detail"] == "the query cannot be computed"
    assert "***" not in json.dumps(status), "values are not for the log of a client"
    refused = client.get(f"{path}/rows")
    assert (refused.status_code, problem_of(refused)["got"]) == (409, "the query cannot be computed")


def test_a_query_that_runs_is_cancelled(client):
    path = submit(client, LONG)
    behind = submit(client, "select 1 as one")
    wait_until_running(client, path)
    assert client.get(path).headers["retry-after"] == "1"
    assert client.get(behind).json()["status"] == "queued", "one runs at a time"
    early = client.get(f"{path}/rows")
    assert (early.status_code, problem_of(early)["problem"]) == (409, "the query is running")
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: client.delete(path).status_code, range(4)))
    assert set(answers) <= {202, 204, 404}
    assert answers.count(204) <= 1
    if 204 not in answers:
        assert ended(client, path)["status"] == "cancelled"
    assert ended(client, behind)["status"] == "done"


def test_one_that_waits_is_cancelled_at_once(client):
    path, behind = submit(client, LONG), submit(client, LONG)
    assert client.delete(behind).status_code == 202
    assert client.get(behind).json()["status"] == "cancelled"
    assert client.delete(behind).status_code == 204
    client.delete(path)
    ended(client, path)
    after = submit(client, "select 1 as one")
    assert ended(client, after)["status"] == "done", "the server goes on"


def test_a_request_has_its_rows_while_a_query_runs(client):
    path = submit(client, LONG)
    begun = time.monotonic()
    for number in range(5):
        assert client.post("/v1/query", json={"sql": f"select id + {number} as x from orders"}).status_code == 200
    assert time.monotonic() - begun < 10
    client.delete(path)
    ended(client, path)


def test_another_caller_finds_nothing(client, shop):
    path = submit(client, "select id from orders")
    ended(client, path)
    unknown = client.get("/v1/query/" + "0" * 32)
    assert unknown.status_code == 404
    for options in (SALES, {"scopes": ["read", "query", "operate"], "roles": ["audit"]}):
        other = sent(shop.key(**options))
        for answer in (
            client.get(path, headers=other),
            client.get(f"{path}/rows", headers=other),
            client.delete(path, headers=other),
        ):
            assert answer.status_code == 404
            assert answer.json()["detail"] == unknown.json()["detail"]
    assert client.get(path, headers=sent(shop.key(scopes=["read"]))).status_code == 403
    assert client.get(path, headers={"Authorization": ""}).status_code == 401
    assert (
        client.post(
            "/v1/query", json={"sql": "select 1 as x"}, headers=ASYNC | sent(shop.key(scopes=["read"]))
        ).status_code
        == 403
    )
    assert client.get(path).status_code == 200


@pytest.mark.parametrize(
    "query_id",
    [
        "..",
        "%2e%2e",
        "..%2f..%2fsecret",
        "x" * 32,
        "0" * 31,
        "0" * 33,
        "A" * 32,
        "%00",
        "0" * 32 + "%0a",
        "*",
        "\u0660" * 32,
    ],
)
def test_an_id_is_no_path(client, query_id):
    for method in ("GET", "DELETE"):
        for tail in ("", "/rows"):
            answer = client.request(method, f"/v1/query/{query_id}{tail}")
            assert answer.status_code in {404, 405}, (method, query_id)
            assert "headwater" not in answer.json()["detail"]


def test_a_caller_lists_its_own_queries(client, shop):
    mine, other = sent(shop.key(**SALES)), sent(shop.key(**SALES))
    paths = [submit(client, f"select {n} as x", **mine) for n in range(3)]
    for path in paths:
        ended(client, path, **mine)
    listed = client.get("/v1/queries", headers=mine).json()["queries"]
    assert [each["id"] for each in listed] == [path.rpartition("/")[2] for path in reversed(paths)]
    assert listed[0] == client.get(paths[2], headers=mine).json()
    assert client.get("/v1/queries", headers=other).json() == {"queries": []}
    assert client.get("/v1/queries", headers=sent(shop.key(scopes=["read"]))).status_code == 403
    assert client.get("/v1/queries?x=1").status_code == 400


def test_a_key_that_is_revoked_and_rights_that_change_end_access(tmp_path, monkeypatch):
    monkeypatch.setattr(authentication, "EVERY_S", 0.0)
    shop = make(tmp_path, ROWS)
    keys = ApiKeys(Workspace(shop.project()).catalog, "dev")
    text, key = keys.create("a test", **SALES)
    with shop.client(key=text) as client:
        path = submit(client, "select id from orders order by id")
        assert ended(client, path)["status"] == "done"
    definitions = (shop.root / "shop.py").read_text()
    for change in (("region = claim('region')", "region = claim('country')"), ('roles="sales-*"', 'roles="sales"')):
        (shop.root / "shop.py").write_text(definitions.replace(*change))
        with shop.client(key=text) as client:
            assert client.get(path).status_code == 200
            gone = client.get(f"{path}/rows")
            assert (gone.status_code, "rows" in gone.json()) == (410, False)
    (shop.root / "shop.py").write_text(definitions)
    with shop.client(key=text) as client:
        assert len(client.get(f"{path}/rows").json()["rows"]) == 3
        keys.revoke(key.id)
        assert client.get(f"{path}/rows").status_code == 401


def test_a_caller_has_so_many_queries(client, shop, monkeypatch):
    monkeypatch.setattr(query_store, "MOST_OF_A_CALLER", 2)
    key = sent(shop.key(**SALES))
    first = submit(client, "select 1 as x", **key)
    submit(client, "select 2 as x", **key)
    refused = client.post("/v1/query", json={"sql": "select 3 as x"}, headers=ASYNC | key)
    assert refused.status_code == 429
    submit(client, "select 3 as x", **sent(shop.key(**SALES)))
    ended(client, first, **key)
    assert client.delete(first, headers=key).status_code == 204
    submit(client, "select 3 as x", **key)
    monkeypatch.setattr(query_store, "MOST_QUERIES", 2)
    busy = client.post("/v1/query", json={"sql": "select 3 as x"}, headers=ASYNC | sent(shop.key(**SALES)))
    assert busy.status_code == 503


@contextmanager
def limited(shop, settings):
    file = shop.root / "headwater.toml"
    before = file.read_text()
    file.write_text(before + settings)
    try:
        with shop.client(key=shop.key(**SALES)) as client:
            yield client
    finally:
        file.write_text(before)


def test_a_result_that_is_too_large_fails_and_leaves_nothing(shop, monkeypatch):
    monkeypatch.setattr(background_rows, "_GROUP_ROWS", 1_000)
    with limited(shop, "\nresult_bytes = 200_000\n") as client:
        path = submit(
            client,
            "select a.id * b.id * c.amount * d.id / (e.id + f.id) as x, row_number() over () as y from orders a, orders b, orders c, orders d, orders e, orders f, orders g, orders h, orders i, orders j",
        )
        status = ended(client, path)
        assert status["status"] == "failed"
        assert status["problem"]["detail"] == "the result is too large"
        assert not list(folder_of(shop, path).glob("*.parquet"))


def test_a_query_that_takes_too_long_fails(shop):
    with limited(shop, "\nbackground_seconds = 1\n") as client:
        path = submit(client, LONG)
        status = ended(client, path)
        assert status["problem"] == {
            "detail": "the query takes too long",
            "got": "more than 1 s",
            "do": "use filters, or fewer columns",
        }


def test_results_expire(shop, monkeypatch):
    monkeypatch.setattr("serve.background.queries.SWEEPS_EVERY_S", 0.05)
    with limited(shop, "\nresult_seconds = 1\n") as client:
        path = submit(client, "select 1 as x")
        folder = folder_of(shop, path)
        assert folder.exists()
        until = time.monotonic() + 20
        while folder.exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        assert client.get(path).status_code == 404


def test_without_space_there_are_no_queries_in_the_background(shop):
    with limited(shop, "\nresult_bytes = 0\n") as client:
        answer = client.post("/v1/query", json={"sql": "select 1 as x"}, headers=ASYNC)
        assert (answer.status_code, answer.json()["rows"]) == (200, [{"x": 1}])
        assert client.get("/v1/query/" + "0" * 32).status_code == 404
        assert "/v1/query/{query_id}" not in client.get("/openapi.json").json()["paths"]


def test_files_are_for_the_server_only(client, shop):
    path = submit(client, "select id from orders")
    ended(client, path)
    folder = folder_of(shop, path)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = list(folder.iterdir())
    assert {file.name for file in files} == {"lock", "query.json", "status.json", "00000.parquet"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert "select" not in (folder / "query.json").read_text()


def test_a_server_that_ends_hands_its_queries_over(shop, monkeypatch):
    monkeypatch.setattr("serve.background.queries.LOOKS_EVERY_S", 0.05)
    key = shop.key(**SALES)
    with shop.client(key=key) as client:
        running, waiting = submit(client, LONG), submit(client, "select id from orders order by id", 2)
        wait_until_running(client, running)
    assert stat.S_IMODE((folder_of(shop, running) / "work.json").stat().st_mode) == 0o600
    with shop.client(key=key) as client, shop.client(key=key) as other:
        wait_until_running(client, running)
        assert other.delete(running).status_code == 202
        assert ended(other, running)["status"] == "cancelled"
        status = ended(other, waiting)
        assert (status["status"], status["row_count"], status["is_truncated"]) == ("done", 2, True)
        assert client.get(f"{waiting}/rows").json()["rows"] == [{"id": 1}, {"id": 3}]
        assert not (folder_of(shop, waiting) / "work.json").exists()


def test_what_was_handed_over_is_taken_once_and_fails_in_the_end(tmp_path):
    query = BackgroundQuery("1" * 32, "key", "c", "", time.time(), (("a", "INTEGER"),), {})
    store, caller = query_store.QueryStore(tmp_path, 1 << 30, 60), Caller("c", "key")
    work = BackgroundWork("select cast(? as integer) as a", ("1",), 5)
    store.hand_over(store.create(query), work)
    assert store.find(query.id, caller)[1].state == "queued"
    with ThreadPoolExecutor(8) as threads:
        taken = [each for each in threads.map(lambda _: store.take_over(), range(8)) if each is not None]
    [(held, found)] = taken
    assert (held.query, found) == (query, work)
    store.hand_over(held, work)
    store.cancel(query.id)
    assert store.find(query.id, caller)[1].state == "cancelled"
    late = query_store.QueryStore(tmp_path, 1 << 30, 60, clock=lambda: time.time() + 61)
    status = late.find(query.id, caller)[1]
    assert (status.state, status.problem["detail"]) == ("failed", "the server was stopped")
    assert store.take_over() is None


REPLICA = """
import sys, time, warnings
warnings.filterwarnings("ignore")
from pathlib import Path
from tests.serve.conftest import Cafe

cafe = Cafe(Path(sys.argv[1]))
with cafe.client(key=sys.argv[2]) as client:
    for _ in range(2):
        answer = client.post("/v1/query", json={"sql": sys.argv[3]}, headers={"Prefer": "respond-async"})
        print(answer.headers["location"], flush=True)
    time.sleep(600)
"""


def test_another_server_answers_cancels_and_sees_one_that_was_killed(shop):
    key = shop.key(**SALES)
    command = [sys.executable, "-c", REPLICA, str(shop.root), key, LONG]
    with (
        shop.client(key=key) as client,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process,
    ):
        try:
            first, second = (process.stdout.readline().strip() for _ in range(2))
            wait_until_running(client, first)
            assert client.get(second).json()["status"] == "queued"
            assert client.delete(first).status_code == 202
            assert ended(client, first)["status"] == "cancelled"
            wait_until_running(client, second)
            process.send_signal(signal.SIGKILL)
            process.wait()
            status = client.get(second).json()
            assert (status["status"], status["problem"]["detail"]) == ("failed", "the server was stopped")
            assert client.delete(second).status_code == 204
        finally:
            process.kill()


def wait_until_running(client, path):
    until = time.monotonic() + 30
    while client.get(path).json()["status"] != "running":
        assert time.monotonic() < until
        time.sleep(0.02)


def test_what_killed_servers_have_left_is_removed(shop, monkeypatch):
    folder = shop.root / ".headwater" / "queries" / "dev"
    (folder / ".half").mkdir(parents=True, exist_ok=True)
    (folder / ("f" * 32)).mkdir()
    key = shop.key(**SALES)
    with shop.client(key=key) as client:
        path = submit(client, "select 1 as x")
        ended(client, path)
    write(folder_of(shop, path), QueryStatus("done", expires_at=1.0))
    monkeypatch.setattr(query_store, "_LEFT_OVER_S", -1.0)
    with shop.client(key=key):
        until = time.monotonic() + 10
        while folder_of(shop, path).exists() or (folder / ".half").exists() or (folder / ("f" * 32)).exists():
            assert time.monotonic() < until
            time.sleep(0.02)


def test_readers_see_a_status_or_the_one_before(tmp_path):
    write(tmp_path, QueryStatus())
    statuses = [QueryStatus("running", rows=n, problem={"detail": "x" * 5000}) for n in range(300)]
    seen: list[int] = []
    writer = threading.Thread(target=lambda: [write(tmp_path, each) for each in statuses])
    writer.start()
    while writer.is_alive():
        seen.append(read_status(tmp_path).rows)
    writer.join()
    assert seen == sorted(seen)
    assert [each.name for each in tmp_path.iterdir()] == ["status.json"]


def test_requests_about_queries_are_recorded(tmp_path):
    shop = make(tmp_path, ROWS)
    with shop.client(key=shop.key(**SALES)) as client:
        path = submit(client, "select id from orders")
        ended(client, path)
        client.get(f"{path}/rows")
        client.delete(path)
    found = list(records(shop.root / ".headwater" / "audit" / "dev"))
    about = [each for each in found if each.get("query") == path.rpartition("/")[2]]
    assert {each["method"] for each in about} == {"POST", "GET", "DELETE"}
    assert {each["table"] for each in about} == {"orders"}
    assert [each["rows"] for each in about if each["path"].endswith("/rows")] == [3]
    assert not [each for each in found if "select" in json.dumps(each)]


def test_memory_is_bounded_by_parts(tmp_path, monkeypatch):
    """Few batches are in memory, however many rows the result has."""
    cafe = open_cafe(tmp_path)
    most = 0

    class Watched(pq.ParquetWriter):
        def write_table(self, table, *args, **options):
            nonlocal most
            most = max(most, table.num_rows)
            super().write_table(table, *args, **options)

    monkeypatch.setattr(background_rows.pq, "ParquetWriter", Watched)
    names = ", ".join(f"cafe_orders {x}" for x in "abcdefghi")
    with cafe.client() as client:
        path = submit(client, f"select a.order_id from {names}", 500_000)
        assert ended(client, path)["row_count"] == 500_000
    assert most <= (1 << 17) + 8_192


@pytest.mark.proof
def test_servers_that_create_end_remove_and_sweep_at_once_disturb_no_other(tmp_path, monkeypatch):
    """A query that is held is never taken for one whose server has stopped, and in the end nothing is left."""
    monkeypatch.setattr(query_store, "_LEFT_OVER_S", 0.5)
    callers = [Caller(f"c{number}", "key") for number in range(3)]
    until = time.monotonic() + 5

    def work(number: int) -> None:
        draw = random.Random(SEED * 10 + number)  # noqa: S311 - a reproducible seed
        store, held = query_store.QueryStore(tmp_path / "q", 1 << 30, 0.2), []
        while time.monotonic() < until:
            caller = draw.choice(callers)
            names = [each.name for each in (tmp_path / "q").glob("[0-9a-f]*")] or ["0" * 32]
            query_id = draw.choice(names)
            with suppress(HttpError):
                match draw.randrange(6):
                    case 0 if len(held) < 10:
                        query = BackgroundQuery(uuid.uuid4().hex, "key", caller.id, "", time.time(), (), {})
                        held.append(store.create(query))
                    case 1 if held:
                        each = held.pop(draw.randrange(len(held)))
                        assert read_status(each.folder).state in ACTIVE
                        store.end(each, QueryStatus(draw.choice(["done", "failed", "cancelled"])))
                    case 2:
                        store.cancel(query_id)
                    case 3:
                        if store.find(query_id, caller)[1].state not in {"queued", "running", "cancelled"}:
                            store.remove(query_id)
                    case 4:
                        assert all(query.caller == caller.id for query, _ in store.of(caller))
                    case _:
                        store.sweep()
        for each in held:
            store.end(each, QueryStatus("done"))

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(6)))
    time.sleep(0.6)
    last = query_store.QueryStore(tmp_path / "q", 1 << 30, 0.2)
    last.sweep()
    assert list((tmp_path / "q").iterdir()) == []
