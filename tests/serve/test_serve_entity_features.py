"""Features of entities over HTTP: what the online store has, as the policies of the views show it."""

from __future__ import annotations

import math

import anyio
import pytest

from pipeline.governance.audit_records import records
from pipeline.project.workspace import Workspace
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from serve.client import ApiClient, AsyncApiClient
from tests.rigs.in_process_server import served
from tests.serve.conftest import Cafe, problem_of
from tests.serve.test_serve_access import sent

TOML = """
[project]
name = "shop"
definitions = "shop.py"
[env.dev.serve]
burst = 5000
"""
SHOP = """
from pathlib import Path

from ml import feature_view
from pipeline import access_policy, files, source

here = Path(__file__).parent
raw_orders = source(files(here / "orders.csv"), schema={
    "customer": "bigint", "at": "timestamp", "region": "varchar", "email": "varchar", "price": "decimal(9,2)",
    "rating": "double", "paid_at": "timestamptz", "day": "date",
})
customers = feature_view(
    "select customer, at, region, email, price, rating, paid_at, [rating, price::double] as both, "
    "count(*) over (partition by customer order by at) as orders from raw_orders",
    entity="customer", event_time="at", online=True, owner="growth", description="What customers did.",
)
shops = feature_view(
    "select region, day, max(at) as at, count(*) as n from raw_orders where region is not null group by all",
    entity=["region", "day"], event_time="at", ttl="20000 days", online=True,
)
reported = feature_view(
    "select customer, at, paid_at, price from raw_orders where paid_at is not null",
    entity="customer", event_time="at", known_at="paid_at", online=True,
)
offline = feature_view("select customer, at, price from raw_orders", entity="customer", event_time="at")
prices = feature_view("select price, at, region from raw_orders", entity="price", event_time="at", online=True)
people = feature_view("select email, at, price from raw_orders", entity="email", event_time="at", online=True)
"""
POLICIES = """
eu = access_policy(
    "customers", roles="sales-*", rows="region = claim('region')",
    mask={"email": "left(email, 1) || '***'", "price": "price + 1"}, hide=["rating", "both"],
)
late = access_policy("customers", roles="no-time", hide="at")
all_customers = access_policy("customers", roles="staff")
shop_owners = access_policy("shops", roles="staff")
known = access_policy("reported", roles="known", rows="paid_at is null or price > 0")
price_staff = access_policy("prices", roles="staff")
known_all = access_policy("reported", roles="staff")
names = access_policy("people", roles="sales-*", mask={"email": "'x'"})
names_all = access_policy("people", roles="staff")
"""
ORDERS = """customer,at,region,email,price,rating,paid_at,day
1,2026-01-01 10:00:00,EU,ann@x.org,10.50,4.5,2026-01-01T10:00:00Z,2026-01-01
1,2026-01-02 10:00:00,EU,ann@x.org,11.50,nan,2026-01-02T10:00:00Z,2026-01-02
2,2026-01-02 11:00:00,US,bo@x.org,20.00,inf,,2026-01-02
3,2026-01-03 12:30:00,EU,cy@x.org,5.25,1.0,2026-01-03T10:00:00.5Z,2026-01-03
3,2026-01-04 12:30:00,US,cy@x.org,6.25,2.0,2026-01-04T10:00:00Z,2026-01-04
"""
STAFF = {"scopes": ["read"], "roles": ["staff"]}
SALES = {"scopes": ["read"], "roles": ["sales-eu"], "claims": {"region": "EU"}}


