"""Expressions as texts that are equal when the expressions are: over numbered columns, whatever these are called.

A base column is one number per mention of its table, so a table joined to itself has two. A projection hands the
number on; an expression of one row is the text over its numbers; an aggregate, a window, a null-extended or a
united column gets a number of its own. `origins` leads from a term back to the inputs' columns.
"""

from __future__ import annotations

import functools
import itertools
import re
from dataclasses import dataclass, field

import duckdb
from sqlglot import exp

from pipeline.kernel.engine import connect, schema_of
from pipeline.kernel.sql_text import quoted
from pipeline.kernel.syntax.function_calls import is_aggregate, is_known

Term = str
_NUMBER = re.compile(r'"#\d+"')
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
_HASHED = frozenset({"VARCHAR", "DATE", "TIMESTAMP", "TIMESTAMPTZ", "TIME", "BOOLEAN", "UUID", "BLOB"})
_OPAQUE = (exp.Query, exp.Window, exp.Explode, exp.Unnest, exp.Columns, exp.Star)
_OWN_NAMES = (exp.Lambda, exp.Comprehension, exp.Placeholder, exp.PositionalColumn)
"""Expressions with names that are no columns, or that say nothing about which."""
_COLUMN_OF_ONE = re.compile(r'"(?:[^"]|"")*"')


@dataclass(frozen=True)
class _Base:
    read: int
    table: str
    column: str


@dataclass
class CanonicalTerms:
    """The numbered columns of one statement, with their DuckDB types and where they come from."""

    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _types: dict[Term, str | None] = field(default_factory=dict)
    _bases: dict[Term, _Base] = field(default_factory=dict)
    _from: dict[Term, tuple[Term, ...]] = field(default_factory=dict)

    def fresh(self, kind: str | None = None, *of: Term) -> Term:
        """Number a column whose values are those of `of`, or null; without `of`, unlike any other."""
        term = f'"#{next(self._numbers)}"'
        self._types[term], self._from[term] = kind, of
        return term

    def base(self, read: int, table: str, column: str, kind: str) -> Term:
        """Number a column of an input, at one of its mentions."""
        term = self.fresh(kind)
        self._bases[term] = _Base(read, table, column)
        return term

    def type_of(self, term: Term) -> str | None:
        """Return the DuckDB type of a term, or `None` when it is not known."""
        if term in self._types:
            return self._types[term]
        numbers = sorted(set(_NUMBER.findall(term)))
        types = [self._types.get(number) for number in numbers]
        if None in types:
            return None
        return expression_type(term, tuple(zip(numbers, map(str, types), strict=True)))

    def comparable(self, left: Term, right: Term) -> bool:
        """Return whether two equal values of these terms have the same hash in their common type."""
        family = family_of(self.type_of(left))
        return family is not None and family == family_of(self.type_of(right))

    def origins(self, term: Term) -> frozenset[tuple[str, str]]:
        """Return the inputs, each with an expression over its own columns, whose values the term has."""
        if term in self._types:
            base = self._bases.get(term)
            if base is not None:
                return frozenset({(base.table, quoted(base.column))})
            return frozenset().union(*(self.origins(of) for of in self._from[term]))
        bases = {number: self._base(number) for number in _NUMBER.findall(term)}
        known = [base for base in bases.values() if base is not None]
        if not known or len(known) < len(bases) or len({base.read for base in known}) > 1:
            return frozenset()
        columns = {number: quoted(base.column) for number, base in bases.items() if base is not None}
        return frozenset({(known[0].table, _NUMBER.sub(lambda match: columns[match[0]], term))})

    def _base(self, number: Term) -> _Base | None:
        while number not in self._bases:
            of = self._from.get(number, ())
            if not of or of[0] not in self._types:
                return None
            number = of[0]
        return self._bases[number]


def is_row_expression(node: exp.Expr) -> bool:
    """Return whether an expression has one value for each row, by its columns alone."""
    return not any(isinstance(n, (*_OPAQUE, *_OWN_NAMES)) or is_aggregate(n) or not is_known(n) for n in node.walk())


def family_of(kind: str | None) -> str | None:
    """Return the types within which equal values hash alike, by a name; `None` where they may not."""
    if kind in _INTEGERS:
        return "integer"
    return kind if kind is not None and (kind in _HASHED or kind.startswith("DECIMAL(")) else None


def common_type(kinds: list[str]) -> str | None:
    """Return the type to cast keys of one family to before they are hashed; `None` when all have the same."""
    if len(set(kinds)) == 1:
        return None
    return "HUGEINT" if {"HUGEINT", "UBIGINT"} & set(kinds) else "BIGINT"


def is_column(expression: str) -> bool:
    """Return whether an expression of `origins` is one column."""
    return _COLUMN_OF_ONE.fullmatch(expression) is not None


@functools.lru_cache(maxsize=1024)
def expression_type(expression: str, columns: tuple[tuple[str, str], ...]) -> str | None:
    """Return the DuckDB type of an expression over columns in double quotes, given as `(column, type)`."""
    source = ", ".join(f"null::{kind} as {name}" for name, kind in columns) or "1"
    with connect() as con:
        try:
            return schema_of(con, f"select {expression} from (select {source})").columns[0].type
        except duckdb.Error:
            return None
