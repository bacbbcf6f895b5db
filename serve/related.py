"""Which tables have rows that belong to those of another: by the foreign keys of facts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pipeline.core.definitions import StoredDefinition
from pipeline.core.graph import Graph
from pipeline.warehouse.modelling.facts import foreign_keys_of
from serve.access.authorization import Authorizer
from serve.access.caller import Caller
from serve.http_errors import HttpError
from serve.queries.query import Embedding
from serve.queries.values import shown
from serve.tables import Tables


@dataclass(frozen=True)
class Relationship:
    """Columns of a table whose values are the key of rows of another table, or the other way round."""

    column: str
    """The column with the foreign key, by which relationships of the same tables are told apart."""
    table: str
    pairs: tuple[tuple[str, str], ...]
    is_single: bool


def relationships_of(graph: Graph) -> Mapping[str, tuple[Relationship, ...]]:
    """Return the relationships of each table, in both directions."""
    found: dict[str, list[Relationship]] = {}
    for definition in graph.all_of(StoredDefinition):
        for key in foreign_keys_of(definition):
            mine = Relationship(key.column, key.table, ((key.column, key.references),), is_single=True)
            theirs = Relationship(key.column, definition.name, ((key.references, key.column),), is_single=False)
            found.setdefault(definition.name, []).append(mine)
            found.setdefault(key.table, []).append(theirs)
    return {name: tuple(each) for name, each in found.items()}


class RelatedTables:
    """Finds the relationships that requests name, among the tables that a caller may read."""

    def __init__(self, graph: Graph, tables: Tables, authorizer: Authorizer) -> None:
        """Read the relationships from the definitions."""
        self._relationships = relationships_of(graph)
        self._tables = tables
        self._authorizer = authorizer

    def find(self, definition: StoredDefinition, name: str, hint: str, caller: Caller) -> Embedding:
        """Return the embedding of a table, or of the one that a foreign key column refers to; `hint` is that column.

        Raises `HttpError` if there is none that the caller may read, or several.
        """
        known = self.readable(definition, caller)
        found = [each for each in known if name in {each.table, each.column} and hint in {"", each.column}]
        if not found:
            names = sorted({each.table for each in known})
            do = f"related: {', '.join(names)}" if names else "it has no related tables"
            raise HttpError(f"no table {shown(name)} is related to {definition.name!r}", do=do)
        if len(found) > 1:
            do = "write " + " or ".join(f"{name}!{each.column}(…)" for each in found)
            raise HttpError(f"several columns relate {definition.name!r} to {name!r}", do=do)
        one = found[0]
        grant = self._authorizer.grant(caller, one.table)
        relation = self._authorizer.columns(grant, caller, self._tables.version(one.table))
        return Embedding(name, one.table, one.pairs, one.is_single, relation.schema.names)

    def between(self, name: str, columns: Mapping[str, Collection[str]]) -> tuple[Relationship, ...]:
        """Return the relationships of a table within some tables, each with the columns that decide: those that are not masked."""
        return tuple(
            each
            for each in self._relationships.get(name, ())
            if each.table in columns
            and {left for left, _ in each.pairs} <= set(columns[name])
            and {right for _, right in each.pairs} <= set(columns[each.table])
        )

    def readable(self, definition: StoredDefinition, caller: Caller) -> tuple[Relationship, ...]:
        """Return the relationships whose both ends the caller sees."""
        ends = {definition.name, *(each.table for each in self._relationships.get(definition.name, ()))}
        columns = {}
        for grant in self._authorizer.readable(caller):
            name = grant.definition.name
            version = self._tables.newest(name) if name in ends else None
            if version is not None:
                columns[name] = self._authorizer.columns(grant, caller, version).unmasked
        return self.between(definition.name, columns) if definition.name in columns else ()
