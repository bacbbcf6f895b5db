"""Message fields that are not in the contract: ignored, quarantined, failed, or added."""

from __future__ import annotations

import io
import json

import fastavro
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from pipeline.connectors.kafka import Avro, Protobuf, kafka
from pipeline.core.errors import NewColumnsError, SchemaError
from pipeline.core.schema import Schema
from tests.connectors.kafka.test_kafka_value_formats import fast_path_rows, read, reasons

SCHEMA = Schema.of({"id": "BIGINT"})
ROWS = [{"id": 1}, {"id": 2, "b": "x"}, {"id": 3, "b": None}]
WHY = "column 'b' is not in the contract: x"


T = descriptor_pb2.FieldDescriptorProto


@pytest.fixture(params=["json", "avro", "protobuf"])
def topic(request, tmp_path):
    """Values in a format, and the format."""
    if request.param == "json":
        return [json.dumps(row).encode() for row in ROWS], "json"
    if request.param == "protobuf":
        return in_protobuf(tmp_path / "r.desc")
    fields = [{"name": "id", "type": "long"}, {"name": "b", "type": ["null", "string"], "default": None}]
    written = {"type": "record", "name": "r", "fields": fields}
    (tmp_path / "1.avsc").write_text(json.dumps(written))
    values = []
    for row in ROWS:
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, fastavro.parse_schema(written), row)
        values.append(b"\0" + (1).to_bytes(4, "big") + stream.getvalue())
    return values, Avro(tmp_path.as_uri())


def in_protobuf(path):
    file = descriptor_pb2.FileDescriptorProto(name="r.proto", package="r", syntax="proto3")
    row = file.message_type.add(name="Row")
    row.field.add(name="id", number=1, type=T.TYPE_INT64, label=T.LABEL_OPTIONAL)
    row.field.add(name="b", number=2, type=T.TYPE_STRING, label=T.LABEL_OPTIONAL, proto3_optional=True, oneof_index=0)
    row.oneof_decl.add(name="_b")
    path.write_bytes(descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("r.Row"))
    return [message(**each).SerializeToString() for each in ROWS], Protobuf(str(path), "r.Row")


def test_undeclared_fields_are_ignored_by_default(topic):
    values, kind = topic
    assert read(values, SCHEMA, kind).rows["id"].to_pylist() == [1, 2, 3]
    assert fast_path_rows(values, SCHEMA, kind).num_rows == 3


def test_record_with_an_undeclared_value_is_rejected(topic):
    values, kind = topic
    reading = read(values, SCHEMA, kind, new_columns="set aside")

    assert reading.rows["id"].to_pylist() == [1, 3]
    assert reasons(reading) == {1: WHY}
    assert fast_path_rows(values, SCHEMA, kind, new_columns="set aside") is None
    assert fast_path_rows(values[:1], SCHEMA, kind, new_columns="set aside").num_rows == 1


@pytest.mark.parametrize(("policy", "error"), [("refuse", SchemaError), ("add", NewColumnsError)])
def test_undeclared_field_fails_the_step(topic, policy, error):
    values, kind = topic
    with pytest.raises(error, match="'b'"):
        read(values, SCHEMA, kind, new_columns=policy)

    known = Schema.of({"id": "BIGINT", "b": "VARCHAR", "c": "DATE"})
    assert read(values, Schema(known.columns[:2]), kind, new_columns=policy).rows["b"].to_pylist() == [None, "x", None]


def test_fingerprint_depends_on_what_changes_existing_rows():
    plain = kafka("t", servers="x")
    assert plain.fingerprint == plain.evolving("refuse").fingerprint
    assert len({plain.fingerprint, plain.evolving("add").fingerprint, plain.evolving("set aside").fingerprint}) == 3
