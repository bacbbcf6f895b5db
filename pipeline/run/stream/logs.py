"""The logs of a project's sources: what is a log is one, a folder of files becomes one, a table can be replayed."""

from __future__ import annotations

from typing import cast

from pipeline.core.definitions import Feed, Source
from pipeline.core.errors import DefinitionError
from pipeline.core.reading import Log
from pipeline.core.replays import Replay
from pipeline.run.stream.replaying import ReplayLog
from pipeline.run.workspace import Workspace
from pipeline.sources import Files
from pipeline.sources.folder import Folder


def log_of(workspace: Workspace, definition: Source | Feed) -> Log:
    """Return a source's log; raise `DefinitionError` for a source that has none."""
    reader = definition.reader
    if isinstance(reader, Files):
        return Folder(reader)
    if isinstance(reader, Replay):
        return ReplayLog.of(workspace, reader)
    if hasattr(reader, "tail"):
        return cast("Log", reader)
    raise DefinitionError(
        f"source {definition.name!r} cannot be streamed: its reader is no log",
        do="take event_time= away, or read a log: kafka(…), files(…), replay(…), generate(…)",
        place=definition.place,
    )
