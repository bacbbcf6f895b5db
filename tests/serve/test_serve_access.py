"""Callers see what the policies for them show, whatever they ask: as if the rest did not exist."""

from __future__ import annotations

import base64
import itertools
import json
from datetime import timedelta

import pytest
from typer.testing import CliRunner

from cluster.cli.app import app as headwater
from pipeline.governance.api_keys import ApiKeys, _new_key
from pipeline.governance.audit_records import records, verify
from pipeline.project.workspace import Workspace
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from serve.access import authentication
from serve.queries.formats import MEDIA_TYPES
from tests.rigs.proofs import some
from tests.serve.conftest import Cafe, problem_of

ROWS = [
    (1, "EU", "ann@example.com", "4000-1", 10.0),
    (2, "US", "bo@example.com", "4000-2", 20.0),
    (3, "EU", "cy@example.com", "4000-3", 30.0),
    (4, "US", "di@example.com", "4000-4", 7.5),
    (5, None, "ed@example.com", "4000-5", 1.0),
    (6, "EU", "fay@example.com", "4000-6", 30.0),
]
DEFINITIONS = """
from pathlib import Path

from pipeline import access_policy, files, mart, source, sql

raw_orders = source(files(Path(__file__).parent / "orders.csv"), schema={
    "id": "bigint", "region": "varchar", "email": "varchar", "card": "varchar", "amount": "double",
})
orders = mart("select id, region, email, card, amount from raw_orders", key="id")
totals = mart("select region, sum(amount) as amount from raw_orders group by region", key="region")
staff_only = mart("select id from raw_orders", key="id")
plain = mart("select id, amount from raw_orders", key="id")
hidden_silver = sql("select * from raw_orders", key="id")
shown_silver = sql("select id from raw_orders", key="id")
"""
POLICIES = """
sales = access_policy(
    "orders", roles="sales-*", rows="region = claim('region')", mask={"email": "left(email, 1) || '***'"}, hide="card"
)
auditors = access_policy("orders", roles="audit")
everyone = access_policy("totals", public=True)
staff = access_policy("staff_only", "shown_silver", roles="staff")
"""


def make(root, rows, *, policies=POLICIES, mask=False, serve="") -> Cafe:
    """A project with these rows; with `mask`, as if the source had what the policy shows of them."""
    root.mkdir(exist_ok=True)
    (root / "headwater.toml").write_text(
        f'[project]\nname = "shop"\ndefinitions = "shop.py"\n[env.dev.serve]\nburst = 5000\n{serve}'
    )
    definitions = DEFINITIONS
    if mask:
        definitions = definitions.replace('"card": "varchar", ', "").replace(" card,", "")
        rows = [(i, region, email[0] + "***", amount) for i, region, email, _, amount in rows]
    (root / "shop.py").write_text(definitions + policies)
    lines = [",".join("" if value is None else str(value) for value in row) for row in rows]
    head = "id,region,email,amount" if mask else "id,region,email,card,amount"
    (root / "orders.csv").write_text("\n".join([head, *lines]) + "\n")
    cafe = Cafe(root)
    Runner(cafe.project(), RunOptions()).run()
    return cafe


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return make(tmp_path_factory.mktemp("shop"), ROWS)


@pytest.fixture(scope="module")
def app(shop):
    with shop.client(key="") as client:
        yield client


