"""How a table's files are divided and ordered, as of the last commit. Each commit notes it; changing it rewrites nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pipeline.lake.storage import Storage
from pipeline.lake.versions import notes

LAYOUT = "headwater.layout"
"""The key of a commit's note: the layout of the files that it adds, in JSON."""


@dataclass(frozen=True)
class FileLayout:
    """The fields by which files are divided, and the columns by which compaction orders their rows."""

    partition_by: tuple[str, ...] = ()
    cluster_by: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the note of a commit."""
        return json.dumps({"partition_by": self.partition_by, "cluster_by": self.cluster_by})


def noted_layout(storage: Storage, number: int) -> FileLayout | None:
    """Return the layout that a version notes; `None` if it was written before layouts were noted."""
    note = notes(storage, [number]).get(number)
    text = None if note is None else note.facts.get(LAYOUT)
    if text is None:
        return None
    parts = json.loads(text)
    return FileLayout(tuple(parts["partition_by"]), tuple(parts["cluster_by"]))
