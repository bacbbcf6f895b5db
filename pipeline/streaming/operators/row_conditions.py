"""SQL conditions over one row, and the columns they refer to."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import cast

import sqlglot
from sqlglot import exp

from pipeline.kernel.aggregates.grouping import normalised
from pipeline.streaming.operators.state_columns import PREFIX


def split_conjuncts(text: str, names: frozenset[str]) -> tuple[str, str]:
    """Split a condition at its ANDs: return the part that refers to none of `names`, and the part that does."""
    tree = sqlglot.parse_one(f"({text}\n)", dialect="duckdb")
    apart: tuple[list[str], list[str]] = ([], [])
    for conjunct in _conjuncts(tree):
        first = {column.parts[0].name.lower() for column in conjunct.find_all(exp.Column)}
        apart[not first.isdisjoint(names)].append(f"({conjunct.sql('duckdb', comments=False)})")
    alone, others = (" and ".join(parts) or "true" for parts in apart)
    return alone, others


def qualified_condition(text: str, row: str, columns: Sequence[str], others: Collection[str]) -> str:
    """Return a condition in which the columns of the row have their internal names, qualified with `row`.

    A name in `others` (lower case) is not resolved to a column of the row; such a column must be written `row.column`.
    """
    internal_names = {column.lower(): f"{PREFIX}{column}" for column in columns}

    def renamed(node: exp.Expr) -> exp.Expr:
        if not isinstance(node, exp.Column):
            return node
        parts = node.parts
        names = [part.name.lower() for part in parts]
        if names[0] == row.lower() and names[1:2] and names[1] in internal_names:
            parts = parts[1:]
        elif names[0] in others or names[0] not in internal_names:
            return node
        column = exp.column(internal_names[parts[0].name.lower()], table=row, quoted=True)
        return exp.Dot.build([column, *(part.copy() for part in parts[1:])]) if parts[1:] else column

    tree = sqlglot.parse_one(f"({text}\n)", dialect="duckdb")
    return str(tree.transform(renamed).sql("duckdb", comments=False))


def normalised_sql(text: str) -> str:
    """Return a condition in normal form: without layout and comments, names in lower case."""
    select = cast("exp.Select", sqlglot.parse_one(f"select ({text}\n)", dialect="duckdb"))
    return str(normalised(select).expressions[0].this.sql("duckdb", comments=False))


def _conjuncts(node: exp.Expr) -> Iterator[exp.Expr]:
    if isinstance(node, exp.Paren):
        yield from _conjuncts(node.this)
    elif isinstance(node, exp.And):
        yield from _conjuncts(node.left)
        yield from _conjuncts(node.right)
    else:
        yield node
