"""The fused task: read a split, make rows, judge them, stage files. The same code inline and on Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import duckdb

from pipeline.core.definitions import Action, Expectation
from pipeline.core.errors import DefinitionError, ExpectationError, Place, SchemaError, StorageError
from pipeline.core.reading import Piece
from pipeline.core.schema import Schema, compare
from pipeline.core.staging import Flow, StagedFile, Stager
from pipeline.kernel.checks import MADE, Marked, mark, mark_duplicates
from pipeline.kernel.engine import Limits, arrow, connect, first_line, listed, literal, one, schema_of, watched
from pipeline.kernel.scan import Scan
from pipeline.kernel.types import stored

if TYPE_CHECKING:
    import fsspec

SPLIT_BYTES = 128 << 20
"""The size of the files that one task on Ray reads."""
REJECTED = "_rejected"
"""The temporary table of rows that a reader could not fit to the contract."""


@dataclass(frozen=True)
class Split:
    """A part of the driving input: files of the lake, or pieces of a source."""

    index: int
    scan: Scan | None = None
    pieces: tuple[Piece, ...] = ()


@dataclass(frozen=True)
class Made:
    """A query of the rows a split gives, not yet judged."""

    query: str
    rows_in: int
    bytes_in: int = 0
    hidden: tuple[str, ...] = ()
    rejected: int = 0


class Maker(Protocol):
    """Makes the rows of a split on a connection. Making a split twice gives the same rows."""

    def make(self, con: duckdb.DuckDBPyConnection, split: Split) -> Made:
        """Prepare the inputs and return the query."""


@dataclass(frozen=True)
class Work:
    """One table's step, complete: what a task needs to know, wherever it runs."""

    table: str
    place: Place
    maker: Maker
    stager: Stager
    aside: Stager
    run_id: str
    at: str
    expectations: tuple[Expectation, ...] = ()
    key: tuple[str, ...] = ()
    existing: Scan | None = None
    """Rows that came before, whose keys may not come again."""
    limits: Limits = field(default_factory=Limits)
    filesystem: fsspec.AbstractFileSystem | None = None


@dataclass(frozen=True)
class Outcome:
    """What a task did: files staged, rows counted, expectations judged."""

    schema: Schema
    flow: Flow
    files: tuple[StagedFile, ...] = ()
    aside: tuple[StagedFile, ...] = ()
    checks: Mapping[str, int] = field(default_factory=dict)

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
            aside=self.aside + other.aside,
            checks={name: count + other.checks.get(name, 0) for name, count in self.checks.items()},
        )


def run_task(work: Work, split: Split, tell: Callable[[float], None] | None = None) -> Outcome:
    """Do one split of a table's step; `tell`, if given, hears now and then which share of it is done.

    Raises `ExpectationError` when a `fail` expectation is violated and `DefinitionError` when the definition
    does not fit its inputs; nothing that a reader can see has changed then.
    """
    with connect(work.limits, filesystem=work.filesystem) as con, _in_our_words(work):
        made = work.maker.make(con, split)
        with nullcontext() if tell is None else watched(con, tell):
            marked = mark(con, made.query, work.expectations, hidden=made.hidden)
        if work.key:
            _require_key(work, marked)
            mark_duplicates(con, marked, work.key, _keys(work))
        return _judged(con, work, split, made, marked)


@contextmanager
def _in_our_words(work: Work) -> Iterator[None]:
    """Raise what DuckDB raises as an error that says what can be done about it."""
    try:
        yield
    except DefinitionError as error:  # of the rows a definition makes: the engine does not know whose they are
        if error.place is not None:
            raise
        raise DefinitionError(
            f"table {work.table!r}: {error.problem}", got=error.got, do=error.do, place=work.place
        ) from error
    except (duckdb.BinderException, duckdb.CatalogException, duckdb.ParserException) as error:
        problem = f"table {work.table!r} does not fit its inputs"
        raise DefinitionError(problem, got=first_line(error), place=work.place) from error
    except (duckdb.ConversionException, duckdb.InvalidInputException, duckdb.OutOfRangeException) as error:
        if "parquet" in str(error).lower():
            raise StorageError(
                f"table {work.table!r} cannot read its inputs",
                got=first_line(error),
                do="a file of the lake is damaged: recompute its table with --full",
                place=work.place,
            ) from error
        raise DefinitionError(
            f"table {work.table!r} cannot convert a value",
            got=first_line(error),
            do="use try_cast, or an expectation that sets such rows aside before",
            place=work.place,
        ) from error
    except duckdb.OutOfMemoryException as error:
        raise StorageError(
            f"table {work.table!r} needs more memory than there is",
            got=first_line(error),
            do="raise memory_bytes, or let it spill: is there space for temporary files?",
            place=work.place,
        ) from error
    except (duckdb.IOException, duckdb.HTTPException) as error:
        raise StorageError(
            f"table {work.table!r} cannot read its inputs",
            got=first_line(error),
            do="run again; if a file of the lake is gone, recompute its table with --full",
            place=work.place,
        ) from error


