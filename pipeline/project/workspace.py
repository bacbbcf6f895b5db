"""A project with its lake, catalog and warehouse."""

from __future__ import annotations

import textwrap
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
from sqlglot import exp

from pipeline.core.as_of import AsOf, At
from pipeline.core.definitions import Definition, StoredDefinition, Table, UsesArtifact
from pipeline.core.errors import DefinitionError, RequestError, StorageError, did_you_mean
from pipeline.governance import Catalog
from pipeline.kernel.budget import budget_here
from pipeline.kernel.engine import arrow_within, connect, exceeded_limit, first_line, interrupted_after
from pipeline.kernel.scan import Scan, register
from pipeline.kernel.sql import parse, tables_of
from pipeline.lake import Lake, LakeTable, Storage, Version, scan_for
from pipeline.lake.read_notes import ReadNotes
from pipeline.warehouse import open_warehouse

if TYPE_CHECKING:
    from pipeline.project.project import Project


class Workspace:
    """The stores of a project's environment. Each is opened on first use."""

    def __init__(self, project: Project) -> None:
        """Create the workspace of a project."""
        settings = project.settings
        self.project = project
        self.settings = settings
        self.lake = Lake(Storage(settings.lake, settings.storage))
        self.reads = ReadNotes(settings.state / "reads")
        self.catalog = Catalog(settings.catalog)
        self.warehouse = open_warehouse(settings.warehouse)

    def definition(self, name: str) -> Definition:
        """Return a definition by name; raise `RequestError` if it does not exist."""
        return self.project.graph[name]

    def stored(self, name: str) -> StoredDefinition:
        """Return the definition of a table; raise `RequestError` if it is not a table."""
        definition = self.definition(name)
        if not isinstance(definition, StoredDefinition):
            raise RequestError(f"{name!r} is not a table", do=did_you_mean(name, self.table_names))
        return definition

    def with_artifacts(self, definition: Table) -> Table:
        """Return the definition with the registered artifacts that its transform uses; raise `ModelError` if one is missing."""
        transform = definition.transform
        if not isinstance(transform, UsesArtifact):
            return definition
        return replace(definition, transform=transform.loaded(self.settings.models))

    @property
    def table_names(self) -> tuple[str, ...]:
        """The names of all tables in topological order."""
        return tuple(d.name for d in self.project.graph.all_of(StoredDefinition))

    def table(self, name: str) -> LakeTable:
        """Return a definition's table in the lake, whether or not it exists."""
        stored = self.stored(name)
        return self.lake.table(
            stored.layer,
            name,
            partition_by=stored.partition_by,
            description=stored.description,
            policy=self.project.policy(stored),
        )

    def version(self, name: str, *, lenient: bool = False) -> Version | None:
        """Return the newest version of a table, or `None` if it does not exist yet; see `LakeTable.version`."""
        return self.table(name).version(lenient=lenient)

    def require(
        self, name: str, reader: str | None = None, *, is_streamed: bool | None = None, as_of: AsOf | None = None
    ) -> Version:
        """Return the newest version of a table, or the one of `as_of`; raise `StorageError` if it does not exist yet.

        `reader` is the definition that reads it, for the error. `is_streamed` is whether a stream writes the table; by
        default, it is derived from its inputs.
        """
        version = self.version(name) if as_of is None else self.table(name).version_as_of(as_of)
        if version is None:
            is_streamed = self.project.graph.follows_a_stream(name) if is_streamed is None else is_streamed
            raise StorageError(
                f"table {name!r} does not exist yet"
                if reader is None
                else f"{reader!r} reads {name!r}, which does not exist yet",
                do=f"run `headwater stream {name}`, which creates it"
                if is_streamed
                else f"run `headwater run --select +{reader or name}`",
                place=self.definition(reader or name).place,
            )
        return version

    def as_of(self, at: AsOf | At | None) -> AsOf:
        """Return the versions that `at=` means; raise `RequestError` if it cannot be parsed or names no table."""
        as_of = AsOf.of(at)
        for name in as_of.versions:
            self.stored(name)
        return as_of

    def query(self, text: str, seconds: float | None = None, *, at: AsOf | At | None = None) -> pa.Table:
        """Run one SELECT over the tables and return its rows.

        `at` is a time, for which each table has the newest version committed until then, or versions by table: see
        `AsOf.of`. Without it, the newest versions are read.

        Raises `RequestError` for an unknown table, for an error of the query, and if the query exceeds `seconds` (default:
        `query_seconds` of the settings), the memory limit or the spill limit; `StorageError` for a table that does not
        exist yet, a version that can no longer be read, or files that cannot be read.
        """
        as_of = self.as_of(at)
        if text.strip() in self.table_names:
            raise RequestError(
                f"{text.strip()!r} is a table, and not a SELECT", do=f"query its rows: from {text.strip()}"
            )
        return self.select(text, self.scans(text, as_of), seconds)

    def scans(self, text: str, as_of: AsOf) -> dict[str, Scan]:
        """Return the files that a SELECT reads, by table; raises as `query` does, and reads no rows."""
        scans = {}
        tree = _one_select(text)
        for name in tables_of(tree):
            if name not in self.table_names:
                raise RequestError(f"there is no table {name!r}", do=did_you_mean(name, self.table_names))
            scans[name] = scan_for(self.table(name), self.require(name, as_of=as_of), tree)
            self.reads.note(self.table(name).storage.uri, scans[name].files)
        return scans

    def select(self, text: str, inputs: Mapping[str, Scan | pa.Table], seconds: float | None = None) -> pa.Table:
        """Return the rows of a SELECT over inputs, within the limits of `query`; raises as it does."""
        seconds = self.settings.query_seconds if seconds is None else seconds
        budget = budget_here(self.settings.memory_bytes)
        with (
            connect(budget.whole(), filesystem=self.lake.storage.filesystem()) as con,
            interrupted_after(con, seconds) as is_up,
            query_errors(text, seconds, is_up),
        ):
            register(con, inputs)
            rows = arrow_within(con, text, budget.memory_bytes)
        if rows is None:
            raise RequestError(
                f"the result does not fit in memory: {_shown(text)}",
                got=f"more than {budget.memory_bytes / 1e9:,.1f} GB",
                do="return fewer rows, or raise memory_bytes in headwater.toml",
            )
        return rows


@contextmanager
def query_errors(text: str, seconds: float, is_up: threading.Event) -> Iterator[None]:
    """Translate DuckDB errors of a query to Headwater errors."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        problem, do = exceeded_limit(error)
        raise RequestError(f"this query {problem}: {_shown(text)}", got=first_line(error), do=do) from error
    except (duckdb.InterruptException, RuntimeError) as error:
        if not is_up.is_set():
            raise
        raise RequestError(
            f"this query exceeds the timeout of {seconds:g} s: {_shown(text)}",
            do="set --timeout, or raise query_seconds in headwater.toml",
        ) from error
    except duckdb.IOException as error:
        raise StorageError(
            "a file of these tables cannot be read",
            got=first_line(error),
            do="recompute its table: headwater run --full --select NAME",
        ) from error
    except duckdb.Error as error:
        raise RequestError("this query failed", got=first_line(error)) from error


def _one_select(text: str) -> exp.Query:
    try:
        return parse(text, what="a query")
    except DefinitionError as error:
        raise RequestError(error.problem, got=error.got) from error


def _shown(text: str) -> str:
    """Return a statement on one line, shortened for error messages."""
    return textwrap.shorten(text, 200, placeholder=" …")
