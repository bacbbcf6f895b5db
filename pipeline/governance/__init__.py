"""Catalog and lineage."""

from pipeline.governance.catalog import Catalog, Check, Made, Run, Step

__all__ = ["Catalog", "Check", "Made", "Run", "Step"]
