"""Kimball's bus matrix: which facts relate to which dimensions, derived from the lookups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.core.definitions import Definition, Table
from pipeline.warehouse.modelling.facts import FactTransform


@dataclass(frozen=True)
class BusMatrixRow:
    """One fact: its kind and grain, and the columns with the keys of each dimension."""

    fact: str
    kind: str
    grain: str
    """In words, or the columns of the key."""
    keys: Mapping[str, tuple[str, ...]]
    """The key columns by dimension; a dimension with several is looked up in several roles."""
    degenerate: tuple[str, ...] = ()


@dataclass(frozen=True)
class BusMatrix:
    """The facts of a project, and the dimensions; those that several facts share, which are conformed, come first."""

    rows: tuple[BusMatrixRow, ...]
    dimensions: tuple[str, ...]


def bus_matrix(definitions: Iterable[Definition]) -> BusMatrix:
    """Return the bus matrix of definitions, whose facts keep their order."""
    known = tuple(definitions)
    rows = tuple(_row(d, d.transform) for d in known if isinstance(d, Table) and isinstance(d.transform, FactTransform))
    users = {d.name: sum(d.name in row.keys for row in rows) for d in known if d.kind == "dimension"}
    users |= {name: sum(name in row.keys for row in rows) for row in rows for name in row.keys}
    return BusMatrix(rows, tuple(sorted(users, key=lambda name: (-users[name], name))))


def _row(definition: Table, transform: FactTransform) -> BusMatrixRow:
    keys: dict[str, tuple[str, ...]] = {}
    for column, look in transform.lookups:
        keys[look.dimension] = (*keys.get(look.dimension, ()), column)
    grain = transform.grain or ", ".join(definition.key)
    return BusMatrixRow(definition.name, transform.fact_kind, grain, keys, transform.degenerate)
