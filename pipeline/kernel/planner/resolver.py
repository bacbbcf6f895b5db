"""Resolution of a statement: names to terms, conditions to equalities, tables to columns.

A name refers to a column if a relation has one, otherwise to an alias of the SELECT list. An ambiguous or unknown name
becomes a new term, so that it is no evidence for a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import sqlglot
from sqlglot import exp

from pipeline.core.schema import Schema
from pipeline.kernel.planner.canonical import CanonicalTerms, Term, is_row_expression
from pipeline.kernel.planner.distribution import Distribution, Equality
from pipeline.kernel.planner.relations import Columns, Relation, VisibleColumns
from pipeline.kernel.syntax.scope import Scope


@dataclass(frozen=True)
class SelectScope:
    """The names that the expressions of a SELECT can reference, and the distribution of its rows."""

    names: VisibleColumns
    share: Distribution
    aliases: Mapping[str, exp.Expr] = field(default_factory=dict)


class ExpressionResolver:
    """The names and terms of a statement, with the keys of its partitioned inputs."""

    def __init__(
        self,
        scope: Scope,
        schemas: Mapping[str, Schema],
        keys: Mapping[str, tuple[str | None, ...]],
        merged: exp.Expr | None = None,
    ) -> None:
        """Create a resolver; names of inputs are in lower case. `merged` is a SELECT whose groups are merged later."""
        self.scope = scope
        self.schemas = schemas
        self.keys = keys
        self.merged = merged
        self.positions = len(next(iter(keys.values()), ()))
        self.terms = CanonicalTerms()
        self.links: list[tuple[Term, Term]] = []
        """Pairs of terms that are equal in the statement."""
        self.groups: list[Term] = []
        """The keys of groups, windows and DISTINCT."""
        self.outputs: dict[int, tuple[SelectScope, Columns]] = {}
        """The scope and the output columns of each SELECT, by its `id`."""
        self._reads = 0
        self._unresolved = 0

    def term(self, node: exp.Expr, frames: tuple[SelectScope, ...]) -> Term:
        """Return the term of an expression; a new term if it cannot be resolved."""
        node = node.unnest()
        if isinstance(node, exp.Column):
            return self._column(node, frames)
        if not is_row_expression(node):
            return self.terms.fresh()

        def numbered(part: exp.Expr) -> exp.Expr:
            if not isinstance(part, exp.Column):
                return part
            term = self._column(part, frames)
            return exp.Var(this=term if term.startswith('"#') and term.count('"') == 2 else f"({term})")  # noqa: PLR2004

        return node.copy().transform(numbered).sql("duckdb", comments=False)

    def _column(self, column: exp.Column, frames: tuple[SelectScope, ...]) -> Term:
        name, table = column.name.lower(), column.table.lower()
        if column.args.get("db") or isinstance(column.this, exp.Star):
            return self.terms.fresh()
        for i, frame in enumerate(frames):
            candidates = frame.names.find(name, table)
            if candidates:
                return candidates[0] if len(candidates) == 1 else self.terms.fresh()
            if not table and name in frame.aliases:
                if any(outer.names.find(name) for outer in frames[i + 1 :]):
                    return self.terms.fresh()
                others = {alias: e for alias, e in frame.aliases.items() if alias != name}
                return self.term(frame.aliases[name], (replace(frame, aliases=others), *frames[i + 1 :]))
            if frame.names.knows(table or name):
                return self.terms.fresh()
        self._unresolved += 1
        return self.terms.fresh()

    def _read(self, name: str) -> Relation:
        read, self._reads = self._reads, self._reads + 1
        columns = tuple(
            (column.name.lower(), self.terms.base(read, name, column.name.lower(), column.type))
            for column in self.schemas[name].columns
        )
        keys = self.keys.get(name)
        if keys is None:
            return Relation(columns, self._everywhere())
        frame = SelectScope(VisibleColumns.of(name, columns), self._everywhere())
        sets = tuple(frozenset[Term]() if key is None else frozenset({self._key(key, frame)}) for key in keys)
        return Relation(
            columns, Distribution(is_replicated=False, keys=sets, nullable_keys=self._everywhere().nullable_keys)
        )

    def _key(self, key: str, frame: SelectScope) -> Term:
        return self.term(sqlglot.parse_one(key, dialect="duckdb"), (frame,))

    def _everywhere(self) -> Distribution:
        nothing = (frozenset[Term](),) * self.positions
        return Distribution(is_replicated=True, keys=nothing, nullable_keys=nothing)

    def _conditions(self, condition: exp.Expr | None, frames: tuple[SelectScope, ...]) -> list[Equality]:
        """Return the equalities that hold in every row for which a condition is true."""
        return [] if condition is None else self._equals(list(dict.fromkeys(self._pairs(condition.unnest(), frames))))

    def _pairs(self, node: exp.Expr, frames: tuple[SelectScope, ...]) -> list[tuple[Term, Term, bool]]:
        if isinstance(node, exp.And | exp.Or):
            left, right = (self._pairs(side.unnest(), frames) for side in (node.this, node.expression))
            return [*left, *right] if isinstance(node, exp.And) else [pair for pair in left if pair in right]
        if not isinstance(node, exp.EQ | exp.NullSafeEQ):
            return []
        left, right = node.this.unnest(), node.expression.unnest()
        if isinstance(left, exp.Tuple) and isinstance(right, exp.Tuple):  # null is equal to null inside of rows
            both_sides = zip(left.expressions, right.expressions, strict=False)
            return [(self.term(a, frames), self.term(b, frames), True) for a, b in both_sides]
        return [(self.term(left, frames), self.term(right, frames), isinstance(node, exp.NullSafeEQ))]

    def _equals(self, pairs: list[tuple[Term, Term, bool]]) -> list[Equality]:
        equals = [Equality(a, b, nulls) for a, b, nulls in pairs if self.terms.comparable(a, b)]
        self.links += [(equal.left, equal.right) for equal in equals]
        return equals
