"""Widens the types of a table: its rows are rewritten with the wider types, in one commit of their own.

Delivery: the commit keeps the cursor or the epoch of the version before it, so a run or a stream that ends after it has
only changed the types.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.core.definitions import StoredDefinition
from pipeline.core.errors import SchemaError
from pipeline.core.schema import Schema
from pipeline.core.staging import RowCounts
from pipeline.kernel.engine import connect
from pipeline.kernel.pool import Limits
from pipeline.kernel.scan import Scan
from pipeline.kernel.sql_text import literal, quoted
from pipeline.kernel.type_widening import is_exact_as
from pipeline.lake import DeltaStager, Version
from pipeline.project.workspace import Workspace

FILE_BYTES = 128 << 20
"""The size of the files that are read into one file."""


@dataclass(frozen=True)
class Widening:
    """What to widen: a table, its version, the wider types by column, and the run or the stream that does it."""

    definition: StoredDefinition
    version: Version
    types: Mapping[str, str]
    run_id: str
    at: str
    """The time of the commit, as ISO 8601 in UTC."""


def widen_table(workspace: Workspace, widening: Widening, limits: Limits) -> Version:
    """Rewrite the rows of a table with wider types, and return the new version. Call it within `Lake.staging`.

    Raises `SchemaError` if a value would change, and `ConflictError` if another writer has committed.
    """
    definition, version, wider = widening.definition, widening.version, widening.types
    table, lake = workspace.table(definition.name), workspace.lake
    if version.manifest is None:
        raise TypeError(definition.name)
    schema = Schema(tuple(replace(c, type=wider.get(c.name, c.type), is_added=False) for c in version.schema.columns))
    columns = ", ".join(f"{quoted(c.name)}::{c.type} as {quoted(c.name)}" for c in schema.columns)
    stager = DeltaStager(table.storage, f"{widening.run_id}-wider", table.partition_by)
    with connect(limits, filesystem=lake.storage.filesystem()) as con:
        _require_exact(definition, con.execute(_inexact(version, wider)).fetchone())
        files = [
            file
            for number, part in enumerate(Scan(version.schema, version.files).splits(FILE_BYTES))
            for file in stager.stage(con, f"select {columns} from ({part.query()})", number, schema)
        ]
        manifest = replace(
            version.manifest,
            run_id=widening.run_id,
            mode="overwrite",
            quarantined=(),
            quarantine_mode="append",
            flow=RowCounts(),
            checks={},
            at=widening.at,
        )
        return table.commit(manifest, files, schema, version)


def _inexact(version: Version, wider: Mapping[str, str]) -> str:
    """Return a query of a value that a wider type would change, with its column."""
    kinds = version.schema.as_dict()
    tests = {name: is_exact_as(kinds[name], kind, quoted(name)) for name, kind in wider.items()}
    parts = [
        f"select {literal(name)}, {quoted(name)}::varchar from ({version.scan().query()}) where not ({test})"
        for name, test in tests.items()
    ]
    return f"{' union all '.join(parts)} limit 1"


def _require_exact(definition: StoredDefinition, row: tuple[str, str] | None) -> None:
    if row is not None:
        raise SchemaError(
            f"a wider type of the column {row[0]!r} would change a value of table {definition.name!r}",
            got=row[1],
            do="declare the type in schema=, for example as decimal(38, 6), and recompute the table: "
            "headwater run --full, or headwater stream --from earliest",
            place=definition.place,
        )
