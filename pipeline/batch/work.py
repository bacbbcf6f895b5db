"""What a task is given and what it gives: a table's step, one split of it, and the outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pipeline.core.definitions import Expectation
from pipeline.core.errors import Place, SchemaError
from pipeline.core.schema import Schema, compare
from pipeline.core.splits import SourceSplit
from pipeline.core.staging import RowCounts, StagedFile, Stager
from pipeline.kernel.pool import Limits
from pipeline.kernel.profile import Profile
from pipeline.kernel.scan import Scan
from pipeline.kernel.sql_text import listed, literal

if TYPE_CHECKING:
    import duckdb
    import fsspec


STOP = "headwater: this row needs a careful look"
"""What the clean pass raises in the engine at a row that is not as it should be."""


@dataclass(frozen=True)
class Split:
    """A part of the driving input: files of the lake, or parts of a source's pieces."""

    index: int
    scan: Scan | None = None
    parts: tuple[SourceSplit, ...] = ()
    beside: Mapping[str, Scan] = field(default_factory=dict)
    """For a bucket: its rows of the other inputs that are cut like the driving one."""
    is_last_try: bool = False
    """Whether a part that cannot be read may be set aside now, if its source allows it."""

    @property
    def size_bytes(self) -> int:
        """The bytes that are read for it."""
        scans = [*self.beside.values(), *([] if self.scan is None else [self.scan])]
        return sum(part.size_bytes for part in self.parts) + sum(scan.size_bytes for scan in scans)

    def __str__(self) -> str:
        """Return what it reads, as a person would look for it."""
        files = [] if self.scan is None else [file.uri for file in self.scan.files]
        named = [str(part) for part in self.parts] + files
        return ", ".join(named[:3]) + (f" and {len(named) - 3} more" if len(named) > 3 else "")  # noqa: PLR2004 - as many as fit a line


@dataclass(frozen=True)
class InputQuery:
    """A query of the rows a split gives, not yet judged."""

    query: str
    rows_in: int
    bytes_in: int = 0
    hidden: tuple[str, ...] = ()
    """Columns that help to judge and are not kept."""
    rejected: int = 0
    """The rows of the table `_rejected`, which no contract fits."""
    rejects: tuple[str, ...] = ()
    """Queries that give 0 after the pass, unless the split must be looked at carefully."""
    scanned: int | None = None
    """The rows that the source's scans give in the pass, unless the split must be looked at carefully."""
    schema: Schema | None = None
    """The columns of the query where they are known, for a very long query takes a while to ask."""
    again: bool = True
    """Whether the query may run more than once, and the careful way too."""


class RowProducer(Protocol):
    """Makes the rows of a split on a connection. Making a split twice gives the same rows."""

    def for_validation(self, con: duckdb.DuckDBPyConnection, split: Split) -> AbstractContextManager[InputQuery]:
        """Prepare the inputs for the time of the context, the careful way, and return the query."""

    def for_fast_path(self, con: duckdb.DuckDBPyConnection, split: Split) -> AbstractContextManager[InputQuery | None]:
        """Do the same for one pass that keeps nothing, or return `None` where only the careful way will do."""


@dataclass(frozen=True)
class TaskSpec:
    """One table's step, complete: what a task needs to know, wherever it runs."""

    table: str
    place: Place
    producer: RowProducer
    stager: Stager
    quarantined: Stager
    run_id: str
    at: str
    expectations: tuple[Expectation, ...] = ()
    key: tuple[str, ...] = ()
    existing: Scan | None = None
    """Rows that came before, whose keys may not come again."""
    keys_known: str | None = None
    """A SELECT of the keys that came before, where they are not to be read from `existing`."""
    existing_first: bool = True
    """Whether rows that came before stay; else a key that comes again is an `OrderError`."""
    is_ranked: bool = True
    """Whether the first row of a key is that of the least `rank`, else the first that comes."""
    are_splits_ranked: bool = False
    """Whether the rows of a split come before those of the next by `rank`."""
    limits: Limits = field(default_factory=Limits)
    filesystem: fsspec.AbstractFileSystem | None = None

    @property
    def keys_before(self) -> str | None:
        """A SELECT of the keys that came before, if any did."""
        if self.keys_known is not None or self.existing is None or not self.existing.files:
            return self.keys_known
        files = ", ".join(literal(file.uri) for file in self.existing.files)
        return f"select {listed(self.key)} from read_parquet([{files}], hive_partitioning = false)"


@dataclass(frozen=True)
class Outcome:
    """What a task did: files staged, rows counted, expectations judged."""

    schema: Schema
    flow: RowCounts
    files: tuple[StagedFile, ...] = ()
    quarantined: tuple[StagedFile, ...] = ()
    checks: Mapping[str, int] = field(default_factory=dict)
    profile: Profile = field(default_factory=Profile)
    fallbacks: Mapping[str, int] = field(default_factory=dict)
    """How many splits were done by the validating pass instead of the fast path, by reason."""

    def __add__(self, other: Outcome) -> Outcome:
        """Return both outcomes as one, in order; raise `SchemaError` when they are of different columns."""
        change = compare(self.schema, other.schema)
        if change:
            raise SchemaError(
                "the splits of one step gave different columns",
                got=str(change),
                do="cast the columns in the definition, so that their types do not depend on the rows",
            )
        return Outcome(
            schema=self.schema,
            flow=self.flow + other.flow,
            files=self.files + other.files,
            quarantined=self.quarantined + other.quarantined,
            checks={name: count + other.checks.get(name, 0) for name, count in self.checks.items()},
            profile=self.profile + other.profile,
            fallbacks=dict(Counter(self.fallbacks) + Counter(other.fallbacks)),
        )
