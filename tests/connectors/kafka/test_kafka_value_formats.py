"""Valid and invalid values in every format: each is a row or is rejected with a reason, without affecting others."""

from __future__ import annotations

import json
import pickle
import threading
import uuid
from http.server import BaseHTTPRequestHandler, HTTPServer

import duckdb
import fastavro
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from confluent_kafka import Producer
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.connectors.kafka import Avro, Protobuf, kafka
from pipeline.connectors.kafka.decoding import Decoder
from pipeline.connectors.kafka.partitions import Partition
from pipeline.connectors.kafka.value_formats import Metadata
from pipeline.core.errors import Place, SchemaError, SourceError
from pipeline.core.schema import Schema
from pipeline.core.sources import MISFIT, POSITION
from pipeline.core.splits import SourceSplit
from pipeline.kernel.engine import connect
from pipeline.kernel.pool import Limits
from tests.rigs.logs import source_objects
from tests.rigs.proofs import examples

HERE = Partition("t", 0)
ORDER = Schema.of({"id": "BIGINT", "name": "VARCHAR", "x": "DOUBLE", "at": "TIMESTAMPTZ", "tags": "INTEGER[]"})


def records(values, first=0):
    return pa.table({"value": pa.array(values, pa.binary()), POSITION: pa.array(range(first, first + len(values)))})


def read(values, schema, kind="json", **options):
    return Decoder(kind, Metadata(), **options).read(records(values), schema, HERE)


def fast_path_rows(values, schema, kind="json", **options):
    """The rows of the fast path, or `None` if it is not usable."""
    decoder = Decoder(kind, Metadata(), **options)
    with connect(Limits(threads=1)) as con, decoder.scan(con, records(values), schema, HERE) as scanned:
        if scanned is None:
            return None
        try:
            rows = con.sql(scanned.query).to_arrow_table()
        except duckdb.Error:
            return None
        assert rows.column_names == [*schema.names, POSITION, MISFIT]
        return None if pc.any(rows[MISFIT]).as_py() else rows.drop_columns(MISFIT)


def reasons(reading):
    return dict(zip(reading.rejected[POSITION].to_pylist(), reading.rejected["reason"].to_pylist(), strict=True))


def check(values, schema, kind="json", **options):
    """Compare the fast path with the validating pass, and check that rejected rows are rejected again."""
    reading = read(values, schema, kind, **options)
    at = reading.rows[POSITION].to_pylist() + reading.rejected[POSITION].to_pylist()
    assert sorted(at) == list(range(len(values)))
    scanned = fast_path_rows(values, schema, kind, **options)
    assert scanned is None or (scanned.equals(reading.rows) and reading.rejected.num_rows == 0)
    again = Decoder(kind, Metadata(), **options).parse(reading.rejected["row"].to_pylist(), schema)
    assert again.rows.num_rows == 0
    assert again.rejected["reason"].to_pylist() == reading.rejected["reason"].to_pylist()
    assert again.rejected["row"].to_pylist() == reading.rejected["row"].to_pylist()
    return reading, scanned is not None


GOOD = {"id": 1, "name": "n", "x": 1.5, "at": "2024-01-01T00:00:00Z", "tags": [1, 2]}


def good(**changes):
    return json.dumps({**GOOD, **changes}).encode()


POISON = {
    "bytes that are no text": (b'{"id": "\xff"}', "not UTF-8"),
    "no value": (None, "no value"),
    "an empty value": (b"", "not a JSON object"),
    "a text that looks like bytes": (b"base64:eA==", "not a JSON object"),
    "half an object": (b'{"id": 1', "not a JSON object"),
    "a list": (b"[1]", "not a JSON object"),
    "null": (b"null", "not a JSON object"),
    "two objects": (b'{"id": 1} {"id": 2}', "not a JSON object"),
    "a fraction": (good(id=1.5), "column 'id' is not BIGINT: 1.5"),
    "above 64 bits": (good(id=2**63), "column 'id' is not BIGINT: 9223372036854775808"),
    "below 64 bits": (good(id=-(2**63) - 1), "column 'id' is not BIGINT: -9223372036854775809"),
    "a text for a number": (good(x="much"), "column 'x' is not DOUBLE: much"),
    "no time": (good(at="soon"), "column 'at' is not TIMESTAMPTZ: soon"),
    "an invalid element of a list": (good(tags=[1, "z"]), "column 'tags' is not INTEGER[]: [1,\"z\"]"),
    "an object for a list": (good(tags={"a": 1}), "column 'tags' is not INTEGER[]: {\"a\":1}"),
}
FINE = {
    "fields in another order": json.dumps(dict(reversed(GOOD.items()))).encode(),
    "more fields than wanted": good(more={"a": [1]}),
    "no fields": b"{}",
    "breaks and spaces": b' \n{"id"\n:\t7 }\r\n',
    "the largest": good(id=2**63 - 1),
    "the smallest": good(id=-(2**63)),
    "more digits than a double has": good(id=2**53 + 1),
    "a number as text": good(name="5"),
    "escapes": b'{"name": "\\u00e9\\n\\ud83d\\ude00"}',
    "a null": good(id=None),
}


