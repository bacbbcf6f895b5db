"""Message fields that are not in the contract: ignored, quarantined, failed, or added; and renamed ones."""

from __future__ import annotations

import io
import json

import fastavro
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from pipeline import (
    event_hubs,
    kinesis,
    mqtt,
    nats_stream,
    pubsub,
    rabbitmq_queue,
    rabbitmq_stream,
    redis_stream,
    server_sent_events,
    webhook,
)
from pipeline.connectors.column_names import ColumnNames
from pipeline.connectors.kafka import Avro, Debezium, Protobuf, kafka
from pipeline.connectors.kafka.decoding import Decoder
from pipeline.connectors.kafka.value_formats import Metadata
from pipeline.connectors.spool.record_log import record
from pipeline.core.errors import DefinitionError, NewColumnsError, Place, SchemaError, SourceError
from pipeline.core.schema import Schema
from tests.connectors.kafka.test_kafka_value_formats import fast_path_rows, read, reasons, records

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
        return in_protobuf(tmp_path / "r.desc", ROWS)
    fields = [{"name": "id", "type": "long"}, {"name": "b", "type": ["null", "string"], "default": None}]
    written = {"type": "record", "name": "r", "fields": fields}
    (tmp_path / "1.avsc").write_text(json.dumps(written))
    values = []
    for row in ROWS:
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, fastavro.parse_schema(written), row)
        values.append(b"\0" + (1).to_bytes(4, "big") + stream.getvalue())
    return values, Avro(tmp_path.as_uri())


def in_protobuf(path, rows, *, optional=("b",), always=()):
    """Rows as messages of a type with an id and fields of text, which are optional or always have a value; and their format."""
    file = descriptor_pb2.FileDescriptorProto(name="r.proto", package="r", syntax="proto3")
    row = file.message_type.add(name="Row")
    row.field.add(name="id", number=1, type=T.TYPE_INT64, label=T.LABEL_OPTIONAL)
    for at, name in enumerate((*optional, *always)):
        field = row.field.add(name=name, number=at + 2, type=T.TYPE_STRING, label=T.LABEL_OPTIONAL)
        if name in optional:
            field.proto3_optional, field.oneof_index = True, at
            row.oneof_decl.add(name=f"_{name}")
    path.write_bytes(descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("r.Row"))
    return [message(**each).SerializeToString() for each in rows], Protobuf(str(path), "r.Row")


def test_undeclared_fields_are_ignored_by_default(topic):
    values, kind = topic
    assert read(values, SCHEMA, kind).rows["id"].to_pylist() == [1, 2, 3]
    assert fast_path_rows(values, SCHEMA, kind).num_rows == 3


def test_record_with_an_undeclared_value_is_rejected(topic):
    values, kind = topic
    reading = read(values, SCHEMA, kind, new_columns="discard_row")

    assert reading.rows["id"].to_pylist() == [1, 3]
    assert reasons(reading) == {1: WHY}
    assert fast_path_rows(values, SCHEMA, kind, new_columns="discard_row") is None
    assert fast_path_rows(values[:1], SCHEMA, kind, new_columns="discard_row").num_rows == 1


@pytest.mark.parametrize(("policy", "error"), [("freeze", SchemaError), ("evolve", NewColumnsError)])
def test_undeclared_field_fails_the_step(topic, policy, error):
    values, kind = topic
    with pytest.raises(error, match="'b'"):
        read(values, SCHEMA, kind, new_columns=policy)

    known = Schema.of({"id": "BIGINT", "b": "VARCHAR", "c": "DATE"})
    assert read(values, Schema(known.columns[:2]), kind, new_columns=policy).rows["b"].to_pylist() == [None, "x", None]


def test_columns_are_inferred_from_records_of_all_schemas(tmp_path):
    values, form = versions("avro", tmp_path)
    inferred = Decoder(form, Metadata()).infer(records(values[2:3] + values[:2]), Place("t"))
    assert inferred.as_dict() == {"id": "BIGINT", "b": "VARCHAR", "label": "VARCHAR"}


def test_fingerprint_depends_on_what_changes_existing_rows():
    plain = kafka("t", servers="x")
    assert plain.fingerprint == plain.evolving("freeze").fingerprint
    assert (
        len({plain.fingerprint, plain.evolving("evolve").fingerprint, plain.evolving("discard_row").fingerprint}) == 3
    )


