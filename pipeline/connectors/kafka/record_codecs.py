"""Which codec decodes a format of values: Avro or Protobuf, each by a library that is an extra."""

from __future__ import annotations

from pipeline.connectors.kafka.records import Codec
from pipeline.connectors.kafka.value_formats import Avro, Protobuf
from pipeline.core.errors import SourceError


def codec_of(format: Avro | Protobuf) -> Codec:  # noqa: A002 - the field's word
    """Return what decodes a format. Its library is an extra: raises `SourceError` when it is not there."""
    try:
        if isinstance(format, Avro):
            from pipeline.connectors.kafka.avro import AvroCodec  # noqa: PLC0415 - an extra

            return AvroCodec(format)
        from pipeline.connectors.kafka.protobuf import ProtobufCodec  # noqa: PLC0415 - an extra

        return ProtobufCodec(format)
    except ImportError as error:
        extra = type(format).__name__.lower()
        raise SourceError(
            f"{type(format).__name__} support is not installed",
            got=error.name,
            do=f"pip install 'headwater[{extra}]'",
        ) from error
