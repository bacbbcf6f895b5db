"""The definitions that streams write, which a run skips. The code of streams is imported only if a project has some."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pipeline.core.definitions import SourceDefinition
from pipeline.project.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.streaming.planning.plan import Planner

STREAMED = "written by `headwater stream`"
"""Why a run skips a table that a stream writes."""


class StreamedDefinitions:
    """The definitions of a project that are streams, or sources that streams read. Thread-safe."""

    def __init__(self, workspace: Workspace) -> None:
        """Create the set. A definition is planned on first use, because that may need tables that do not exist yet."""
        self._workspace = workspace
        definitions = workspace.project.graph.definitions
        self._is_empty = all(not isinstance(d, SourceDefinition) or d.event_time is None for d in definitions)
        self._lock = threading.Lock()
        self._planner: Planner | None = None

    def __contains__(self, name: str) -> bool:
        """Return whether a definition is a stream or a source that a stream reads."""
        if self._is_empty:
            return False
        from pipeline.streaming.planning.plan import Planner  # noqa: PLC0415 - most projects have no streams

        with self._lock:
            self._planner = Planner(self._workspace) if self._planner is None else self._planner
            return self._planner.is_streamed(name)