def built(root) -> Cafe:
    root.mkdir(exist_ok=True)
    (root / "headwater.toml").write_text(TOML)
    (root / "shop.py").write_text(SHOP + POLICIES)
    (root / "orders.csv").write_text(ORDERS)
    cafe = Cafe(root)
    Runner(cafe.project(), RunOptions()).run()
    return cafe


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return built(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def client(shop):
    with shop.client(key=shop.key(**STAFF)) as client:
        yield client


@pytest.fixture(scope="module")
def sales(shop):
    return sent(shop.key(**SALES))


def look_up(client, view, *entities, headers=None, **more):
    return client.post(f"/v1/features/{view}", json={"entities": list(entities), **more}, headers=headers or {})


def test_features_are_the_newest_in_the_order_of_the_entities(client, shop):
    body = look_up(client, "customers", {"customer": 3}, {"customer": 99}, {"customer": 1}, {"customer": None}).json()
    assert body["view"] == "customers"
    assert [each["entity"] for each in body["rows"]] == [{"customer": n} for n in (3, 99, 1, None)]
    assert [each["found"] for each in body["rows"]] == [True, False, True, False]
    assert body["rows"][0] == {
        "entity": {"customer": 3},
        "found": True,
        "event_time": "2026-01-04T12:30:00",
        "features": {
            "region": "US",
            "email": "cy@x.org",
            "price": 6.25,
            "rating": 2.0,
            "paid_at": "2026-01-04T10:00:00Z",
            "both": [2.0, 6.25],
            "orders": 2,
        },
    }
    assert body["rows"][1]["event_time"] is None
    assert set(body["rows"][1]["features"].values()) == {None}
    assert list(body["rows"][1]["features"]) == list(body["rows"][0]["features"])
    newest = Workspace(shop.project()).query(
        'select rating from customers where customer = 1 order by "at" desc limit 1'
    )
    assert math.isnan(newest.to_pylist()[0]["rating"])
    assert body["rows"][2]["features"]["rating"] is None, "as in the rows of a table"
    table = client.get("/v1/tables/customers", params={"customer": "eq.3", "order": "at.desc", "limit": 1}).json()
    assert table["rows"][0] == {"customer": 3, "at": "2026-01-04T12:30:00", **body["rows"][0]["features"]}


def test_one_entity_by_url_and_some_features(client):
    one = client.get("/v1/features/customers", params={"customer": "3", "features": "orders, region"}).json()
    assert one["rows"][0]["features"] == {"orders": 2, "region": "US"}
    several = client.get("/v1/features/shops", params={"region": "EU", "day": "2026-01-02"}).json()
    assert (
        several["rows"][0]["features"]
        == look_up(client, "shops", {"day": "2026-01-02", "region": "EU"}).json()["rows"][0]["features"]
    )
    assert several["rows"][0]["features"] == {"n": 1}
    body = look_up(client, "customers", {"customer": 3}, features=["orders"]).json()
    assert body["rows"][0]["features"] == {"orders": 2}
    assert look_up(client, "customers").json() == {"view": "customers", "rows": []}


@pytest.mark.parametrize("price", [11.5, "11.5", "11.50", "+11.50"])
def test_an_entity_may_be_a_decimal(client, price):
    assert look_up(client, "prices", {"price": price}).json()["rows"][0]["features"] == {"region": "EU"}
    assert client.get("/v1/features/prices", params={"price": str(price)}).json()["rows"][0]["found"] is True


def test_the_list_has_types_and_freshness(client, sales):
    views = {each["name"]: each for each in client.get("/v1/features").json()["views"]}
    assert set(views) == {"customers", "shops", "reported", "people", "prices"}
    found = views["customers"]
    assert found["entity"] == [{"name": "customer", "type": "BIGINT"}]
    assert {"name": "price", "type": "DECIMAL(9,2)"} in found["features"]
    assert (found["owner"], found["description"]) == ("growth", "What customers did.")
    assert (found["state"], found["version"], found["as_of"]) == ("up to date", 0, "2026-01-04T12:30:00+00:00")
    assert views["shops"]["ttl"] == "20000 days"
    seen = {each["name"]: each for each in client.get("/v1/features", headers=sales).json()["views"]}
    assert set(seen) == {"customers"}, "the entity of people is masked, others are of other callers"
    assert seen["customers"]["as_of"] is None, "it is that of a row that the caller does not see"
    assert "rating" not in [each["name"] for each in seen["customers"]["features"]]


def test_without_a_key_there_are_no_views(shop):
    with shop.client(key="") as client:
        assert client.get("/v1/features").json() == {"views": []}
        assert look_up(client, "customers", {"customer": 1}).status_code == 404


def test_the_policy_of_a_view_holds_for_what_is_looked_up(client, sales):
    body = look_up(client, "customers", *({"customer": n} for n in (1, 2, 3, 4)), headers=sales).json()
    assert [each["found"] for each in body["rows"]] == [True, False, False, False]
    assert body["rows"][0]["features"] == {
        "region": "EU",
        "email": "a***",
        "price": 12.5,
        "paid_at": "2026-01-02T10:00:00Z",
        "orders": 2,
    }
    unknown, hidden = body["rows"][3], body["rows"][1]
    assert {**unknown, "entity": None} == {**hidden, "entity": None}, "a hidden entity is one that does not exist"
    text = str(body)
    assert "US" not in text
    assert "@" not in text
    refused = look_up(client, "customers", {"customer": 1}, features=["rating"], headers=sales)
    no_such = look_up(client, "customers", {"customer": 1}, features=["ratings"], headers=sales)
    assert refused.status_code == no_such.status_code == 400
    assert problem_of(refused)["problem"] == problem_of(no_such)["problem"].replace("ratings", "rating")


def test_a_claim_that_is_not_known_shows_nothing(client, shop):
    nobody = sent(shop.key(scopes=["read"], roles=["sales-eu"]))
    assert look_up(client, "customers", {"customer": 1}, headers=nobody).json()["rows"][0]["found"] is False


def test_a_hidden_event_time_is_not_told(client, shop):
    headers = sent(shop.key(scopes=["read"], roles=["no-time"]))
    row = look_up(client, "customers", {"customer": 1}, headers=headers).json()["rows"][0]
    assert (row["found"], row["event_time"], row["features"]["orders"]) == (True, None, 2)


def test_a_masked_entity_cannot_be_looked_up(client, sales):
    answer = look_up(client, "people", {"email": "ann@x.org"}, headers=sales)
    assert answer.status_code == 403
    assert problem_of(answer)["problem"] == "the access policy of feature view 'people' hides its entity, or masks it"
    assert look_up(client, "people", {"email": "ann@x.org"}).json()["rows"][0]["features"] == {"price": 11.5}


def test_a_policy_that_reads_what_the_store_lacks_shows_nothing(client, shop, caplog):
    headers = sent(shop.key(scopes=["read"], roles=["known"]))
    answer = look_up(client, "reported", {"customer": 1}, headers=headers)
    assert answer.status_code == 503
    assert "cannot be applied to features that are looked up" in problem_of(answer)["problem"]
    assert "paid_at" in caplog.text
    assert look_up(client, "reported", {"customer": 1}).json()["rows"][0]["features"] == {"price": 11.5}


@pytest.mark.parametrize("view", ["offline", "raw_orders", "no_such", "customer", "shops"])
def test_views_that_a_caller_may_not_look_up_do_not_exist(client, sales, view):
    answer = look_up(client, view, {"customer": 1}, headers=sales)
    assert (answer.status_code, problem_of(answer)["problem"]) == (404, f"there is no online feature view {view!r}")


def test_the_scope_is_that_of_tables(client, shop):
    for options in ({"scopes": ["predict", "query"]}, {"scopes": ["read:shops"]}):
        headers = sent(shop.key(roles=["staff"], **options))
        assert look_up(client, "customers", {"customer": 1}, headers=headers).status_code == 404


@pytest.mark.parametrize(
    ("view", "entity", "problem"),
    [
        ("customers", {"customer": "1"}, "'customer' of entity 0 is not a BIGINT"),
        ("customers", {"customer": 1.5}, "'customer' of entity 0 is not a BIGINT"),
        ("customers", {"customer": 1.0}, "'customer' of entity 0 is not a BIGINT"),
        ("customers", {"customer": True}, "'customer' of entity 0 is not a BIGINT"),
        ("customers", {"customer": [1]}, "'customer' of entity 0 is not a BIGINT"),
        ("customers", {"customer": {"a": 1}}, "'customer' of entity 0 is not a BIGINT"),
        ("customers", {"customer": 1 << 70}, "a value of 'customer' is not a BIGINT"),
        ("customers", {}, "entity 0 lacks 'customer'"),
        ("customers", {"customer": 1, "region": "EU"}, "entity 0 has 'region', which is not of the entity"),
        *(
            ("prices", {"price": text}, "'price' of entity 0 is not a DECIMAL(9,2)")
            for text in (
                "-1e-999999999",
                "1e999999999",
                "0e-999999999",
                "1e5",
                "NaN",
                "Infinity",
                "",
                " 1",
                "1_0",
                "x",
                [1],
                True,
                1e-9,
            )
        ),
        ("prices", {"price": 1.005}, "a value of 'price' is not a DECIMAL(9,2)"),
        ("prices", {"price": "1" * 40}, "a value of 'price' is not a DECIMAL(9,2)"),
        ("shops", {"region": "EU", "day": "yesterday"}, "'day' of entity 0 is not a DATE"),
        ("shops", {"region": "EU", "day": 20454}, "'day' of entity 0 is not a DATE"),
        ("shops", {"region": 7, "day": "2026-01-02"}, "'region' of entity 0 is not a VARCHAR"),
    ],
)
def test_wrong_entities_are_errors(client, view, entity, problem):
    answer = look_up(client, view, entity)
    assert answer.status_code == 400, answer.text
    assert problem in problem_of(answer)["problem"]


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"x", b"{}", b'{"entities": 1}', b'{"entities": [1]}', b'{"entities": [], "x": 1}', b'{"entities": [], "features": "a"}',
     b'{"entities": [], "features": [1]}', b'{"entities": [{"customer": NaN}]}', b'{"entities": [{"customer": "\\ud800"}]}', b'{"entities": [{"customer": 1e400}]}', b"[" * 100_000],
)  # fmt: skip
def test_wrong_bodies_are_errors(client, body):
    assert client.post("/v1/features/customers", content=body).status_code == 400


