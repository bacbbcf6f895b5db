"""Widens the types of a source's table: its rows are rewritten with the wider types, in one commit of their own.

Delivery: the commit keeps the cursor of the version before it, so a run that ends after it has only changed the types.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pipeline.batch.type_changes import is_exact_as
from pipeline.core.definitions import Source
from pipeline.core.errors import SchemaError
from pipeline.core.schema import Schema
from pipeline.kernel.engine import connect
from pipeline.kernel.pool import Limits
from pipeline.kernel.scan import Scan
from pipeline.kernel.sql_text import quoted
from pipeline.lake import DeltaStager, Version
from pipeline.runner.context import RunContext

_FILE_BYTES = 128 << 20
"""The size of the files that are read into one file."""


def widened(schema: Schema, wider: Mapping[str, str]) -> Schema:
    """Return a contract with wider types of some columns."""
    return Schema(tuple(replace(column, type=wider.get(column.name, column.type)) for column in schema.columns))


def widen_table(run: RunContext, definition: Source, version: Version, wider: Mapping[str, str]) -> Version:
    """Rewrite the rows of a source's table with wider types, and return the new version.

    Raises `SchemaError` if a value would change, and `ConflictError` if another writer has committed.
    """
    table, lake = run.workspace.table(definition.name), run.workspace.lake
    if version.manifest is None:
        raise TypeError(definition.name)
    schema = Schema(tuple(replace(c, type=wider.get(c.name, c.type), is_added=False) for c in version.schema.columns))
    columns = ", ".join(f"{quoted(c.name)}::{c.type} as {quoted(c.name)}" for c in schema.columns)
    stager = DeltaStager(table.storage, f"{run.run_id}-wider", table.partition_by)
    with (
        lake.staging(table, run.run_id, version),
        run.memory.reserve(2 * _FILE_BYTES) as memory_bytes,
        connect(Limits(memory_bytes), filesystem=lake.storage.filesystem()) as con,
    ):
        _require_exact(definition, con.execute(_inexact(version, wider)).fetchone())
        files = [
            file
            for number, part in enumerate(Scan(version.schema, version.files).splits(_FILE_BYTES))
            for file in stager.stage(con, f"select {columns} from ({part.query()})", number, schema)
        ]
        manifest = replace(
            version.manifest, run_id=run.run_id, mode="overwrite", quarantined=(), quarantine_mode="append", at=run.at()
        )
        return table.commit(manifest, files, schema, version)


def _inexact(version: Version, wider: Mapping[str, str]) -> str:
    """Return a query of a value that a wider type would change, with its column."""
    kinds = version.schema.as_dict()
    tests = {name: is_exact_as(kinds[name], kind, quoted(name)) for name, kind in wider.items()}
    parts = [
        f"select '{name}', {quoted(name)}::varchar from ({version.scan().query()}) where not ({test})"
        for name, test in tests.items()
    ]
    return f"{' union all '.join(parts)} limit 1"


def _require_exact(definition: Source, row: tuple[str, str] | None) -> None:
    if row is not None:
        raise SchemaError(
            f"a wider type of the column {row[0]!r} would change a value of table {definition.name!r}",
            got=row[1],
            do="declare the type in schema=, for example as decimal(38, 6), and recompute the table with --full",
            place=definition.place,
        )