@pytest.mark.parametrize("what", POISON)
def test_invalid_values_are_rejected_with_a_reason_and_others_are_kept(what):
    value, reason = POISON[what]
    reading, is_clean = check([good(), value, good(id=3)], ORDER)
    assert reasons(reading) == {1: reason}
    assert reading.rows["id"].to_pylist() == [1, 3]
    assert not is_clean


@pytest.mark.parametrize("what", FINE)
def test_unusual_but_valid_values_are_rows(what):
    reading, _ = check([FINE[what]], ORDER)
    assert reasons(reading) == {}
    assert reading.rows.num_rows == 1


def test_integers_are_exact():
    reading, is_clean = check([good(id=n) for n in (2**63 - 1, -(2**63), 2**53 + 1)], ORDER)
    assert reading.rows["id"].to_pylist() == [2**63 - 1, -(2**63), 2**53 + 1]
    assert is_clean


@pytest.mark.parametrize("depth", [100, 3_000, 100_000])
def test_deeply_nested_values_do_not_stop_a_stream(depth):
    deep = b'{"id": 1, "tags": ' + b"[" * depth + b"]" * depth + b"}"
    reading, _ = check([good(), deep, good()], ORDER)
    assert reading.rows[POSITION].to_pylist() == [0, 2]
    untouched, _ = check([good(), deep, good()], Schema.of({"id": "BIGINT"}))
    assert {0, 2} <= set(untouched.rows[POSITION].to_pylist())


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**65), 2**65),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=6),
    st.sampled_from(
        ["", "1", " 1", "1.0", "1e3", "NaN", "true", "2024-02-30", "2024-01-01", "é", "\x00", "base64:eA=="]
    ),
)
NESTED = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
OBJECTS = st.fixed_dictionaries({}, optional=dict.fromkeys([*ORDER.names, "other"], NESTED)).map(
    lambda o: json.dumps(o).encode()
)


@st.composite
def damaged(draw):
    value = draw(OBJECTS)
    at = draw(st.integers(0, len(value)))
    return value[:at] + draw(st.binary(max_size=2)) + value[at + draw(st.integers(0, 2)) :]


VALUES = st.lists(st.one_of(OBJECTS, OBJECTS, damaged(), st.binary(max_size=12), st.none()), min_size=1, max_size=12)


@settings(max_examples=examples(8, 60), deadline=None, print_blob=True)
@given(VALUES)
def test_any_value_is_a_row_or_rejected(values):
    check(values, ORDER)


@settings(max_examples=examples(4, 30), deadline=None, print_blob=True)
@given(VALUES, st.sampled_from(["text", "raw"]), st.booleans())
def test_text_and_raw_formats(values, kind, keeps):
    reading, _ = check(values, Schema.of({"v": "VARCHAR" if kind == "text" else "BLOB"}), kind, keeps_tombstones=keeps)
    expected = [v if kind == "raw" or v is None else v.decode() for v in values if is_kept(v, kind, keeps=keeps)]
    assert reading.rows["v"].to_pylist() == expected


def is_kept(value, kind, *, keeps):
    if value is None:
        return keeps
    try:
        return kind == "raw" or value.decode() is not None
    except UnicodeDecodeError:
        return False


def test_kept_tombstones_are_rows_of_nulls():
    reading, is_clean = check([good(), None], ORDER, keeps_tombstones=True)
    assert reading.rows["id"].to_pylist() == [1, None]
    assert is_clean


def test_contract_of_a_text_topic_has_one_column():
    with pytest.raises(SchemaError, match=r"a topic of text values has one column.*got a, b"):
        Decoder("text", Metadata()).check_columns(Schema.of({"a": "VARCHAR", "b": "VARCHAR"}), Place("t"))


def test_message_of_20_mb(kafka_cluster):
    name = f"large-{uuid.uuid4().hex[:8]}"
    kafka_cluster.create_topic(name, settings={"max.message.bytes": str(32 << 20)})
    producer = Producer({"bootstrap.servers": kafka_cluster.bootstrap, "message.max.bytes": 32 << 20, "log_level": 0})
    for value in (good(), good(name="x" * (20 << 20)), b"{" + b"\xff" * (20 << 20), good()):
        producer.produce(name, value)
    assert producer.flush(30) == 0
    log = kafka(name, servers=kafka_cluster.bootstrap)
    reading = log.read(SourceSplit(source_objects(log)[0], 0, 4), ORDER)
    assert reading.rows[POSITION].to_pylist() == [0, 1, 3]
    assert reasons(reading) == {2: "not UTF-8"}


