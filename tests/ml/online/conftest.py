from __future__ import annotations

import uuid
from dataclasses import dataclass

import pytest

from ml.features.online.opening import open_store
from ml.features.online.store import FeatureStore
from tests.rigs.streams import valkey as valkey  # noqa: PLC0414 - re-exported fixture


@dataclass(frozen=True)
class StoreAddress:
    """Where an online store is; each opened store is that of another process."""

    url: str
    project: str

    def open(self) -> FeatureStore:
        return open_store(self.url, self.project, "dev")


@pytest.fixture(params=["sqlite", "valkey"])
def address(request, tmp_path) -> StoreAddress:
    """An empty online store of each kind."""
    if request.param == "sqlite":
        return StoreAddress(f"sqlite:///{tmp_path}/online/features.db", "shop")
    server = request.getfixturevalue("valkey")
    return StoreAddress(f"redis://{server.host}:{server.port}/0", f"shop*[{uuid.uuid4().hex[:8]}]")
