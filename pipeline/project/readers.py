"""The readers of a project's sources, as they are used: one that reads tables of the lake is given their rows."""

from __future__ import annotations

from typing import Protocol, cast

from pipeline.core.definitions import Feed, Source
from pipeline.core.errors import DefinitionError
from pipeline.core.sources import Log, OverTables, Reader, TableRows
from pipeline.project.workspace import Workspace


def reader_of(workspace: Workspace, definition: Source | Feed) -> Reader:
    """Return what reads a source; raise `StorageError` when a table that it reads is not made yet."""
    reader = definition.reader
    if not isinstance(reader, OverTables):
        return reader

    def rows_of(name: str) -> TableRows:
        version = workspace.require(name, definition.name)
        return TableRows(
            version.scan().query(), version.schema, version.manifest_id, workspace.lake.storage.filesystem()
        )

    return reader.over(rows_of)


class LogReader(Reader, Log, Protocol):
    """A reader that is a log too."""


def log_of(workspace: Workspace, definition: Source | Feed) -> LogReader:
    """Return a source's log; raise `DefinitionError` for a source that has none."""
    reader = reader_of(workspace, definition)
    if isinstance(reader, Log):
        return cast("LogReader", reader)
    raise DefinitionError(
        f"source {definition.name!r} cannot be streamed: its reader is not a log",
        do="remove event_time=, or read a log: kafka(…), files(…), replay(…), generate(…)",
        place=definition.place,
    )