# --- Avro

ORDERS = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "name", "type": ["null", "string"], "default": None},
        {"name": "x", "type": "double"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "tags", "type": {"type": "array", "items": "int"}},
    ],
}
LATER = {**ORDERS, "fields": [*ORDERS["fields"], {"name": "more", "type": "string", "default": ""}]}


def avro(number, schema, record):
    import io  # noqa: PLC0415 - next to its use

    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, schema, record)
    return b"\0" + number.to_bytes(4, "big") + stream.getvalue()


def order(number=1, **changes):
    return {"id": number, "name": "n", "x": 1.5, "at": 1_700_000_000_000_000, "tags": [1, 2], **changes}


@pytest.fixture
def schemas(tmp_path):
    (tmp_path / "7.avsc").write_text(json.dumps(ORDERS))
    (tmp_path / "8.avsc").write_text(json.dumps(LATER))
    return Avro(tmp_path.as_uri())


def test_avro_with_several_writer_schemas(schemas):
    values = [avro(7, ORDERS, order(1)), avro(8, LATER, order(2, more="m")), avro(7, ORDERS, order(3, name=None))]
    reading, is_clean = check(values, ORDER, schemas)
    assert is_clean
    assert reading.rows["id"].to_pylist() == [1, 2, 3]
    assert reading.rows["name"].to_pylist() == ["n", "n", None]
    assert reading.rows["tags"].to_pylist() == [[1, 2]] * 3
    assert reading.rows["at"][0].as_py().isoformat() == "2023-11-14T22:13:20+00:00"
    inferred = Decoder(schemas, Metadata()).infer(records(values), Place("t"))
    assert inferred.as_dict().items() >= ORDER.as_dict().items() - {("tags", "INTEGER[]")}


def test_invalid_avro(schemas):
    complete = avro(7, ORDERS, order(1))
    values = [complete, complete[:-3], b"{}", complete + b"\0", None, b"\0" + (99).to_bytes(4, "big") + complete[5:]]
    reading, is_clean = check(values, ORDER, schemas)
    assert not is_clean
    assert reading.rows["id"].to_pylist() == [1]
    messages = reasons(reading)
    assert messages[1].startswith("not valid Avro for its schema")
    assert messages[2] == "not Avro with a schema id"
    assert messages[3] == "not valid Avro for its schema: trailing bytes"
    assert messages[4] == "no value"
    assert messages[5] == "the registry has no schema 99"


def test_avro_types_that_differ_from_the_contract(schemas):
    contract = Schema.of({"id": "INTEGER", "name": "VARCHAR"})
    reading, _ = check([avro(7, ORDERS, order(2**40)), avro(7, ORDERS, order(5))], contract, schemas)
    assert reading.rows["id"].to_pylist() == [5]
    assert reasons(reading) == {0: f"column 'id' is not INTEGER: {2**40}"}


def test_unavailable_registry_blocks_only_new_schemas():
    requested = []

    class Registry(BaseHTTPRequestHandler):
        def do_GET(self):
            requested.append((self.path, self.headers["Authorization"]))
            schema = {"/schemas/ids/7": ORDERS, "/schemas/ids/8": LATER}.get(self.path)
            self.send_response(200 if schema else 404)
            self.end_headers()
            self.wfile.write(json.dumps({"schema": json.dumps(schema)}).encode() if schema else b"{}")

        def log_message(self, *words):
            pass

    with HTTPServer(("127.0.0.1", 0), Registry) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        kind = Avro(f"http://127.0.0.1:{server.server_port}", "me", "geheim")
        decoder = Decoder(kind, Metadata())
        assert decoder.read(records([avro(7, ORDERS, order(1))] * 3), ORDER, HERE).rows.num_rows == 3
        unknown = decoder.read(records([avro(9, ORDERS, order(1))]), ORDER, HERE)
        assert reasons(unknown) == {0: "the registry has no schema 9"}
        server.shutdown()
        thread.join()
    assert requested == [("/schemas/ids/7", "Basic bWU6Z2VoZWlt"), ("/schemas/ids/9", "Basic bWU6Z2VoZWlt")]
    assert decoder.read(records([avro(7, ORDERS, order(2))]), ORDER, HERE).rows["id"].to_pylist() == [2]
    with pytest.raises(SourceError, match=r"the schema registry does not return schema 8.*this schema is new"):
        decoder.read(records([avro(8, LATER, order(2, more=""))]), ORDER, HERE)


