"""Selects the codec of a value format. Avro and Protobuf each need an optional library."""

from __future__ import annotations

from pipeline.connectors.column_names import ColumnNames
from pipeline.connectors.kafka.records import Codec
from pipeline.connectors.kafka.value_formats import Avro, Protobuf
from pipeline.core.errors import SourceError


def codec_of(format: Avro | Protobuf, naming: ColumnNames) -> Codec:  # noqa: A002 - the usual name of the option
    """Return the codec of a format.

    Raises `SourceError` if its library is not installed, and for a message type with two fields that cannot be one column.
    """
    try:
        if isinstance(format, Avro):
            from pipeline.connectors.kafka.avro import AvroCodec  # noqa: PLC0415 - optional dependency

            return AvroCodec(format)
        from pipeline.connectors.kafka.protobuf import ProtobufCodec  # noqa: PLC0415 - optional dependency

        return ProtobufCodec(format, naming)
    except ImportError as error:
        extra = type(format).__name__.lower()
        raise SourceError(
            f"{type(format).__name__} support is not installed",
            got=error.name,
            do=f"pip install 'headwater[{extra}]'",
        ) from error
