"""Headwater: definitions of sources, tables, dimensions, facts and marts, and what they are made of."""

from pipeline.core.definitions import Chart, source
from pipeline.core.functions import table
from pipeline.kernel.sql import sql
from pipeline.quality import drop, fail, quarantine, warn
from pipeline.sources import files, kafka
from pipeline.warehouse import dimension, fact, lookup, mart

__all__ = [
    "Chart",
    "dimension",
    "drop",
    "fact",
    "fail",
    "files",
    "kafka",
    "lookup",
    "mart",
    "quarantine",
    "source",
    "sql",
    "table",
    "warn",
]
