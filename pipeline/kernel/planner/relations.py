"""The columns that the names of a SELECT refer to, as terms. Names are case-insensitive."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlglot import exp

from pipeline.kernel.planner.canonical import Term
from pipeline.kernel.planner.distribution import Distribution, NotPartitionableError

Columns = tuple[tuple[str, Term], ...]
"""The columns of a relation, in order: a name in lower case ('' if it cannot be referenced) and a term for each."""


@dataclass(frozen=True)
class Relation:
    """The columns of a relation, and its distribution over buckets."""

    columns: Columns
    share: Distribution

    def called(self, names: Iterable[exp.Expr]) -> Relation:
        """Return the relation with its first columns renamed, as `as t(x, y)` does."""
        aliases = [name.name.lower() for name in names]
        renamed = [(name, term) for name, (_, term) in zip(aliases, self.columns, strict=False)]
        return Relation((*renamed, *self.columns[len(renamed) :]), self.share)


@dataclass(frozen=True)
class VisibleColumns:
    """The columns that a SELECT can reference: each with its relation, and the columns of `*`."""

    qualified: tuple[tuple[str, str, Term], ...] = ()
    star: Columns = ()

    @classmethod
    def of(cls, alias: str, columns: Columns) -> VisibleColumns:
        """Return the columns of a single relation."""
        return cls(tuple((alias, name, term) for name, term in columns), columns)

    def find(self, name: str, table: str = "") -> list[Term]:
        """Return the terms that a name may refer to: none, one, or several if it is ambiguous."""
        if table:
            return [term for owner, column, term in self.qualified if (owner, column) == (table, name)]
        return [term for column, term in self.star if column == name]

    def of_table(self, table: str) -> Columns:
        """Return the columns of `table.*`."""
        return tuple((name, term) for owner, name, term in self.qualified if owner == table)

    def knows(self, name: str) -> bool:
        """Return whether a relation or a column has this name."""
        return any(name in {owner, column} for owner, column, _ in self.qualified)

    def renamed(self, terms: Mapping[Term, Term]) -> VisibleColumns:
        """Return the columns with their terms replaced."""
        return VisibleColumns(
            tuple((owner, name, terms.get(term, term)) for owner, name, term in self.qualified),
            tuple((name, terms.get(term, term)) for name, term in self.star),
        )

    def beside(self, other: VisibleColumns, merged: Mapping[str, Term] | None = None) -> VisibleColumns:
        """Return the columns of both sides of a join; `merged` are the columns of USING, with their terms."""
        merged = merged or {}
        left = tuple((name, merged.get(name, term)) for name, term in self.star)
        right = tuple((name, term) for name, term in other.star if name not in merged)
        return VisibleColumns((*self.qualified, *other.qualified), (*left, *right))

    def only(self, name: str) -> Term:
        """Return the term of a column of USING."""
        terms = self.find(name)
        if len(terms) != 1:
            raise NotPartitionableError(f"{name!r} names {len(terms)} columns of one side of a join")
        return terms[0]


def star_of(star: exp.Star, columns: Columns) -> list[tuple[str, Term | exp.Expr]]:
    """Return the columns of a star after its EXCLUDE, REPLACE and RENAME, with expressions for replaced columns."""
    unknown = next(
        (name for name, value in star.args.items() if value and name not in {"except_", "replace", "rename"}), None
    )
    excluded = star.args.get("except_") or []
    if unknown is not None or any(isinstance(e, exp.Column) and e.table for e in excluded):
        raise NotPartitionableError(f"the columns of {star.sql('duckdb')} are not known")
    removed = {e.name.lower() for e in excluded}
    replaced = {e.alias.lower(): e.unalias() for e in star.args.get("replace") or []}
    renamed = {e.this.name.lower(): e.alias.lower() for e in star.args.get("rename") or []}
    return [(renamed.get(n, n), replaced.get(n, term)) for n, term in columns if n not in removed]
