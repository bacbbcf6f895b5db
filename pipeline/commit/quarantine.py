"""The quarantine of a table with partly recomputed rows: which quarantined rows are kept, and which are new."""

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
    """Return SQL for the JSON text of a value, given as SQL."""
    return f"json_extract_string(to_json({{'v': {value}}}), '$.v')"


def stage_quarantine(
    workspace: Workspace, name: str, writer: str, new: Sequence[StagedFile], those: str
) -> tuple[StagedFile, ...]:
    """Stage a table's entire quarantine: the existing rows selected by `those` (a WHERE or a join), and the new ones.

    `writer` names the files. The result replaces the existing quarantine once it is committed.
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
