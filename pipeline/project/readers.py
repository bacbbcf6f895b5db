"""The readers of a project's sources; readers of tables are bound to versions in the lake."""

from __future__ import annotations

from typing import Protocol, cast

from pipeline.core.as_of import AsOf
from pipeline.core.definitions import Feed, Source
from pipeline.core.errors import DefinitionError
from pipeline.core.sources import ComparedWithTable, Log, OverTables, Reader, TableRows
from pipeline.project.workspace import Workspace


def reader_of(workspace: Workspace, definition: Source | Feed) -> Reader:
    """Return the reader of a source; raise `StorageError` if a table that it reads does not exist yet."""
    reader = definition.reader
    if isinstance(reader, ComparedWithTable):
        if not isinstance(definition, Source):
            raise DefinitionError(
                f"source {definition.name!r} has no table to compare its keys with",
                do="remove stored=False, or reconcile=",
                place=definition.place,
            )
        own = workspace.version(definition.name)
        files = workspace.lake.storage.filesystem()
        stored = None if own is None else TableRows(own.scan().query(), own.schema, own.manifest_id, files)
        return reader.compared_with(stored)
    if not isinstance(reader, OverTables):
        return reader

    def rows_of(name: str, as_of: AsOf) -> TableRows:
        version = workspace.require(name, definition.name, as_of=as_of)
        return TableRows(
            version.scan().query(), version.schema, version.manifest_id, workspace.lake.storage.filesystem()
        )

    return reader.over(rows_of)


class LogReader(Reader, Log, Protocol):
    """A reader that is also a log."""


def log_of(workspace: Workspace, definition: Source | Feed) -> LogReader:
    """Return the log of a source; raise `DefinitionError` if it has none."""
    reader = reader_of(workspace, definition)
    if isinstance(reader, Log):
        return cast("LogReader", reader)
    raise DefinitionError(
        f"source {definition.name!r} cannot be streamed: its reader is not a log",
        do="remove event_time=, or read a log: kafka(…), files(…), replay(…), generate(…)",
        place=definition.place,
    )
