"""Infers the types of undeclared columns: the narrowest types that represent the entire sample without loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import duckdb

from pipeline.connectors.contract import (
    CellExpressions,
    InternalNames,
    any_misfit,
    cast_cells,
    column_groups,
    converted,
    is_wide,
    misfit_tests,
)
from pipeline.core.schema import Schema
from pipeline.kernel.sql_text import literal
from pipeline.kernel.types import inner_types, nested_type, stored_type

_CANDIDATES: Mapping[str, tuple[str, ...]] = {
    "DOUBLE": ("DECIMAL(38,0)", "DOUBLE"),  # DuckDB infers this for integers that are too long for a BIGINT
    "BIGINT": ("BIGINT", "DECIMAL(38,0)"),
    "DATE": ("DATE", "TIMESTAMP", "TIMESTAMPTZ"),
    "TIMESTAMP": ("TIMESTAMP", "TIMESTAMPTZ"),
    "TIMESTAMPTZ": ("TIMESTAMP", "TIMESTAMPTZ"),
    "HUGEINT": ("DECIMAL(38,0)",),
}
"""The types to try for a type that DuckDB inferred; the last resort is text."""
_TEXT = "VARCHAR"
_AMBIGUOUS_DATE = r"(0?[1-9]|1[0-2])([-/.])(0?[1-9]|1[0-2])[-/.][0-9]{4}"
_SAMPLED = 10_000
"""Number of rows that are checked for ambiguous dates."""


@dataclass(frozen=True)
class _Sample:
    """The rows that the types must represent: the cells and the source for some of their columns."""

    con: duckdb.DuckDBPyConnection
    cells_of: Callable[[Schema], CellExpressions]
    source: Callable[[Schema], str]

    def has_misfit(self, schema: Schema) -> bool:
        """Return whether one of the rows may be invalid."""
        cells = self.cells_of(schema)
        rows = cast_cells(schema, cells, self.source(schema))
        return bool(self.con.execute(f"select bool_or({any_misfit(schema, cells)}) from {rows}").fetchall()[0][0])

    def aggregate(
        self, schema: Schema, questions_of: Callable[[Schema], list[str]], rows: int | None = None
    ) -> list[Any]:
        """Return the result of an aggregate for each column, over all rows or the first ones."""
        answers: list[Any] = []
        most = "" if rows is None else f" limit {rows}"
        for tried in column_groups(schema):
            sample = f"select * from {converted(tried, self.cells_of(tried), self.source(tried))}{most}"
            answers += self.con.execute(f"select {', '.join(questions_of(tried))} from ({sample})").fetchall()[0]
        return answers


def infer_types(
    con: duckdb.DuckDBPyConnection,
    sniffed: Schema,
    cells_of: Callable[[Schema], CellExpressions],
    source: Callable[[Schema], str],
) -> Schema:
    """Return the columns with types that represent all values of a query, starting at DuckDB's types."""
    sample = _Sample(con, cells_of, source)
    columns = {column.name: replace(column, is_inferred=True) for column in sniffed.columns}
    waiting = {name: choices(column.type) for name, column in columns.items()}
    chosen: dict[str, str] = {}
    while waiting:
        chosen |= {name: kinds[0] for name, kinds in waiting.items()}
        tried = Schema(tuple(replace(columns[name], type=chosen[name]) for name in waiting))
        if is_wide(len(waiting)) and not sample.has_misfit(tried):
            break
        unfitting = sample.aggregate(tried, lambda some: [f"bool_or({test})" for test in misfit_tests(some)])
        waiting = {name: kinds[1:] for (name, kinds), bad in zip(waiting.items(), unfitting, strict=True) if bad}
    settled_on = Schema(tuple(replace(column, type=chosen[name]) for name, column in columns.items()))
    notes = _ambiguous_dates(sample, settled_on)
    return Schema(tuple(replace(column, note=notes.get(column.name, "")) for column in settled_on.columns))


def _ambiguous_dates(sample: _Sample, schema: Schema) -> dict[str, str]:
    """Return notes on text columns in which every value is a date that is valid both day first and month first."""
    texts = Schema(tuple(column for column in schema.columns if column.type == _TEXT))

    def is_either(columns: Schema) -> list[str]:
        pattern = literal(_AMBIGUOUS_DATE)
        return [
            f"case when bool_and(regexp_full_match({raw}, {pattern})) then any_value({raw}) end"
            for raw in InternalNames.of(columns).raw
        ]

    return {
        name: f"{name!r} is VARCHAR: dates such as {example} are valid day first and month first; declare it as varchar "
        f"and parse it with strptime({name}, '{_format(example, 'dm')}') or '{_format(example, 'md')}'"
        for name, example in zip(texts.names, sample.aggregate(texts, is_either, _SAMPLED), strict=True)
        if example is not None
    }


def _format(date: str, parts: str) -> str:
    mark = next(character for character in date if not character.isdigit())
    return mark.join((*(f"%{part}" for part in parts), "%Y"))


def choices(kind: str) -> tuple[str, ...]:
    """Return the types to try for a type that DuckDB inferred, as stored in a lake; the last one accepts any text."""
    if inner_types(kind) is None:
        return tuple(dict.fromkeys((*map(stored_type, _CANDIDATES.get(kind, (kind,))), _TEXT)))
    most = max(len(_CANDIDATES.get(leaf, (leaf,))) for leaf in _leaves(kind))
    tries = (_with_leaves(kind, lambda leaf, n=n: _nth(leaf, n)) for n in range(most))  # type: ignore[misc]
    return tuple(dict.fromkeys((*tries, _with_leaves(kind, lambda _: _TEXT), _TEXT)))


def _nth(leaf: str, number: int) -> str:
    kinds = _CANDIDATES.get(leaf, (leaf,))
    return stored_type(kinds[min(number, len(kinds) - 1)])


def _leaves(kind: str) -> list[str]:
    inner = inner_types(kind)
    return [kind] if inner is None else [leaf for part in inner.values() for leaf in _leaves(part)]


def _with_leaves(kind: str, change: Callable[[str], str]) -> str:
    inner = inner_types(kind)
    if inner is None:
        return change(kind)
    return nested_type(kind, {name: _with_leaves(part, change) for name, part in inner.items()})
