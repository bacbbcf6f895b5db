"""Delta tables: read, stage, commit."""

from pipeline.lake.changes import VersionChange
from pipeline.lake.compact import Compacted, compact, vacuum
from pipeline.lake.delta import QUARANTINE_FOLDER, DeltaStager, Lake, LakeTable, Version
from pipeline.lake.head import Commit, TableDescription, TableHead
from pipeline.lake.merge import MergeResult, MergeSpec, merge, replace_keys
from pipeline.lake.quarantine import QUARANTINE
from pipeline.lake.skipping import files_for
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
    "vacuum",
]
