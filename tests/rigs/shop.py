"""A project that reads a table of a database, from which rows are deleted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipeline import source, sql
from pipeline.core.graph import Graph
from pipeline.core.settings import Settings
from pipeline.project import Project, Workspace
from pipeline.runner import Runner

START = datetime(2026, 1, 1, tzinfo=UTC)
SCHEMA = {"id": "bigint", "v": "varchar", "at": "timestamp", "_deleted": "boolean"}


class Shop:
    """A project that reads a table into a merged one, at a time that a test sets."""

    def __init__(self, folder: Path, reader: Any, run: Callable[[Any], Any], key: str = "id", **options: Any) -> None:
        self.folder, self.run_sql, self.time, self.key = folder, run, START, key
        self.reader = replace(reader, clock=lambda: self.time)
        self.options = {"schema": SCHEMA, **options}

    def project(self) -> Project:
        raw = source(self.reader, **self.options).named("raw")
        rows = sql("select * from raw", key=self.key, sequence_by="_ingested_at", apply_as_deletes="_deleted").named(
            "rows"
        )
        settings = Settings(
            "deletes",
            self.folder,
            self.folder / "none.py",
            lake=str(self.folder / "lake"),
            warehouse=str(self.folder / "warehouse.duckdb"),
            catalog=f"sqlite:///{self.folder / 'catalog.db'}",
        )
        return Project(settings, Graph.of([raw, rows]))

    def run(self, *statements: Any, hours: int = 0, observer: Any = None) -> list[str]:
        """Change the table, let hours pass, run the project, and return what it did."""
        for statement in statements:
            self.run_sql(statement)
        self.time += timedelta(hours=hours)
        options = {} if observer is None else {"observer": observer}
        record = Runner(self.project(), **options).run()
        assert record.status == "done", record
        return [step.decision for step in record.steps]

    def rows(self, name: str = "rows") -> list[tuple[Any, ...]]:
        query = f"select {self.key}, v from {name} order by {self.key}, v"
        return [tuple(row.values()) for row in Workspace(self.project()).query(query).to_pylist()]
