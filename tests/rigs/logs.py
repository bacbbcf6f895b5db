"""The partitions of a log as the pieces that its parts are of."""

from __future__ import annotations

from pipeline.core.sources import Log
from pipeline.core.splits import SourceObject


def pieces(log: Log) -> list[SourceObject]:
    """Return the partitions in the order of their names, those without records too."""
    return [SourceObject(uri, extent.end - extent.begin, extent.stamp) for uri, extent in sorted(log.extents().items())]
