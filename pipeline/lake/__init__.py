"""Delta tables: read, stage, commit."""

from pipeline.lake.changes import Change
from pipeline.lake.compact import Compacted, compact, vacuum
from pipeline.lake.delta import DeltaStager, Lake, LakeTable, Version
from pipeline.lake.head import Commit, Head, Place
from pipeline.lake.merge import Merged, MergeWork, merge, replace_keys
from pipeline.lake.quarantine import QUARANTINE
from pipeline.lake.skipping import files_for
from pipeline.lake.storage import Storage

__all__ = [
    "QUARANTINE",
    "Change",
    "Commit",
    "Compacted",
    "DeltaStager",
    "Head",
    "Lake",
    "LakeTable",
    "MergeWork",
    "Merged",
    "Place",
    "Storage",
    "Version",
    "compact",
    "files_for",
    "merge",
    "replace_keys",
    "vacuum",
]
