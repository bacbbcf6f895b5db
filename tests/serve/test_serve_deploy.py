from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import warnings
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from cluster.local.ports import unused_port
from pipeline.core.errors import DefinitionError, RequestError
from serve.deployment.check import check
from serve.tls import TlsFiles
from tests.rigs.proofs import examples
from tests.rigs.streams import valkey as valkey  # noqa: PLC0414 - re-exported fixture
from tests.serve.replicas import share

with warnings.catch_warnings():
    # the settings classes of Ray Serve use a deprecated form of pydantic's extra arguments
    warnings.filterwarnings("ignore", message="Using extra keyword arguments on `Field`")
    from serve.deployment.deploy import start

SERVE = """
import json, sys
from pipeline.project.project import load
from serve.deployment.check import check
from serve.deployment.deploy import start, stop
from serve.deployment.replicas import Replicas

endpoint = start(sys.argv[1], port=int(sys.argv[2]), replicas=Replicas(int(sys.argv[4]), int(sys.argv[4])), direct_port=int(sys.argv[5]))
print(json.dumps([vars(answer) for answer in check(endpoint.url, load(sys.argv[1]))]), flush=True)
sys.stdin.readline()
try:
    start(sys.argv[1], port=int(sys.argv[3]))
except Exception as error:
    print(type(error).__name__, error, flush=True)
print(check(endpoint.url, load(sys.argv[1]))[0].status, flush=True)
stop()
"""
FAILING = """
import sys
from serve.deployment.deploy import start

try:
    start(sys.argv[1], port=int(sys.argv[2]))
except Exception as error:
    print(type(error).__name__, error)
"""


HASTY = """
import ray

if ray.is_initialized():
    raise ValueError("too late")

from pipeline import files, source

raw_nothing = source(files("nothing.csv"))
"""


REPLICAS = str(examples(1, 2))


@pytest.fixture
def hasty(tmp_path) -> Path:
    """A project that loads here, but not in a replica."""
    root = tmp_path / "hasty"
    root.mkdir()
    (root / "headwater.toml").write_text('[project]\nname = "hasty"\ndefinitions = "hasty.py"\n')
    (root / "hasty.py").write_text(HASTY)
    return root


@pytest.fixture
def environ() -> dict[str, str]:
    """The environment of a process that starts its own Ray."""
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


@pytest.mark.ray
def test_a_project_is_served_by_ray(cafe, environ):
    """In a separate process, so that Ray leaves nothing behind in this one."""
    port, direct = unused_port(), unused_port()
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, cafe.root, str(port), str(unused_port()), REPLICAS, str(direct)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
    ) as process:
        answers = json.loads(process.stdout.readline())
        url = f"http://127.0.0.1:{port}"
        headers = {"Authorization": f"Bearer {cafe.key()}"}
        page = httpx.get(f"{url}/v1/tables/cafe_orders?limit=1&cups=gt.1", headers=headers).json()
        following = httpx.get(url + page["next"], headers=headers).json()
        same = httpx.get(f"http://127.0.0.1:{direct}/v1/tables/cafe_orders?limit=1&cups=gt.1", headers=headers).json()
        locked = httpx.get(f"{url}/v1/tables/cafe_orders").status_code
        with pytest.raises(RequestError, match=f"cannot listen on 127.0.0.1:{port}: got Address already in use"):
            start(cafe.root, port=port)
        elsewhere, still_there = process.communicate("go on\n", timeout=120)[0].splitlines()
    assert [(a["method"], a["path"], a["status"]) for a in answers] == [
        ("GET", "/health", 200),
        ("GET", "/v1/tables/cafe_orders?limit=3", 200),
        ("POST", "/v1/graphql", 200),
        ("GET", "/v1/odata/cafe_orders?$top=3", 200),
    ]
    assert same == page, "the replicas answer themselves"
    assert locked == 404, "not for those without a key"
    assert [row["order_id"] for row in page["rows"] + following["rows"]] == [2, 3]
    assert elsewhere.startswith("RequestError Ray Serve does not listen on 127.0.0.1:")
    assert still_there == "200", "the running application continues"
    assert process.returncode == 0
    for each in (port, direct):
        with closing(socket.socket()) as probe:
            assert probe.connect_ex(("127.0.0.1", each)) != 0, "nothing listens on the port"