def test_too_many_entities_are_refused(client):
    assert look_up(client, "customers", *[{"customer": 1}] * 1_000).status_code == 200
    assert look_up(client, "customers", *[{"customer": 1}] * 1_001).status_code == 400
    assert client.post("/v1/features/customers", content=b" " * (2 << 20)).status_code == 413


@pytest.mark.parametrize("words", [{"customer": "x"}, {"customer": "1", "a": "1"}, {}, {"customer": ["1", "2"]}])
def test_wrong_parameters_are_errors(client, words):
    assert client.get("/v1/features/customers", params=words).status_code == 400


def test_clients_look_up(shop):
    key = shop.key(**STAFF)
    expected = [
        {"entity": {"customer": 3}, "found": True, "event_time": "2026-01-04T12:30:00", "features": {"orders": 2}}
    ]

    async def ask(url):
        async with AsyncApiClient(url, key) as client:
            return await client.features("customers", [{"customer": 3}], ["orders"])

    with served(shop.project()) as url, ApiClient(url, key) as client:
        assert client.features("customers", [{"customer": 3}], ["orders"]) == expected == anyio.run(ask, url)
        assert client.features("customers", [{"customer": 3}])[0]["features"]["region"] == "US"


def test_a_store_that_is_not_there_is_503(tmp_path):
    shop = built(tmp_path)
    (tmp_path / "headwater.toml").write_text(
        TOML.replace("[env.dev.serve]", '[env.dev]\nonline = "sqlite:///none.db"\n[env.dev.serve]')
    )
    with shop.client(key=shop.key(**STAFF)) as client:
        answer = look_up(client, "customers", {"customer": 1})
        assert answer.status_code == 503
        assert "is not in the online store" in problem_of(answer)["problem"]
        states = {each["name"]: each["state"] for each in client.get("/v1/features").json()["views"]}
        assert states["customers"] == "not loaded"
    (tmp_path / "none.db").write_bytes(b"this is no database" * 100)
    with shop.client(key=shop.key(**STAFF)) as client:
        assert look_up(client, "customers", {"customer": 1}).status_code == 503
        assert {each["state"] for each in client.get("/v1/features").json()["views"]} == {"unknown"}
    (tmp_path / "headwater.toml").write_text(TOML)
    (tmp_path / "shop.py").write_text((SHOP + POLICIES).replace("count(*) over (", "1 + count(*) over ("))
    with shop.client(key=shop.key(**STAFF)) as client:
        answer = look_up(client, "customers", {"customer": 1})
        assert (answer.status_code, "of another definition" in problem_of(answer)["problem"]) == (503, True)


