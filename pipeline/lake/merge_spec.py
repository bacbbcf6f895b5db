"""What is merged into a table, what comes out, and the connection that does it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import duckdb

from pipeline.core.errors import DefinitionError, StorageError
from pipeline.core.merge_options import Merge
from pipeline.core.schema import Schema
from pipeline.core.staging import StagedFile
from pipeline.kernel.engine import connect, first_line
from pipeline.kernel.pool import Limits, configure
from pipeline.kernel.sql_text import quoted
from pipeline.lake.delta import LakeTable, Version

RESERVED_NAMES = frozenset({"file_index", "file_row_number", "filename"})
"""Names of DuckDB's virtual Parquet columns; a merged table cannot have columns with these names."""


@dataclass(frozen=True)
class MergeSpec:
    """The input of a merge: staged rows, the table, and the rule for the last row of a key."""

    table: LakeTable
    key: tuple[str, ...]
    how: Merge | None
    """Determines the last row of a key; `None` if the staged rows replace all rows of given keys."""
    run_id: str
    staged: tuple[StagedFile, ...]
    schema: Schema
    seen: Version | None = None
    """The version to merge into; if `None`, the staged rows are merged only with each other."""
    limits: Limits = field(default_factory=Limits)

    @property
    def columns(self) -> str:
        """The SELECT list for ranking: key and sequence."""
        names = {f"k{n}": name for n, name in enumerate(self.key)}
        key = ", ".join(f"{quoted(name)} as {short}" for short, name in names.items())
        return key if self.how is None else f"{key}, {self.how_sequence} as s"

    @property
    def how_sequence(self) -> str:
        """SQL for the sequence of a row: a struct if there are several columns."""
        names = [quoted(name) for name in self.how.sequence_by] if self.how else []
        if len(names) == 1:
            return names[0]
        return f"struct_pack({', '.join(f's{n} := {name}' for n, name in enumerate(names))})"

    @property
    def key_columns(self) -> str:
        """The names of the key columns during ranking."""
        return ", ".join(f"k{number}" for number in range(len(self.key)))

    def uri(self, file: StagedFile) -> str:
        """Return the URI of a staged file."""
        return f"{self.table.storage.uri}/{file.path}"


@dataclass(frozen=True)
class MergeResult:
    """Files to add, URIs of files to remove, and the row counts of the merge."""

    files: tuple[StagedFile, ...]
    removed: frozenset[str]
    tombstones: tuple[StagedFile, ...]
    rows_out: int
    superseded: int
    deletes: int
    quarantined: tuple[StagedFile, ...] = ()
    """Staged files of changes that have the sequence of another change of their key, and are another one."""
    conflicts: int = 0
    """The number of these among the new rows."""


@contextmanager
def merge_connection(work: MergeSpec, problem: str, do: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """Connect to merge; larger data than the limits allow spills to disk.

    Raises `DefinitionError` with this problem and advice for SQL that does not fit the rows, and `StorageError` if the store fails.
    """
    with connect(work.limits, filesystem=work.table.storage.filesystem()) as con:
        configure(con, "preserve_insertion_order", "false")  # otherwise entire row groups are buffered
        try:
            yield con
        except (duckdb.BinderException, duckdb.ConversionException) as error:
            raise DefinitionError(problem, got=first_line(error), do=do) from error
        except duckdb.IOException as error:
            raise StorageError(
                f"table {work.table.name!r} cannot be merged into",
                got=first_line(error),
                do="run again; if a file of the lake is missing, recompute its table with --full",
            ) from error


def require_columns(work: MergeSpec, names: Iterable[str]) -> None:
    """Raise `DefinitionError` if rows lack a column, or have a reserved name."""
    for name in names:
        if name not in work.schema.names:
            raise DefinitionError(
                f"table {work.table.name!r} has no column {name!r}, by which it is merged",
                got=", ".join(work.schema.names),
            )
    taken = sorted(RESERVED_NAMES & {name.lower() for name in work.schema.names})
    if taken:
        raise DefinitionError(
            f"table {work.table.name!r} is merged and has a column {taken[0]!r}, which is a reserved name",
            do="rename the column",
        )
