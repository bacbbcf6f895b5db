"""The types of columns that nobody declared: the narrowest that the whole sample enters without a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import duckdb

from pipeline.core.schema import Column, Schema
from pipeline.kernel.types import inner_types, nested_type, stored_type
from pipeline.sources.fit import Cells, checked, unfit

_NEXT: Mapping[str, tuple[str, ...]] = {
    "DOUBLE": ("DECIMAL(38,0)", "DOUBLE"),  # what an integer was taken for that is too long for a BIGINT
    "BIGINT": ("BIGINT", "DECIMAL(38,0)"),
    "DATE": ("DATE", "TIMESTAMP", "TIMESTAMPTZ"),
    "TIMESTAMP": ("TIMESTAMP", "TIMESTAMPTZ"),
    "TIMESTAMPTZ": ("TIMESTAMP", "TIMESTAMPTZ"),
    "HUGEINT": ("DECIMAL(38,0)",),
}
"""What is tried for a type that DuckDB found; after all of these, text."""
_TEXT = "VARCHAR"
_AT_ONCE = 250
"""How many columns a statement tests: DuckDB compares each with every other."""


def settled(
    con: duckdb.DuckDBPyConnection, found: Schema, cells_of: Callable[[Schema], Cells], source: Callable[[Schema], str]
) -> Schema:
    """Return the columns with types that hold all values of a query, of those that come next to the ones that were found."""
    waiting = {column.name: choices(column.type) for column in found.columns}
    chosen: dict[str, str] = {}
    while waiting:
        chosen |= {name: kinds[0] for name, kinds in waiting.items()}
        counts: list[int] = []
        columns = [Column(name, chosen[name], is_inferred=True) for name in waiting]
        for begin in range(0, len(columns), _AT_ONCE):
            tried = Schema(tuple(columns[begin : begin + _AT_ONCE]))
            lost = ", ".join(f"count(*) filter ({test})" for test in unfit(tried))
            counts += con.execute(f"select {lost} from {checked(tried, cells_of(tried), source(tried))}").fetchall()[0]
        waiting = {name: kinds[1:] for (name, kinds), count in zip(waiting.items(), counts, strict=True) if count}
    return Schema(tuple(replace(column, type=chosen[column.name], is_inferred=True) for column in found.columns))


def choices(kind: str) -> tuple[str, ...]:
    """Return the types to try for one that DuckDB found, as a lake stores them; the last one holds every text."""
    if inner_types(kind) is None:
        return tuple(dict.fromkeys((*map(stored_type, _NEXT.get(kind, (kind,))), _TEXT)))
    most = max(len(_NEXT.get(leaf, (leaf,))) for leaf in _leaves(kind))
    tries = (_with_leaves(kind, lambda leaf, n=n: _nth(leaf, n)) for n in range(most))  # type: ignore[misc]
    return tuple(dict.fromkeys((*tries, _with_leaves(kind, lambda _: _TEXT), _TEXT)))


def _nth(leaf: str, number: int) -> str:
    kinds = _NEXT.get(leaf, (leaf,))
    return stored_type(kinds[min(number, len(kinds) - 1)])


def _leaves(kind: str) -> list[str]:
    inner = inner_types(kind)
    return [kind] if inner is None else [leaf for part in inner.values() for leaf in _leaves(part)]


def _with_leaves(kind: str, change: Callable[[str], str]) -> str:
    inner = inner_types(kind)
    if inner is None:
        return change(kind)
    return nested_type(kind, {name: _with_leaves(part, change) for name, part in inner.items()})
