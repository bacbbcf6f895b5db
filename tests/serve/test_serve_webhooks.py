"""Webhooks over HTTP: the app stores messages, and a run reads them."""

from __future__ import annotations

import hashlib
import hmac
import warnings
from pathlib import Path

import pytest

from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.runner.runner import Runner
from serve import create_app

with warnings.catch_warnings():
    # starlette recommends httpx2, which is new and not yet widely used
    warnings.filterwarnings("ignore", message="Using `httpx` with `starlette.testclient`")
    from starlette.testclient import TestClient

DEFINITIONS = """\
from pipeline import source, webhook
from pipeline.connectors.webhook import Signature

payments = source(
    webhook("payments", signature=Signature("env:PAYMENTS_KEY", "github"), metadata=("id",)),
    schema={"amount": "decimal(10, 2)", "_id": "varchar"},
)
events = source(webhook("events", unsigned=True), schema={"id": "bigint"})
large = source(webhook("large", unsigned=True, most_bytes=16 << 20), schema={"id": "varchar"})
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("PAYMENTS_KEY", "s3cret")
    (tmp_path / "headwater.toml").write_text('[project]\ndefinitions = "hooks.py"\n')
    (tmp_path / "hooks.py").write_text(DEFINITIONS)
    return load(tmp_path)


@pytest.fixture
def client(project):
    with TestClient(create_app(project), raise_server_exceptions=False) as client:
        yield client


def signature(body: bytes) -> dict[str, str]:
    return {"X-Hub-Signature-256": "sha256=" + hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()}


def test_messages_are_rows(project, client):
    body = b'{"amount": 12.30}'
    for expected in ("accepted", "duplicate"):
        response = client.post(
            "/webhooks/payments", content=body, headers={**signature(body), "X-GitHub-Delivery": "d1"}
        )
        assert (response.status_code, response.json()) == (200, {"result": expected})
    refused = client.post("/webhooks/payments", content=b'{"amount": 1}', headers=signature(body))
    assert (refused.status_code, refused.json()["problem"]) == (401, "the signature does not match")
    assert client.post("/webhooks/events", content=b'{"id": 1}').status_code == 200
    Runner(project).run()
    assert client.post("/webhooks/events", content=b'{"id": 2}').status_code == 200
    Runner(project).run()
    workspace = Workspace(project)
    assert [(str(row["amount"]), row["_id"]) for row in workspace.query("select * from payments").to_pylist()] == [
        ("12.30", "d1")
    ]
    events = workspace.query("select id, _position from events order by id").to_pylist()
    assert [(row["id"], row["_position"]) for row in events] == [(1, 0), (2, 1)]


def test_endpoints_that_do_not_exist(client):
    response = client.post("/webhooks/other", content=b"{}")
    assert (response.status_code, response.json()["detail"]) == (404, "there is no webhook 'other'")
    assert client.get("/webhooks/events").status_code == 405


def test_the_limit_of_a_message_is_that_of_its_webhook(client):
    """Not that of requests for predictions, which is 8 MiB."""
    assert client.post("/webhooks/large", content=b'{"id": "' + b"x" * (9 << 20) + b'"}').status_code == 200
    response = client.post("/webhooks/events", content=b" " * ((1 << 20) + 1))
    assert response.status_code == 413
    assert response.json() == {
        **response.json(),
        "detail": "the body is longer than 1048576 bytes",
        "do": "send smaller messages, or raise most_bytes= of the webhook",
    }


def test_a_message_that_cannot_be_stored_is_to_be_sent_again(client, monkeypatch, project):
    monkeypatch.delenv("PAYMENTS_KEY")
    response = client.post("/webhooks/payments", content=b"{}")
    assert response.status_code == 503
    assert "PAYMENTS_KEY" not in response.text
    folder = Path(project.settings.root) / ".headwater"
    folder.mkdir(exist_ok=True)
    (folder / "spool").touch()
    response = client.post("/webhooks/events", content=b"{}")
    assert (response.status_code, response.json()["detail"]) == (503, "the message could not be stored")
    assert str(folder) not in response.text
