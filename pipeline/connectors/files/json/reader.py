"""Reads newline-delimited JSON: one object per line; missing fields are null."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.connectors import nested_values, values
from pipeline.connectors.contract import RAW, CellExpressions, RawTable, apply_contract, check_columns
from pipeline.connectors.files.csv.reader import PLAIN, Dialect
from pipeline.connectors.files.encoding import not_decodable
from pipeline.connectors.files.record_index import lines_of
from pipeline.connectors.files.rejected_rows import REPLACEMENT_CHARACTER
from pipeline.connectors.inference import infer_types
from pipeline.connectors.values import ConversionRule, ReprintedNumbers, TextTraits
from pipeline.core import scratch
from pipeline.core.errors import Place, SourceError
from pipeline.core.schema import Column, Schema
from pipeline.core.sources import POSITION, ReadResult
from pipeline.kernel.engine import arrow, schema_of
from pipeline.kernel.sql_text import literal
from pipeline.kernel.types import decimal_of

_SHOWN = f"coalesce(shown, '{REPLACEMENT_CHARACTER}' || rtrim(decode(bytes, 'replace'), e'\\r\\n'))"  # the mark prevents a replay
_LONG_FRACTION = r"regexp_matches(line, '\.[0-9]{7}')"
_REPRINTED = ReprintedNumbers(
    short="has_long_fraction",
    tiny="contains(line, 'e-') or contains(line, 'E-')",
    any="regexp_matches(line, '[0-9.]{16}|[eE]-[0-9]{3}')",
)
"""A float keeps fifteen digits: a reprinted number of up to ten characters had at least seven decimal places."""
_FRACTION = r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?"
_LONGEST_BYTES = 256 << 20
_KEYS = 100
"""Number of keys up to which DuckDB always infers fields instead of a map."""
_LINES = 1000
"""Number of undecodable lines that are checked to suggest an encoding."""


def infer(con: duckdb.DuckDBPyConnection, path: str, place: Place, dialect: Dialect = PLAIN) -> Schema:
    """Return the fields of all objects with their types; raise `SourceError` if no line contains an object."""
    keys = _load(con, path)
    if not keys:
        got, do = _undecodable(con, dialect), "write one object per line, or one array of objects"
        raise SourceError("no line contains a JSON object", got=got, do=do, place=place)
    key_of = dict(zip(dialect.naming.named(keys, place), keys, strict=True))
    inferred = _fields(con, _renamed(key_of))
    if set(inferred.names) != set(key_of):  # DuckDB infers maps for objects with many or rare keys
        key_pairs = list(key_of.items())
        parts = (dict(key_pairs[begin : begin + _KEYS]) for begin in range(0, len(key_pairs), _KEYS))
        inferred = Schema(tuple(column for part in parts for column in _fields(con, _object_of(part)).columns))
    inferred = Schema(
        tuple(replace(c, key=key_of[c.name] if key_of[c.name] != c.name else "") for c in inferred.columns)
    )
    return infer_types(con, inferred, cells, lambda tried: with_texts(tried, f"(from {RAW} where is_object)"))


def _fields(con: duckdb.DuckDBPyConnection, objects: str) -> Schema:
    """Return the fields of JSON objects, given as SQL over the lines, with the types that DuckDB infers."""
    with scratch.folder("json") as folder:
        path = literal(str(Path(folder) / "objects.ndjson"))
        options = "(format csv, header false, quote '', escape '', delimiter '\x01')"
        con.execute(f"copy (select {objects} from {RAW} where is_object) to {path} {options}")
        read = f"format = 'newline_delimited', sample_size = -1, maximum_object_size = {_LONGEST_BYTES}"
        return schema_of(con, f"select * from read_json({path}, {read})")


def names(con: duckdb.DuckDBPyConnection, path: str, place: Place, dialect: Dialect) -> tuple[str, ...]:
    """Return the names of the fields of all objects."""
    return dialect.naming.named(_load(con, path), place)


def _renamed(key_of: Mapping[str, str]) -> str:
    """Return SQL for `line` with its keys replaced by the names of the table."""
    if all(name == key for name, key in key_of.items()):
        return "line"
    return _object_of(key_of)


def _object_of(key_of: Mapping[str, str]) -> str:
    """Return SQL for an object with these names, each with the value of its key in `line` or null."""
    pairs = ", ".join(f"{literal(name)}, json_extract(line, {_pointer(key)})" for name, key in key_of.items())
    return f"json_object({pairs})"


def _undecodable(con: duckdb.DuckDBPyConnection, dialect: Dialect) -> str | None:
    """Return why some of the lines are not text, or `None` if all are."""
    bad = con.execute(f"select bytes from {RAW} where line is null limit {_LINES}").fetchall()
    return not_decodable(b"".join(row[0] for row in bad), dialect.encoding) if bad else None


def read(
    con: duckdb.DuckDBPyConnection, path: str, schema: Schema, place: Place, dialect: Dialect = PLAIN
) -> ReadResult:
    """Return the accepted objects and the rejected lines, each with its line number; blank lines are ignored."""
    name_of = {column.data_name: column.name for column in schema.columns}
    names = [name_of.get(key, key) for key in _load(con, path)]
    undeclared = check_columns(schema, tuple(dict.fromkeys((*schema.names, *names))), place, dialect.new_columns)
    objects = f"(select * replace (case when is_object then line end as line), line as shown from {RAW})"
    no_text = _undecodable(con, dialect)
    not_text = "" if no_text is None else f"when shown is null then {literal(no_text)} "
    why = f"case {not_text}when is_object then 'duplicate key' else 'not a JSON object' end"
    bad = f"not is_object or coalesce({nested_values.any_twice('json_keys(line)')}, false)"
    beyond = values_of(undeclared)
    return apply_contract(con, schema, RawTable(cells(schema), _SHOWN, bad, why, with_texts(schema, objects), beyond))


def values_of(names: Iterable[str]) -> dict[str, str]:
    """Return SQL for the fields of JSON objects that are not in the contract, as text."""
    return {name: f"json_extract_string(line, {_pointer(name)})" for name in names}


def with_texts(schema: Schema, source: str) -> str:
    """Return a query that adds the columns that `cells` need to a source of objects in `line`."""
    is_decimal = any(decimal_of(column.type) is not None for column in schema.columns)
    long = f", {_LONG_FRACTION} as has_long_fraction" if is_decimal else ""
    return f"(select *, {_texts('line', schema)} as texts{long} from {source})"


def _texts(line: str, schema: Schema) -> str:
    """Return SQL for the fields of a JSON object as a list of text, in the order of the columns."""
    paths = ", ".join(_pointer(column.data_name) for column in schema.columns)
    return f"json_extract_string({line}, [{paths}])"


def cells(schema: Schema) -> CellExpressions:
    """Return the cells of JSON objects, from their text `line` and the list `texts`."""
    raw = {name: f"texts[{number}]" for number, name in enumerate(schema.names, start=1)}
    return CellExpressions(raw, _rule)


def is_object(line: str) -> str:
    """Return SQL that is true if a text is a JSON object."""
    return f"case when json_valid({line}) then json_type({line}) = 'OBJECT' else false end"


def _rule(column: Column, raw: str, cast: str) -> ConversionRule:
    """Return the rule for a field; if a number in its text may have been reprinted, it is taken from the line."""
    exact = f"json_extract_string({nested_values.marked('line')}, {_pointer(column.data_name)})"
    if values.is_nested(column.type):
        full = f"case when regexp_matches({raw}, '[0-9][.eE]') then {exact} else {raw} end"
        return ConversionRule(nested_values.of_json(column, full))
    exact = nested_values.unmarked(exact)
    if column.type in {"VARCHAR", "JSON"}:
        kept, rest = (raw, exact) if column.type == "VARCHAR" else (f"try_cast({x} as json)" for x in (raw, exact))
        return ConversionRule(kept, _is_no_reprinted_number(column, raw), fallback=rest)
    rule = values.of_text(column, raw, cast, TextTraits(reprinted=_REPRINTED))
    return replace(rule, fallback=values.value_of(column, exact)) if rule.fast is not None else rule


def _is_no_reprinted_number(column: Column, text: str) -> str:
    """Return SQL that is true for the text of a string, and for a number that occurs in the line in the same form."""
    key = literal(json.dumps(column.data_name, ensure_ascii=False) + ":")
    as_it_stands = " or ".join(
        f"contains(line, concat({key}, '{space}', {text}, '{end}'))" for space in ("", " ") for end in ",}"
    )
    return (
        f"case when ({text} >= '[' and {text} < '\\') or ({text} >= '{{' and {text} < '|') "
        f"then not regexp_matches({text}, '[0-9][.eE]') when {text} >= ':' then true when contains({text}, '.') or contains({text}, 'e') "
        f"then not regexp_full_match({text}, {literal(_FRACTION)}) or {as_it_stands} else true end"
    )


def _pointer(key: str) -> str:
    return literal("/" + key.replace("~", "~0").replace("/", "~1"))


def _load(con: duckdb.DuckDBPyConnection, path: str) -> tuple[str, ...]:
    """Load the lines into the table `raw`, and return the sorted names of all fields."""
    lines = lines_of(path)
    numbers = pa.array(np.arange(1, lines.count + 1, dtype=np.int64))
    con.register("_lines", pa.table({POSITION: numbers, "bytes": lines.texts()}))
    con.execute(
        f"create or replace temp table {RAW} as select *, {is_object('line')} as is_object "
        f"from (select {POSITION}, bytes, rtrim(try(decode(bytes)), e'\\r\\n') as line "
        "from _lines) where line is null or trim(line, e' \\t') <> ''"
    )
    con.unregister("_lines")
    field_names = arrow(
        con, f"select distinct unnest(json_keys(line)) as name from {RAW} where is_object order by name"
    )
    return tuple(field_names.column("name").to_pylist())
