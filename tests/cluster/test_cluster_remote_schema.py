"""`headwater schema --registry URL`: the same commands on a registry with the interface of Confluent's, on a server."""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
import time

import httpx
import pytest
import uvicorn
from starlette.responses import PlainTextResponse

from pipeline.core.errors import RequestError, SourceError, SourceUnavailableError
from pipeline.governance import Catalog
from pipeline.project.project import load
from pipeline.schema_registry.registry import SchemaRegistry
from pipeline.schema_registry.remote import RemoteRegistry
from pipeline.schema_registry.schemas import SchemaText
from serve.schema_registry import registry_app
from tests.cluster.test_cluster_schema import files as files  # noqa: PLC0414 - the fixture
from tests.rigs.apicurio import apicurio

USER = "Basic " + base64.b64encode(b"reader:s3cret").decode()


class Server:
    """A registry that serves the catalog of a project, and may require a user."""

    def __init__(self, catalog):
        self.app, self.authorization, self.is_registry = registry_app(SchemaRegistry(catalog)), None, True
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self.listening.getsockname()[1]}"

    async def __call__(self, scope, receive, send):
        headers = dict(scope["headers"])
        answer = self.app
        if not self.is_registry:
            answer = PlainTextResponse("hello", 404)
        elif self.authorization is not None and headers.get(b"authorization", b"").decode() != self.authorization:
            answer = PlainTextResponse("", 401)
        await answer(scope, receive, send)


@pytest.fixture
def server(files):
    catalog = Catalog(load(files).settings.catalog)
    app = Server(catalog)
    serving = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    thread = threading.Thread(target=serving.run, kwargs={"sockets": [app.listening]})
    thread.start()
    while not serving.started:
        time.sleep(0.01)
    yield app
    serving.should_exit = True
    thread.join()
    app.listening.close()
    catalog.close()


def test_all_commands_do_the_same_on_a_server(headwater, files, server):
    remote = ("--registry", f"http://{server.host}")

    def run(*words, code=0):
        return headwater("schema", *words, *remote, cwd=files, check=code)

    assert run("register", "a/b", "one.avsc").stdout == "a/b version 1 has the id 1\n"
    assert run("register", "a/b", "two.avsc").stdout == "a/b version 2 has the id 2\n"
    assert run("register", "a/b", "one.avsc").stdout == "a/b version 1 has the id 1\n"
    assert "incompatible with an earlier schema" in run("register", "a/b", "bad.avsc", code=1).stderr
    assert "✗ reading version 2: reader type: string" in run("check", "a/b", "bad.avsc", code=3).stderr
    assert "✓ the schema is compatible with new (BACKWARD)" in run("check", "new", "bad.avsc").stdout
    assert "Subject 'none' not found" in run("show", "none", code=1).stderr
    assert json.loads(run("show", "a/b", "--json").stdout).keys() == {"subject", "version", "id", "type", "schema"}
    for words in (("ls",), ("show", "a/b", "1"), ("history", "a/b"), ("diff", "a/b")):
        assert run(*words).stdout == headwater("schema", *words, cwd=files, check=0).stdout
    assert "--password belongs to --registry" in headwater("schema", "ls", "--password", "env:X", check=1).stderr


@pytest.mark.proof
def test_a_registry_that_others_wrote(headwater, files):
    """Apicurio Registry: its words differ, and what the commands do does not."""
    with apicurio() as url:

        def run(*words, code=0):
            return headwater("schema", *words, "--registry", url, cwd=files, check=code)

        assert run("register", "a", "one.avsc").stdout == "a version 1 has the id 1\n"
        assert run("register", "a", "two.avsc").stdout == "a version 2 has the id 2\n"
        assert run("register", "a", "one.avsc").stdout == "a version 1 has the id 1\n"
        httpx.put(f"{url}/config/a", json={"compatibility": "FULL"}).raise_for_status()
        assert run("register", "a", "bad.avsc", code=1).stderr.startswith("error: ")
        assert "✗" in run("check", "a", "bad.avsc", code=3).stderr
        assert "✓ the schema is compatible with a (FULL)" in run("check", "a", "one.avsc").stdout
        assert "none" in run("show", "none", code=1).stderr
        assert re.search(r"a +2 +2 +AVRO +FULL", run("ls").stdout)
        shown = json.loads(run("show", "a", "1", "--json").stdout)
        assert (shown["version"], shown["id"], shown["type"]) == (1, 1, "AVRO")
        assert "first version" in run("history", "a").stdout
        assert "+++ version 2" in run("diff", "a").stdout
        with RemoteRegistry(url) as registry:
            assert [each.version for each in registry.versions("a")] == [1, 2]


def test_versions_that_were_deleted(files, server):
    local = SchemaRegistry(Catalog(load(files).settings.catalog))
    with RemoteRegistry(f"http://{server.host}/") as remote:
        for name in ("one", "two"):
            local.register("a", SchemaText((files / f"{name}.avsc").read_text()))
        local.set_level("a", "FULL")
        local.delete_version("a", 1)
        assert remote.versions("a", is_deleted=True) == local.versions("a", is_deleted=True)
        assert [each.is_deleted for each in remote.versions("a", is_deleted=True)] == [True, False]
        assert (remote.versions("a"), remote.level("a"), remote.subjects()) == (local.versions("a"), "FULL", ["a"])
        local.delete_subject("a")
        assert remote.versions("a", is_deleted=True) == local.versions("a", is_deleted=True)
        assert remote.subjects() == []


def test_a_user_and_a_password_by_reference(server, monkeypatch):
    server.authorization = USER
    monkeypatch.setenv("REGISTRY_PASSWORD", "s3cret")
    with RemoteRegistry(f"http://reader@{server.host}", "env:REGISTRY_PASSWORD") as registry:
        assert registry.subjects() == []
    monkeypatch.setenv("REGISTRY_PASSWORD", "wrong-one")
    with (
        RemoteRegistry(f"http://reader@{server.host}", "env:REGISTRY_PASSWORD") as registry,
        pytest.raises(SourceError, match="401") as caught,
    ):
        registry.subjects()
    assert "wrong-one" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "password", "problem"),
    [
        ("ftp://host", None, "this is not the URL of a schema registry: got 'ftp'; write http://HOST:8081"),
        ("http://u:hunter2@host", None, "the URL of the registry contains a password; pass --password env:NAME"),
        ("http://u@host", None, "a user and a password belong together"),
        ("http://host", "env:X", "a user and a password belong together"),
    ],
)
def test_urls_that_are_refused(url, password, problem):
    with pytest.raises(RequestError, match=problem) as caught:
        RemoteRegistry(url, password)
    assert "hunter2" not in str(caught.value)


def test_what_is_not_a_registry_and_what_does_not_answer(server):
    server.is_registry = False
    with (
        RemoteRegistry(f"http://{server.host}") as registry,
        pytest.raises(SourceError, match="what answers is not a schema registry: got status 404; check the URL"),
    ):
        registry.subjects()
    with (
        RemoteRegistry("http://127.0.0.1:1") as registry,
        pytest.raises(SourceUnavailableError, match=r"127\.0\.0\.1:1"),
    ):
        registry.subjects()
