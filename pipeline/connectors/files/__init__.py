"""Files: CSV, JSON and Parquet, plain or compressed."""

from pipeline.connectors.files.source import Files, files

__all__ = ["Files", "files"]
