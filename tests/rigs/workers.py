"""Which tests share a worker: those that use the same server or models, and those of a file with its own fixtures."""

from __future__ import annotations

import atexit
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

SERVERS = (
    "secure_kafka",
    "kafka",
    "s3",
    "google_storage",
    "azurite",
    "file_servers",
    "postgres",
    "mariadb",
    "mysql_server",
    "ferret",
    "rabbitmq",
    "snowflake_account",
)
"""The fixtures of servers. All tests of a server run on one worker, which starts it once."""
MODELS = {"empty_store", "trained"}
"""Fixtures of models. All their tests run on one worker, because MLflow creates a store in seconds."""


def group_of(item: pytest.Item) -> str:
    """Return the group of an item: its server, Ray, models, or its file; otherwise its own id."""
    if item.get_closest_marker("ray") is not None:
        return "ray"
    fixtures = set(getattr(item, "fixturenames", ()))
    parameters = getattr(getattr(item, "callspec", None), "params", {}).values()
    # a fixture that is requested by its name, which is one of the words of a parameter
    fixtures |= {word for each in parameters if isinstance(each, str) for word in each.split()}
    server = next((name for name in SERVERS if name in fixtures), None)
    if server is not None:
        return server
    if fixtures & MODELS:
        return "models"
    definitions: dict[str, Any] = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
    of_file = any(each.scope in {"module", "class"} for fixture in definitions.values() for each in fixture)
    return str(item.path) if of_file else item.nodeid


def is_last_of_server(item: pytest.Item, following: pytest.Item | None) -> bool:
    """Return whether an item is the last of its worker to use a server or Ray, which use a tenth of a core when idle."""
    group = group_of(item)
    return following is not None and group in {*SERVERS, "ray"} and group_of(following) != group


class ByServer(LoadScopeScheduling):
    """Sends the tests of a group to one worker. Workers write the groups to a file; large groups start first."""

    def _split_scope(self, nodeid: str) -> str:
        if not hasattr(self, "_groups"):
            path = _file(next(iter(self.registered_collections)).workerinput)
            self._groups = json.loads(path.read_text(encoding="utf-8"))
            atexit.register(path.unlink, missing_ok=True)
        return str(self._groups[nodeid])


def write(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Write the groups to a file, atomically, because every worker writes it."""
    worker: dict[str, Any] = config.workerinput  # type: ignore[attr-defined]
    draft = _file(worker).with_suffix(f".{worker['workerid']}")
    draft.write_text(json.dumps({item.nodeid: group_of(item) for item in items}), encoding="utf-8")
    draft.replace(_file(worker))


def _file(worker: dict[str, Any]) -> Path:
    return Path(tempfile.gettempdir()) / f"headwater-tests-{worker['testrunuid']}.json"
