"""Catalog and lineage."""

from pipeline.governance.catalog import Catalog, Check, Filled, Made, Run, Step

__all__ = ["Catalog", "Check", "Filled", "Made", "Run", "Step"]
