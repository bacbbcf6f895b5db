"""Newline-delimited JSON: one object a line; a field that is not there is null."""

from __future__ import annotations

import itertools
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.core import scratch
from pipeline.core.errors import Place, SourceError
from pipeline.core.reading import POSITION, Reading
from pipeline.core.schema import Column, Schema
from pipeline.kernel.engine import arrow, literal, schema_of
from pipeline.sources.fit import RAW, Raw, fit, hold
from pipeline.sources.lines import lines_of
from pipeline.sources.texts import UNKNOWN

_SHOWN = f"coalesce(line, '{UNKNOWN}' || rtrim(decode(bytes, 'replace'), e'\\r\\n'))"  # so marked, it is not read again
_LONGEST_BYTES = 256 << 20


def infer(con: duckdb.DuckDBPyConnection, path: str, place: Place) -> Schema:
    """Return the fields of all objects with their types; raise `SourceError` when no line holds an object."""
    names = _load(con, path)
    if not names:
        raise SourceError("no line holds a JSON object", do="write one object a line, without line breaks", place=place)
    with scratch.folder("json") as folder:
        objects = str(Path(folder) / "objects.ndjson")
        con.execute(
            f"copy (select line from {RAW} where is_object) to {literal(objects)} "
            "(format csv, header false, quote '', escape '', delimiter '\x01')"
        )
        found = schema_of(
            con,
            f"select * from read_json({literal(objects)}, format = 'newline_delimited', sample_size = -1, "
            f"maximum_object_size = {_LONGEST_BYTES})",
        )
    folded = sorted(names, key=str.lower)
    for name, other in itertools.pairwise(folded):
        if name.lower() == other.lower():
            raise SourceError(f"the fields {name!r} and {other!r} differ only in case", place=place)
    return found


def read(con: duckdb.DuckDBPyConnection, path: str, schema: Schema, place: Place) -> Reading:
    """Return the objects that fit and the lines that do not, each with its line; blank lines are no rows."""
    names = _load(con, path)
    hold(schema, tuple(dict.fromkeys((*schema.names, *names))), place)
    con.execute(
        f"alter table {RAW} add column texts varchar[]; update {RAW} set texts = {texts('line', schema)} where is_object"
    )
    why = literal("not a JSON object, or not UTF-8")
    return fit(con, schema, Raw(values(schema), _SHOWN, bad="not is_object", why=why))


def texts(line: str, schema: Schema) -> str:
    """Return SQL for the fields of a JSON object as a list of texts, in the order of the columns."""
    paths = ", ".join(literal("/" + c.name.replace("~", "~0").replace("/", "~1")) for c in schema.columns)
    return f"json_extract_string({line}, [{paths}])"


def values(schema: Schema) -> dict[str, str]:
    """Return SQL for each column's value, from the list `texts`."""
    return {c.name: _value(number, c) for number, c in enumerate(schema.columns, start=1)}


def is_object(line: str) -> str:
    """Return SQL that is true where a text is a JSON object."""
    return f"case when json_valid({line}) then json_type({line}) = 'OBJECT' else false end"


def _value(number: int, column: Column) -> str:
    text = f"texts[{number}]"
    nested = column.type.endswith("]") or column.type.startswith(("STRUCT", "MAP"))
    return f"try({text}::json)" if nested else text


def _load(con: duckdb.DuckDBPyConnection, path: str) -> tuple[str, ...]:
    """Load the lines into the table `raw` and return the names of all objects' fields, sorted."""
    lines = lines_of(path)
    numbers = pa.array(np.arange(1, lines.count + 1, dtype=np.int64))
    con.register("_lines", pa.table({POSITION: numbers, "bytes": lines.texts()}))
    con.execute(
        f"create or replace temp table {RAW} as select *, {is_object('line')} as is_object "
        f"from (select {POSITION}, bytes, rtrim(try(decode(bytes)), e'\\r\\n') as line "
        "from _lines) where line is null or trim(line, e' \\t') <> ''"
    )
    con.unregister("_lines")
    found = arrow(con, f"select distinct unnest(json_keys(line)) as name from {RAW} where is_object order by name")
    return tuple(found.column("name").to_pylist())
