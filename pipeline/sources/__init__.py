"""The world as Arrow blocks: one module per system."""

from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, Plan
from pipeline.core.reading import Part, Piece
from pipeline.sources.arrow import ArrowReader
from pipeline.sources.files import Files, files
from pipeline.sources.generator import generate
from pipeline.sources.kafka import Kafka, kafka
from pipeline.sources.registry import connector
from pipeline.sources.replay import replay

__all__ = [
    "UNBOUNDED",
    "ArrowReader",
    "Bound",
    "Cursor",
    "Files",
    "Kafka",
    "Part",
    "Piece",
    "Plan",
    "connector",
    "files",
    "generate",
    "kafka",
    "replay",
]
