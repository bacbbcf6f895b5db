"""Tables that belong to another definition and are generated with it, for example the counts of a monitor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from pipeline.core.definitions import Table
from pipeline.core.fingerprint import fingerprint
from pipeline.kernel.sql import SqlTransform


@dataclass(frozen=True)
class StatementTransform(SqlTransform):
    """A generated SELECT, whose result does not depend on the order of rows: it is executed as it is."""

    reads: tuple[str, ...] = ()

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
