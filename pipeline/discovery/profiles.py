"""Columns of a sample: types, missing and distinct values, candidates for keys and times, likely personal data."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import duckdb
import pyarrow as pa

from pipeline.discovery.personal_data import PersonalData, personal_data
from pipeline.kernel.engine import connect
from pipeline.kernel.sql_text import literal, quoted
from pipeline.kernel.types import from_arrow, inner_types

Cardinality = Literal["empty", "constant", "few", "many", "unique"]
_FEW, _FEW_SHARE = 20, 0.1
_MOST_VALUES = 200
"""Number of distinct values that are compared with patterns."""
_MOST_KEYS, _PAIRED = 3, 6
_KEY_TYPES = re.compile(r"TINYINT|SMALLINT|INTEGER|BIGINT|VARCHAR|UUID|DATE|DECIMAL\(\d+,0\)")
_KEY_NAMES = re.compile(r"(^|_)(id|uuid|guid|key|code|number|no|nr|sku|isbn|pk)$|Id$|ID$")
_TIME_TYPES = ("TIMESTAMP", "DATE")
_TIME_NAMES = ("event_time", "occurred", "happened", "created", "timestamp", "ts", "time", "date", "at")
_CHANGED = re.compile(r"updated|modified|changed|last_|_upd|mtime", re.IGNORECASE)
_TIME_TEXTS = (
    ("DATE", r"\d{4}-\d\d-\d\d"),
    ("TIMESTAMP", r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?"),
    ("TIMESTAMPTZ", r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d(:?\d\d)?)"),
)


@dataclass(frozen=True)
class ColumnProfile:
    """A column, or a field of a struct, of which the name is the path."""

    name: str
    type: str
    nulls: int
    distinct: int
    cardinality: Cardinality
    suggested_type: str = ""
    """A type to which all texts can be converted, for example `TIMESTAMP`."""
    personal: PersonalData | None = None

    @property
    def is_time(self) -> bool:
        """Whether the values are times or dates, or texts of them."""
        return (self.suggested_type or self.type).startswith(_TIME_TYPES)


@dataclass(frozen=True)
class SampleProfile:
    """What a sample of rows shows."""

    rows: int
    columns: tuple[ColumnProfile, ...]
    keys: tuple[tuple[str, ...], ...]
    """Columns that identify a row of the sample, the best candidate first."""
    event_times: tuple[str, ...]
    """Columns that may say when a row happened, the best candidate first."""
    changed_at: str | None
    """A column that may say when a row was changed last, so that it can be a cursor."""


def profile(sample: pa.Table) -> SampleProfile:
    """Return what a sample of rows shows."""
    with connect() as con:
        con.register("sample", sample)
        columns = tuple(
            _column(con, path, sql, kind, sample.num_rows)
            for column in from_arrow(sample.schema).columns
            for path, sql, kind in _leaves(column.name, quoted(column.name), column.type)
        )
        top = [column for column in columns if column.name in sample.schema.names]
        keys = _keys(con, top, sample.num_rows)
    times = sorted((column for column in top if column.is_time), key=_time_rank)
    changed = [column.name for column in times if _CHANGED.search(column.name) and not column.nulls]
    return SampleProfile(
        sample.num_rows,
        columns,
        keys,
        tuple(column.name for column in times if not _CHANGED.search(column.name)) or tuple(changed),
        changed[0] if changed else None,
    )


def _leaves(path: str, sql: str, kind: str) -> Iterator[tuple[str, str, str]]:
    """Yield a column, and the fields of a struct, with their SQL."""
    yield path, sql, kind
    if kind.startswith("STRUCT"):
        for name, inner in (inner_types(kind) or {}).items():
            yield from _leaves(f"{path}.{name}", f"struct_extract({sql}, {literal(name)})", inner)


def _column(con: duckdb.DuckDBPyConnection, path: str, sql: str, kind: str, rows: int) -> ColumnProfile:
    row = con.execute(f"select count({sql}), count(distinct ({sql})::varchar) from sample").fetchone()
    there, distinct = (int(each) for each in row or (0, 0))
    values: list[str] = []
    if "(" not in kind.partition("DECIMAL")[0] and not kind.endswith("]"):
        values = [
            str(text)
            for (text,) in con.execute(
                f"select distinct ({sql})::varchar as v from sample where {sql} is not null order by v limit {_MOST_VALUES}"
            ).fetchall()
        ]
    suggested = _time_type(values) if kind == "VARCHAR" else ""
    personal = personal_data(path, values if kind in {"VARCHAR", "BIGINT"} and not suggested else [])
    return ColumnProfile(path, kind, rows - there, distinct, _cardinality(there, distinct, rows), suggested, personal)


def _cardinality(there: int, distinct: int, rows: int) -> Cardinality:
    if distinct == 0:
        return "empty"
    if distinct == 1 and rows > 1:
        return "constant"
    if distinct == there == rows:
        return "unique"
    return "few" if distinct <= max(_FEW, 1) and distinct <= max(2, rows * _FEW_SHARE) else "many"


def _time_type(values: Sequence[str]) -> str:
    return next(
        (kind for kind, pattern in _TIME_TEXTS if values and all(re.fullmatch(pattern, text) for text in values)), ""
    )


def _keys(con: duckdb.DuckDBPyConnection, columns: Sequence[ColumnProfile], rows: int) -> tuple[tuple[str, ...], ...]:
    if rows < 2:  # noqa: PLR2004 - one row says nothing
        return ()
    fit = [column for column in columns if _KEY_TYPES.fullmatch(column.type) and not column.nulls]
    single = sorted((c for c in fit if c.distinct == rows and not c.is_time), key=_key_rank)
    if single:
        return tuple((column.name,) for column in single[:_MOST_KEYS])
    likely = [column for column in fit if column.distinct > 1 and (_KEY_NAMES.search(column.name) or column.is_time)]
    pairs = itertools.combinations(likely[:_PAIRED], 2)
    return tuple((a.name, b.name) for a, b in pairs if _is_unique(con, a.name, b.name, rows))[:_MOST_KEYS]


def _is_unique(con: duckdb.DuckDBPyConnection, first: str, second: str, rows: int) -> bool:
    pair = con.execute(
        f"select count(*) from (select distinct {quoted(first)}, {quoted(second)} from sample)"
    ).fetchone()
    return pair is not None and int(pair[0]) == rows


def _key_rank(column: ColumnProfile) -> tuple[bool, bool, bool]:
    return column.name.lower() != "id", _KEY_NAMES.search(column.name) is None, column.type == "VARCHAR"


def _time_rank(column: ColumnProfile) -> tuple[int, bool]:
    words = column.name.lower().split("_")
    ranks = [number for number, name in enumerate(_TIME_NAMES) if name in words or name == column.name.lower()]
    return min(ranks, default=len(_TIME_NAMES)), column.nulls > 0
