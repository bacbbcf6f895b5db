"""The warehouse: dimensional modelling and loading."""

from pipeline.warehouse.duckdb import DuckDBWarehouse, Load
from pipeline.warehouse.modelling import Lookup, dimension, fact, lookup, mart

__all__ = ["DuckDBWarehouse", "Load", "Lookup", "dimension", "fact", "lookup", "mart"]
