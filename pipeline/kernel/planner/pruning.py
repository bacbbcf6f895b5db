"""File pruning: simple conditions of a statement, rewritten to conditions on the bounds of a file's columns.

A file can contain rows with `x < 5` only if its smallest `x` is below 5. The bounds are the columns `min.x` and `max.x` of
a table with one row per file, so that the engine itself compares the values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlglot import exp

from pipeline.core.partition_fields import PartitionField
from pipeline.core.schema import Column, Schema
from pipeline.kernel.partition_transforms import is_transformable, transformed
from pipeline.kernel.sql_text import literal, quoted
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
    kind: str = ""
    """The type of the column."""
    equal_to: tuple[str, ...] = ()
    """SQL of the only values of the column that the statement needs, if they are known."""
    buckets: Mapping[int, int] = field(default_factory=dict)
    """The only buckets of the column that the statement needs, by the number of buckets."""


def bound_of(column: str, which: str, kind: str) -> str:
    """Return SQL for the `min` or `max` of a column in a file."""
    bound = quoted(f"{which}.{column}")
    return f"({bound} + {_SLACK})" if which == "max" and kind.startswith("TIMESTAMP") else bound


def bucket_condition(condition: FileCondition, buckets: int, of_file: str) -> str:
    """Return SQL that is false only for files whose bucket, given as SQL, is not needed."""
    if not condition.equal_to:
        return f"{of_file} = {condition.buckets[buckets]}" if buckets in condition.buckets else "true"
    by = PartitionField(condition.column, "bucket", buckets)
    if not is_transformable(by, condition.kind):  # the type has changed since
        return "true"
    values = (transformed(by, f"try_cast({value} as {condition.kind})", condition.kind) for value in condition.equal_to)
    return f"({' or '.join(f'{of_file} = {value}' for value in values)})"


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


def value_conditions(column: Column, operator: str, values: Sequence[str]) -> tuple[FileCondition, ...]:
    """Return the conditions of `column operator values`, for texts that are values of the column's type.

    The operator is `=`, `<`, `<=`, `>`, `>=`, or `in`; there is no condition for others, and for types without bounds.
    """
    kinds = {"=": exp.EQ, "in": exp.EQ, "<": exp.LT, "<=": exp.LTE, ">": exp.GT, ">=": exp.GTE}
    if operator not in kinds or not column.type.startswith((*_NUMBERS, "VARCHAR", "DATE", "TIMESTAMP")):
        return ()
    constants = [f"cast({literal(value)} as {column.type})" for value in values]
    return (_any_of([_compared(_Operand(column), kinds[operator], each) for each in constants]),) if constants else ()


def _any_of(conditions: Sequence[FileCondition]) -> FileCondition:
    values = tuple(value for condition in conditions for value in condition.equal_to)
    return replace(conditions[0], sql=f"({' or '.join(c.sql for c in conditions)})", equal_to=values)


@dataclass(frozen=True)
class _Looker:
    """Finds conditions on the columns of one table; `is_alone` if unqualified columns always belong to this table."""

    table: str
    columns: Mapping[str, Column]
    is_alone: bool

    def conditions(self, node: exp.Expr) -> Iterator[FileCondition]:
        operand = self._operand(node.this)
        if isinstance(node, exp.Between):
            low, high = node.args["low"], node.args["high"]
            if operand and _suits(operand, low) and _suits(operand, high):
                yield _compared(operand, exp.GTE, low)
                yield _compared(operand, exp.LTE, high)
        elif isinstance(node, exp.In):
            if operand and node.expressions and all(_suits(operand, value) for value in node.expressions):
                yield _any_of([_compared(operand, exp.EQ, value) for value in node.expressions])
        elif type(node) in _MIRRORED:
            other = self._operand(node.expression)
            if operand and _suits(operand, node.expression):
                yield _compared(operand, type(node), node.expression)
            elif other and _suits(other, node.this):
                yield _compared(other, _MIRRORED[type(node)], node.this)

    def _operand(self, node: object) -> _Operand | None:
        """Return the column, or the date of one, if it belongs to the table."""
        if type(node) is exp.Cast and node.to.this is exp.DType.DATE:
            column = self._column(node.this)
            return (
                _Operand(column, as_date=True)
                if column and column.type in {"DATE", "TIMESTAMP", "TIMESTAMPTZ"}
                else None
            )
        column = self._column(node)
        return None if column is None else _Operand(column)

    def _column(self, node: object) -> Column | None:
        """Return the column if it belongs to the table."""
        if not isinstance(node, exp.Column) or isinstance(node.this, exp.Star):
            return None
        ours = node.table.lower() == self.table or (self.is_alone and not node.table)
        return self.columns.get(node.name.lower()) if ours else None


@dataclass(frozen=True)
class _Operand:
    """A column that is compared, or its date."""

    column: Column
    as_date: bool = False

    @property
    def type(self) -> str:
        return "DATE" if self.as_date else self.column.type

    def bound(self, which: str) -> str:
        bound = bound_of(self.column.name, which, self.column.type)
        return f"{bound}::DATE" if self.as_date else bound


def _suits(operand: _Operand, value: exp.Expr) -> bool:
    """Return whether a value is a constant that is compared in the order of the operand's type."""
    kind = operand.type
    if isinstance(value, exp.Neg | exp.Paren):
        return _suits(operand, value.this)
    if isinstance(value, exp.Cast) and not isinstance(value, exp.TryCast):
        to = value.to.this
        is_time = to in {exp.DType.DATE, exp.DType.TIMESTAMP, exp.DType.TIMESTAMPNTZ} and kind in {"DATE", "TIMESTAMP"}
        is_zoned = to is exp.DType.TIMESTAMPTZ and kind == "TIMESTAMPTZ"
        return (is_time or is_zoned) and isinstance(value.this, exp.Literal)
    if not isinstance(value, exp.Literal):
        return False
    return kind in {"VARCHAR", "DATE", "TIMESTAMP", "TIMESTAMPTZ"} if value.is_string else kind.startswith(_NUMBERS)


def _compared(operand: _Operand, kind: type[exp.Expr], value: exp.Expr | str) -> FileCondition:
    low, high = operand.bound("min"), operand.bound("max")
    text = value if isinstance(value, str) else value.sql("duckdb")
    by_kind: dict[type[exp.Expr], str] = {
        exp.LT: f"{low} < {text}",
        exp.LTE: f"{low} <= {text}",
        exp.GT: f"{high} > {text}",
        exp.GTE: f"{high} >= {text}",
        exp.EQ: f"({low} <= {text} and {high} >= {text})",
    }
    equal_to = (text,) if kind is exp.EQ and not operand.as_date else ()
    return FileCondition(operand.column.name, by_kind[kind], operand.column.type, equal_to)
