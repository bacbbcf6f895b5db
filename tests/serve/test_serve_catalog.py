"""What callers see of definitions, runs and streams: nothing of what they may not read."""

from __future__ import annotations

import json
import time

import pytest

from pipeline.governance.audit_records import records
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from tests.serve.conftest import Cafe, problem_of
from tests.streaming.runtime.conftest import alive, start

DEFINITIONS = """
from pathlib import Path

from pipeline import access_policy, drop, files, generate, mart, source, sql

raw = source(files(Path(__file__).parent / "orders.csv"), schema={"id": "bigint", "region": "varchar", "amount": "double"})
hidden_clean = sql("select * from raw", expect=[drop("hidden_check", "amount > 0")])
orders = sql("select id, region, amount from hidden_clean", layer="gold", key="id", expect=[drop("has_region", "region is not null")])
secret_totals = mart("select region, sum(amount) as amount from orders group by region", key="region")
top = sql("select region from secret_totals where amount > 10", layer="gold", key="region", expect=[drop("is_known", "region <> ''")])

some = access_policy("orders", roles="sales", rows="region = claim('region')")
all_orders = access_policy("orders", roles="audit")
locked = access_policy("secret_totals", roles="staff")

readings = source(
    generate({"at": "timestamp '2024-01-01' + to_seconds(i)", "sensor": "'s' || i % 3"}, count=None, per_second=4000),
    schema={"at": "timestamp", "sensor": "varchar"}, event_time="at", lateness="30 days",  # so that windows with each sensor are open
)
by_minute = sql(
    "select tumble(at, interval '1 minute') as minute, sensor, count(*) as n from readings group by all",
    layer="gold", key=("minute", "sensor"),
)
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    root = tmp_path_factory.mktemp("shop")
    (root / "headwater.toml").write_text(
        '[project]\nname = "shop"\ndefinitions = "shop.py"\n[env.dev.serve]\nburst = 5000\n'
    )
    (root / "shop.py").write_text(DEFINITIONS)
    (root / "orders.csv").write_text("id,region,amount\n1,EU,10\n2,US,20\n3,,5\n4,EU,-1\n")
    shop = Cafe(root)
    Runner(shop.project(), RunOptions(select=("+top",))).run()
    return shop


@pytest.fixture(scope="module")
def ask(shop):
    keys = {
        "nobody": shop.key(scopes=["read"]),
        "sales": shop.key(scopes=["read"], roles=["sales"], claims={"region": "EU"}),
        "audit": shop.key(scopes=["read"], roles=["audit"]),
        "operator": shop.key(scopes=["operate"]),
        "one stream": shop.key(scopes=["operate:by_minute"]),
    }
    with shop.client(key="") as client:

        def get(path, caller, status=200, **parameters):
            headers = {"Authorization": f"Bearer {keys[caller]}"} if caller else {}
            answer = client.get(path, params=parameters, headers=headers)
            assert answer.status_code == status, answer.text
            return answer.json() if status == 200 else problem_of(answer)

        yield get


def inputs_of(answer, member="definitions"):
    return {each["name"]: each["inputs"] for each in answer[member]}


def test_lineage_leads_past_what_a_caller_may_not_read(ask):
    assert inputs_of(ask("/v1/lineage", "sales")) == {"orders": [], "top": ["orders"], "by_minute": []}
    assert inputs_of(ask("/v1/lineage", "nobody")) == {"top": [], "by_minute": []}
    assert ask("/v1/lineage", None)["definitions"] == []
    everything = inputs_of(ask("/v1/lineage", "operator"))
    assert everything["orders"] == ["hidden_clean"]
    assert everything["top"] == ["secret_totals"]
    assert inputs_of(ask("/v1/lineage", "sales", name="top")) == {"orders": [], "top": ["orders"]}
    assert inputs_of(ask("/v1/catalog", "sales"), "tables") == {"orders": [], "top": ["orders"], "by_minute": []}


def test_no_response_names_what_a_caller_may_not_read(ask):
    for path in ("/v1/catalog", "/v1/lineage", "/v1/quality", "/v1/models", "/v1/experiments", "/openapi.json"):
        for caller in ("sales", "audit", "nobody", None):
            text = json.dumps(ask(path, caller))
            assert "secret_totals" not in text, (path, caller)
            assert "hidden" not in text, (path, caller)
    unknown = ask("/v1/lineage", "sales", 404, name="secret_totals")
    assert unknown["problem"] == "there is no definition 'secret_totals'"
    assert "secret" not in str(unknown["do"])
    assert ask("/v1/quality", "sales", 404, name="secret_totals") == {
        **ask("/v1/quality", "sales", 404, name="secret_totalz"),
        "problem": "there is no table 'secret_totals'",
    }


def test_expectations_are_told_of_tables_that_a_caller_sees_entirely(ask):
    assert [each["name"] for each in ask("/v1/quality", "sales")["tables"]] == ["top"]
    (orders,) = ask("/v1/quality", "audit", name="orders")["tables"]
    assert [each for each in orders["expectations"] if not each["expectation"].startswith("key_")] == [
        {"expectation": "has_region", "condition": "region is not null", "action": "drop", "rows": 3, "violations": 1}
    ]
    assert {"hidden_clean", "orders", "top"} <= {each["name"] for each in ask("/v1/quality", "operator")["tables"]}


def test_runs_are_for_operators(ask):
    (run,) = ask("/v1/runs", "operator", limit="1")["runs"]
    steps = ask(f"/v1/runs/{run['id']}", "operator")["steps"]
    assert {"orders", "top"} <= {each["name"] for each in steps}
    assert ask("/v1/runs/none", "operator", 404)["problem"] == "there is no run 'none'"
    for caller, status, problem in (
        ("audit", 403, "the key or token lacks the scope 'operate'"),
        (None, 401, "a key or token is needed"),
    ):
        assert ask("/v1/runs", caller, status)["problem"] == problem
        ask(f"/v1/runs/{run['id']}", caller, status)
        ask("/v1/streams/by_minute/state", caller, status)
        assert not [path for path in ask("/openapi.json", caller)["paths"] if "runs" in path or "streams" in path]


@pytest.mark.parametrize(("path", "status"), [("/v1/runs", 200), ("/v1/streams/{name}/state", 404)])
def test_limits_are_those_of_the_document(ask, path, status):
    parameters = ask("/openapi.json", "operator")["paths"][path]["get"]["parameters"]
    (most,) = [each["schema"]["maximum"] for each in parameters if each["name"] == "limit"]
    ask(path.format(name="none"), "operator", status, limit=str(most))
    ask(path.format(name="none"), "operator", 400, limit=str(most + 1))


def test_reads_of_runs_are_recorded_with_the_reason(shop):
    with shop.client(key=shop.key(scopes=["operate"])) as client:
        (run,) = client.get("/v1/runs", params={"limit": 1}).json()["runs"]
        client.get(f"/v1/runs/{run['id']}")
    found = [each for each in records(shop.root / ".headwater" / "audit" / "dev") if each["status"] == 200]
    assert [each["why"] for each in found if each["path"].startswith("/v1/runs")][-2:] == ["scope operate"] * 2


def test_the_state_of_a_stream(shop, ask):
    assert ask("/v1/streams/by_minute/state", "operator", 404)["problem"] == "stream 'by_minute' has not run yet"
    running = start(shop.root, "readings", "by_minute")
    with alive(running):
        give_up = time.monotonic() + 60
        while running.statuses["by_minute"].totals.get("rows_in", 0) < 10:
            assert time.monotonic() < give_up
            time.sleep(0.01)
    found = ask("/v1/streams/by_minute/state", "one stream", key="sensor=s1", limit="1")
    assert found["tables"] == ["open", "states"]
    assert [row["sensor"] for row in found["rows"]] == ["s1"]
    assert found["rows"][0]["n"] > 0
    ask("/v1/streams/readings/state", "one stream", 403)
    assert "did you mean 'sensor'" in str(ask("/v1/streams/by_minute/state", "one stream", 400, key="sensors=s1"))
    for wrong in ({"key": "sensor"}, {"limit": "0"}, {"table": "none"}, {"keys": "a"}, {"key": "sensor'=s1"}):
        ask("/v1/streams/by_minute/state", "one stream", 400, **wrong)
    ask("/v1/streams/none/state", "operator", 404)
    assert "cannot be streamed" in str(ask("/v1/streams/orders/state", "operator", 404)["problem"])


@pytest.mark.parametrize(
    "path", ["/v1/catalog", "/v1/lineage", "/v1/quality", "/v1/models", "/v1/experiments", "/v1/runs"]
)
def test_unknown_and_repeated_parameters_are_errors(ask, path):
    assert "nothing" in str(ask(path, "operator", 400, nothing="1")["problem"])
    assert "name" in str(ask(path, "operator", 400, name=["a", "b"])["problem"])
