"""Catalog, lineage and leases."""

from pipeline.governance.catalog import (
    BackfillRecord,
    Catalog,
    CheckRecord,
    ColumnChange,
    RunRecord,
    StepRecord,
    SystemRecord,
    VersionRecord,
)
from pipeline.governance.leases import DesiredState, Lease, LeaseHolder, Leases, StreamRequest, this_process

__all__ = [
    "BackfillRecord",
    "Catalog",
    "CheckRecord",
    "ColumnChange",
    "DesiredState",
    "Lease",
    "LeaseHolder",
    "Leases",
    "RunRecord",
    "StepRecord",
    "StreamRequest",
    "SystemRecord",
    "VersionRecord",
    "this_process",
]
