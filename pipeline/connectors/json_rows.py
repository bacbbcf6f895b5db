"""Encodes rows as text: a JSON object of the columns, and the key."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime

import duckdb
import pyarrow as pa

from pipeline.core.errors import RequestError, SchemaError, did_you_mean
from pipeline.kernel.engine import connect, schema_of
from pipeline.kernel.sql_text import quoted

_NOT_JSON = ("BLOB", "BIT")
_MAY_BE_NO_NUMBER = ("FLOAT", "DOUBLE")


def texts(
    blocks: Iterable[pa.RecordBatch], schema: pa.Schema, key: Sequence[str]
) -> Iterator[tuple[list[str | None], list[str]]]:
    """Yield the keys and the rows of each block.

    A row is a JSON object, with times as `2026-01-31 12:00:00`. A key of one column is its text or null; a key of
    several columns is a JSON array. Raises `SchemaError` for a key that is not a column, a binary column, and a number
    that is NaN or infinite.
    """
    missing = next((name for name in key if name not in schema.names), None)
    if missing is not None:
        raise SchemaError(
            f"the key {missing!r} is not a column of these rows",
            got=", ".join(schema.names),
            do=did_you_mean(missing, schema.names),
        )
    with connect() as con:
        con.register("_block", schema.empty_table())
        kinds = schema_of(con, "select * from _block").as_dict()
        _require_json(kinds)
        checked = [name for name, kind in kinds.items() if any(word in kind for word in _MAY_BE_NO_NUMBER)]
        for block in blocks:
            con.register("_block", block)
            _require_numbers(con, checked)
            rows = con.sql(f"select {_key(key)} as k, to_json(_block)::varchar as v from _block").to_arrow_table()
            yield rows["k"].to_pylist(), rows["v"].to_pylist()


def keys(rows: pa.Table, key: Sequence[str]) -> list[str | None]:
    """Return the keys of rows, in the format of `texts`."""
    with connect() as con:
        con.register("_block", rows)
        row_keys: list[str | None] = con.sql(f"select {_key(key)} as k from _block").to_arrow_table()["k"].to_pylist()
        return row_keys


def key_text(values: Sequence[object]) -> str:
    """Return the key of one row, in the format of `texts`.

    Raises `RequestError` for a value that is not text, an integer, a date or a boolean.
    """
    plain = [value.isoformat() if isinstance(value, date) else value for value in values]
    for value, original in zip(plain, values, strict=True):
        if not isinstance(value, str | int) or isinstance(original, datetime):
            raise RequestError("a key must consist of text, integers, dates or booleans", got=repr(original))
    if len(plain) == 1 and isinstance(plain[0], str):
        return plain[0]
    return json.dumps(plain if len(plain) > 1 else plain[0], ensure_ascii=False, separators=(",", ":"))


def _key(key: Sequence[str]) -> str:
    if len(key) > 1:
        return f"to_json([{', '.join(f'to_json({quoted(name)})' for name in key)}])::varchar"
    return f"{quoted(key[0])}::varchar" if key else "null::varchar"


def _require_json(kinds: dict[str, str]) -> None:
    for name, kind in kinds.items():
        if any(word in kind for word in _NOT_JSON):
            raise SchemaError(
                f"column {name!r} cannot be encoded as JSON",
                got=kind,
                do=f"remove it from the table, or encode it: base64({quoted(name)})",
            )


def _require_numbers(con: duckdb.DuckDBPyConnection, columns: Sequence[str]) -> None:
    """Raise `SchemaError` for a value that JSON cannot represent."""
    if not columns:
        return
    fields = ", ".join(f"{quoted(name)}: {quoted(name)}" for name in columns)
    texts_of = f"select to_json({{{fields}}})::varchar as v from _block"
    for (text,) in con.execute(f"select v from ({texts_of}) where regexp_matches(v, 'NaN|Infinity')").fetchall():
        try:
            json.loads(text, parse_constant=_refuse)
        except ValueError as error:
            raise SchemaError(
                "a row has a number that JSON cannot represent",
                got=text,
                do=f"add an expectation to the table, for example quarantine('numbers', 'isfinite({columns[0]})')",
            ) from error


def _refuse(word: str) -> object:
    raise ValueError(word)
