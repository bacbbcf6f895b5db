"""`headwater schema`: the registry of a project's catalog on the command line."""

from __future__ import annotations

import json
import subprocess

import httpx
import pytest

from cluster.local.ports import unused_port
from tests.rigs.command import BIN, environment

ORDER = {"type": "record", "name": "Order", "fields": [{"name": "id", "type": "long"}]}
NOTE = {"name": "note", "type": ["null", "string"], "default": None}


@pytest.fixture
def files(teashop):
    """Files with schemas, in the folder of a project."""
    (teashop / "one.avsc").write_text(json.dumps(ORDER))
    (teashop / "two.avsc").write_text(json.dumps({**ORDER, "fields": [*ORDER["fields"], NOTE]}))
    (teashop / "bad.avsc").write_text(json.dumps({**ORDER, "fields": [{"name": "id", "type": "string"}]}))
    (teashop / "note.txt").write_text("no schema")
    return teashop


def test_schemas_are_registered_checked_and_compared(headwater, files):
    def run(*words, code=0):
        return headwater("schema", *words, cwd=files, check=code)

    assert run("ls").stdout == "no schema is registered\n"
    assert run("register", "orders-value", "one.avsc").stdout == "orders-value version 1 has the id 1\n"
    assert "✓ the schema is compatible with orders-value (BACKWARD)" in run("check", "orders-value", "two.avsc").stdout
    run("register", "orders-value", "two.avsc")
    bad = run("check", "orders-value", "bad.avsc", code=3).stderr
    assert "✗ reading version 2: reader type: string not compatible with writer type: long" in bad
    assert "incompatible with an earlier schema" in run("register", "orders-value", "bad.avsc", code=1).stderr
    listed = json.loads(run("ls", "--json").stdout)
    assert [(each["subject"], each["version"], each["compatibility"]) for each in listed] == [
        ("orders-value", 2, "BACKWARD")
    ]
    assert "orders-value" in run("ls").stdout
    changes = json.loads(run("history", "orders-value", "--json").stdout)
    assert [each["change"] for each in changes] == ["first version", "backward and forward compatible"]
    assert "backward and forward compatible" in run("history", "orders-value").stdout
    diff = run("diff", "orders-value", "1", "2").stdout
    assert run("diff", "orders-value").stdout == diff
    assert '+      "name": "note",' in diff
    assert (
        json.loads(run("diff", "orders-value", "1", "2", "--json").stdout)["change"]
        == "backward and forward compatible"
    )
    assert '"name": "id"' in run("show", "orders-value", "1").stdout
    assert json.loads(run("show", "orders-value", "--json").stdout)["version"] == 2
    assert json.loads(run("check", "orders-value", "bad.avsc", "--json", code=3).stdout)["problems"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "none"], "error: Subject 'none' not found."),
        (
            ["check", "a", "note.txt"],
            "error: the type of 'note.txt' is unknown; name it NAME.avsc, NAME.json, NAME.proto",
        ),
        (["diff", "none"], "error: Subject 'none' not found."),
        (["check", "a", "none.avsc"], "error: the schema 'none.avsc' cannot be read"),
    ],
)
def test_errors_name_what_is_wrong(headwater, files, words, message):
    assert message in headwater("schema", *words, cwd=files, check=1).stderr


def test_the_registry_is_served_until_it_is_stopped(files):
    free_port = unused_port()
    command = [str(BIN / "headwater"), "schema", "serve", "--port", str(free_port)]
    with subprocess.Popen(command, cwd=files, env=environment(), stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        assert f"at http://127.0.0.1:{free_port};" in server.stderr.readline()
        transport = httpx.HTTPTransport(retries=10)
        with httpx.Client(transport=transport, base_url=f"http://127.0.0.1:{free_port}") as client:
            assert client.post("/subjects/a/versions", json={"schema": json.dumps(ORDER)}).json()["id"] == 1
            assert client.get("/subjects").json() == ["a"]
        server.terminate()
        assert server.wait(20) in {0, -15}
