"""Readers in the folder of a project: relative paths are resolved, and the other options stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline import delta_sharing, delta_table, duckdb_file, iceberg_table, mysql_changes, postgres_changes, sqlite
from pipeline.core.sources import InProject

READERS: dict[str, Any] = {
    "delta_sharing": lambda: delta_sharing("a.share", "share", "schema", "table"),
    "delta_table": lambda: delta_table("a"),
    "duckdb_file": lambda: duckdb_file("a.duckdb", "t"),
    "iceberg_table": lambda: iceberg_table("a"),
    "mysql_changes": lambda: mysql_changes("mysql://h/d", "t").table("t"),
    "postgres_changes": lambda: postgres_changes("postgresql://h/d", "t", slot="s").table("t"),
    "sqlite": lambda: sqlite("a.db", "t"),
    "sqlite with reconcile": lambda: sqlite("a.db", "t", cursor="at", reconcile="1 day"),
}


@pytest.mark.parametrize("name", READERS)
def test_the_policy_for_new_columns_is_kept(name, tmp_path: Path):
    evolving = READERS[name]().evolving("evolve")
    assert isinstance(evolving, InProject)
    reader: Any = evolving.within(tmp_path)
    assert type(reader) is type(evolving)
    assert str(tmp_path) in repr(reader)
    assert reader.new_columns == "evolve"
