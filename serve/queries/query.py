"""A query of one table. All interfaces express their requests in it; every name in it is a column that the caller may read.

Values are texts in the format of their column's type (see `serve.queries.values`). They are bound and cast, and never
become part of a statement.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from pipeline.core.schema import Column
from serve.queries.expressions import Expression

DEFAULT_LIMIT, MOST_ROWS = 100, 10_000
"""The number of rows of a page if none is given, and the most."""
MOST_RELATED = 1_000
"""The most related rows of a row."""
OWN = "\ue000"
"""How the names of columns begin that statements need beside those of the response; names in requests must not have it."""
Operator = Literal[
    "=", "<>", ">", ">=", "<", "<=", "like", "ilike", "match", "imatch", "in", "is", "distinct", "contains", "contained",
    "overlaps", "text",
]  # fmt: skip
"""`match` searches a regular expression, `text` words, and the operators of sets compare lists."""
Quantifier = Literal["any", "all", ""]
Truth = Literal["null", "not_null", "true", "false", "unknown"]
Function = Literal["", "count", "count_distinct", "sum", "avg", "min", "max"]
FUNCTIONS: tuple[Function, ...] = ("count", "count_distinct", "sum", "avg", "min", "max")


@dataclass(frozen=True)
class ColumnCondition:
    """A condition on one column: `is` has a truth and no values, `in` and the operators of sets any number, others one.

    With a quantifier, a value for each alternative: the condition must hold for any or all of them.
    """

    column: Column
    operator: Operator
    values: tuple[str, ...] = ()
    truth: Truth = "null"
    quantifier: Quantifier = ""
    is_negated: bool = False


@dataclass(frozen=True)
class Combination:
    """Conditions of which all (`and`) or any (`or`) must hold."""

    word: Literal["and", "or"]
    terms: tuple[Condition, ...]
    is_negated: bool = False


@dataclass(frozen=True)
class Predicate:
    """A condition that an expression is true."""

    expression: Expression


Condition = ColumnCondition | Combination | Predicate


@dataclass(frozen=True)
class Selection:
    """A column of the response, or an aggregate of the rows with equal other columns."""

    name: str
    """Its name in the response."""
    column: str = ""
    """Empty for a count of rows."""
    function: Function = ""


@dataclass(frozen=True)
class Ordering:
    """A selected or stored column to order by; nulls are last unless `nulls_first`."""

    column: str
    descending: bool = False
    nulls_first: bool = False

    def __str__(self) -> str:
        """Return the ordering in the syntax of requests."""
        words = (self.column, "desc" if self.descending else "", "nullsfirst" if self.nulls_first else "")
        return ".".join(word for word in words if word)


@dataclass(frozen=True)
class Embedding:
    """Rows of another table that belong to each row: one if the row has its key, or all that have the key of the row."""

    name: str
    """Its name in the response."""
    table: str
    pairs: tuple[tuple[str, str], ...]
    """Columns of the row, each with the column of the other table that must be equal."""
    is_single: bool
    columns: tuple[str, ...]
    where: Condition | None = None
    order: tuple[Ordering, ...] = ()
    limit: int = MOST_RELATED
    embed: tuple[Embedding, ...] = ()
    """Rows that belong to each of these rows."""


@dataclass(frozen=True)
class Query:
    """The requested columns, condition, order and page."""

    select: tuple[Selection, ...]
    where: Condition | None = None
    order: tuple[Ordering, ...] = ()
    limit: int | None = DEFAULT_LIMIT
    """`None` for all rows."""
    offset: int = 0
    after: tuple[str | None, ...] = ()
    """The values of the order's columns in the last row of the page before, as texts; empty for the first page."""
    is_distinct: bool = False
    embed: tuple[Embedding, ...] = field(default=())

    @property
    def is_grouped(self) -> bool:
        """Whether the rows are aggregates."""
        return any(each.function for each in self.select)


def with_key(ordering: tuple[Ordering, ...], key: Iterable[str]) -> tuple[Ordering, ...]:
    """Return an order with the columns of the key appended, each once."""
    ordered = {term.column for term in ordering}
    return (*ordering, *(Ordering(column) for column in key if column not in ordered))


def comparisons(condition: Condition | None) -> Iterator[ColumnCondition]:
    """Yield the comparisons within a condition."""
    if isinstance(condition, ColumnCondition):
        yield condition
    elif isinstance(condition, Combination):
        for term in condition.terms:
            yield from comparisons(term)


def conjuncts(condition: Condition | None) -> Iterator[ColumnCondition]:
    """Yield the comparisons that must hold for every row."""
    if isinstance(condition, ColumnCondition):
        if not condition.is_negated:
            yield condition
    elif isinstance(condition, Combination) and condition.word == "and" and not condition.is_negated:
        for term in condition.terms:
            yield from conjuncts(term)


def both(*conditions: Condition | None) -> Condition | None:
    """Return the condition that all of these hold."""
    terms = tuple(each for each in conditions if each is not None)
    if len(terms) <= 1:
        return terms[0] if terms else None
    return Combination("and", terms)
