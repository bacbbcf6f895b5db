"""Avro values that begin with a schema id, resolved by a schema registry."""

from __future__ import annotations

import functools
import io
import json
import re
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError
from fastavro import parse_schema, schemaless_reader

from pipeline.connectors.kafka.avro_columns import AvroColumns, columns_of_schema
from pipeline.connectors.kafka.records import (
    Decoded,
    DecodedColumns,
    DecodedRecords,
    Record,
    UndecodableError,
    decode_individually,
    inferred,
)
from pipeline.connectors.kafka.value_formats import Avro
from pipeline.core.credentials import secret
from pipeline.core.errors import Place, SourceError, SourceUnavailableError
from pipeline.core.schema import Schema
from pipeline.kernel.engine import connect

_HEAD_BYTES = 5
_TIMEOUT_S = 10
_RETRIES = 1
"""Immediate retries within the client; a stream that fails on the registry is reopened automatically."""
_ADDRESS = re.compile(r" from <[^>]*>")
"""The stream in a message of the library, which is another one each time."""
_NOT_FOUND, _SERVER_ERRORS = 404, 500


@dataclass(frozen=True)
class WriterSchema:
    """A schema of the registry: parsed for single records, and the decoder of columns if there can be one."""

    parsed: Any
    columns: AvroColumns | None

    document: Any = None
    """The schema as JSON."""

    @classmethod
    def of(cls, text: str, references: Sequence[str] = ()) -> WriterSchema:
        """Parse the text of a schema after those that it refers to; raise `UndecodableError` if it is none of Avro."""
        named: dict[str, Any] = {}
        try:
            for each in references:
                parse_schema(json.loads(each), named_schemas=named)
            document = json.loads(text)
            return cls(parse_schema(json.loads(text), named_schemas=named), columns_of_schema(document), document)
        except Exception as error:  # the library's exceptions have no common base class
            raise UndecodableError(f"its schema is not valid Avro: {type(error).__name__} {error}") from error


