"""Facts: a SELECT of events, extended by the surrogate keys of its dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.core.definitions import Definition, Expectation, Table, caller, names
from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.core.partition_fields import partitioning
from pipeline.kernel.sql import SqlTransform, parse, sql_table
from pipeline.kernel.sql_text import quoted
from pipeline.warehouse.modelling.dimension import DimensionTransform
from pipeline.warehouse.modelling.lookups import Lookup
from pipeline.warehouse.warehouse import ForeignKey

FactKind = Literal["transaction", "periodic snapshot", "accumulating snapshot", "bridge"]


@dataclass(frozen=True)
class FactTransform(SqlTransform):
    """A SELECT of events, extended by the surrogate keys of its dimensions."""

    lookups: tuple[tuple[str, Lookup], ...] = ()
    fact_kind: FactKind = "transaction"
    grain: str = ""
    degenerate: tuple[str, ...] = ()
    """The columns that identify something without a dimension."""

    @property
    def sql(self) -> str:
        """The SELECT with its lookups."""
        columns, joins = [], []
        for number, (column, look) in enumerate(self.lookups):
            alias = f"d{number}"
            columns.append(f"{look.value('f', alias)} as {quoted(column)}")
            joins.append(f"left join {look.members} as {alias} on {look.matches('f', alias)}")
        return f"select f.*{''.join(', ' + c for c in columns)} from ({self._plain}) as f {' '.join(joins)}"

    def check_inputs(self, inputs: Mapping[str, Definition], place: Place) -> None:
        """Raise `DefinitionError` for a lookup that its dimension cannot answer."""
        for column, look in self.lookups:
            transform = inputs[look.dimension].computed_by
            if isinstance(transform, DimensionTransform):
                problem = look.misfit(transform)
                if problem is not None:
                    raise DefinitionError(f"lookup {column!r}: {problem}", place=place)


def foreign_keys_of(definition: Definition) -> tuple[ForeignKey, ...]:
    """Return the foreign keys of a fact; none for other definitions."""
    transform = definition.computed_by
    if not isinstance(transform, FactTransform):
        return ()
    return tuple(ForeignKey(column, look.dimension, look.surrogate) for column, look in transform.lookups)


def fact(
    text: str,
    *,
    key: str | Sequence[str],
    lookups: Mapping[str, Lookup] | None = None,
    grain: str = "",
    degenerate: str | Sequence[str] = (),
    partition_by: str | Sequence[str] | None = None,
    expect: Sequence[Expectation] = (),
    description: str = "",
) -> Table:
    """Define a fact table as a SELECT of events with lookups of dimensions.

    `lookups` maps the names of additional surrogate key columns to a `lookup`. An event without a matching member is kept,
    with key 0. `key` is the grain, and `grain` says it in words. `degenerate` names columns that identify something without
    a dimension, such as the number of an order.

    Raises `DefinitionError` if the SELECT already has a column with the name of a lookup, or lacks a degenerate one.
    """
    place = caller()
    columns = parse(text, place=place).named_selects
    for name in names(degenerate):
        if name not in columns and "*" not in columns:
            do = did_you_mean(name, columns)
            problem = f"degenerate= names a column {name!r}, which the SELECT of the fact does not have"
            raise DefinitionError(problem, do=do, place=place)
    return fact_table(
        text,
        place,
        names(key),
        lookups,
        grain=grain,
        degenerate=names(degenerate),
        partition_by=partitioning(partition_by, place),
        expect=expect,
        description=description,
    )


def fact_table(
    text: str,
    place: Place,
    key: tuple[str, ...],
    lookups: Mapping[str, Lookup] | None,
    *,
    kind: FactKind = "transaction",
    grain: str = "",
    degenerate: tuple[str, ...] = (),
    partition_by: tuple[str, ...] = (),
    expect: Sequence[Expectation] = (),
    description: str = "",
) -> Table:
    """Return a fact of any kind; raise `DefinitionError` if its SELECT has a column with the name of a lookup."""
    described = sql_table(SqlTransform(text), place, layer="gold", expect=tuple(expect), description=description)
    twice = set(parse(text, place=place).named_selects) & set(lookups or {})
    if twice:
        raise DefinitionError(
            f"the SELECT of the fact already has a column {min(twice)!r}",
            do="rename the lookup",
            place=place,
        )
    return Table(
        place=place,
        transform=FactTransform(text, tuple((lookups or {}).items()), kind, grain, degenerate),
        description=described.description,
        layer="gold",
        role="fact",
        key=key,
        partition_by=partition_by,
        expect=described.expect,
    )
