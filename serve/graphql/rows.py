"""What is selected of rows, as columns, related rows, and the objects that are made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from serve.graphql.filters import condition_of, orders_of
from serve.graphql.naming import NamedTable, Naming
from serve.graphql.scalars import is_text
from serve.graphql.selection import Selected
from serve.graphql.snapshot import ReadSnapshot
from serve.http_errors import HttpError
from serve.queries.objects import ObjectMember
from serve.queries.query import DEFAULT_LIMIT, MOST_RELATED, Condition, Embedding, comparisons
from serve.queries.select import VisibleRelation


@dataclass
class RowColumns:
    """The columns and related rows that the selections of a row need."""

    columns: dict[str, None] = field(default_factory=dict)
    embed: list[Embedding] = field(default_factory=list)

    def names(self, relation: VisibleRelation) -> tuple[str, ...]:
        """Return the columns, at least one."""
        require_columns(relation, self.columns)
        return tuple(self.columns) or relation.schema.names[:1]


class RowPlanner:
    """Plans the rows of an operation. The relations of related tables are kept in `related`."""

    def __init__(self, naming: Naming, snapshot: ReadSnapshot) -> None:
        """Plan the rows of what a caller sees."""
        self._naming = naming
        self._snapshot = snapshot
        self.related: dict[str, VisibleRelation] = {}
        self._number = 0

    def members(self, named: NamedTable, fields: tuple[Selected, ...], into: RowColumns) -> tuple[ObjectMember, ...]:
        """Return the members of a row's object, and note which columns and related rows they need."""
        members = []
        for each in fields:
            if each.name == "__typename":
                members.append(ObjectMember(each.key, constant=named.type))
            elif each.name in named.columns:
                column = named.columns[each.name]
                into.columns[column.name] = None
                members.append(ObjectMember(each.key, column.name, column.type, is_text=is_text(column.type)))
            else:
                members.append(self._related(named, each, into))
        return tuple(members)

    def _related(self, named: NamedTable, each: Selected, into: RowColumns) -> ObjectMember:
        relationship = named.relations[each.name]
        other = self._naming.tables[relationship.table]
        relation = self._relation(relationship.table)
        inner = RowColumns()
        members = self.members(other, each.fields, inner)
        name = f"~r{self._number}"
        self._number += 1
        where = condition_of(each.arguments.get("where"), other)
        order = orders_of(each.arguments.get("orderBy"), other)
        require_columns(relation, (*columns_in(where), *(term.column for term in order)))
        self._snapshot.reading.engine.require_patterns(where)
        into.embed.append(
            Embedding(
                name=name,
                table=relationship.table,
                pairs=relationship.pairs,
                is_single=relationship.is_single,
                columns=inner.names(relation),
                where=where,
                order=order,
                limit=count_of(each.arguments, MOST_RELATED),
                embed=tuple(inner.embed),
            )
        )
        return ObjectMember(each.key, name, members=members, is_list=not relationship.is_single)

    def _relation(self, table: str) -> VisibleRelation:
        if table not in self.related:
            version = self._snapshot.version(table, None, None)
            self.related[table] = self._snapshot.relation(table, version)
        return self.related[table]


def count_of(arguments: Mapping[str, object], most: int) -> int:
    """Return how many rows are asked for; raise `HttpError` for a number that is not from 1 to `most`."""
    first = arguments.get("first")
    if first is None:
        return min(DEFAULT_LIMIT, most)
    if not isinstance(first, int) or not 1 <= first <= most:
        raise HttpError(f"'first' takes an integer from 1 to {most}", got=str(first)[:40])
    return first


def columns_in(where: Condition | None) -> list[str]:
    """Return the columns of a condition."""
    return [each.column.name for each in comparisons(where)]


def require_columns(relation: VisibleRelation, names: Iterable[str]) -> None:
    """Raise `HttpError` for a column that the version does not have: an earlier one may not have it yet."""
    known = frozenset(relation.schema.names)
    missing = next((name for name in names if name not in known), None)
    if missing is not None:
        raise HttpError(f"table {relation.table!r} has no column {missing!r} in version {relation.version}")