def test_the_examples_of_the_document_are_accepted(client):
    paths = client.get("/openapi.json").json()["paths"]
    bodies = {path: each["post"]["requestBody"] for path, each in paths.items() if path.startswith("/v1/features/")}
    examples = {path: each["content"]["application/json"]["example"] for path, each in bodies.items()}
    assert examples["/v1/features/shops"] == {"entities": [{"region": "a", "day": "2013-07-01"}]}
    assert {client.post(path, json=example).status_code for path, example in examples.items()} == {200}


def test_look_ups_are_recorded_and_described(tmp_path):
    shop = built(tmp_path)
    with shop.client(key=shop.key(**SALES)) as client:
        look_up(client, "customers", {"customer": 1}, {"customer": 2})
        paths = client.get("/openapi.json").json()["paths"]
        operation = paths["/v1/features/customers"]["post"]
        entity = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]["entities"]["items"]
        assert entity["properties"] == {"customer": {"type": ["integer", "null"], "format": "int64"}}
        row = operation["responses"]["200"]["content"]["application/json"]["schema"]["properties"]["rows"]["items"]
        assert "rating" not in row["properties"]["features"]["properties"]
        assert "/v1/features/shops" not in paths
        assert {each["name"] for each in paths["/v1/features/customers"]["get"]["parameters"]} == {
            "customer",
            "features",
        }
    [record] = [each for each in records(tmp_path / ".headwater" / "audit" / "dev") if "/features/" in each["path"]]
    assert (record["table"], record["rows"], record["why"]) == ("customers", 1, "policy eu")
    assert "ann" not in str(record)
