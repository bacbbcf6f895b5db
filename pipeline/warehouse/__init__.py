"""The warehouse: dimensional modelling, and loading of gold tables."""

from pipeline.warehouse.modelling.bridges import bridge, parent_child_bridge
from pipeline.warehouse.modelling.calendar import date_dimension, time_dimension
from pipeline.warehouse.modelling.dimension import dimension, junk_dimension
from pipeline.warehouse.modelling.facts import fact
from pipeline.warehouse.modelling.lookups import lookup
from pipeline.warehouse.modelling.marts import mart
from pipeline.warehouse.modelling.snapshots import accumulating_snapshot, periodic_snapshot
from pipeline.warehouse.opening import open_warehouse
from pipeline.warehouse.warehouse import Load, LoadRecord, Warehouse

__all__ = [
    "Load",
    "LoadRecord",
    "Warehouse",
    "accumulating_snapshot",
    "bridge",
    "date_dimension",
    "dimension",
    "fact",
    "junk_dimension",
    "lookup",
    "mart",
    "open_warehouse",
    "parent_child_bridge",
    "periodic_snapshot",
    "time_dimension",
]
