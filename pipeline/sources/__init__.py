"""The world as Arrow blocks: one module per system."""

from pipeline.sources.files import Files, files

__all__ = ["Files", "files"]
