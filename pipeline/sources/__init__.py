"""The world as Arrow blocks: one module per system."""

from pipeline.sources.files import Files, files
from pipeline.sources.generator import generate

__all__ = ["Files", "files", "generate"]
