"""The kinds of definitions, each with one handler: how it is decided, run, described and drawn.

A new kind of definition is a class in `core`, a handler here, and one line in `HANDLERS`.
"""

from __future__ import annotations

from typing import Any

from pipeline.core.definitions import Artifact, Definition, Feed, Source, Table
from pipeline.core.errors import DefinitionError
from pipeline.core.sinks import Sink
from pipeline.runner.handlers.artifact import ArtifactHandler
from pipeline.runner.handlers.feed import FeedHandler
from pipeline.runner.handlers.handler import Handler
from pipeline.runner.handlers.sink import SinkHandler
from pipeline.runner.handlers.source import SourceHandler
from pipeline.runner.handlers.table import TableHandler

HANDLERS: dict[type, Handler[Any]] = {
    Source: SourceHandler(),
    Feed: FeedHandler(),
    Table: TableHandler(),
    Artifact: ArtifactHandler(),
    Sink: SinkHandler(),
}


def handler_of(definition: Definition) -> Handler[Any]:
    """Return the handler of a definition's kind, or of the nearest kind that its class derives from.

    Raises `DefinitionError` for a class of definitions that none is registered for.
    """
    for kind in type(definition).__mro__:
        if kind in HANDLERS:
            return HANDLERS[kind]
    raise DefinitionError(f"{definition.name!r} is of no known kind", place=definition.place)


__all__ = ["HANDLERS", "Handler", "handler_of"]