NAMED = ColumnNames.renaming({"b": "label"}, ())
BOTH = "has 'b' and 'label', which are one column by rename="


def test_a_field_is_renamed(topic):
    values, kind = topic
    schema = Schema.of({"id": "BIGINT", "label": "VARCHAR"})
    reading = read(values, schema, kind, naming=NAMED, new_columns="freeze")
    assert reading.rows["label"].to_pylist() == [None, "x", None]
    assert fast_path_rows(values, schema, kind, naming=NAMED, new_columns="freeze")["label"].to_pylist() == [
        None,
        "x",
        None,
    ]
    decoder = Decoder(kind, Metadata(), naming=NAMED)
    inferred = decoder.infer(records(values), Place("t"))
    assert inferred.as_dict() == schema.as_dict()
    with pytest.raises(SchemaError, match="the contract has the column 'b', to which rename= gives the name 'label'"):
        read(values, Schema.of({"id": "BIGINT", "b": "VARCHAR"}), kind, naming=NAMED)


def versions(kind, folder):
    """Records with the old name, the new name, neither, and both; and their format."""
    rows = [{"id": 1, "b": "old"}, {"id": 2, "label": "new"}, {"id": 3}, {"id": 4, "b": "old", "label": "new"}]
    if kind == "json":
        return [json.dumps(row).encode() for row in rows], "json"
    if kind == "protobuf":
        return in_protobuf(folder / "r.desc", rows, optional=("b", "label"))
    values = []
    for number, row in enumerate(rows, start=1):
        fields = [{"name": name, "type": "long" if name == "id" else ["null", "string"]} for name in row]
        written = {"type": "record", "name": "r", "fields": fields}
        (folder / f"{number}.avsc").write_text(json.dumps(written))
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, fastavro.parse_schema(written), row)
        values.append(b"\0" + number.to_bytes(4, "big") + stream.getvalue())
    return values, Avro(folder.as_uri())


@pytest.mark.parametrize("kind", ["json", "avro", "protobuf"])
def test_records_with_the_old_and_the_new_name_are_one_column_and_one_with_both_is_rejected(tmp_path, kind):
    values, form = versions(kind, tmp_path)
    schema = Schema.of({"id": "BIGINT", "label": "VARCHAR"})
    for policy in ("discard_value", "freeze", "discard_row"):
        reading = read(values, schema, form, naming=NAMED, new_columns=policy)
        assert reading.rows["label"].to_pylist() == ["old", "new", None]
        assert list(reasons(reading).values()) == [BOTH]
        assert fast_path_rows(values, schema, form, naming=NAMED, new_columns=policy) is None
        rows = fast_path_rows(values[:3], schema, form, naming=NAMED, new_columns=policy)
        assert rows["label"].to_pylist() == ["old", "new", None]
    decoder = Decoder(form, Metadata(), naming=NAMED)
    assert decoder.infer(records(values), Place("t")).as_dict() == schema.as_dict()
    again = decoder.parse(reading.rejected["row"].to_pylist(), schema)
    assert reasons(again) == {1: BOTH}


def test_a_protobuf_field_that_always_has_a_value_is_no_second_name_of_a_column(tmp_path):
    for optional, always in (((), ("b", "label")), (("b",), ("label",)), (("label",), ("b",))):
        values, form = in_protobuf(tmp_path / "r.desc", ROWS[:1], optional=optional, always=always)
        problem = f"one column 'label': got {always[0]!r}, which has a value in each message; declare the fields as"
        with pytest.raises(SourceError, match=problem):
            read(values, Schema.of({"label": "VARCHAR"}), form, naming=NAMED)
    values, form = in_protobuf(tmp_path / "r.desc", ROWS[:2], optional=(), always=("b",))
    assert read(values, Schema.of({"label": "VARCHAR"}), form, naming=NAMED).rows["label"].to_pylist() == ["", "x"]


@pytest.mark.parametrize("kind", ["json", "avro", "protobuf"])
def test_a_new_name_that_differs_only_in_case_from_a_field_is_refused(tmp_path, kind):
    values, form = versions(kind, tmp_path)
    with pytest.raises(
        SourceError, match=r"there are columns '(LABEL|label)' and '(LABEL|label)', which differ only in"
    ):
        Decoder(form, Metadata(), naming=ColumnNames.renaming({"b": "LABEL"}, ())).infer(records(values), Place("t"))


