"""Reads newline-delimited JSON: one object per line; missing fields are null."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
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
_NULL = "'null'::json"
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
    keys_of = dialect.naming.of_distinct_fields(keys, place)
    inferred = _fields(con, _renamed(keys_of))
    if set(inferred.names) != set(keys_of):  # DuckDB infers maps for objects with many or rare keys
        key_pairs = list(keys_of.items())
        parts = (dict(key_pairs[begin : begin + _KEYS]) for begin in range(0, len(key_pairs), _KEYS))
        inferred = Schema(tuple(column for part in parts for column in _fields(con, _object_of(part)).columns))
    inferred = dialect.naming.keyed(inferred)
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
    return tuple(dialect.naming.of_distinct_fields(_load(con, path), place))


def _renamed(keys_of: Mapping[str, tuple[str, ...]]) -> str:
    """Return SQL for `line` with its keys replaced by the names of the table."""
    if all(keys == (name,) for name, keys in keys_of.items()):
        return "line"
    return _object_of(keys_of)


def _object_of(keys_of: Mapping[str, tuple[str, ...]]) -> str:
    """Return SQL for an object with these names, each with the value of one of its keys in `line` or null."""
    pairs = ", ".join(
        f"{literal(name)}, {_first(f'nullif(json_extract(line, {_pointer(key)}), {_NULL})' for key in keys)}"
        for name, keys in keys_of.items()
    )
    return f"json_object({pairs})"


def _text(line: str, keys: Iterable[str]) -> str:
    """Return SQL for the text of the first key that has a value in an object."""
    return _first(f"json_extract_string({line}, {_pointer(key)})" for key in keys)


def _first(values: Iterable[str]) -> str:
    """Return SQL for the first of some values that is not null."""
    listed = tuple(values)
    return f"coalesce({', '.join(listed)})" if len(listed) > 1 else listed[0]


def _undecodable(con: duckdb.DuckDBPyConnection, dialect: Dialect) -> str | None:
    """Return why some of the lines are not text, or `None` if all are."""
    bad = con.execute(f"select bytes from {RAW} where line is null limit {_LINES}").fetchall()
    return not_decodable(b"".join(row[0] for row in bad), dialect.encoding) if bad else None


def read(
    con: duckdb.DuckDBPyConnection, path: str, schema: Schema, place: Place, dialect: Dialect = PLAIN
) -> ReadResult:
    """Return the accepted objects and the rejected lines, each with its line number; blank lines are ignored."""
    keys_of = dialect.naming.of_fields(_load(con, path))
    names = () if dialect.new_columns == "discard_value" else keys_of
    undeclared = check_columns(schema, tuple(dict.fromkeys((*schema.names, *names))), place, dialect.new_columns)
    objects = f"(select * replace (case when is_object then line end as line), line as shown from {RAW})"
    no_text = _undecodable(con, dialect)
    not_text = "" if no_text is None else f"when shown is null then {literal(no_text)} "
    both = both_names(schema)
    why = f"coalesce(case {not_text}when not is_object then 'not a JSON object' end, {both}, 'duplicate key')"
    is_twice = f"coalesce({nested_values.any_twice('json_keys(line)')}, false)"
    bad = f"not is_object or {both} is not null or {is_twice}"
    beyond = values_of(undeclared, keys_of)
    return apply_contract(con, schema, RawTable(cells(schema), _SHOWN, bad, why, with_texts(schema, objects), beyond))


def keys_in(schema: Schema) -> tuple[str, ...]:
    """Return the keys that the columns have in the data."""
    return tuple(key for column in schema.columns for key in column.data_names)


def both_names(schema: Schema) -> str:
    """Return SQL over `with_texts` for the reason why an object with two names of one column is rejected, or null."""
    cases = [
        f"when {first} is not null and {other} is not null "
        f"then {literal(f'has {column.data_name!r} and {column.other_key!r}, which are one column by rename=')}"
        for column, (first, *others) in zip(schema.columns, _text_places(schema), strict=True)
        for other in others
    ]
    return f"case {' '.join(cases)} end" if cases else "null"


def values_of(names: Iterable[str], keys_of: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Return SQL for the fields of JSON objects that are not in the contract, as text."""
    return {name: _text("line", keys_of[name]) for name in names}


def with_texts(schema: Schema, source: str) -> str:
    """Return a query that adds the columns that `cells` need to a source of objects in `line`."""
    is_decimal = any(decimal_of(column.type) is not None for column in schema.columns)
    long = f", {_LONG_FRACTION} as has_long_fraction" if is_decimal else ""
    return f"(select *, {_texts('line', schema)} as texts{long} from {source})"


def _texts(line: str, schema: Schema) -> str:
    """Return SQL for the fields of a JSON object as a list of text, in the order of the columns."""
    others = (column.other_key for column in schema.columns if column.other_key)
    paths = ", ".join(map(_pointer, (*(column.data_name for column in schema.columns), *others)))
    return f"json_extract_string({line}, [{paths}])"


def _text_places(schema: Schema) -> Iterator[tuple[str, ...]]:
    """Yield SQL for the texts of each column in `texts`: of its name in the data, and of its other one if it has one."""
    following = itertools.count(len(schema.columns) + 1)
    for number, column in enumerate(schema.columns, start=1):
        yield (f"texts[{number}]", f"texts[{next(following)}]") if column.other_key else (f"texts[{number}]",)


def cells(schema: Schema) -> CellExpressions:
    """Return the cells of JSON objects, from their text `line` and the list `texts`."""
    places = zip(schema.names, _text_places(schema), strict=True)
    return CellExpressions({name: _first(texts) for name, texts in places}, _rule)


def is_object(line: str) -> str:
    """Return SQL that is true if a text is a JSON object."""
    return f"case when json_valid({line}) then json_type({line}) = 'OBJECT' else false end"


def _rule(column: Column, raw: str, cast: str) -> ConversionRule:
    """Return the rule for a field; if a number in its text may have been reprinted, it is taken from the line."""
    exact = _text(nested_values.marked("line"), column.data_names)
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
    keys = [literal(json.dumps(name, ensure_ascii=False) + ":") for name in column.data_names]
    as_it_stands = " or ".join(
        f"contains(line, concat({key}, '{space}', {text}, '{end}'))"
        for key in keys
        for space in ("", " ")
        for end in ",}"
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