def sent(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def keys(shop):
    return {
        "sales": shop.key(scopes=["read"], roles=["sales-eu"], claims={"region": "EU"}),
        "sales without a region": shop.key(scopes=["read"], roles=["sales-eu"]),
        "audit": shop.key(scopes=["read"], roles=["audit"]),
        "staff": shop.key(scopes=["read"], roles=["staff"]),
        "nobody": shop.key(scopes=["read"]),
        "predicts": shop.key(scopes=["predict"]),
        "one table": shop.key(scopes=["read:pl*"], roles=["staff", "audit"]),
    }


@pytest.mark.parametrize(
    ("caller", "readable"),
    [
        (None, {"totals"}),
        ("sales", {"orders", "totals", "plain"}),
        ("audit", {"orders", "totals", "plain"}),
        ("staff", {"totals", "staff_only", "plain", "shown_silver"}),
        ("nobody", {"totals", "plain"}),
        ("predicts", set()),
        ("one table", {"plain"}),
    ],
)
def test_a_table_that_a_caller_may_not_read_does_not_exist(app, keys, caller, readable):
    headers = {} if caller is None else sent(keys[caller])
    listed = app.get("/v1/tables", headers=headers).json()["tables"]
    assert {each["name"] for each in listed} == readable
    described = app.get("/openapi.json", headers=headers).json()["paths"]
    assert {path.split("/")[3] for path in described if path.startswith("/v1/tables/")} == readable
    unknown = app.get("/v1/tables/no_such_table", headers=headers)
    for name in ("orders", "totals", "staff_only", "plain", "hidden_silver", "shown_silver", "raw_orders"):
        answer = app.get(f"/v1/tables/{name}", headers=headers)
        assert answer.status_code == (200 if name in readable else 404), name
        if name not in readable:
            assert answer.json()["detail"] == unknown.json()["detail"].replace("no_such_table", name)


def test_rows_and_values_are_those_of_the_policy(app, keys):
    rows = app.get("/v1/tables/orders", headers=sent(keys["sales"])).json()["rows"]
    assert rows == [
        {"id": 1, "region": "EU", "email": "a***", "amount": 10.0},
        {"id": 3, "region": "EU", "email": "c***", "amount": 30.0},
        {"id": 6, "region": "EU", "email": "f***", "amount": 30.0},
    ]
    assert app.get("/v1/tables/orders", headers=sent(keys["sales without a region"])).json()["rows"] == []
    assert len(app.get("/v1/tables/orders", headers=sent(keys["audit"])).json()["rows"]) == 6
    described = {t["name"]: t for t in app.get("/v1/tables", headers=sent(keys["sales"])).json()["tables"]}
    assert described["orders"]["rows"] is None, "a count would tell of rows that the caller does not see"
    assert [column["name"] for column in described["orders"]["columns"]] == ["id", "region", "email", "amount"]


MASKS = {
    "'0101'::bit": ("VARCHAR", "0101"),
    "['01'::bit, null]": ("VARCHAR[]", ["01", None]),
    "{'bits': '1'::bit}": ('STRUCT("bits" VARCHAR)', {"bits": "1"}),
    "cast('b0d4ce5d-2757-4699-948c-cfa72ba94f86' as uuid)": ("VARCHAR", "b0d4ce5d-2757-4699-948c-cfa72ba94f86"),
    "time '12:34:56'": ("VARCHAR", "12:34:56"),
    "to_days(2)": ("VARCHAR", "2 days"),
    "cast('b' as enum('a', 'b'))": ("VARCHAR", "b"),
    "cast(id as hugeint)": ("HUGEINT", 1),
    "cast(id as utinyint)": ("UTINYINT", 1),
    "encode('é')": ("BLOB", "w6k="),
}
"""Masks whose types no table of a lake has, with the type and the value that a caller sees."""


def test_masks_of_any_type_can_be_read_in_every_form(tmp_path):
    columns = ", ".join(f"region as c{number}" for number in range(len(MASKS)))
    masks = {f"c{number}": text for number, text in enumerate(MASKS)}
    policies = f"""
kinds = mart("select id, {columns} from raw_orders where id = 1", key="id")
odd = access_policy("kinds", mask={masks!r})
"""
    shop = make(tmp_path / "shop", ROWS, policies=policies)
    with shop.client() as client:
        (described,) = [each for each in client.get("/v1/tables").json()["tables"] if each["name"] == "kinds"]
        (row,) = client.get("/v1/tables/kinds").json()["rows"]
        for number, (text, (kind, value)) in enumerate(MASKS.items()):
            column = {"name": f"c{number}", "type": kind}
            assert (described["columns"][number + 1], row[f"c{number}"]) == (column, value), text
        for media_type in MEDIA_TYPES:
            answer = client.get("/v1/tables/kinds", headers={"Accept": media_type})
            assert answer.status_code == 200, answer.text
        assert client.get("/v1/tables/kinds?c0=eq.0101&select=id").json()["rows"] == [{"id": 1}]
        found = client.post("/v1/query", json={"sql": "select c0, c3 from kinds"}).json()["rows"]
        assert found == [{"c0": "0101", "c3": "b0d4ce5d-2757-4699-948c-cfa72ba94f86"}]


SELECTS = [
    "", "select=id,email", "select=*", "select=email:card", "select=card", "select=x:email,id", "select=email.max(),email.min()",
    "select=region,amount.sum(),count()", "select=card.count()", "select=card.count_distinct()", "select=n:count()",
    "select=email.count_distinct()", "select=region&distinct=true", "select=email&distinct=true",
]  # fmt: skip
CONDITIONS = [
    "", "email=eq.ann@example.com", "email=like.ann*", "email=like.*example*", "email=match.example", "email=eq.a***", "card=eq.4000-1",
    "card=not.is.null", "region=eq.US", "region=neq.EU", "region=is.null", "or=(region.eq.US,id.gt.0)", "not.or=(region.eq.EU)",
    "or=(card.eq.4000-2,id.eq.1)", "id=in.(2,4,5)", "id=gt.0", "amount=gte.20", "email=gt.b", "email=fts.example", "and=(id.gt.1,or(region.is.null,email.ilike.*BO*))",
]  # fmt: skip
PAGES = [
    "",
    "order=email.desc",
    "order=card",
    "limit=1",
    "limit=2&order=amount.desc",
    "count=exact",
    "count=exact&limit=1&order=email",
]


def test_attempts_to_get_round_a_policy_return_what_a_system_without_the_rest_returns(app, keys, tmp_path):
    """1,960 requests, a share of them in quick tests: each response is that of a project that never had the other rows, values and columns."""
    alone = make(tmp_path / "alone", [row for row in ROWS if row[1] == "EU"], policies="", mask=True)
    key = alone.key(scopes=["read"])
    attempts = ["&".join(part for part in parts if part) for parts in itertools.product(SELECTS, CONDITIONS, PAGES)]
    compared = {200: 0, 400: 0}
    with alone.client(key=key) as client:
        for query in some(attempts, 490):
            mine = app.get(f"/v1/tables/orders?{query}", headers=sent(keys["sales"]))
            theirs = client.get(f"/v1/tables/orders?{query}")
            assert mine.status_code == theirs.status_code, query
            assert mine.status_code in compared, (query, mine.text)
            if mine.status_code == 400:
                assert problem_of(mine) == problem_of(theirs), query
            else:
                mine_body, their_body = mine.json(), theirs.json()
                is_masked_key = mine_body.pop("next") is None, their_body.pop("next") is None
                assert is_masked_key[0] == is_masked_key[1], query
                assert mine_body == their_body, query
                assert mine.headers.get("content-range") == theirs.headers.get("content-range"), query
            compared[mine.status_code] += 1
    assert compared[200] > 150
    assert compared[400] > 100


def test_a_cursor_of_another_query_or_an_edited_one_shows_nothing_more(app, keys):
    first = app.get("/v1/tables/orders?limit=1&order=amount", headers=sent(keys["audit"])).json()
    assert app.get(first["next"], headers=sent(keys["audit"])).json()["rows"][0]["id"] == 4
    cursor = first["next"].partition("cursor=")[2]
    other = app.get(f"/v1/tables/orders?limit=1&order=amount.desc&cursor={cursor}", headers=sent(keys["audit"]))
    assert (other.status_code, other.json()["detail"]) == (400, "'cursor' is not one of this query")
    mine = app.get("/v1/tables/orders?limit=1&order=amount", headers=sent(keys["sales"])).json()["next"]
    version, query, _ = json.loads(base64.urlsafe_b64decode(mine.partition("cursor=")[2] + "=="))
    for edited in (["-1e308", "0"], ["0", None], [None, None]):
        text = base64.urlsafe_b64encode(json.dumps([version, query, edited]).encode()).decode().rstrip("=")
        answer = app.get(f"/v1/tables/orders?limit=1&order=amount,id&cursor={text}", headers=sent(keys["sales"]))
        assert answer.status_code == 200
        assert {row["region"] for row in answer.json()["rows"]} <= {"EU"}
    for broken in (
        [version, query, ["x", "1"]],
        [version, query, []],
        [-1, query, 0],
        [version, query, -1],
        [True, 1, 2],
        {},
    ):
        text = base64.urlsafe_b64encode(json.dumps(broken).encode()).decode().rstrip("=")
        answer = app.get(f"/v1/tables/orders?order=amount,id&cursor={text}", headers=sent(keys["sales"]))
        assert answer.status_code == 400, broken


def test_files_are_not_excluded_by_the_real_values_of_masked_columns(app, keys):
    """The bounds of the file are those of the addresses: `a***` lies before all of them."""
    answer = app.get("/v1/tables/orders?email=eq.a***", headers=sent(keys["sales"]))
    assert [row["id"] for row in answer.json()["rows"]] == [1]


def test_a_policy_that_does_not_fit_the_table_shows_nothing(tmp_path):
    for number, policy in enumerate(
        [
            "hide='cards'",
            "mask={'mail': 'null'}",
            "rows='regio = 1'",
            "rows='email::integer > 0'",
            "mask={'email': 'md5(amount)'}",
        ]
    ):
        shop = make(tmp_path / str(number), ROWS, policies=f"p = access_policy('orders', {policy})")
        with shop.client(key=shop.key()) as client:
            answer = client.get("/v1/tables/orders")
            assert answer.status_code in {400, 503}, policy
            assert "@" not in answer.text
            assert "EU" not in answer.text


@pytest.fixture
def fresh(tmp_path):
    return make(tmp_path / "shop", ROWS)


def keys_of(shop):
    project = shop.project()
    return ApiKeys(Workspace(project).catalog, project.settings.env)


def test_a_revoked_key_is_refused_within_a_second(fresh, monkeypatch):
    text, key = keys_of(fresh).create("app", roles=["audit"])
    with fresh.client(key=text) as client:
        assert client.get("/v1/tables/orders").status_code == 200
        assert client.get("/v1/tables/orders").headers.get("cache-status") is None, "asked for the second time"
        assert client.get("/v1/tables/orders").headers["cache-status"] == "headwater; hit"
        keys_of(fresh).revoke(key.id)
        monkeypatch.setattr(authentication, "EVERY_S", 0.0)
        refused = client.get("/v1/tables/orders")
        assert (refused.status_code, refused.json()["detail"]) == (401, "the key is not valid")
        assert "Basic" in refused.headers["www-authenticate"]


def test_keys_that_are_not_valid(fresh):
    text, _ = keys_of(fresh).create("short", roles=["audit"], expires_in=timedelta(microseconds=1))
    good = fresh.key(roles=["audit"])
    bad = [
        f"Bearer {text}", f"Bearer {good[:-1]}", f"Bearer {good}x", "Bearer hw_x", "Bearer", "Bearer eyJhbGciOiJub25lIn0.e30.", f"Digest {good}",
        "Basic !!!", "Basic " + base64.b64encode(b"x:y").decode(), good, f"Bearer {good[:20]}{chr(ord(good[20]) ^ 1)}{good[21:]}",
    ]  # fmt: skip
    with fresh.client(key="") as client:
        for header in bad:
            answer = client.get("/v1/tables/totals", headers={"Authorization": header})
            assert answer.status_code == 401, header
            assert good not in answer.text
        basic = base64.b64encode(f"anyone:{good}".encode()).decode()
        assert client.get("/v1/tables/orders", headers={"Authorization": f"Basic {basic}"}).status_code == 200
        twice = client.get(
            "/v1/tables/orders", headers=[("Authorization", f"Bearer {good}"), ("Authorization", "Bearer x")]
        )
        assert twice.status_code == 401


def test_a_key_is_rotated_with_a_grace(fresh):
    keys = keys_of(fresh)
    old, key = keys.create("app", roles=["audit"], claims={"region": "EU"})
    new, other = keys.rotate("app", grace=timedelta(hours=1))
    assert (other.roles, other.claims) == (key.roles, key.claims)
    with fresh.client(key="") as client:
        assert client.get("/v1/tables/orders", headers=sent(old)).status_code == 200
        assert client.get("/v1/tables/orders", headers=sent(new)).status_code == 200


def test_responses_are_kept_by_rights_and_version(fresh):
    eu = [fresh.key(scopes=["read"], roles=["sales-eu"], claims={"region": "EU"}) for _ in range(2)]
    us = fresh.key(scopes=["read"], roles=["sales-us"], claims={"region": "US"})
    with fresh.client(key="") as client:
        for _ in range(2):
            client.get("/v1/tables/orders", headers=sent(eu[0]))
        same = client.get("/v1/tables/orders", headers=sent(eu[1]))
        assert same.headers["cache-status"] == "headwater; hit", "equal rights"
        other = client.get("/v1/tables/orders", headers=sent(us))
        assert "cache-status" not in other.headers
        assert {row["region"] for row in other.json()["rows"]} == {"US"}
        assert other.headers["etag"] != same.headers["etag"]
        known = client.get("/v1/tables/orders", headers=sent(eu[0]) | {"If-None-Match": same.headers["etag"]})
        assert (known.status_code, known.content) == (304, b"")
        (fresh.root / "orders.csv").write_text("id,region,email,card,amount\n9,EU,z@example.com,1,2\n")
        Runner(fresh.project(), RunOptions(full=True)).run()
        client.app.state.backend.tables._newest.clear()  # noqa: SLF001 - instead of waiting for a second
        newer = client.get("/v1/tables/orders", headers=sent(eu[0]) | {"If-None-Match": same.headers["etag"]})
        assert (newer.status_code, [row["id"] for row in newer.json()["rows"]]) == (200, [9])


def test_every_request_is_recorded_with_its_reason(fresh):
    text, key = keys_of(fresh).create("dashboard", roles=["sales-eu"], claims={"region": "EU"})
    with fresh.client(key=text) as client:
        for _ in range(3):
            client.get("/v1/tables/orders?email=eq.secret@example.com")
        client.get("/v1/tables/staff_only")
        client.get("/v1/tables/totals", headers={"Authorization": "Bearer hw_wrong"})
    folder = fresh.root / ".headwater" / "audit" / "dev"
    found = [record for record in records(folder) if record["path"].startswith("/v1/tables/")]
    assert [(r["caller"], r["caller_name"], r["status"], r.get("rows"), r.get("why")) for r in found] == [
        *([(key.id, "dashboard", 200, 0, "policy sales")] * 3),
        (key.id, "dashboard", 404, None, None),
        ("anonymous", "", 401, None, None),
    ]
    assert all("secret" not in json.dumps(record) and text not in json.dumps(record) for record in found)
    assert verify(folder)[1] == []
    (file,) = folder.glob("*/*.jsonl")
    lines = file.read_text().splitlines(keepends=True)
    for damaged in (
        [*lines[:1], *lines[2:]],
        [lines[1], lines[0], *lines[2:]],
        [lines[0].replace("200", "403"), *lines[1:]],
    ):
        file.write_text("".join(damaged))
        assert verify(folder)[1], "found"


def test_too_many_requests_wait_and_others_are_not_affected(tmp_path):
    shop = make(tmp_path / "shop", ROWS, serve="requests_per_second = 0.01\n")
    (shop.root / "headwater.toml").write_text((shop.root / "headwater.toml").read_text().replace("5000", "3"))
    first, second = shop.key(), shop.key()
    with shop.client(key="") as client:
        answers = [client.get("/v1/tables/plain", headers=sent(first)) for _ in range(4)]
        assert [each.status_code for each in answers] == [200, 200, 200, 429]
        assert int(answers[-1].headers["retry-after"]) >= 90
        assert answers[0].headers["ratelimit"].startswith('"requests";r=2;')
        assert client.get("/v1/tables/plain", headers=sent(second)).status_code == 200


def test_guessing_keys_is_limited_by_address(tmp_path):
    shop = make(tmp_path / "shop", ROWS, serve="anonymous_requests_per_second = 0.01\n")
    (shop.root / "headwater.toml").write_text((shop.root / "headwater.toml").read_text().replace("5000", "3"))
    good = shop.key()
    with shop.client(key="") as client:
        assert client.get("/v1/tables/plain", headers=sent(good)).status_code == 200
        answers = [client.get("/v1/tables/plain", headers=sent(f"hw_{n}")).status_code for n in range(6)]
        assert answers[:3] == [401] * 3
        assert client.get("/v1/tables/totals").status_code == 429
        unknown = client.get("/v1/tables/plain", headers=sent(_new_key()))
        assert (unknown.status_code, unknown.json()["detail"]) == (
            429,
            "there are too many requests without a valid key",
        )
        assert client.get("/v1/tables/plain", headers=sent(good)).status_code == 200, "a key that is known goes on"


def test_requests_that_cannot_be_recorded_are_refused(fresh):
    with fresh.client() as client:
        client.app.state.backend.audit.is_writable = False
        answer = client.get("/v1/tables/totals")
        assert (answer.status_code, answer.json()["detail"]) == (503, "requests cannot be recorded")


def test_names_and_reasons_of_health_need_a_scope(app, shop):
    assert set(app.get("/health").json()) == {"status"}
    assert "tables" in app.get("/health", headers=sent(shop.key(scopes=["operate"]))).json()


def test_a_model_needs_a_scope(app, keys):
    answer = app.post("/v1/models/late/predict", json={"rows": []}, headers=sent(keys["audit"]))
    assert (answer.status_code, answer.json()["detail"]) == (
        403,
        "the key or token lacks the scope 'predict' for 'late'",
    )
    anonymous = app.post("/v1/models/late/predict", json={"rows": []})
    problem = anonymous.json()
    assert (anonymous.status_code, problem["detail"]) == (401, "a key or token is needed")
    assert problem["do"] == "send one with the scope 'predict' for 'late'"
    assert anonymous.headers["www-authenticate"].startswith("Bearer ")


ODATA_OPTIONS = [
    "", "$select=id,email", "$select=card", "$orderby=email desc", "$orderby=card", "$count=true&$top=1", "$top=1&$orderby=amount desc", "$skip=1",
]  # fmt: skip
ODATA_FILTERS = [
    "", "email eq 'ann@example.com'", "startswith(email,'ann')", "contains(email,'example')", "email eq 'a***'", "card eq '4000-1'",
    "contains(card,'1')", "not contains(card,'9')", "region eq 'US'", "region ne 'EU'", "region eq null", "region eq 'US' or id gt 0",
    "not (region eq 'EU')", "id in (2,4,5)", "amount ge 20", "email gt 'b'", "length(email) gt 4", "tolower(region) eq 'us' or true",
    "1 div (amount sub 20) gt 0", "cast(email,Edm.Int32) eq null", "id mul 9223372036854775807 gt 0", "indexof(email,'@') gt 0",
    "substring(email,1) eq '***'", "length(card) gt 0 or true",
]  # fmt: skip


def test_attempts_to_get_round_a_policy_over_odata(app, keys, tmp_path):
    """Each response is that of a project that never had the other rows, values and columns, byte for byte."""
    alone = make(tmp_path / "alone", [row for row in ROWS if row[1] == "EU"], policies="", mask=True)
    statuses = {200: 0, 400: 0, 404: 0}
    with alone.client(key=alone.key(scopes=["read"])) as client:
        paths = [
            "orders?" + "&".join(each for each in (options, f"$filter={text}" if text else "") if each)
            for options, text in itertools.product(ODATA_OPTIONS, ODATA_FILTERS)
        ]
        paths += [f"orders/$count?$filter={text}" for text in ODATA_FILTERS if text]
        paths += [
            "orders(1)",
            "orders(2)",
            "orders(1)/email",
            "orders(1)/email/$value",
            "orders(1)/card",
            "orders(2)/id",
            "orders/$count",
        ]
        for path in some(paths, 90):
            mine = app.get(f"/v1/odata/{path}", headers=sent(keys["sales"]))
            theirs = client.get(f"/v1/odata/{path}")
            assert (mine.status_code, mine.content) == (theirs.status_code, theirs.content), path
            statuses[mine.status_code] += 1
        assert min(statuses.values()) > 0, statuses
        assert statuses[200] > 30
        types = [
            each.get("/v1/odata/$metadata", headers=headers)
            .text.partition('"orders_row">')[2]
            .partition("</EntityType>")[0]
            for each, headers in ((app, sent(keys["sales"])), (client, {}))
        ]
        assert types[0] == types[1] != ""


@pytest.mark.parametrize(
    ("caller", "readable"),
    [("sales", {"orders", "totals", "plain"}), (None, {"totals"}), ("one table", {"plain"}), ("predicts", set())],
)
def test_entity_sets_are_the_tables_that_a_caller_may_read(app, keys, caller, readable):
    headers = {} if caller is None else sent(keys[caller])
    assert {each["name"] for each in app.get("/v1/odata", headers=headers).json()["value"]} == readable
    for name in ("orders", "totals", "staff_only", "plain", "hidden_silver", "raw_orders", "no_such_table"):
        expected = 200 if name in readable else 404 if caller else 401
        assert app.get(f"/v1/odata/{name}", headers=headers).status_code == expected, name


def test_masks_of_types_that_a_lake_does_not_store_are_shown_over_odata(tmp_path):
    masks = {
        "amount": "id::hugeint",
        "email": "interval '1 day'",
        "card": "['a', email]",
        "region": "uuid '00000000-0000-0000-0000-00000000000a'",
    }
    shop = make(tmp_path / "shop", ROWS, policies=f"p = access_policy('orders', mask={masks!r})")
    with shop.client(key=shop.key()) as client:
        found = client.get(
            "/v1/odata/orders?$orderby=id&$top=1&$filter=email ne null and contains(card,'ann') and amount lt 2.5"
        )
        assert found.json()["value"] == [
            {
                "id": 1,
                "region": "00000000-0000-0000-0000-00000000000a",
                "email": "1 day",
                "card": '["a","ann@example.com"]',
                "amount": 1,
            }
        ]
        types = client.get("/v1/odata/$metadata").text.partition('"orders_row">')[2].partition("</EntityType>")[0]
        assert 'Name="amount" Type="Edm.Decimal"' in types
        assert 'Name="region" Type="Edm.String"' in types


def test_the_command_says_that_nothing_is_recorded(fresh):
    command = ["audit", "show", "-C", str(fresh.root)]
    assert CliRunner().invoke(headwater, command).stdout == "no request is recorded yet\n"
    with fresh.client(key=fresh.key()) as client:
        client.get("/v1/tables/plain")
    assert "/v1/tables/plain" in CliRunner().invoke(headwater, command).stdout
    other = CliRunner().invoke(headwater, [*command, "--table", "totals"])
    assert other.stdout == "no such request is recorded\n"
