"""Delta tables: read, stage, commit."""

from pipeline.lake.delta import Commit, DeltaStager, Lake, LakeTable, Version
from pipeline.lake.storage import Storage

__all__ = ["Commit", "DeltaStager", "Lake", "LakeTable", "Storage", "Version"]
