"""The warehouse: dimensional modelling, and loading of gold tables."""

from pipeline.warehouse.modelling import Lookup, dimension, fact, lookup, mart
from pipeline.warehouse.opening import open_warehouse
from pipeline.warehouse.warehouse import Load, Warehouse

__all__ = ["Load", "Lookup", "Warehouse", "dimension", "fact", "lookup", "mart", "open_warehouse"]
