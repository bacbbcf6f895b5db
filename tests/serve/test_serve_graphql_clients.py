"""GraphQL as other people's clients see it: the audits of graphql-http, and subscriptions of graphql-ws, on a server on loopback."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rigs.in_process_server import served
from tests.rigs.npm_programs import PACKAGES, npm_file, npm_program
from tests.serve.conftest import open_cafe

SCRIPTS = Path(__file__).parents[1] / "rigs" / "graphql_clients"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[str, str]]:
    """The address of a server, and a key."""
    npm_file("graphql-http")
    cafe = open_cafe(tmp_path_factory.mktemp("cafe"))
    with served(cafe.project(), log_level="warning") as url:
        yield f"{url.removeprefix('http://')}/v1/graphql", cafe.key(scopes=["read"])


def node(script, *words):
    command = [npm_program("azurite")[0], str(SCRIPTS / script), str(PACKAGES), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.proof
def test_the_audits_of_graphql_http_find_nothing(server):
    address, key = server
    results = json.loads(node("audits.mjs", f"http://{address}", key))
    assert len(results) > 50
    failed = {
        f"{each['id']} {each['name']}": (each["status"], each["reason"]) for each in results if each["status"] != "ok"
    }
    assert failed == {}


@pytest.mark.proof
def test_a_subscription_of_graphql_ws(server):
    address, key = server
    query = "subscription { tableChanged(table: cafe_orders, since: 7) { table version } }"
    lines = node("subscribe.mjs", f"ws://{address}", key, query, "1").splitlines()
    assert [json.loads(line) for line in lines] == [{"data": {"tableChanged": {"table": "cafe_orders", "version": 0}}}]