@pytest.mark.parametrize("kind", ["json", "avro", "protobuf"])
def test_a_renamed_field_that_is_not_in_the_contract_has_its_new_name(tmp_path, kind):
    values, form = versions(kind, tmp_path)
    reading = read(values[:3], SCHEMA, form, naming=NAMED, new_columns="discard_row")
    assert reasons(reading) == {
        at: f"column 'label' is not in the contract: {value}" for at, value in enumerate(("old", "new"))
    }
    with pytest.raises(NewColumnsError, match="got 'label'"):
        read(values[:3], SCHEMA, form, naming=NAMED, new_columns="evolve")


def test_a_number_of_a_renamed_field_keeps_its_digits():
    values = [b'{"b": 0.12345678901234567890}', b'{"label": 12345678901234567890.10}']
    schema = Schema.of({"label": "VARCHAR"})
    assert read(values, schema, naming=NAMED).rows["label"].to_pylist() == [
        "0.12345678901234567890",
        "12345678901234567890.10",
    ]


def test_names_of_fields_can_be_exchanged(tmp_path):
    values, form = versions("avro", tmp_path)
    swapped = ColumnNames.renaming({"b": "label", "label": "b"}, ())
    schema = Schema.of({"b": "VARCHAR", "label": "VARCHAR"})
    for each, kind in ((values, form), versions("json", tmp_path), versions("protobuf", tmp_path)):
        rows = read(each, schema, kind, naming=swapped).rows
        assert rows["label"].to_pylist() == ["old", None, None, "old"]
        assert rows["b"].to_pylist() == [None, "new", None, "new"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rename": {"a": "x", "b": "X"}}, SourceError, "rename= gives 'x' and 'X' to two columns"),
        ({"rename": {"a": "_key"}}, DefinitionError, "rename= gives a field the name '_key' of message metadata; use"),
        (
            {"rename": {"a": "b"}, "format": "text"},
            DefinitionError,
            "rename= needs values with fields: got format text",
        ),
        (
            {"rename": {"a": "b"}, "format": Debezium()},
            DefinitionError,
            "got format Debezium; use it with 'json', Avro",
        ),
    ],
)
def test_names_that_collide_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        kafka("t", **options)


def test_sources_of_messages_rename_fields():
    named, spool = {"rename": {"b": "label"}}, {"spool": "/nowhere"}
    for make in (
        lambda **more: kafka("t", **more),
        lambda **more: event_hubs("t", namespace="n", **more),
        lambda **more: nats_stream("s", **more),
        lambda **more: rabbitmq_stream("s", **more),
        lambda **more: redis_stream("s", **more),
        lambda **more: rabbitmq_queue("q", **spool, **more),
        lambda **more: mqtt("t", client_id="c", **spool, **more),
        lambda **more: kinesis("s", region="r", **spool, **more),
        lambda **more: pubsub("projects/p/subscriptions/s", **spool, **more),
        lambda **more: webhook("w", unsigned=True, **spool, **more),
        lambda **more: server_sent_events("http://127.0.0.1:9/", **spool, **more),
    ):
        assert make(**named).naming == NAMED
        assert make(**named).fingerprint != make().fingerprint
    for make in (mqtt, rabbitmq_queue):
        with pytest.raises(DefinitionError, match="rename= gives a field the name '_received_at' of message metadata"):
            make("t", rename={"a": "_received_at"}, **({"client_id": "c"} if make is mqtt else {}))


def test_messages_of_a_log_have_renamed_fields(tmp_path):
    source = webhook("w", unsigned=True, rename={"b": "label"}, spool=str(tmp_path))
    bodies = [b'{"id": 1, "b": "old"}', b'{"id": 2, "label": "new"}', b'{"id": 3, "b": "x", "label": "y"}']
    source.partition().append([record(0, {}, body) for body in bodies])
    split = source.plan(None).splits[0]
    assert source.schema(split.source_object).as_dict() == {"id": "BIGINT", "label": "VARCHAR"}
    schema = Schema.of({"id": "BIGINT", "label": "VARCHAR"})
    reading = source.read(split, schema)
    assert reading.rows["label"].to_pylist() == ["old", "new"]
    assert list(reasons(reading).values()) == [BOTH]
    more = source.parse(['{"id": 4, "b": "z", "other": 1}'], schema)
    assert more.rows["label"].to_pylist() == ["z"]
