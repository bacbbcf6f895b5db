"""The formats of files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pipeline.connectors.files.avro import AvroFormat
from pipeline.connectors.files.excel_rows import ExcelSheet
from pipeline.connectors.files.fixed_width import FixedWidth
from pipeline.connectors.files.orc import OrcFormat
from pipeline.connectors.files.parquet import ParquetFormat
from pipeline.connectors.files.typed import TypedFormat
from pipeline.connectors.files.xml_rows import XmlRows

Format = Literal["csv", "json", "parquet", "avro", "orc", "excel", "xml", "fixed width"]
FileConversion = ExcelSheet | XmlRows | FixedWidth
TYPED: Mapping[str, TypedFormat] = {"parquet": ParquetFormat(), "avro": AvroFormat(), "orc": OrcFormat()}
"""The formats with types of their own."""
