"""The world as Arrow blocks: one module per system."""

from pipeline.sources.files import Files, files
from pipeline.sources.generator import generate
from pipeline.sources.kafka import Kafka, kafka

__all__ = ["Files", "Kafka", "files", "generate", "kafka"]
