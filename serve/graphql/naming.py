"""The names of a schema: which type, field and argument stands for which table, column and model.

They depend on what the caller sees and on nothing else, so that a hidden table or column leaves no gap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.core.schema import Column, Schema
from serve.graphql.names import Names, type_name
from serve.graphql.scalars import SHARED_TYPES, is_comparable_scalar
from serve.graphql.visible import Visible
from serve.related import Relationship
from serve.visible_tables import VisibleTable

RootKind = Literal["rows", "row", "groups", "predict", "metric"]
_WORDS = ("and", "or", "not")
"""Combine filters, and are therefore no columns of one."""
_LITERALS = ("true", "false", "null")


@dataclass(frozen=True)
class Root:
    """What a field of `Query` returns: rows of a table, one of them, groups of them, predictions of a model, or values of a metric."""

    kind: RootKind
    name: str


@dataclass(frozen=True)
class NamedTable:
    """A table with the names of its types and fields."""

    table: VisibleTable
    type: str
    """The type of its rows. Others begin with it."""
    columns: Mapping[str, Column]
    relations: Mapping[str, Relationship]


@dataclass(frozen=True)
class NamedMetric:
    """A metric with the names of its types and dimensions."""

    metric: str
    description: str
    dimensions: NamedTable
    """Named as if the dimensions were the columns of a table."""
    grains: tuple[str, ...]


@dataclass(frozen=True)
class Naming:
    """What the names of a schema stand for."""

    tables: Mapping[str, NamedTable]
    """By the name of the table."""
    types: Mapping[str, NamedTable]
    """By the type of the rows."""
    roots: Mapping[str, Root]
    enum: Mapping[str, str]
    """The tables by their value of the enum `TableName`."""
    models: Mapping[str, str]
    """The descriptions of models."""
    metrics: Mapping[str, NamedMetric]


_SUFFIXES = ("", "Edge", "Connection", "Filter", "Order", "Values", "Sum", "Avg", "Counts", "Group", "Groups",
             "GroupOrder", "SumOrder", "By", "Row")  # fmt: skip


def naming_of(visible: Visible) -> Naming:
    """Return the names for what a caller sees."""
    types, roots = set(SHARED_TYPES), Names()
    tables: dict[str, NamedTable] = {}
    fields: dict[str, Root] = {}
    for each in visible.tables:
        name = _free_type(type_name(each.name), types)
        types |= {name + suffix for suffix in _SUFFIXES}
        names = Names(_WORDS)
        columns = {names.give(column.name): column for column in each.schema.columns}
        relations = {names.give(f"{r.table}_by_{r.column}"): r for r in each.relationships}
        tables[each.name] = NamedTable(each, name, columns, relations)
    # the plain names of all tables come first, so that one named `orders_groups` keeps its name
    fields |= {roots.give(name): Root("rows", name) for name in tables}
    for name, each_table in tables.items():
        kinds = each_table.table.schema.as_dict()
        if each_table.table.key and all(is_comparable_scalar(kinds[one]) for one in each_table.table.key):
            fields[roots.give(f"{name}_by_key")] = Root("row", name)
        fields[roots.give(f"{name}_groups")] = Root("groups", name)
    fields |= {roots.give(f"predict_{name}"): Root("predict", name) for name, _ in visible.models}
    metrics = {}
    for one in visible.metrics:
        described = VisibleTable(one.metric.name, one.metric.description, Schema(one.dimensions), (), ())
        name = _free_type(f"{type_name(one.metric.name)}Metric", types)
        types |= {name + suffix for suffix in _SUFFIXES}
        names = Names(_WORDS)
        dimensions = NamedTable(described, name, {names.give(each.name): each for each in one.dimensions}, {})
        metrics[one.metric.name] = NamedMetric(one.metric.name, one.metric.description, dimensions, one.grains)
        fields[roots.give(f"metric_{one.metric.name}")] = Root("metric", one.metric.name)
    values = Names(_LITERALS)
    enum = {values.give(name): name for name in tables}
    return Naming(tables, {each.type: each for each in tables.values()}, fields, enum, dict(visible.models), metrics)


def _free_type(wanted: str, taken: set[str]) -> str:
    plain = f"T{wanted}" if wanted[0].isdigit() or wanted.startswith("_") else wanted
    name, number = plain, 1
    while any(name + suffix in taken for suffix in _SUFFIXES):
        number += 1
        name = f"{plain}{number}"
    return name
