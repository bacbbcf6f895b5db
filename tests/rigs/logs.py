"""The partitions of a log as source objects."""

from __future__ import annotations

from pipeline.core.sources import Log
from pipeline.core.splits import SourceObject


def source_objects(log: Log) -> list[SourceObject]:
    """Return the partitions sorted by name, including empty ones."""
    return [SourceObject(uri, extent.end - extent.begin, extent.stamp) for uri, extent in sorted(log.extents().items())]