@pytest.mark.proof
@pytest.mark.ray
def test_replicas_of_a_cluster_share_limits_and_responses(cafe, environ, valkey):
    share(cafe, valkey.port, "cafe on ray")
    file = cafe.root / "headwater.toml"
    file.write_text(
        file.read_text().replace("requests_per_second = 10000\nburst = 10000", "requests_per_second = 0.01\nburst = 40")
    )
    port, direct = unused_port(), unused_port()
    words = [sys.executable, "-c", SERVE, cafe.root, str(port), str(unused_port()), "2", str(direct)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ) as process:
        process.stdout.readline()
        headers = {"Authorization": f"Bearer {cafe.key()}", "Connection": "close"}
        statuses = [
            httpx.get(f"http://127.0.0.1:{direct}/v1/tables/guests", headers=headers).status_code for _ in range(60)
        ]
        other = {"Authorization": f"Bearer {cafe.key()}", "Connection": "close"}
        health = [httpx.get(f"http://127.0.0.1:{direct}/health", headers=other).json() for _ in range(20)]
        process.communicate("go on\n", timeout=120)
    assert statuses == [200] * 40 + [429] * 20
    assert len({str(each["cache"]) for each in health}) > 1, "several replicas answered"
    assert all(each["shared"]["is_shared"] for each in health)
    assert {each["shared"]["counted_alone"] for each in health} == {0}


@pytest.mark.proof
@pytest.mark.ray
def test_replicas_that_do_not_start_are_reported(hasty, environ):
    port = unused_port()
    command = [sys.executable, "-c", FAILING, hasty, str(port)]
    output = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=120, check=True).stdout
    assert output.startswith("SettingsError the replicas do not start: got ")
    assert "too late" in output
    with closing(socket.socket()) as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "nothing listens on the port"


def test_errors_are_reported_before_ray_is_started(cafe, monkeypatch):
    def refuse(**_options):
        raise AssertionError("Ray was started")

    monkeypatch.setattr("ray.init", refuse)
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            RequestError, match=rf"cannot listen on 127.0.0.1:{port}: got .*; choose another address or port"
        ):
            start(cafe.root, port=port)
        with pytest.raises(RequestError, match=rf"cannot listen on 127.0.0.1:{port}: got "):
            start(cafe.root, port=unused_port(), direct_port=port)
    free = unused_port()
    with pytest.raises(
        RequestError, match=f"the replicas cannot listen on the port of the proxy, or twice on one: got {free}"
    ):
        start(cafe.root, port=free, direct_port=free)
    missing = TlsFiles("none.pem", "none.pem")
    with pytest.raises(RequestError, match="Ray Serve's proxy has no TLS"):
        start(cafe.root, port=unused_port(), tls=missing)
    with pytest.raises(RequestError, match=r"the files for TLS cannot be used: got none\.pem"):
        start(cafe.root, port=unused_port(), direct_port=unused_port(), tls=missing)
    with pytest.raises(RequestError, match=r"cannot listen on 127.0.0.1:70000"):
        start(cafe.root, port=70_000)
    with pytest.raises(RequestError, match=r"cannot listen on nowhere.invalid:80"):
        start(cafe.root, host="nowhere.invalid", port=80)
    (cafe.root / "cafe.py").write_text("1 / 0")
    with pytest.raises(DefinitionError, match="ZeroDivisionError"):
        start(cafe.root, port=unused_port())


def test_check_reports_an_endpoint_that_does_not_respond(cafe):
    answers = check(f"http://127.0.0.1:{unused_port()}", cafe.project())
    assert [(answer.path, answer.status, answer.is_good) for answer in answers] == [
        ("/health", 0, False),
        ("/v1/tables/cafe_orders?limit=3", 0, False),
        ("/v1/graphql", 0, False),
        ("/v1/odata/cafe_orders?$top=3", 0, False),
    ]
    assert "refused" in answers[0].body
