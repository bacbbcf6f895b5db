"""Delta tables: read, stage, commit. Tasks only stage, so the other modules are imported on first use."""

from typing import TYPE_CHECKING

from pipeline.core.lazy import lazy

if TYPE_CHECKING:
    from pipeline.lake.changes import VersionChange
    from pipeline.lake.compaction import Compacted, CompactionOptions, compact, compactable, former_files
    from pipeline.lake.delta import LakeTable, Version
    from pipeline.lake.event_merging import merge_events, target_schema
    from pipeline.lake.head import Commit, TableHead
    from pipeline.lake.lake import QUARANTINE_FOLDER, Lake
    from pipeline.lake.merge_spec import MergeResult, MergeSpec
    from pipeline.lake.merging import merge, replace_keys, tombstones_without
    from pipeline.lake.opening import TableDescription
    from pipeline.lake.quarantine import QUARANTINE
    from pipeline.lake.skipping import files_for, scan_for
    from pipeline.lake.stager import DeltaStager
    from pipeline.lake.storage import Storage
    from pipeline.lake.unused_files import VacuumPlan, plan_vacuum, vacuum

__all__ = [
    "QUARANTINE",
    "QUARANTINE_FOLDER",
    "Commit",
    "Compacted",
    "CompactionOptions",
    "DeltaStager",
    "Lake",
    "LakeTable",
    "MergeResult",
    "MergeSpec",
    "Storage",
    "TableDescription",
    "TableHead",
    "VacuumPlan",
    "Version",
    "VersionChange",
    "compact",
    "compactable",
    "files_for",
    "former_files",
    "merge",
    "merge_events",
    "plan_vacuum",
    "replace_keys",
    "scan_for",
    "target_schema",
    "tombstones_without",
    "vacuum",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "pipeline.lake.changes": ("VersionChange",),
        "pipeline.lake.compaction": ("Compacted", "CompactionOptions", "compact", "compactable", "former_files"),
        "pipeline.lake.delta": ("LakeTable", "Version"),
        "pipeline.lake.head": ("Commit", "TableHead"),
        "pipeline.lake.event_merging": ("merge_events", "target_schema"),
        "pipeline.lake.lake": ("QUARANTINE_FOLDER", "Lake"),
        "pipeline.lake.merge_spec": ("MergeResult", "MergeSpec"),
        "pipeline.lake.merging": ("merge", "replace_keys", "tombstones_without"),
        "pipeline.lake.opening": ("TableDescription",),
        "pipeline.lake.quarantine": ("QUARANTINE",),
        "pipeline.lake.skipping": ("files_for", "scan_for"),
        "pipeline.lake.stager": ("DeltaStager",),
        "pipeline.lake.storage": ("Storage",),
        "pipeline.lake.unused_files": ("VacuumPlan", "plan_vacuum", "vacuum"),
    },
)
