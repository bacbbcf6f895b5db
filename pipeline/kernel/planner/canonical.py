"""Canonical texts of expressions: terms over numbered columns, which are equal if the expressions are.

A base column has one number per reference to its table, so a table joined to itself has two. A projection passes the
number on; a row expression is a text over the numbers of its columns; an aggregate, a window, a null-extended column and
a column of a set operation get a new number. `origins` maps a term back to the columns of the inputs.
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
"""Expressions whose names are not columns, or do not identify columns."""
_COLUMN_OF_ONE = re.compile(r'"(?:[^"]|"")*"')


@dataclass(frozen=True)
class _Base:
    read: int
    table: str
    column: str


@dataclass
class CanonicalTerms:
    """The numbered columns of a statement, with their DuckDB types and origins."""

    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _types: dict[Term, str | None] = field(default_factory=dict)
    _bases: dict[Term, _Base] = field(default_factory=dict)
    _from: dict[Term, tuple[Term, ...]] = field(default_factory=dict)

    def fresh(self, kind: str | None = None, *of: Term) -> Term:
        """Return a new number for a column whose values are those of `of` or null; without `of`, of an unknown column."""
        term = f'"#{next(self._numbers)}"'
        self._types[term], self._from[term] = kind, of
        return term

    def base(self, read: int, table: str, column: str, kind: str) -> Term:
        """Return a new number for a column of an input, for one reference to the input."""
        term = self.fresh(kind)
        self._bases[term] = _Base(read, table, column)
        return term

    def type_of(self, term: Term) -> str | None:
        """Return the DuckDB type of a term, or `None` if it is unknown."""
        if term in self._types:
            return self._types[term]
        numbers = sorted(set(_NUMBER.findall(term)))
        types = [self._types.get(number) for number in numbers]
        if None in types:
            return None
        return expression_type(term, tuple(zip(numbers, map(str, types), strict=True)))

    def comparable(self, left: Term, right: Term) -> bool:
        """Return whether equal values of these terms have equal hashes in their common type."""
        family = family_of(self.type_of(left))
        return family is not None and family == family_of(self.type_of(right))

    def origins(self, term: Term) -> frozenset[tuple[str, str]]:
        """Return the inputs, each with an expression over its columns, from which the values of the term come."""
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
    """Return whether an expression is computed per row, from the columns of that row only."""
    return not any(isinstance(n, (*_OPAQUE, *_OWN_NAMES)) or is_aggregate(n) or not is_known(n) for n in node.walk())


def family_of(kind: str | None) -> str | None:
    """Return the name of the types in which equal values have equal hashes; `None` for other types."""
    if kind in _INTEGERS:
        return "integer"
    return kind if kind is not None and (kind in _HASHED or kind.startswith("DECIMAL(")) else None


def common_type(kinds: list[str]) -> str | None:
    """Return the type to which keys of one family are cast before hashing; `None` if all types are equal."""
    if len(set(kinds)) == 1:
        return None
    return "HUGEINT" if {"HUGEINT", "UBIGINT"} & set(kinds) else "BIGINT"


def is_column(expression: str) -> bool:
    """Return whether an expression of `origins` is a single column."""
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