class AvroCodec:
    """Decodes values that begin with a zero byte and a four-byte schema id."""

    def __init__(self, format: Avro) -> None:  # noqa: A002 - the usual name of the option
        """Fetch each schema from the registry when its id first occurs."""
        self._format = format
        self._known: dict[int, WriterSchema | UndecodableError] = {}

    def decoded(self, values: pa.BinaryArray) -> Iterator[tuple[pa.Array, Decoded]]:
        """Yield the records of each schema, with their places among the values."""
        heads = pc.binary_slice(values, 0, _HEAD_BYTES)
        kinds = heads.unique().to_pylist()
        for head in kinds:
            at = pc.indices_nonzero(pc.equal(heads, head))
            yield at, self._of_one_schema(head, values if len(kinds) == 1 else values.take(at))

    def _of_one_schema(self, head: bytes, values: pa.BinaryArray) -> Decoded:
        if len(head) == _HEAD_BYTES and head[0] == 0:
            try:
                columns = self._schema_of(int.from_bytes(head[1:], "big")).columns
            except UndecodableError as error:
                return DecodedRecords([{}] * len(values), [str(error)] * len(values))
            if columns is not None:
                return DecodedColumns(*columns.decode(values, _HEAD_BYTES))
        return decode_individually(self, values.to_pylist())

    def decode(self, value: bytes) -> Record:
        """Return a record's fields; raise `UndecodableError`, or `SourceError` if a new schema cannot be fetched."""
        if len(value) < _HEAD_BYTES or value[0] != 0:
            raise UndecodableError("not Avro with a schema id")
        writer = self._schema_of(int.from_bytes(value[1:_HEAD_BYTES], "big")).parsed
        stream = io.BytesIO(value)
        stream.seek(_HEAD_BYTES)
        try:
            record = schemaless_reader(stream, writer, None)
        except Exception as error:  # the library's exceptions have no common base class
            reason = _ADDRESS.sub("", f"{type(error).__name__} {error}").strip()
            raise UndecodableError(f"not valid Avro for its schema: {reason}") from error
        if stream.tell() != len(value):
            raise UndecodableError("not valid Avro for its schema: trailing bytes")
        if not isinstance(record, dict):
            raise UndecodableError("not an Avro record")
        return record

    def schema(self, values: Sequence[bytes], place: Place) -> Schema:
        """Infer the schema from the records that can be decoded."""
        records = []
        for value in values:
            try:
                records.append(self.decode(value))
            except UndecodableError:
                continue
        with connect() as con:
            return inferred(records, con, place)

    def text_of(self, value: bytes) -> str:
        """Return the schema that wrote a value, as JSON; an empty object if it is not known."""
        try:
            return json.dumps(self._schema_of(int.from_bytes(value[1:_HEAD_BYTES], "big")).document)
        except UndecodableError:
            return "{}"

    def _schema_of(self, number: int) -> WriterSchema:
        if number not in self._known:
            text, references = self._fetch_schema(number)  # one that is missing may be registered later
            try:
                self._known[number] = WriterSchema.of(text, references)
            except UndecodableError as error:
                self._known[number] = error
        known = self._known[number]
        if isinstance(known, UndecodableError):
            raise UndecodableError(str(known))
        return known

    def _fetch_schema(self, number: int) -> tuple[str, list[str]]:
        """Return the text of a schema, and those that it refers to, in order.

        Raises `UndecodableError` if the registry does not have this id, or has it for a schema of another type.
        """
        place = Place(self._format.registry)
        parts = urllib.parse.urlsplit(self._format.registry)
        if parts.scheme == "file":
            file = Path(urllib.request.url2pathname(parts.path)) / f"{number}.avsc"
            if not file.is_file():
                raise UndecodableError(f"the registry has no schema {number}")
            return file.read_text(encoding="utf-8"), []
        if parts.scheme not in {"http", "https"}:
            raise SourceError("registry= must be an http, https or file URL", got=repr(parts.scheme), place=place)
        schema = self._asked(f"schema {number}", lambda: self._registry.get_schema(number))
        if (schema.schema_type or "AVRO") != "AVRO":
            raise UndecodableError(f"the schema {number} is one of {schema.schema_type}, not of Avro")
        found: dict[tuple[str, int], str] = {}
        self._follow(schema, found)
        return str(schema.schema_str), list(found.values())

    def _follow(self, schema: Any, found: dict[tuple[str, int], str]) -> None:
        """Fetch the schemas that a schema refers to, each after those that it refers to itself."""
        for each in schema.references or ():
            key = (each.subject, each.version)
            if key not in found:
                what, ask = (
                    f"version {each.version} of {each.subject}",
                    functools.partial(self._registry.get_version, *key, deleted=True),
                )
                referenced = self._asked(what, ask).schema
                self._follow(referenced, found)
                found[key] = str(referenced.schema_str)

    def _asked(self, what: str, ask: Callable[[], Any]) -> Any:
        """Return the answer of the registry; raise `UndecodableError` if it does not have a schema."""
        place = Place(self._format.registry)
        try:
            return ask()
        except SchemaRegistryError as error:
            if error.http_status_code == _NOT_FOUND:
                raise UndecodableError(f"the registry has no {what}") from error
            if error.http_status_code >= _SERVER_ERRORS:
                raise SourceUnavailableError(
                    "the schema registry does not answer", got=f"status {error.http_status_code}", place=place
                ) from error
            raise SourceError(
                "the schema registry rejects the request", got=f"status {error.http_status_code}", place=place
            ) from error
        except Exception as error:  # the registry client passes on the exceptions of its HTTP library
            raise SourceUnavailableError(
                f"the schema registry does not return {what}",
                got=str(error),
                do="make it available: this schema is new, and only known schemas are cached",
                place=place,
            ) from error

    @functools.cached_property
    def _registry(self) -> SchemaRegistryClient:
        options: dict[str, Any] = {"url": self._format.registry, "timeout": _TIMEOUT_S, "max.retries": _RETRIES}
        if self._format.registry_user is not None:
            password = secret(self._format.registry_password or "", "the password of the schema registry")
            options["basic.auth.user.info"] = f"{self._format.registry_user}:{password}"
        return SchemaRegistryClient(options)
