"""GraphQL shows what policies, scopes and settings allow, tells new versions to those who may know them, and records what was read."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from starlette.websockets import WebSocketDisconnect

from pipeline.governance.api_keys import ApiKeys
from pipeline.governance.audit_records import records
from pipeline.project.workspace import Workspace
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from serve import version_events
from serve.access import authentication
from serve.graphql import transport_ws
from tests.rigs.proofs import some
from tests.serve.graphql_requests import ACCEPT, PATH
from tests.serve.test_serve_access import ROWS, make, sent

PROTOCOL = "graphql-transport-ws"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return make(tmp_path_factory.mktemp("shop"), ROWS)


@pytest.fixture(scope="module")
def app(shop):
    with shop.client(key="") as client:
        yield client


@pytest.fixture(scope="module")
def sales(shop):
    return shop.key(scopes=["read"], roles=["sales-eu"], claims={"region": "EU"})


def ask(client, document, headers=None, **variables):
    return client.post(PATH, json={"query": document, "variables": variables}, headers=ACCEPT | (headers or {}))


@pytest.mark.parametrize(
    ("options", "readable"),
    [
        (None, {"totals"}),
        ({"scopes": ["read"], "roles": ["sales-eu"]}, {"orders", "totals", "plain"}),
        ({"scopes": ["read"], "roles": ["staff"]}, {"totals", "staff_only", "plain", "shown_silver"}),
        ({"scopes": ["read:pl*"], "roles": ["staff", "audit"]}, {"plain"}),
        ({"scopes": ["predict"]}, set()),
    ],
)
def test_a_table_that_a_caller_may_not_read_does_not_exist(app, shop, options, readable):
    headers = {} if options is None else sent(shop.key(**options))
    fields = ask(app, "{ __schema { queryType { fields { name } } } }", headers).json()["data"]["__schema"]
    names = {each["name"] for each in fields["queryType"]["fields"]}
    assert {name for name in names if not name.endswith(("_by_key", "_groups"))} - {"nothing"} == readable
    unknown = ask(app, "{ no_such { version } }", headers).json()["errors"][0]["message"]
    for name in ("orders", "totals", "staff_only", "plain", "hidden_silver", "shown_silver", "raw_orders"):
        answer = ask(app, f"{{ {name} {{ version }} }}", headers)
        assert answer.status_code == (200 if name in readable else 400), name
        if name not in readable:
            message = answer.json()["errors"][0]["message"].partition(" Did you mean")[0]
            assert message == unknown.partition(" Did you mean")[0].replace("no_such", name)
        if options is not None or name in readable:
            change = ask(app, f"subscription {{ tableChanged(table: {name}) {{ version }} }}", headers)
            assert (f"Value '{name}' does not exist" in change.text) is (name not in readable and bool(readable))


SELECTIONS = [
    "nodes { id email }", "nodes { x: email amount region __typename }", "nodes { card }", "edges { node { email } }", "totalCount", "nodes { id } totalCount pageInfo { hasNextPage }",
    "nodes { keys { region } count sum { amount } }", "nodes { keys { email } count }", "nodes { min { email } max { email } countDistinct { email region } }", "nodes { countDistinct { card } }",
]  # fmt: skip
WHERE = [
    "", 'email: {eq: "ann@example.com"}', 'email: {like: "*example*"}', 'email: {imatch: "bo|ann"}', 'email: {eq: "a***"}', 'card: {eq: "4000-1"}', "card: {isNull: false}", 'region: {eq: "US"}',
    'region: {neq: "EU"}', "region: {isNull: true}", 'or: [{region: {eq: "US"}}, {id: {gt: 0}}]', 'not: {region: {eq: "EU"}}', "id: {in: [2, 4, 5]}", "amount: {gte: 20}", 'email: {gt: "b"}', 'email: {search: "example"}',
]  # fmt: skip
PAGES = [
    "",
    "orderBy: [{email: DESC}]",
    "orderBy: [{card: ASC}]",
    "first: 1",
    "first: 2, orderBy: [{amount: DESC}]",
    "orderBy: [{min: {email: ASC}}]",
]


def test_attempts_to_get_round_a_policy_return_what_a_system_without_the_rest_returns(app, sales, tmp_path):
    """Each response is that of a project that never had the other rows, values and columns: 1,920 requests, or some of them."""
    alone = make(tmp_path / "alone", [row for row in ROWS if row[1] == "EU"], policies="", mask=True)
    compared = {200: 0, 400: 0}
    with alone.client(key=alone.key(scopes=["read"])) as client:
        attempts = list(itertools.product(("orders", "orders_groups"), SELECTIONS, WHERE, PAGES))
        for field, selection, where, page in some(attempts, 250):
            arguments = ", ".join(part for part in (where and f"where: {{{where}}}", page) if part)
            document = f"{{ {field}{f'({arguments})' if arguments else ''} {{ {selection} }} }}"
            mine, theirs = ask(app, document, sent(sales)), ask(client, document)
            assert (mine.status_code, mine.json()) == (theirs.status_code, theirs.json()), document
            compared[mine.status_code] += 1
        schema = app.get(f"{PATH}/schema", headers=sent(sales)).text.splitlines()
        theirs = client.get(f"{PATH}/schema").text.splitlines()
        kept = [line for line in theirs if "staff" not in line.lower() and "silver" not in line.lower()]
        schema = [line for line in schema if not line.startswith("enum TableName")]
        kept = [line for line in kept if not line.startswith("enum TableName")]
        assert [line for line in schema if line not in theirs] == []
        assert [line for line in kept if line not in schema and "orders_by_key" not in line] == []
    assert compared[200] > 50
    assert compared[400] > 50


def test_edited_cursors_show_nothing_more(app, sales, shop):
    audit = sent(shop.key(scopes=["read"], roles=["audit"]))
    page = "{ orders(first: 1, orderBy: [{amount: ASC}]AFTER) { nodes { id region } pageInfo { endCursor } } }"
    end = ask(app, page.replace("AFTER", ""), audit).json()["data"]["orders"]["pageInfo"]["endCursor"]
    following = ask(app, page.replace("AFTER", f', after: "{end}"'), sent(sales)).json()["data"]["orders"]["nodes"]
    assert {row["region"] for row in following} <= {"EU"}
    other = ask(app, page.replace("AFTER", f', after: "{end}"').replace("ASC", "DESC"), audit).json()
    assert other["errors"][0]["message"] == "'cursor' is not one of this query"


def test_responses_to_get_are_kept_by_rights(app, sales, shop):
    other = sent(shop.key(scopes=["read"], roles=["sales-us"], claims={"region": "US"}))
    url = f"{PATH}?query={{orders{{nodes{{region}}}}}}"
    for _ in range(3):
        mine = app.get(url, headers=sent(sales))
    assert mine.headers["cache-status"] == "headwater; hit"
    theirs = app.get(url, headers=other)
    assert "cache-status" not in theirs.headers
    assert {row["region"] for row in theirs.json()["data"]["orders"]["nodes"]} == {"US"}
    assert theirs.headers["etag"] != mine.headers["etag"]


def test_introspection_by_role(tmp_path):
    shop = make(tmp_path / "shop", ROWS, serve='graphql_introspection = ["dev-*"]')
    with shop.client(key="") as client:
        allowed, refused = sent(shop.key(roles=["dev-eu", "audit"])), sent(shop.key(roles=["audit"]))
        for document in (
            "{ __schema { types { name } } }",
            '{ __type(name: "Orders") { name } }',
            "{ a: __schema { queryType { name } } }",
        ):
            assert ask(client, document, allowed).status_code == 200
            answer = ask(client, document, refused)
            assert (answer.status_code, answer.json()["errors"][0]["extensions"]["code"]) == (403, "FORBIDDEN")
        assert client.get(f"{PATH}/schema", headers=allowed).status_code == 200
        assert client.get(f"{PATH}/schema", headers=refused).status_code == 403
        assert "Did you mean" in ask(client, "{ orderss { version } }", allowed).text
        assert "Did you mean" not in ask(client, "{ orderss { version } }", refused).text
        assert (
            ask(client, "{ orders { __typename } }", refused).json()["data"]["orders"]["__typename"]
            == "OrdersConnection"
        )


def test_only_trusted_documents_are_run(tmp_path):
    shop = make(tmp_path / "shop", ROWS, serve='graphql_trusted = "documents"')
    folder = shop.root / "documents"
    folder.mkdir()
    document = "query($n: Int) { plain(first: $n) { nodes { id } } }"
    (folder / "plain.graphql").write_text(document)
    (folder / "too_deep.graphql").write_text("{a" * 400)
    (folder / "other.txt").write_text("{ plain { version } }")
    digest = hashlib.sha256(document.encode()).hexdigest()
    with shop.client() as client:
        by_id = client.post(PATH, json={"documentId": f"sha256:{digest}", "variables": {"n": 1}})
        assert by_id.json() == {"data": {"plain": {"nodes": [{"id": "1"}]}}}
        apollo = {
            "extensions": json.dumps({"persistedQuery": {"version": 1, "sha256Hash": digest}}),
            "variables": '{"n": 2}',
        }
        assert client.get(PATH, params=apollo).json()["data"]["plain"]["nodes"] == [{"id": "1"}, {"id": "2"}]
        assert ask(client, document, n=1).status_code == 200
        for other in (f"{document} ", "{ plain { version } }", "{ __schema { queryType { name } } }"):
            answer = ask(client, other)
            assert (answer.status_code, answer.json()["errors"][0]["message"]) == (
                403,
                "the document is not one of the trusted ones",
            )
        unknown = client.post(PATH, json={"documentId": "sha256:0"})
        assert (unknown.status_code, unknown.json()["errors"][0]["message"]) == (404, "there is no document 'sha256:0'")
        added = "{ plain { totalCount } }"
        (folder / "added.graphql").write_text(added)
        time.sleep(1.1)
        assert ask(client, added).json()["data"]["plain"]["totalCount"] == 6


def test_every_request_is_recorded_with_the_hash_of_its_document(tmp_path):
    shop = make(tmp_path / "shop", ROWS)
    document = '{ orders(where: {email: {eq: "secret@example.com"}}) { nodes { id } } plain { nodes { id } } }'
    with shop.client(key=shop.key(scopes=["read"], roles=["audit"])) as client:
        ask(client, document)
        ask(client, "{ totals { nodes { region } } }")
        ask(client, "{ nope }")
        ask(client, "{ nope")
    found = [r for r in records(shop.root / ".headwater" / "audit" / "dev") if r["path"] == PATH]
    assert [(r["status"], r.get("table"), r.get("rows"), r.get("why")) for r in found] == [
        (200, "orders,plain", 6, "policy auditors; no policy names the table"),
        (200, "totals", 2, "policy everyone"),
        (400, None, None, None),
        (400, None, None, None),
    ]
    assert found[0]["document"] == hashlib.sha256(document.encode()).hexdigest()
    assert found[0]["versions"] == {"orders": 0, "plain": 0}
    assert "secret" not in json.dumps(found)


# Subscriptions


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(version_events, "EVERY_S", 0.02)
    monkeypatch.setattr(transport_ws, "_INIT_S", 0.3)


@contextmanager
def connected(client, payload=None, headers=None):
    """A connection whose first message was sent."""
    with client.websocket_connect(PATH, subprotocols=[PROTOCOL], headers=headers or {}) as session:
        session.send_json({"type": "connection_init"} | ({} if payload is None else {"payload": payload}))
        yield session


def closed(session):
    """The code with which a connection ends."""
    for _ in range(20):
        try:
            session.receive_json()
        except WebSocketDisconnect as end:
            return end.code
    return None


def commit(shop, client):
    (shop.root / "orders.csv").write_text("id,region,email,card,amount\n9,EU,z@example.com,1,2\n")
    Runner(shop.project(), RunOptions(full=True)).run()
    client.app.state.backend.tables._newest.clear()  # noqa: SLF001 - instead of waiting for a second


def subscribe(table, identifier="1", **since):
    arguments = f"table: {table}" + "".join(f", since: {value}" for value in since.values())
    document = f"subscription {{ changed: tableChanged({arguments}) {{ table version __typename }} }}"
    return {"id": identifier, "type": "subscribe", "payload": {"query": document}}


def event(table, version):
    return {"data": {"changed": {"table": table, "version": version, "__typename": "TableChange"}}}


@pytest.mark.usefixtures("quick")
def test_new_versions_are_told(tmp_path):
    shop = make(tmp_path / "shop", ROWS)
    key = shop.key(scopes=["read"], roles=["audit"])
    with shop.client(key="") as client, connected(client, {"Authorization": f"Bearer {key}"}) as session:
        assert session.receive_json() == {"type": "connection_ack"}
        session.send_json({"type": "ping"})
        assert session.receive_json() == {"type": "pong"}
        session.send_json(subscribe("orders"))
        session.send_json(subscribe("plain", "2", since=7))
        assert session.receive_json() == {"id": "2", "type": "next", "payload": event("plain", 0)}
        session.send_json({"id": "2", "type": "complete"})
        commit(shop, client)
        assert session.receive_json() == {"id": "1", "type": "next", "payload": event("orders", 1)}
        session.send_json(subscribe("staff_only", "3"))
        refused = session.receive_json()
        assert (refused["id"], refused["type"]) == ("3", "error")
        assert "does not exist" in refused["payload"][0]["message"]
        session.send_json({"id": "4", "type": "subscribe", "payload": {"query": "{ plain { version } }"}})
        assert session.receive_json()["payload"][0]["message"] == "the operation is not a subscription"
        session.send_json({"id": "5", "type": "subscribe", "payload": {"query": "{" * 100}})
        assert session.receive_json()["type"] == "error"
    found = [r for r in records(shop.root / ".headwater" / "audit" / "dev") if r["method"] == "SUBSCRIBE"]
    # each is recorded when it is subscribed, in a task of its own
    assert sorted((r["status"], r.get("table"), r.get("why")) for r in found if r["status"] == 101) == [
        (101, "orders", "policy auditors"),
        (101, "plain", "no policy names the table"),
    ]
    assert len(found) == 5


@pytest.mark.usefixtures("quick")
def test_the_protocol_closes_connections_as_it_says(app, sales):
    with pytest.raises(WebSocketDisconnect) as end, app.websocket_connect(PATH, subprotocols=["graphql-ws"]) as session:
        session.receive_json()
    assert end.value.code == 4406
    for first, code in (
        ({"type": "subscribe", "id": "1", "payload": {}}, 4401),
        ({"type": "hello"}, 4400),
        ([], 4400),
        (None, 4408),
    ):
        with app.websocket_connect(PATH, subprotocols=[PROTOCOL]) as session:
            if first is not None:
                session.send_json(first)
            assert closed(session) == code
    for payload in (
        {"Authorization": "Bearer hw_wrong"},
        {"authorization": 1},
        {"Authorization": "x", "authorization": "y"},
    ):
        with connected(app, payload) as session:
            assert closed(session) == 4403
    with connected(app, None, {"Authorization": "Bearer hw_wrong"}) as session:
        assert closed(session) == 4403
    good = {"Authorization": f"Bearer {sales}"}
    for after, code in (
        ([{"type": "connection_init"}], 4429),
        ([subscribe("orders"), subscribe("orders")], 4409),
        ([{"type": "subscribe", "payload": {}}], 4400),
        ([{"type": "nope"}], 4400),
        ([{"type": "ping", "x": "x" * 70_000}], 1009),
    ):
        with connected(app, good) as session:
            for message in after:
                session.send_json(message)
            assert closed(session) == code, after


@pytest.mark.usefixtures("quick")
def test_a_revoked_key_ends_its_subscriptions(tmp_path, monkeypatch):
    shop = make(tmp_path / "shop", ROWS)
    project = shop.project()
    keys = ApiKeys(Workspace(project).catalog, project.settings.env)
    text, key = keys.create("app", scopes=["read"], roles=["audit"])
    monkeypatch.setattr(authentication, "EVERY_S", 0.0)
    with shop.client(key="") as client, connected(client, {"Authorization": f"Bearer {text}"}) as session:
        session.send_json(subscribe("orders"))
        assert session.receive_json() == {"type": "connection_ack"}
        time.sleep(0.2)
        keys.revoke(key.id)
        assert closed(session) == 4403


@pytest.mark.usefixtures("quick")
def test_a_caller_has_only_so_many_subscriptions(app, sales, monkeypatch):
    monkeypatch.setattr(version_events, "MOST_OF_A_CALLER", 3)
    with connected(app, {"Authorization": f"Bearer {sales}"}) as session:
        assert session.receive_json() == {"type": "connection_ack"}
        for number in range(4):
            session.send_json(subscribe("orders", str(number)))
        assert session.receive_json()["payload"][0]["message"] == "there are too many subscriptions"
        session.send_json({"id": "0", "type": "complete"})
        time.sleep(0.2)
        session.send_json(subscribe("orders", "again", since=9))
        assert session.receive_json()["id"] == "again"


@pytest.mark.usefixtures("quick")
def test_a_caller_has_only_so_many_connections(app, sales, monkeypatch):
    monkeypatch.setattr(version_events, "MOST_OF_A_CALLER", 2)
    payload = {"Authorization": f"Bearer {sales}"}
    with connected(app, payload) as one, connected(app, payload) as two, connected(app, payload) as three:
        assert [each.receive_json() for each in (one, two)] == [{"type": "connection_ack"}] * 2
        assert closed(three) == 4429
        one.send_json({"type": "ping"})
        assert one.receive_json() == {"type": "pong"}


@pytest.mark.usefixtures("quick")
def test_new_versions_as_server_sent_events_until_the_key_is_revoked(tmp_path, monkeypatch):
    shop = make(tmp_path / "shop", ROWS)
    project = shop.project()
    keys = ApiKeys(Workspace(project).catalog, project.settings.env)
    text, key = keys.create("app", scopes=["read"], roles=["audit"])
    monkeypatch.setattr(authentication, "EVERY_S", 0.0)
    document = "subscription { tableChanged(table: orders, since: 7) { version } }"
    with shop.client(key=text) as client, ThreadPoolExecutor() as pool:

        def revoke():
            time.sleep(0.5)
            keys.revoke(key.id)

        pool.submit(revoke)
        answer = client.get(PATH, params={"query": document}, headers={"Accept": "text/event-stream"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert 'event: next\ndata: {"data": {"tableChanged": {"version": 0}}}\n\n' in answer.text
    assert answer.text.endswith("event: complete\ndata:\n\n")
    assert "the key is not valid" in answer.text
