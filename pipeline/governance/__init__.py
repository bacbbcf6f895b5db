"""Catalog, lineage and leases."""

from pipeline.governance.catalog import Catalog, Check, Filled, Made, Run, Step
from pipeline.governance.leases import Holder, Lease, Leases, this_process

__all__ = ["Catalog", "Check", "Filled", "Holder", "Lease", "Leases", "Made", "Run", "Step", "this_process"]
