"""Versions of tables as extracts of Tableau: `.hyper` files, written by Tableau's own engine."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pipeline.core.errors import SourceError
from pipeline.core.extras import imports_of
from pipeline.core.schema import Column
from pipeline.kernel.engine import connect
from pipeline.kernel.pool import Limits
from pipeline.kernel.sql_text import literal, quoted
from pipeline.kernel.types import decimal_of
from pipeline.lake import Storage, Version
from serve.queries.expressions import column_value
from serve.tables import identity_of

_LIMITS = Limits(memory_bytes=1 << 30, threads=2)
_NAME = '"Extract"."Extract"'
"""The name of the table in each file: where Tableau looks for an extract."""
_MOST_DIGITS, _WIDE_FORMAT = 18, "3"
"""Decimal numbers with more digits need this format, which Tableau reads since 2022.4."""


def export_hyper(lake: Storage, name: str, version: Version, folder: Path) -> tuple[Path, bool]:
    """Write a version of a table to a file in a folder, which is named by it; return its path and whether it was made now.

    A file that is there already is not made again. Readers see a file whole or not at all. Floats that are not finite are null,
    nested values are JSON text. Raises `SourceError` if `headwater[tableau]` is not installed, or if the engine fails.
    """
    path = folder / f"{name}-{identity_of(version)}.hyper"
    if path.exists():
        return path, False
    with imports_of("tableau", "an export for Tableau"):
        import tableauhyperapi as hyper  # noqa: PLC0415 - an extra of 292 MB
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}.hyper")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
        rows = Path(scratch) / "rows.parquet"
        with connect(_LIMITS, filesystem=lake.filesystem(), keep=False) as con:
            con.execute(f"copy ({_select(version)}) to {literal(str(rows))} (format parquet, compression zstd)")
        made = f"create table {_NAME} as (select * from external({hyper.escape_string_literal(str(rows))}, format => 'parquet'))"
        try:
            with (
                hyper.HyperProcess(
                    hyper.Telemetry.DO_NOT_SEND_USAGE_DATA_TO_TABLEAU, parameters=_parameters(version)
                ) as process,
                hyper.Connection(process.endpoint, str(part), hyper.CreateMode.CREATE_AND_REPLACE) as connection,
            ):
                connection.catalog.create_schema("Extract")
                connection.execute_command(made)
            part.replace(path)
        except hyper.HyperException as error:
            raise SourceError("Tableau's engine cannot write the extract", got=str(error).partition("\n")[0]) from error
        finally:
            part.unlink(missing_ok=True)
    return path, True


def _parameters(version: Version) -> dict[str, str]:
    """Return the settings of the engine: no log in the current folder, and a newer format only for what the older one lacks."""
    digits = max((decimal[0] for each in version.schema.columns if (decimal := decimal_of(each.type))), default=0)
    return {"log_config": ""} | ({"default_database_version": _WIDE_FORMAT} if digits > _MOST_DIGITS else {})


def _select(version: Version) -> str:
    columns = ", ".join(f"{_value(each)} as {quoted(each.name)}" for each in version.schema.columns)
    return f"select {columns} from ({version.scan().query()})"


def _value(column: Column) -> str:
    """Return a column with a type of Hyper, which has neither integers of 8 bits nor floats of 32."""
    wider = {"TINYINT": "SMALLINT", "FLOAT": "DOUBLE"}.get(column.type)
    value = column_value(column)
    return value if wider is None else f"cast({value} as {wider})"
