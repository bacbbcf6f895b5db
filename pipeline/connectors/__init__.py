"""Connectors to external systems: one folder or module per system, and what a connector is written with.

The functions that create connectors are names of `pipeline`. Nothing is imported before it is used: each task of a cluster
imports this package.
"""

from typing import TYPE_CHECKING

from pipeline.core.lazy import lazy

if TYPE_CHECKING:
    from pipeline.connectors.arrow import ArrowReader
    from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, ReadPlan
    from pipeline.core.splits import SourceObject, SourceSplit

__all__ = ["UNBOUNDED", "ArrowReader", "Bound", "Cursor", "ReadPlan", "SourceObject", "SourceSplit"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "pipeline.connectors.arrow": ("ArrowReader",),
        "pipeline.core.cursors": ("UNBOUNDED", "Bound", "Cursor", "ReadPlan"),
        "pipeline.core.splits": ("SourceObject", "SourceSplit"),
    },
)
