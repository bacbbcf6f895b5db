"""Schemathesis over the whole OpenAPI document, as each kind of caller, against a running server."""

from __future__ import annotations

import subprocess

import pytest

from benchmarks.peer import interpreter
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from tests.rigs.in_process_server import served
from tests.serve.test_serve_access import ROWS, make

ST = interpreter("-api").with_name("st")
CALLERS = {
    "nobody": None,
    "a sales person": {"scopes": ["read"], "roles": ["sales-eu"], "claims": {"region": "EU"}},
    "staff": {"scopes": ["read", "query", "operate"], "roles": ["staff"]},
    "an application": {"scopes": ["read:totals", "write", "predict"]},
}
MORE = """
regions = feature_view(
    "select region, make_timestamp(id * 1000000) as at, amount, email from raw_orders where region is not null",
    entity="region", event_time="at", online=True,
)
regions_of_sales = access_policy("regions", roles="sales-*", rows="region = claim('region')", hide="email")
regions_of_staff = access_policy("regions", roles="staff")
spent = metric("spent", "sum(amount)", table="totals", dimensions=["region"])
visits = source(webhook("visits", keyed=True), schema={"id": "bigint", "at": "timestamptz", "price": "decimal(9,2)", "page": "varchar"})
examples = training_set(
    "select n as id, make_timestamp(n * 1000000) as at, n % 10 as x, n % 3 = 0 as y, n % 10 > 4 as late "
    "from raw_orders, range(200) as r(n) where raw_orders.id = 1",
    key="id", event_time="at",
)


@model(label="late", holdout=0.3, at_least=0.5, min_rows=50, leaks="x")
def delays(examples):
    from sklearn.linear_model import LogisticRegression

    late = examples.pop("late")
    return LogisticRegression().fit(examples, late)
"""
# what a filter or an order may be depends on the columns, which a schema of texts does not say
NOT_CHECKED = "positive_data_acceptance"
# those that it expects for data that break the schema, and 413 for more rows than a request may have
REFUSALS = """
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, "5xx"]
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    if not ST.exists():
        pytest.skip("run `make peers`, which installs Schemathesis")
    limits = "requests_per_second = 100000\nanonymous_requests_per_second = 100000\n"
    shop = make(tmp_path_factory.mktemp("shop"), ROWS, serve=limits)
    definitions = (
        (shop.root / "shop.py")
        .read_text()
        .replace(
            "from pipeline import",
            "from ml import feature_view, model, training_set\nfrom pipeline import metric, webhook,",
        )
    )
    (shop.root / "shop.py").write_text(definitions + MORE)
    Runner(shop.project(), RunOptions()).run()
    return shop


@pytest.fixture(scope="module")
def url(shop):
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr("serve.rest.events.MOST_WAIT_S", 1)  # Schemathesis waits for 10 s
    with served(shop.project()) as url:
        yield url
    monkeypatch.undo()


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.parametrize("who", CALLERS)
def test_no_finding(shop, url, who, tmp_path):
    options = CALLERS[who]
    login = [] if options is None else ["--header", f"Authorization: Bearer {shop.key(**options)}"]
    (tmp_path / "schemathesis.toml").write_text(REFUSALS)
    words = [
        ST,
        "run",
        f"{url}/openapi.json",
        *login,
        "--max-examples",
        "200",
        "--exclude-checks",
        NOT_CHECKED,
        "--no-color",
    ]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
