"""Schemathesis over the whole OpenAPI document, as each kind of caller, against a running server."""

from __future__ import annotations

import subprocess
import threading
import time

import pytest
import uvicorn

from benchmarks.peer import interpreter
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from serve import create_app
from tests.serve.test_serve_access import ROWS, make

ST = interpreter("-api").with_name("st")
CALLERS = {
    "nobody": None,
    "a sales person": {"scopes": ["read"], "roles": ["sales-eu"], "claims": {"region": "EU"}},
    "staff": {"scopes": ["read", "query", "operate"], "roles": ["staff"]},
}
VIEW = """
regions = feature_view(
    "select region, make_timestamp(id * 1000000) as at, amount, email from raw_orders where region is not null",
    entity="region", event_time="at", online=True,
)
regions_of_sales = access_policy("regions", roles="sales-*", rows="region = claim('region')", hide="email")
regions_of_staff = access_policy("regions", roles="staff")
"""
# what a filter or an order may be depends on the columns, which a schema of texts does not say
NOT_CHECKED = "positive_data_acceptance"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    if not ST.exists():
        pytest.skip("run `make peers`, which installs Schemathesis")
    limits = "requests_per_second = 100000\nanonymous_requests_per_second = 100000\n"
    shop = make(tmp_path_factory.mktemp("shop"), ROWS, serve=limits)
    definitions = (
        (shop.root / "shop.py")
        .read_text()
        .replace("from pipeline import", "from ml import feature_view\nfrom pipeline import")
    )
    (shop.root / "shop.py").write_text(definitions + VIEW)
    Runner(shop.project(), RunOptions()).run()
    return shop


@pytest.fixture(scope="module")
def url(shop):
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr("serve.rest.events.MOST_WAIT_S", 1)  # Schemathesis waits for 10 s
    server = uvicorn.Server(uvicorn.Config(create_app(shop.project()), port=0, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()
    monkeypatch.undo()


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.parametrize("who", CALLERS)
def test_no_finding(shop, url, who, tmp_path):
    options = CALLERS[who]
    login = [] if options is None else ["--header", f"Authorization: Bearer {shop.key(**options)}"]
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
