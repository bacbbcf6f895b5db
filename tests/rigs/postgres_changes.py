"""Sources of change data of a PostgreSQL server, with a slot of their own."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from pipeline import postgres_changes
from pipeline.connectors.databases.postgres_changes import PostgresChanges
from tests.rigs.postgres import PostgresDatabase


@pytest.fixture
def changes(pg: PostgresDatabase, tmp_path: Path):
    """Create a source of changes with a slot of its own, which is dropped at the end."""
    slots = []

    def create(*tables: str, **options: Any) -> PostgresChanges:
        slot = options.pop("slot", f"hw_{uuid.uuid4().hex[:12]}")
        slots.append(slot)
        return postgres_changes(pg.url, *tables, slot=slot, spool=str(tmp_path / "log"), **options)

    yield create
    for slot in slots:
        pg.run(f"select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '{slot}'")
        pg.run(f"drop publication if exists {slot}")
