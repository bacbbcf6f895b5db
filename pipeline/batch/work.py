"""The input and output of a task: its specification, a split, and the outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pipeline.core.definitions import Expectation
from pipeline.core.errors import Place, SchemaError
from pipeline.core.merge_options import Merge
from pipeline.core.schema import Schema, compare
from pipeline.core.splits import SourceSplit
from pipeline.core.staging import RowCounts, StagedFile, Stager
from pipeline.kernel.pool import Limits
from pipeline.kernel.profile import Profile
from pipeline.kernel.scan import DataFile, Scan
from pipeline.kernel.sql_text import listed, literal

if TYPE_CHECKING:
    import duckdb
    import fsspec
    import pyarrow as pa

    from pipeline.batch.misfits import Misfits


STOP = "headwater: this row requires the validating pass"
"""The error raised inside DuckDB by the fast path at a row that violates the contract or an expectation."""


@dataclass(frozen=True)
class Split:
    """A part of the driving input: files of the lake, or source splits."""

    index: int
    scan: Scan | None = None
    source_splits: tuple[SourceSplit, ...] = ()
    beside: Mapping[str, Scan] = field(default_factory=dict)
    """For a bucket: its rows of the other partitioned inputs."""
    is_last_try: bool = False
    """Whether this is the last attempt, in which unreadable source splits may be quarantined if the source allows it."""
    crashes_workers: bool = False
    """Whether its source splits are quarantined without being read, because workers that read them crash."""

    @property
    def size_bytes(self) -> int:
        """The number of bytes to read."""
        scans = [*self.beside.values(), *([] if self.scan is None else [self.scan])]
        return sum(split.size_bytes for split in self.source_splits) + sum(scan.size_bytes for scan in scans)

    def __str__(self) -> str:
        """Return the files and ranges of the split, for messages."""
        files = [] if self.scan is None else [file.uri for file in self.scan.files]
        named = [str(source_split) for source_split in self.source_splits] + files
        return ", ".join(named[:3]) + (f" and {len(named) - 3} more" if len(named) > 3 else "")  # noqa: PLR2004 - fits on one line


@dataclass(frozen=True)
class SharedRead:
    """Rows of a source that several tables of a run read: the files of each source split whose rows are all valid."""

    schema: Schema
    source_splits: tuple[SourceSplit, ...]
    """All splits, in order."""
    files: Mapping[SourceSplit, tuple[DataFile, ...]]

    def scan(self, source_splits: Sequence[SourceSplit]) -> Scan | None:
        """Return the rows of source splits in order, or `None` unless all of them are known."""
        known = [self.files.get(source_split) for source_split in source_splits]
        if any(files is None for files in known):
            return None
        return Scan(self.schema, tuple(file for files in known for file in files or ()))


@dataclass(frozen=True)
class InputQuery:
    """A query of the rows of a split, before validation."""

    query: str
    rows_in: int
    bytes_in: int = 0
    hidden: tuple[str, ...] = ()
    """Columns that are used for validation and not stored."""
    rejected: int = 0
    """The number of rows in the table `_rejected`, which do not match the contract."""
    discarded: Mapping[str, int] = field(default_factory=dict)
    """The number of values that were replaced by null, because they are not of their column's type, by column."""
    error_queries: tuple[str, ...] = ()
    """Queries that must return 0 after the fast path; otherwise the validating pass is required."""
    scanned: int | None = None
    """The number of rows that the source's scans must return in the fast path; otherwise the validating pass is required."""
    schema: Schema | None = None
    """The schema of the query, if it is known; describing a very long query is slow."""
    again: bool = True
    """Whether the query can be re-run by the validating pass."""
    misfits: Misfits | None = None
    """The rows that the query sets aside in the fast path, because they do not match the contract."""


class RowProducer(Protocol):
    """Produces the rows of a split on a connection. Producing a split twice returns the same rows."""

    def for_validation(self, con: duckdb.DuckDBPyConnection, split: Split) -> AbstractContextManager[InputQuery]:
        """Prepare the inputs for the validating pass within the context, and return the query."""

    def for_fast_path(self, con: duckdb.DuckDBPyConnection, split: Split) -> AbstractContextManager[InputQuery | None]:
        """Prepare the inputs for the fast path, or return `None` if the validating pass is required."""


@dataclass(frozen=True)
class TaskSpec:
    """The complete specification of a task, independent of where it runs."""

    table: str
    place: Place
    producer: RowProducer
    stager: Stager
    quarantined: Stager
    run_id: str
    at: str
    expectations: tuple[Expectation, ...] = ()
    key: tuple[str, ...] = ()
    merge: Merge | None = None
    """How the table merges its rows, whose conditions are part of its expectations."""
    existing: Scan | None = None
    """The existing rows, whose keys must not occur again."""
    keys_known: str | None = None
    """A SELECT of the existing keys, if they are not read from `existing`."""
    existing_first: bool = True
    """Whether existing rows are kept if a key occurs again; otherwise this raises `OrderError`."""
    is_ranked: bool = True
    """Whether the first row of a key is defined by `rank`; otherwise by arrival order."""
    are_splits_ranked: bool = False
    """Whether all rows of a split precede those of the next split by `rank`."""
    limits: Limits = field(default_factory=Limits)
    filesystem: fsspec.AbstractFileSystem | None = None

    @property
    def keys_before(self) -> str | None:
        """A SELECT of the existing keys, or `None`."""
        if self.keys_known is not None or self.existing is None or not self.existing.files:
            return self.keys_known
        files = ", ".join(literal(file.uri) for file in self.existing.files)
        return f"select {listed(self.key)} from read_parquet([{files}], hive_partitioning = false)"


@dataclass(frozen=True)
class Outcome:
    """The result of a task: staged files, row counts and violations."""

    schema: Schema
    flow: RowCounts
    files: tuple[StagedFile, ...] = ()
    quarantined: tuple[StagedFile, ...] = ()
    checks: Mapping[str, int] = field(default_factory=dict)
    profile: Profile = field(default_factory=Profile)
    fallbacks: Mapping[str, int] = field(default_factory=dict)
    """The number of splits that required the validating pass, by reason."""
    states: pa.Table | None = None
    """The aggregate states of a grouped table, if they are to be kept."""
    states_fit: bool = True
    """Whether the aggregate states of a grouped table were within the limit, as far as that is known."""

    def __add__(self, other: Outcome) -> Outcome:
        """Return the combined outcome, in order; raise `SchemaError` if the columns differ."""
        change = compare(self.schema, other.schema)
        if change:
            raise SchemaError(
                "the splits of a step returned different columns",
                got=str(change),
                do="cast the columns in the definition, so that their types do not depend on the rows",
            )
        return Outcome(
            schema=self.schema,
            flow=self.flow + other.flow,
            files=self.files + other.files,
            quarantined=self.quarantined + other.quarantined,
            checks={
                name: self.checks.get(name, 0) + other.checks.get(name, 0) for name in {**self.checks, **other.checks}
            },
            profile=self.profile + other.profile,
            fallbacks=dict(Counter(self.fallbacks) + Counter(other.fallbacks)),
        )
