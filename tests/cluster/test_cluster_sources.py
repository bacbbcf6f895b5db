"""`headwater sources` lists every connector, with what it needs."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from cluster.cli import packages
from cluster.cli.sources import _missing
from pipeline.connectors.built_in import BUILT_IN, BuiltIn
from tests.rigs.http_faults import Reply, http_server, unavailable


def test_every_connector_is_listed(headwater):
    text = headwater("sources", check=0, env={"COLUMNS": "300"}).stdout
    listed = json.loads(headwater("sources", "--json", check=0).stdout)["connectors"]
    assert {(connector.name, connector.delivery) for connector in BUILT_IN} <= {
        (each["name"], each.get("delivery")) for each in listed
    }
    assert [connector.name for connector in BUILT_IN if f"{connector.name}(…)" not in text] == []


def test_an_extra_that_is_not_installed_is_named():
    required = {"": [], "kafka": [packages.Requirement("not-installed-anywhere>=3")], "avro": []}
    assert _missing(BuiltIn("a", "", "", "", ("kafka", "avro")), required) == ["kafka"]
    assert packages.install_command("kafka") == "pip install 'headwater[kafka]'"
    assert packages.problems_of([packages.Requirement("pytest>=1000")])[0].endswith("is installed, >=1000 is required")


def test_extras_of_connectors_exist():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert {extra for connector in BUILT_IN for extra in connector.extras} <= project["optional-dependencies"].keys()


def test_the_systems_that_runs_called_are_shown(headwater, teashop):
    rows = {"items": [{"id": 1}], "page": 1, "total_pages": 1}
    with http_server() as server:
        server.script = [unavailable(), Reply(rows)]
        (teashop / "api.py").write_text(
            f"from pipeline import rest, source\nitems = source(rest('{server.url}/items', rows='$.items'))\n"
        )
        (teashop / "headwater.toml").write_text(
            (teashop / "headwater.toml").read_text().replace('"teashop.py"', '"api.py"')
        )
        headwater("run", cwd=teashop, check=0)
    (system,) = json.loads(headwater("sources", "--json", cwd=teashop, check=0).stdout)["systems"]
    assert (system["name"], system["state"]) == (server.url.removeprefix("http://"), "closed")
    assert (system["calls"], system["failures"]) == (2, 1)
    assert "Systems at the end of the last run" in headwater("sources", cwd=teashop, check=0).stdout
