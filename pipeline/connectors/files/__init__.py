"""Files: CSV, JSON and Parquet, plain or compressed, local or in a remote store."""

from pipeline.connectors.files.definition import files
from pipeline.connectors.files.source import Files

__all__ = ["Files", "files"]
