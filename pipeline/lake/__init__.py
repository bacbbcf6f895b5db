"""Delta tables: read, stage, commit. Tasks only stage, so the other modules are imported on first use."""

from typing import TYPE_CHECKING

from pipeline.core.lazy import lazy

if TYPE_CHECKING:
    from pipeline.lake.changes import VersionChange
    from pipeline.lake.compaction import Compacted, compact, vacuum
    from pipeline.lake.delta import QUARANTINE_FOLDER, Lake, LakeTable, Version
    from pipeline.lake.head import Commit, TableDescription, TableHead
    from pipeline.lake.merging import MergeResult, MergeSpec, merge, replace_keys, tombstones_without
    from pipeline.lake.quarantine import QUARANTINE
    from pipeline.lake.skipping import files_for
    from pipeline.lake.stager import DeltaStager
    from pipeline.lake.storage import Storage

__all__ = [
    "QUARANTINE",
    "QUARANTINE_FOLDER",
    "Commit",
    "Compacted",
    "DeltaStager",
    "Lake",
    "LakeTable",
    "MergeResult",
    "MergeSpec",
    "Storage",
    "TableDescription",
    "TableHead",
    "Version",
    "VersionChange",
    "compact",
    "files_for",
    "merge",
    "replace_keys",
    "tombstones_without",
    "vacuum",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "pipeline.lake.changes": ("VersionChange",),
        "pipeline.lake.compaction": ("Compacted", "compact", "vacuum"),
        "pipeline.lake.delta": ("QUARANTINE_FOLDER", "Lake", "LakeTable", "Version"),
        "pipeline.lake.head": ("Commit", "TableDescription", "TableHead"),
        "pipeline.lake.merging": ("MergeResult", "MergeSpec", "merge", "replace_keys", "tombstones_without"),
        "pipeline.lake.quarantine": ("QUARANTINE",),
        "pipeline.lake.skipping": ("files_for",),
        "pipeline.lake.stager": ("DeltaStager",),
        "pipeline.lake.storage": ("Storage",),
    },
)
