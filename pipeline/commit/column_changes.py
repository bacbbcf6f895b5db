"""The changes of a source's columns, with the definitions that they reach; recorded before they are committed."""

from __future__ import annotations

from pipeline.core.definitions import Definition, StoredDefinition, Table
from pipeline.core.graph import Graph
from pipeline.core.schema import Schema
from pipeline.governance import ColumnChange
from pipeline.kernel.planner.impact import dependent_columns
from pipeline.kernel.sql import SqlTransform
from pipeline.kernel.types import arrow_schema, from_arrow

Columns = frozenset[str] | None
"""Some columns of a table; `None` stands for all of them."""


def column_changes(graph: Graph, source: StoredDefinition, before: Schema, after: Schema) -> tuple[ColumnChange, ...]:
    """Return the new columns and the columns of another type, in the order of the contract."""
    before, after = as_in_lake(before), as_in_lake(after)
    known = before.as_dict()
    return tuple(
        ColumnChange(
            source.name, column.name, known.get(column.name, ""), column.type, reached(graph, source.name, column.name)
        )
        for column in after.columns
        if known.get(column.name) != column.type
    )


def as_in_lake(schema: Schema) -> Schema:
    """Return the columns with the types as the lake has them: `DECIMAL(12, 2)` is `DECIMAL(12,2)`."""
    return from_arrow(arrow_schema(schema))


def reached(graph: Graph, source: str, column: str) -> tuple[str, ...]:
    """Return the definitions whose results may depend on a column of a source, upstream first, also through filters."""
    found: dict[str, Columns] = {source: frozenset({column})}
    for name in graph.names:
        dependent = [_dependent(graph[name], each, found[each]) for each in graph[name].inputs if each in found]
        if None in dependent:
            found[name] = None
        elif any(dependent):
            found[name] = frozenset().union(*(columns for columns in dependent if columns))
    return tuple(name for name in found if name != source)


def _dependent(definition: Definition, table: str, columns: Columns) -> Columns:
    if isinstance(definition, Table) and isinstance(definition.transform, SqlTransform):
        return dependent_columns(definition.transform.tree, table, columns)
    return None  # a function, a model or a sink may use everything