def test_registry_url_is_checked():
    with pytest.raises(SourceError, match="registry= must be an http, https or file URL: got 'ftp'"):
        read([avro(7, ORDERS, order())], ORDER, Avro("ftp://x"))


# --- Protobuf

T = descriptor_pb2.FieldDescriptorProto


def described():
    """A descriptor file: message shop.Order with fields of many types."""
    file = descriptor_pb2.FileDescriptorProto(name="shop.proto", package="shop", syntax="proto3")
    kind = file.enum_type.add(name="Kind")
    kind.value.add(name="NEW", number=0)
    kind.value.add(name="PAID", number=1)
    line = file.message_type.add(name="Line")
    line.field.add(name="sku", number=1, type=T.TYPE_STRING, label=T.LABEL_OPTIONAL)
    message = file.message_type.add(name="Order")
    message.field.add(name="id", number=1, type=T.TYPE_INT64, label=T.LABEL_OPTIONAL)
    message.field.add(
        name="x", number=2, type=T.TYPE_DOUBLE, label=T.LABEL_OPTIONAL, proto3_optional=True, oneof_index=0
    )
    message.oneof_decl.add(name="_x")
    message.field.add(name="kind", number=3, type=T.TYPE_ENUM, type_name=".shop.Kind", label=T.LABEL_OPTIONAL)
    message.field.add(name="lines", number=4, type=T.TYPE_MESSAGE, type_name=".shop.Line", label=T.LABEL_REPEATED)
    message.field.add(name="raw", number=5, type=T.TYPE_BYTES, label=T.LABEL_OPTIONAL)
    return descriptor_pb2.FileDescriptorSet(file=[file])


@pytest.fixture
def shop(tmp_path):
    files = described()
    (tmp_path / "shop.desc").write_bytes(files.SerializeToString())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(files.file[0])
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Order"))
    return str(tmp_path / "shop.desc"), message


def test_protobuf(shop):
    file, message = shop
    kind = Protobuf(file, "shop.Order")
    values = [
        message(id=1, x=1.5, kind=1, lines=[{"sku": "a"}, {"sku": "b"}], raw=b"\xff").SerializeToString(),
        message(id=2).SerializeToString(),
        b"\xff\xff",
        None,
    ]
    schema = Decoder(kind, Metadata()).infer(records([]), Place("t"))
    assert schema.as_dict() == {
        "id": "BIGINT",
        "x": "DOUBLE",
        "kind": "VARCHAR",
        "lines": 'STRUCT("sku" VARCHAR)[]',
        "raw": "BLOB",
    }
    reading, _ = check(values, schema, kind)
    assert reading.rows.drop_columns(POSITION).to_pylist() == [
        {"id": 1, "x": 1.5, "kind": "PAID", "lines": [{"sku": "a"}, {"sku": "b"}], "raw": b"\xff"},
        {"id": 2, "x": None, "kind": "NEW", "lines": [], "raw": b""},
    ]
    assert reasons(reading)[2].startswith("not valid Protobuf of its message type")
    framed = [b"\0\0\0\0\7\0" + values[0], b"\0\0\0\0\7\4\2\0" + values[1], b"\0\0\0\0\7\xff", b"x"]
    reading, _ = check(framed, schema, Protobuf(file, "shop.Order", framed=True))
    assert reading.rows["id"].to_pylist() == [1, 2]
    assert [r.split(":")[0] for r in reasons(reading).values()] == ["not Protobuf with a schema id"] * 2
    assert fast_path_rows(values[:2], schema, kind).num_rows == 2


def test_invalid_descriptors(shop, tmp_path):
    file, _ = shop
    with pytest.raises(SourceError, match=r"the descriptors have no message 'shop.Nothing'"):
        read([b""], Schema.of({"id": "BIGINT"}), Protobuf(file, "shop.Nothing"))
    with pytest.raises(SourceError, match="the descriptors cannot be read"):
        read([b""], Schema.of({"id": "BIGINT"}), Protobuf(str(tmp_path / "none"), "shop.Order"))


def test_used_reader_is_pickled_without_its_caches(schemas):
    log = kafka("t", servers="s", format=schemas)
    assert log.decoder.read(records([avro(7, ORDERS, order(1))]), ORDER, HERE).rows.num_rows == 1
    assert pickle.loads(pickle.dumps(log)) == log  # noqa: S301 - pickled by this test
    decoder = pickle.loads(pickle.dumps(log.decoder))  # noqa: S301 - pickled by this test
    assert decoder.read(records([avro(7, ORDERS, order(1))]), ORDER, HERE).rows.num_rows == 1
