"""Values of PostgreSQL as its output plugin and COPY write them: text, which becomes typed values by column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from pipeline.connectors.databases.changes.log import LoggedColumn
from pipeline.connectors.databases.postgres.types import column_of
from pipeline.connectors.databases.typed_rows import with_types
from pipeline.core.schema import Column, Schema
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.sql_text import literal, quoted

_SAME_AS_CAST = frozenset(
    {"int2", "int4", "int8", "float4", "float8", "numeric", "text", "varchar", "date", "timestamp", "timestamptz"}
    | {"time", "uuid", "json", "jsonb", "bytea"}
)
"""Types whose cast to text writes what their output function writes; the casts of others differ from it."""

_ELEMENT = r'"(?:[^"\\]|\\.)*"|[^,]+'
_ESCAPED = r"\\(.)"


def column_type(column: LoggedColumn) -> str:
    """Return the DuckDB type of a column, which is that of `postgres(…)`."""
    return column_of(column.name, column.kind, column.modifier).type


def as_text(column: LoggedColumn) -> str:
    """Return SQL for a value of a snapshot, as the output plugin writes it."""
    at = f"t.{quoted(column.name)}"
    if column.kind in _SAME_AS_CAST:
        return f"{at}::text"
    return f"case when {at} is not null then format('%s', {at}) end"


def typed(rows: pa.Table, columns: Sequence[LoggedColumn], schema: Schema) -> pa.Table:
    """Return logged rows with the types of their columns, or as exact text where the contract has VARCHAR.

    A value that its type cannot represent makes its column remain text, in which the contract finds it.
    """
    declared = schema.as_dict()
    found = [column for column in columns if column.name in rows.column_names]
    computed = {
        column.name: sql
        for column in found
        if (sql := _expression(column, is_text=declared.get(column.name, "VARCHAR") == "VARCHAR"))
    }
    if computed:
        rows = _computed(rows, computed)
    for column in (each for each in found if column_type(each).endswith("[]") and each.name in computed):
        rows = _with_lists(rows, column.name, column_type(column))
    of_types = (column for column in found if declared.get(column.name, "VARCHAR") != "VARCHAR")
    return with_types(rows, (column_of(each.name, each.kind, each.modifier) for each in of_types))


def _expression(column: LoggedColumn, *, is_text: bool) -> str | None:
    """Return SQL for a value whose text has another format than that of a contract; `None` if it has not."""
    at, kind = quoted(column.name), column_type(column)
    if column.kind == "bool":
        return f"{at} = 't'"
    if column.kind == "money":
        return f"regexp_replace({at}, '[$,]', '', 'g')"
    if is_text or not (kind == "BLOB" or kind.endswith("[]")):
        return None
    return f"unhex(substr({at}, 3))" if kind == "BLOB" else _list(at)


def _list(at: str) -> str:
    """Return SQL for the text of a list; an array of several dimensions, or with other bounds, remains as it is."""
    tokens = f"regexp_extract_all(substr({at}, 2, length({at}) - 2), {literal(_ELEMENT)})"
    plain = "case when x = 'NULL' then null else x end"
    unescaped = f"regexp_replace(substr(x, 2, length(x) - 2), {literal(_ESCAPED)}, {literal(chr(92) + '1')}, 'g')"
    item = f"case when starts_with(x, '\"') then {unescaped} else {plain} end"
    is_plain = f"starts_with({at}, '{{') and not starts_with({at}, '{{{{')"
    return f"case when {is_plain} then list_transform({tokens}, lambda x: {item})::varchar else {at} end"


def _with_lists(rows: pa.Table, name: str, kind: str) -> pa.Table:
    """Return rows with a column of lists, if all of them have the type."""
    with connect() as con:
        con.register("_logged", rows.select([name]))
        lists = arrow(con, f"select try_cast({quoted(name)} as {kind}) as v from _logged").column("v")
    at = rows.schema.get_field_index(name)
    return rows.set_column(at, name, lists) if lists.null_count == rows.column(at).null_count else rows


def _computed(rows: pa.Table, expressions: Mapping[str, str]) -> pa.Table:
    items = ", ".join(
        f"{expressions[name]} as {quoted(name)}" if name in expressions else quoted(name) for name in rows.column_names
    )
    with connect() as con:
        con.register("_logged", rows)
        return arrow(con, f"select {items} from _logged")


def schema_of(columns: Sequence[LoggedColumn]) -> tuple[Column, ...]:
    """Return the columns with the types under which they are stored."""
    return tuple(Column(column.name, column_type(column)) for column in columns)
