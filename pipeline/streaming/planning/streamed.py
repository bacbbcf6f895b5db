"""Which definitions streams make: a run leaves these alone. The code of streams is imported only where there are some."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pipeline.core.definitions import Feed, Source
from pipeline.project.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.streaming.planning.plan import Planner

STREAMED = "`headwater stream` makes it"
"""Why a run leaves a table as it is that a stream makes."""


class StreamedDefinitions:
    """The definitions of a project that are streams, or sources that streams read. For several threads."""

    def __init__(self, workspace: Workspace) -> None:
        """Keep the project; a definition is planned when it is asked for, for that may need tables that are not made yet."""
        self._workspace = workspace
        definitions = workspace.project.graph.definitions
        self._is_empty = all(not isinstance(d, Source | Feed) or d.event_time is None for d in definitions)
        self._lock = threading.Lock()
        self._planner: Planner | None = None

    def __contains__(self, name: str) -> bool:
        """Return whether a definition is a stream, or a source that one reads."""
        if self._is_empty:
            return False
        from pipeline.streaming.planning.plan import Planner  # noqa: PLC0415 - most projects have no streams

        with self._lock:
            self._planner = Planner(self._workspace) if self._planner is None else self._planner
            return self._planner.is_streamed(name)
