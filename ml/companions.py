"""Tables that belong to another definition and are generated with it, for example the counts of a monitor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from sqlglot import exp

from pipeline.core.definitions import Definition, Source, SourceDefinition, Table
from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.core.fingerprint import fingerprint
from pipeline.core.sources import PROVENANCE
from pipeline.kernel.sql import SqlTransform, parse, statement_of

ALIAS = "of_rows"
"""The name under which generated statements may read a table; expressions of users may write it before a column."""


@dataclass(frozen=True)
class StatementTransform(SqlTransform):
    """A generated SELECT, whose result does not depend on the order of rows: it is executed as it is."""

    reads: tuple[str, ...] = ()
    expressions: tuple[tuple[str, str], ...] = ()
    """Tables, each with a SQL expression of its columns that the statement contains."""

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The tables that it reads."""
        return self.reads

    @property
    def sql(self) -> str:
        """The statement as it is."""
        return self.text

    @property
    def fingerprint(self) -> str:
        """A hash of the statement."""
        return fingerprint("counts", self.text)

    def check_inputs(self, inputs: Mapping[str, Definition], place: Place) -> None:
        """Raise `DefinitionError` if an expression is not one, or names a column that its table is known not to have."""
        for table, sql in self.expressions:
            require_columns_of(inputs[table], sql, place)


@dataclass(frozen=True, kw_only=True)
class CompanionTable(Table):
    """A table that another definition is computed from, and that is named after it."""

    belongs_to: str
    is_streamed: bool = False
    """Whether a stream computes it if its input is streamed; otherwise, runs do."""

    @property
    def may_be_streamed(self) -> bool:
        """Whether a stream may compute it."""
        return self.is_streamed

    @property
    def selected_with(self) -> str:
        """The definition that it belongs to: a run that computes that computes this too."""
        return self.belongs_to


def require_columns_of(definition: Definition, sql: str, place: Place) -> None:
    """Raise `DefinitionError` if an expression is not one, or names a column that the table is known not to have."""
    tree = parse(f"select {sql}", place=place, what=f"an expression over {definition.name!r}")
    known = _known_columns(definition)
    if known is None or tree.find(exp.Lambda):
        return
    folded = {name.lower() for name in known}
    for column in tree.find_all(exp.Column):
        first, *rest = (part.name for part in column.parts)
        is_table = bool(rest) and first.lower() in {definition.name.lower(), ALIAS} - folded
        name = rest[0] if is_table else first  # `a.b` is the field `b` of a column `a`, or a column of a table `a`
        if name.lower() not in folded:
            problem = f"table {definition.name!r} has no column {name!r}"
            raise DefinitionError(problem, do=did_you_mean(name, known), place=place)


def _known_columns(definition: Definition) -> Sequence[str] | None:
    """Return the columns of a table as far as its definition says; `None` if it does not."""
    if isinstance(definition, SourceDefinition):
        is_open = definition.schema is None or (isinstance(definition, Source) and definition.evolves)
        return None if definition.schema is None or is_open else (*definition.schema.names, *PROVENANCE)
    statement = statement_of(definition)
    names = None if statement is None else statement.tree.named_selects
    return None if names is None or "*" in names else names
