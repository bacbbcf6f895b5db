"""What a change of `partition_by` or `cluster_by` does to the files of a table, in words."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.core.definitions import StoredDefinition
from pipeline.core.errors import quantity
from pipeline.lake import Version, former_files
from pipeline.lake.file_layout import FileLayout, noted_layout
from pipeline.project.workspace import Workspace


def layout_change(workspace: Workspace, definition: StoredDefinition, version: Version) -> str:
    """Return how the next commit divides and orders files otherwise than the last one; empty if it does not."""
    table = workspace.table(definition.name)
    now, former = table.place.layout, former_files(table, version)
    before = noted_layout(table.storage, version.number) if former or now.cluster_by else now
    if before is None:  # it was written before commits noted it
        before = FileLayout(version.partition_by, now.cluster_by)
    changes = [
        f"new files are {how} by {_listed(new)} instead of {_listed(old)}"
        for how, new, old in (
            ("divided", now.partition_by, before.partition_by),
            ("ordered", now.cluster_by, before.cluster_by),
        )
        if new != old
    ]
    if not changes:
        return ""
    files = former if now.partition_by != before.partition_by else version.files
    rows, size = sum(file.rows for file in files), sum(file.size_bytes for file in files)
    limit = table.policy.rewrite_mb
    later = f", and each maintenance writes up to {limit:,} MB of them again" if limit else ""
    kept = f"{quantity(len(files), 'file')} of {rows:,} rows and {size / 1e6:,.1f} MB stay as they are{later}"
    return f"{' and '.join(changes)}; {kept}; 0 rows and 0 bytes are written again"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"
