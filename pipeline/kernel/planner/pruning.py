"""File pruning: simple conditions of a statement, rewritten to conditions on the bounds of a file's columns.

A file can contain rows with `x < 5` only if its smallest `x` is below 5. The bounds are the columns `min.x` and `max.x` of
a table with one row per file, so that the engine itself compares the values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlglot import exp

from pipeline.core.schema import Column, Schema
from pipeline.kernel.sql_text import quoted
from pipeline.kernel.syntax.scope import Scope

_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "DECIMAL")
_SLACK = "interval 1 millisecond"
"""Writers may truncate the bounds of timestamps in the Delta log to milliseconds."""
_MIRRORED: dict[type[exp.Expr], type[exp.Expr]] = {
    exp.LT: exp.GT,
    exp.LTE: exp.GTE,
    exp.GT: exp.LT,
    exp.GTE: exp.LTE,
    exp.EQ: exp.EQ,
}


@dataclass(frozen=True)
class FileCondition:
    """SQL over `min.<column>` and `max.<column>` that is false only for files without rows that the statement needs."""

    column: str
    sql: str


def file_conditions(tree: exp.Query, table: str, schema: Schema) -> tuple[FileCondition, ...]:
    """Return the conditions on a table's files from a statement's WHERE; empty if it reads the table more than once.

    Only comparisons of a column with a constant of the same kind are used, because text and numbers sort differently.

    Rows that do not satisfy the WHERE of the SELECT that reads them never affect the result, regardless of joins: if an
    outer join replaces them by nulls, the condition is not true either.
    """
    scope = Scope.of(tree)
    reads = [t for t in scope.tables if id(t) not in scope.bodies and t.name.lower() == table.lower()]
    if len(reads) != 1 or scope.reads(table) != 1:
        return ()
    select = reads[0].find_ancestor(exp.Select)
    where = None if select is None else select.args.get("where")
    if select is None or where is None or reads[0].find_ancestor(exp.Select, exp.Where) is not select:
        return ()
    alone = not select.args.get("joins") and not select.args.get("laterals")
    name = reads[0].alias_or_name.lower()
    parts = where.this.flatten() if isinstance(where.this, exp.And) else iter([where.this])
    looker = _Looker(name, {column.name.lower(): column for column in schema.columns}, is_alone=alone)
    return tuple(condition for part in parts for condition in looker.conditions(part.unnest()))


@dataclass(frozen=True)
class _Looker:
    """Finds conditions on the columns of one table; `is_alone` if unqualified columns always belong to this table."""

    table: str
    columns: Mapping[str, Column]
    is_alone: bool

    def conditions(self, node: exp.Expr) -> Iterator[FileCondition]:
        column = self._column(node.this)
        if isinstance(node, exp.Between):
            low, high = node.args["low"], node.args["high"]
            if column and self._suits(column, low) and self._suits(column, high):
                yield _compared(column, exp.GTE, low)
                yield _compared(column, exp.LTE, high)
        elif isinstance(node, exp.In):
            if column and node.expressions and all(self._suits(column, value) for value in node.expressions):
                any_of = " or ".join(_compared(column, exp.EQ, value).sql for value in node.expressions)
                yield FileCondition(column.name, f"({any_of})")
        elif type(node) in _MIRRORED:
            other = self._column(node.expression)
            if column and self._suits(column, node.expression):
                yield _compared(column, type(node), node.expression)
            elif other and self._suits(other, node.this):
                yield _compared(other, _MIRRORED[type(node)], node.this)

    def _column(self, node: object) -> Column | None:
        """Return the column if it belongs to the table."""
        if not isinstance(node, exp.Column) or isinstance(node.this, exp.Star):
            return None
        ours = node.table.lower() == self.table or (self.is_alone and not node.table)
        return self.columns.get(node.name.lower()) if ours else None

    def _suits(self, column: Column, value: exp.Expr) -> bool:
        """Return whether a value is a constant that is compared in the order of the column's type."""
        kind = column.type
        if isinstance(value, exp.Neg | exp.Paren):
            return self._suits(column, value.this)
        if isinstance(value, exp.Cast) and not isinstance(value, exp.TryCast):
            is_time = value.to.this in {exp.DType.DATE, exp.DType.TIMESTAMP, exp.DType.TIMESTAMPNTZ}
            return is_time and isinstance(value.this, exp.Literal) and kind in {"DATE", "TIMESTAMP"}
        if not isinstance(value, exp.Literal):
            return False
        return kind in {"VARCHAR", "DATE", "TIMESTAMP", "TIMESTAMPTZ"} if value.is_string else kind.startswith(_NUMBERS)


def _compared(column: Column, kind: type[exp.Expr], value: exp.Expr) -> FileCondition:
    low, high, text = quoted(f"min.{column.name}"), quoted(f"max.{column.name}"), value.sql("duckdb")
    if column.type.startswith("TIMESTAMP"):
        high = f"({high} + {_SLACK})"
    by_kind: dict[type[exp.Expr], str] = {
        exp.LT: f"{low} < {text}",
        exp.LTE: f"{low} <= {text}",
        exp.GT: f"{high} > {text}",
        exp.GTE: f"{high} >= {text}",
        exp.EQ: f"({low} <= {text} and {high} >= {text})",
    }
    return FileCondition(column.name, by_kind[kind])
