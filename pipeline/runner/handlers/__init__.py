"""One handler per kind of definition: it decides, runs, describes and places the definition.

To add a kind of definition: a class and its factory function in `pipeline/core/definitions.py` (or beside it), a
handler in this folder, one line in `HANDLERS`, and the public name in `pipeline/__init__.py`. A new band of the report
is another name in `BANDS` of `pipeline/report/flow.py`.
"""

from __future__ import annotations

from typing import Any

from pipeline.core.definitions import Artifact, Definition, Feed, Source, Table
from pipeline.core.errors import DefinitionError
from pipeline.core.sinks import Sink
from pipeline.project.workspace import Workspace
from pipeline.runner.handlers.artifact import ArtifactHandler
from pipeline.runner.handlers.feed import FeedHandler
from pipeline.runner.handlers.handler import Description, Handler
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
    """Return the handler of a definition's class, or of its nearest base class.

    Raises `DefinitionError` if no handler is registered.
    """
    for kind in type(definition).__mro__:
        if kind in HANDLERS:
            return HANDLERS[kind]
    raise DefinitionError(
        f"{definition.name!r} has no handler for its class {type(definition).__name__}", place=definition.place
    )


def descriptions(workspace: Workspace) -> list[Description]:
    """Return what lists show of a project: its definitions in dependency order, and its metrics."""
    project = workspace.project
    found = [handler_of(each).describe(workspace, each) for each in project.graph.definitions]
    lines = [(each, each.description.partition("\n")[0]) for each in project.metrics]
    return found + [Description(each.name, "metric", description=line, owner=each.owner) for each, line in lines]


__all__ = ["HANDLERS", "Description", "Handler", "descriptions", "handler_of"]
