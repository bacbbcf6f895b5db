"""The quarantine of a table of which only some rows were made again: what of it stays, and what is new."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.core.staging import StagedFile
from pipeline.kernel.engine import connect, one
from pipeline.kernel.sql_text import listed, literal
from pipeline.lake import QUARANTINE, DeltaStager
from pipeline.project.workspace import Workspace


def in_json(column: str) -> str:
    """Return SQL for the text of a column in the JSON of a quarantined row."""
    pointer = "/" + column.replace("~", "~0").replace("/", "~1")
    return f"json_extract_string(row, {literal(pointer)})"


def json_text(value: str) -> str:
    """Return SQL for the text that a value, given as SQL, has in JSON."""
    return f"json_extract_string(to_json({{'v': {value}}}), '$.v')"


def stage_quarantine(
    workspace: Workspace, name: str, writer: str, new: Sequence[StagedFile], those: str
) -> tuple[StagedFile, ...]:
    """Stage the whole of a table's quarantine: of the rows there `those` (a WHERE or a join), and the new ones.

    `writer` names the files. What is returned takes the place of what is there once it is committed.
    """
    quarantined = workspace.lake.quarantine(name)
    before = quarantined.version()
    if before is None or not before.files:
        return tuple(new)
    columns, files = (
        listed(QUARANTINE.names),
        ", ".join(literal(f"{quarantined.storage.uri}/{file.path}") for file in new),
    )
    with connect(filesystem=workspace.lake.storage.filesystem()) as con:
        rows = f"select {columns} from ({before.scan().query()}) as q {those}"
        if files:
            rows += f" union all select {columns} from read_parquet([{files}], hive_partitioning = false)"
        if not one(con, f"select count(*) from ({rows})")[0]:
            return ()
        return DeltaStager(quarantined.storage, writer).stage(con, rows, 0)
