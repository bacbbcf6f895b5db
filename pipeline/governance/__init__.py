"""Catalog, lineage and leases."""

from pipeline.governance.catalog import BackfillRecord, Catalog, CheckRecord, RunRecord, StepRecord, VersionRecord
from pipeline.governance.leases import DesiredState, Lease, LeaseHolder, Leases, StreamRequest, this_process

__all__ = [
    "BackfillRecord",
    "Catalog",
    "CheckRecord",
    "DesiredState",
    "Lease",
    "LeaseHolder",
    "Leases",
    "RunRecord",
    "StepRecord",
    "StreamRequest",
    "VersionRecord",
    "this_process",
]
