"""The columns that a monitor needs, compared with those that are known of a table before any data is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlglot import exp

from pipeline.core.definitions import Definition, Source, SourceDefinition
from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.core.sources import PROVENANCE
from pipeline.kernel.sql import parse, statement_of


def require_columns_of(definition: Definition, expressions: Iterable[str], place: Place) -> None:
    """Raise `DefinitionError` if a SQL expression names a column that a table is known not to have, or is no expression."""
    known = known_columns(definition)
    for sql in expressions:
        tree = parse(f"select {sql}", place=place, what="a monitored column")
        if known is None or tree.find(exp.Lambda):
            continue
        for column in tree.find_all(exp.Column):
            if column.name.lower() not in {name.lower() for name in known}:
                problem = f"the monitored table {definition.name!r} has no column {column.name!r}"
                raise DefinitionError(problem, do=did_you_mean(column.name, known), place=place)


def known_columns(definition: Definition) -> Sequence[str] | None:
    """Return the columns of a table as far as its definition says; `None` if it does not."""
    if isinstance(definition, SourceDefinition):
        is_open = definition.schema is None or (isinstance(definition, Source) and definition.evolves)
        return None if definition.schema is None or is_open else (*definition.schema.names, *PROVENANCE)
    statement = statement_of(definition)
    names = None if statement is None else statement.tree.named_selects
    return None if names is None or "*" in names else names