def _judged(con: duckdb.DuckDBPyConnection, work: Work, split: Split, made: Made, marked: Marked) -> Outcome:
    checks = marked.violations(con)
    _refuse(con, work, marked, checks)
    rows, quarantined, dropped = marked.counts(con)
    found = schema_of(con, f"select {listed(marked.columns)} from {MADE}")
    schema = stored(found)
    casts = {c.name: c.type for c, before in zip(schema.columns, found.columns, strict=True) if c != before}
    files = work.stager.stage(con, marked.kept(casts), split.index)
    queries = [marked.aside()] if quarantined else []
    if made.rejected:
        queries.append(f"select reasons, _source, _position, row from {REJECTED}")
    aside = _stage_aside(con, work, split, queries)
    flow = Flow(
        rows_in=made.rows_in,
        rows_made=rows + made.rejected,
        rows_out=rows - quarantined - dropped,
        quarantined=quarantined + made.rejected,
        dropped=dropped,
        bytes_in=made.bytes_in,
    )
    return Outcome(schema, flow, files, aside, checks)


def _stage_aside(
    con: duckdb.DuckDBPyConnection, work: Work, split: Split, queries: Sequence[str]
) -> tuple[StagedFile, ...]:
    if not queries:
        return ()
    stamp = f"{literal(work.run_id)} as _run, {literal(work.at)}::timestamptz as _quarantined_at"
    return work.aside.stage(con, f"select *, {stamp} from ({' union all '.join(queries)})", split.index)


def _refuse(con: duckdb.DuckDBPyConnection, work: Work, marked: Marked, checks: Mapping[str, int]) -> None:
    for number, expectation in enumerate(marked.expectations):
        count = checks[expectation.name]
        if expectation.action is not Action.FAIL or not count:
            continue
        shown = (*marked.columns, *(name for name in marked.provenance if name not in marked.columns))
        row = arrow(con, f"select {listed(shown)} from {MADE} where _bits & {1 << number} != 0 limit 1").to_pylist()[0]
        raise ExpectationError(
            f"table {work.table!r} does not meet {expectation.name!r} ({expectation.condition})",
            got=f"{count} row{'s' if count > 1 else ''} without it, the first {_brief(row)}",
            do="mend the data or the expectation; nothing of this table was committed",
            place=work.place,
        )


def _require_key(work: Work, marked: Marked) -> None:
    missing = [name for name in work.key if name not in marked.columns]
    if missing:
        raise DefinitionError(
            f"table {work.table!r} has no column {missing[0]!r} for its key",
            got=", ".join(marked.columns),
            place=work.place,
        )


def _keys(work: Work) -> str | None:
    if work.existing is None or not work.existing.files:
        return None
    files = ", ".join(literal(file.uri) for file in work.existing.files)
    return f"select {listed(work.key)} from read_parquet([{files}], hive_partitioning = false)"


def across(work: Work, outcome: Outcome, root: str) -> int:
    """Return how many rows of the staged files share a key with another: duplicates that no single split saw."""
    if not work.key or len(outcome.files) < 2:  # noqa: PLR2004 - one file was judged whole
        return 0
    files = ", ".join(literal(f"{root}/{file.path}") for file in outcome.files)
    with connect(work.limits, filesystem=work.filesystem) as con:
        counts = f"select count(*) as n from read_parquet([{files}], hive_partitioning = false) group by {listed(work.key)} having n > 1"
        return int(one(con, f"select coalesce(sum(n - 1), 0) from ({counts})")[0])


def _brief(row: Mapping[str, object]) -> str:
    parts = [f"{name}={value}" for name, value in row.items() if value is not None]
    return ", ".join(parts)[:300]
