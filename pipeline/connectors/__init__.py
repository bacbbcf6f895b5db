"""Connectors to external systems: one folder or module per system."""

from pipeline.connectors.arrow import ArrowReader
from pipeline.connectors.callback import to_callback
from pipeline.connectors.files import Files, files
from pipeline.connectors.generator import generate
from pipeline.connectors.kafka import Kafka, kafka, to_kafka
from pipeline.connectors.online_store import OnlineStore, to_online
from pipeline.connectors.registry import connector
from pipeline.connectors.replay import replay
from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, ReadPlan
from pipeline.core.splits import SourceObject, SourceSplit

__all__ = [
    "UNBOUNDED",
    "ArrowReader",
    "Bound",
    "Cursor",
    "Files",
    "Kafka",
    "OnlineStore",
    "ReadPlan",
    "SourceObject",
    "SourceSplit",
    "connector",
    "files",
    "generate",
    "kafka",
    "replay",
    "to_callback",
    "to_kafka",
    "to_online",
]
