"""Avro and Protobuf values decoded by column give what decoding each value gives, whatever the schema and the bytes are."""

from __future__ import annotations

import datetime as dt
import io
import json
from collections import Counter
from decimal import Decimal
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.connectors.column_names import ColumnNames
from pipeline.connectors.kafka import Avro, Protobuf, avro, protobuf
from pipeline.connectors.kafka.avro_columns import columns_of_schema
from pipeline.connectors.kafka.decoding import Decoder
from pipeline.connectors.kafka.message_batches import VALUE
from pipeline.connectors.kafka.partitions import Partition
from pipeline.connectors.kafka.protobuf import ProtobufCodec
from pipeline.connectors.kafka.records import DecodedColumns, DecodedRecords
from pipeline.connectors.kafka.value_formats import Metadata
from pipeline.core.schema import Schema
from pipeline.core.sources import POSITION
from tests.rigs.proofs import PROOFS

HERE = Partition("t", 0)
T = descriptor_pb2.FieldDescriptorProto
FAST = settings(
    deadline=None, max_examples=200 if PROOFS else 12, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
YEARS = (dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30))  # noqa: DTZ001 - the strategy adds the zone


def varint(number: int) -> bytes:
    """Return a number as Avro writes it, also one that is too large."""
    left, encoded = number * 2 if number >= 0 else -number * 2 - 1, bytearray()
    while left > 0x7F:
        encoded.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([*encoded, left])


AVRO: dict[str, tuple[Any, str, st.SearchStrategy[Any]]] = {
    "boolean": ("boolean", "BOOLEAN", st.booleans()),
    "int": ("int", "INTEGER", st.integers(-(2**31), 2**31 - 1)),
    "narrowed": ("long", "INTEGER", st.integers(-(2**33), 2**33)),
    "long": ("long", "BIGINT", st.integers(-(2**63), 2**63 - 1)),
    "widened": ("int", "DOUBLE", st.integers(-(2**31), 2**31 - 1)),
    "float": ("float", "FLOAT", st.floats(width=32, allow_nan=False)),
    "double": ("double", "DOUBLE", st.floats(allow_nan=False)),
    "string": ("string", "VARCHAR", st.text(max_size=8)),
    "bytes": ("bytes", "BLOB", st.binary(max_size=8)),
    "number as text": ("long", "VARCHAR", st.integers(0, 9)),
    "fixed": ({"type": "fixed", "name": "f", "size": 3}, "BLOB", st.binary(min_size=3, max_size=3)),
    "date": ({"type": "int", "logicalType": "date"}, "DATE", st.dates()),
    "time": ({"type": "long", "logicalType": "time-micros"}, "TIME", st.times()),
    "milliseconds": (
        {"type": "long", "logicalType": "timestamp-millis"},
        "TIMESTAMPTZ",
        st.datetimes(*YEARS, timezones=st.just(dt.UTC)),
    ),
    "microseconds": (
        {"type": "long", "logicalType": "timestamp-micros"},
        "TIMESTAMPTZ",
        st.datetimes(*YEARS, timezones=st.just(dt.UTC)),
    ),
    "local": ({"type": "long", "logicalType": "local-timestamp-micros"}, "TIMESTAMP", st.datetimes(*YEARS)),
    "decimal": (
        {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2},
        "DECIMAL(12,2)",
        st.decimals(-(10**9), 10**9, places=2),
    ),
    "enum": ({"type": "enum", "name": "e", "symbols": ["A", "B"]}, "VARCHAR", st.sampled_from("AB")),
    "list": ({"type": "array", "items": ["null", "string"]}, "VARCHAR[]", st.lists(st.none() | st.text(max_size=3))),
    "map": ({"type": "map", "values": "long"}, "MAP(VARCHAR, BIGINT)", st.dictionaries(st.text(max_size=3), st.integers(0, 9))),
    "record": (
        {"type": "record", "name": "i", "fields": [{"name": "x", "type": "long"}, {"name": "y", "type": ["null", "string"]}]},
        "STRUCT(x BIGINT, y VARCHAR)",
        st.fixed_dictionaries({"x": st.integers(0, 9), "y": st.none() | st.text(max_size=3)}),
    ),
    "union": (["null", "long", "string"], "VARCHAR", st.none() | st.text(max_size=3)),
}  # fmt: skip
COLUMNAR = AVRO.keys() - {"union"}


def records(values: list[bytes]) -> pa.Table:
    return pa.table({VALUE: pa.array(values, pa.binary()), POSITION: pa.array(range(len(values)), pa.int64())})


def in_avro(schema: Any, record: Any) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(json.loads(json.dumps(schema))), record)
    return b"\0\0\0\0\7" + stream.getvalue()


def damaged(data: st.DataObject, value: bytes) -> bytes:
    """Return a value that may be cut, changed or extended somewhere after the id of its schema."""
    at = data.draw(st.integers(5, len(value)))
    return value[:at] + data.draw(st.binary(max_size=4)) + value[data.draw(st.integers(5, len(value))) :]


@pytest.fixture
def individually(monkeypatch):
    """Decode values without the columnar way."""

    def read(format_, values, schema):
        with monkeypatch.context() as patch:
            patch.setattr(avro, "columns_of_schema", lambda _: None)
            patch.setattr(protobuf, "columnar", lambda _: None)
            return Decoder(format_, Metadata()).read(records(values), schema, HERE)

    return read


def record_of(avro_type: Any) -> dict[str, Any]:
    """Return the schema of a record with an id and a value of a type."""
    return {"type": "record", "name": "r", "fields": [{"name": "id", "type": "long"}, {"name": "v", "type": avro_type}]}


@pytest.mark.share(10)
@pytest.mark.parametrize("is_optional", [False, True])
@pytest.mark.parametrize("kind", AVRO)
def test_avro_by_column_equals_each_value(tmp_path, individually, kind, is_optional):
    avro_type, sql_type, some = AVRO[kind]
    if is_optional and kind != "union":
        avro_type, some = ["null", avro_type], some | st.none()
    written, schema, registry = (
        record_of(avro_type),
        Schema.of({"id": "BIGINT", "v": sql_type}),
        Avro(tmp_path.as_uri()),
    )
    (tmp_path / "7.avsc").write_text(json.dumps(written))

    @FAST
    @given(st.lists(some, min_size=1, max_size=12))
    def check(cells):
        values = [in_avro(written, {"id": number, "v": cell}) for number, cell in enumerate(cells)]
        found, expected = (
            Decoder(registry, Metadata()).read(records(values), schema, HERE),
            individually(registry, values, schema),
        )
        assert found.rows.equals(expected.rows)
        assert found.rejected.equals(expected.rejected)

    check()
    assert (columns_of_schema(written) is not None) == (kind in COLUMNAR)


@pytest.mark.share(5)
@pytest.mark.parametrize("kind", AVRO)
def test_a_damaged_record_has_no_influence_on_others(tmp_path, kind):
    avro_type, sql_type, some = AVRO[kind]
    written, schema, registry = (
        record_of(avro_type),
        Schema.of({"id": "BIGINT", "v": sql_type}),
        Avro(tmp_path.as_uri()),
    )
    (tmp_path / "7.avsc").write_text(json.dumps(written))
    decoder = Decoder(registry, Metadata())

    @FAST
    @given(st.lists(some, min_size=3, max_size=6), st.data())
    def check(cells, data):
        values = [in_avro(written, {"id": number, "v": cell}) for number, cell in enumerate(cells)]
        bad = damaged(data, values[1])
        together = decoder.read(records([values[0], bad, *values[2:]]), schema, HERE)
        alone, others = (
            decoder.read(records([bad]), schema, HERE),
            decoder.read(records([values[0], *values[2:]]), schema, HERE),
        )
        assert together.rows.num_rows == alone.rows.num_rows + others.rows.num_rows
        assert together.rejected.num_rows == alone.rejected.num_rows + others.rejected.num_rows
        assert Counter(map(repr, together.rejected["reason"].to_pylist())) == Counter(
            map(repr, [*alone.rejected["reason"].to_pylist(), *others.rejected["reason"].to_pylist()])
        )
        if alone.rows.num_rows and others.rows.num_rows:
            assert alone.rows["v"][0].as_py() in together.rows["v"].to_pylist()

    check()


ODD = {
    "an int of 33 bits": ("int", varint(2**31)),
    "an overlong number": ("long", b"\xff" * 10 + b"\x01"),
    "a number of 65 bits": ("long", b"\xff" * 9 + b"\x02"),
    "a branch that does not exist": (["null", "long"], varint(2) + varint(1)),
    "a negative branch": (["null", "long"], varint(-1) + varint(1)),
    "a symbol that does not exist": ({"type": "enum", "name": "e", "symbols": ["A"]}, varint(1)),
    "a negative symbol": ({"type": "enum", "name": "e", "symbols": ["A"]}, varint(-1)),
    "a boolean of two": ("boolean", b"\x02"),
    "a negative length": ("string", varint(-1)),
    "a long length": ("bytes", varint(2**62)),
    "text that is not UTF-8": ("string", varint(1) + b"\xff"),
    "a day after 9999": ({"type": "int", "logicalType": "date"}, varint(2_932_897)),
    "a day before the year 1": ({"type": "int", "logicalType": "date"}, varint(-719_163)),
    "24 o'clock": ({"type": "long", "logicalType": "time-micros"}, varint(86_400_000_000)),
    "a negative time": ({"type": "int", "logicalType": "time-millis"}, varint(-1)),
    "a time after 9999": ({"type": "long", "logicalType": "timestamp-millis"}, varint(2**62)),
    "a decimal with more digits": ({"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 1}, varint(1) + b"\x64"),
    "a decimal of 17 bytes": ({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 1}, varint(17) + b"\0" * 17),
    "too many items": ({"type": "array", "items": "long"}, varint(2**62)),
    "a map without values": ({"type": "map", "values": "long"}, varint(1) + varint(1) + b"a"),
}  # fmt: skip


@pytest.mark.parametrize("what", ODD)
def test_a_value_that_its_type_does_not_have_is_rejected(what):
    avro_type, encoded = ODD[what]
    columns = columns_of_schema(record_of(avro_type))
    assert columns is not None
    table, why = columns.decode(pa.array([b"head!" + varint(1) + encoded, b"head!" + varint(2)]), 5)
    assert why == ["not valid Avro for its schema: field 'v'"] * 2
    assert table["v"].null_count == 2


@pytest.mark.parametrize(
    ("avro_type", "encoded", "value"),
    [
        ({"type": "array", "items": "long"}, varint(-2) + varint(2) + varint(1) + varint(2) + varint(1) + varint(3) + b"\0", [1, 2, 3]),
        ({"type": "array", "items": {"type": "array", "items": "boolean"}}, varint(2) + varint(1) + b"\1\0" + b"\0" + b"\0", [[True], []]),
        ({"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 0}, varint(16) + b"\x80" + b"\0" * 15, None),
        ({"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 2}, varint(0), Decimal("0.00")),
        ({"type": "int", "logicalType": "of my own"}, varint(5), 5),
        ("null", b"", None),
    ],
)  # fmt: skip
def test_unusual_encodings_are_decoded(avro_type, encoded, value):
    columns = columns_of_schema(record_of(avro_type))
    assert columns is not None
    table, why = columns.decode(pa.array([b"head!" + varint(1) + encoded]), 5)
    assert table["v"].to_pylist() == [value]
    assert (why[0] is None) == (value is not None or avro_type == "null")


@pytest.mark.parametrize(
    "avro_type",
    [
        ["long", "string"],
        {"type": "array", "items": "null"},
        {"type": "array", "items": {"type": "fixed", "name": "f", "size": 0}},
        {"type": "string", "logicalType": "uuid"},
        {"type": "bytes", "logicalType": "decimal", "precision": 39},
        {"type": "record", "name": "t", "fields": [{"name": "inner", "type": ["null", "t"]}]},
        "unknown",
    ],
)
def test_types_that_are_decoded_individually(avro_type):
    assert columns_of_schema(record_of(avro_type)) is None


def test_a_type_is_found_by_its_name():
    pair = {
        "type": "record",
        "name": "a.b.pair",
        "fields": [{"name": "x", "type": "long"}, {"name": "again", "type": "kind"}],
    }
    kind = {"type": "enum", "name": "kind", "namespace": "a.b", "symbols": ["A", "B"]}
    written = {"type": "record", "name": "r", "namespace": "a.b", "fields": [{"name": "k", "type": kind}, {"name": "p", "type": pair}, {"name": "q", "type": "pair"}]}  # fmt: skip
    columns = columns_of_schema(written)
    assert columns is not None
    row = {"k": "A", "p": {"x": 1, "again": "B"}, "q": {"x": 2, "again": "A"}}
    table, why = columns.decode(pa.array([in_avro(written, row)]), 5)
    assert table.to_pylist() == [row]
    assert why == [None]


def test_records_of_several_schemas_keep_their_order(tmp_path):
    old = {"type": "record", "name": "r", "fields": [{"name": "id", "type": "int"}]}
    new = {"type": "record", "name": "r", "fields": [{"name": "id", "type": "long"}, {"name": "x", "type": "string"}]}
    (tmp_path / "7.avsc").write_text(json.dumps(old))
    (tmp_path / "8.avsc").write_text(json.dumps(new))
    values = [
        in_avro(old, {"id": n}) if n % 3 else b"\0\0\0\0\x08" + in_avro(new, {"id": n, "x": f"{n}"})[5:]
        for n in range(64)
    ]
    decoder, schema = Decoder(Avro(tmp_path.as_uri()), Metadata()), Schema.of({"id": "BIGINT", "x": "VARCHAR"})
    rows = decoder.read(records(values), schema, HERE).rows
    assert rows["id"].to_pylist() == list(range(64))
    assert rows["x"].to_pylist() == [None if n % 3 else f"{n}" for n in range(64)]
    unknown = [*values[:40], b"\0\0\0\0\x09" + values[0][5:]]
    rejected = decoder.read(records(unknown), schema, HERE)
    assert rejected.rejected["reason"].to_pylist() == ["the registry has no schema 9"]
    assert rejected.rows.num_rows == 40


def test_a_record_that_ends_in_the_next_one_is_rejected(tmp_path):
    """The bytes of both records together are valid, so only the end of each shows the fault."""
    written = {
        "type": "record",
        "name": "r",
        "fields": [{"name": "a", "type": "string"}, {"name": "b", "type": "string"}],
    }
    (tmp_path / "7.avsc").write_text(json.dumps(written))
    values = [in_avro(written, {"a": "x", "b": "y"})] * 40
    values[4] = values[4] + b"\x02z"
    reading = Decoder(Avro(tmp_path.as_uri()), Metadata()).read(
        records(values), Schema.of({"a": "VARCHAR", "b": "VARCHAR"}), HERE
    )
    assert reading.rejected[POSITION].to_pylist() == [4]
    assert reading.rejected["reason"].to_pylist() == ["not valid Avro for its schema: trailing bytes"]


def shop() -> descriptor_pb2.FileDescriptorSet:
    """Return proto3 messages with fields of every kind, also nested, and one that contains itself."""
    stamp = descriptor_pb2.FileDescriptorProto(
        name="google/protobuf/timestamp.proto", package="google.protobuf", syntax="proto3"
    )
    message = stamp.message_type.add(name="Timestamp")
    message.field.add(name="seconds", number=1, type=T.TYPE_INT64, label=T.LABEL_OPTIONAL)
    message.field.add(name="nanos", number=2, type=T.TYPE_INT32, label=T.LABEL_OPTIONAL)
    file = descriptor_pb2.FileDescriptorProto(
        name="shop.proto", package="shop", syntax="proto3", dependency=[stamp.name]
    )
    kind = file.enum_type.add(name="State")
    kind.value.add(name="NEW", number=0)
    kind.value.add(name="PAID", number=1)
    line = file.message_type.add(name="Line")
    line.field.add(name="sku", number=1, type=T.TYPE_STRING, label=T.LABEL_OPTIONAL)
    line.field.add(
        name="at", number=2, type=T.TYPE_MESSAGE, type_name=".google.protobuf.Timestamp", label=T.LABEL_OPTIONAL
    )
    order = file.message_type.add(name="Order")
    scalars = {"i": T.TYPE_INT32, "l": T.TYPE_SINT64, "u": T.TYPE_UINT64, "d": T.TYPE_DOUBLE, "f": T.TYPE_FLOAT, "b": T.TYPE_BOOL, "s": T.TYPE_STRING, "r": T.TYPE_BYTES}  # fmt: skip
    for number, (name, type_) in enumerate(scalars.items(), 1):
        order.field.add(name=name, number=number, type=type_, label=T.LABEL_OPTIONAL)
    order.field.add(name="state", number=20, type=T.TYPE_ENUM, type_name=".shop.State", label=T.LABEL_OPTIONAL)
    order.field.add(name="line", number=21, type=T.TYPE_MESSAGE, type_name=".shop.Line", label=T.LABEL_OPTIONAL)
    order.field.add(name="lines", number=22, type=T.TYPE_MESSAGE, type_name=".shop.Line", label=T.LABEL_REPEATED)
    order.field.add(name="n", number=23, type=T.TYPE_INT64, label=T.LABEL_REPEATED)
    order.field.add(
        name="at", number=24, type=T.TYPE_MESSAGE, type_name=".google.protobuf.Timestamp", label=T.LABEL_OPTIONAL
    )
    order.field.add(
        name="note", number=25, type=T.TYPE_STRING, label=T.LABEL_OPTIONAL, proto3_optional=True, oneof_index=0
    )
    order.oneof_decl.add(name="_note")
    tree = file.message_type.add(name="Tree")
    tree.field.add(name="id", number=1, type=T.TYPE_INT64, label=T.LABEL_OPTIONAL)
    tree.field.add(name="inner", number=2, type=T.TYPE_MESSAGE, type_name=".shop.Tree", label=T.LABEL_OPTIONAL)
    return descriptor_pb2.FileDescriptorSet(file=[stamp, file])


@pytest.fixture(scope="module")
def orders(tmp_path_factory):
    file, pool = tmp_path_factory.mktemp("shop") / "shop.desc", descriptor_pool.DescriptorPool()
    file.write_bytes(shop().SerializeToString())
    for each in shop().file:
        pool.Add(each)
    return str(file), message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Order"))


STAMPS = st.fixed_dictionaries({"seconds": st.integers(-(2**40), 2**40), "nanos": st.integers(-(2**31), 2**31 - 1)})
LINES = st.fixed_dictionaries({}, optional={"sku": st.text(max_size=3), "at": STAMPS})
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "i": st.integers(-(2**31), 2**31 - 1),
        "l": st.integers(-(2**63), 2**63 - 1),
        "u": st.integers(0, 2**64 - 1),
        "d": st.floats(allow_nan=False),
        "f": st.floats(width=32, allow_nan=False),
        "b": st.booleans(),
        "s": st.text(max_size=4),
        "r": st.binary(max_size=4),
        "state": st.integers(-3, 3),
        "line": LINES,
        "lines": st.lists(LINES, max_size=3),
        "n": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
        "at": STAMPS,
        "note": st.text(max_size=3),
    },
)


@pytest.mark.parametrize("prefix", [b"", b"\0\0\0\0\1\0", b"\0\0\0\0\1\2\2", b"\0\0\0\0\1\4\2\2"])
def test_protobuf_by_column_equals_each_value(orders, individually, prefix):
    file, message = orders
    format_ = Protobuf(file, "shop.Order", framed=bool(prefix))
    decoder = Decoder(format_, Metadata())
    schema = decoder.infer(records([b""]), None)

    @FAST
    @given(st.lists(MESSAGES, min_size=1, max_size=6), st.data(), st.booleans())
    def check(cells, data, is_damaged):
        values = [prefix + message(**each).SerializeToString() for each in cells]
        if is_damaged:
            values[0] = values[0][: data.draw(st.integers(0, len(values[0])))] + data.draw(st.binary(max_size=6))
        found, expected = (
            decoder.read(records(values), schema, HERE),
            individually(format_, values, schema),
        )
        assert found.rows.equals(expected.rows)
        assert found.rejected.equals(expected.rejected)

    check()


def test_messages_are_decoded_by_column_unless_their_type_contains_itself(orders):
    file, message = orders
    values = pa.array([message(i=1, n=[1, 2]).SerializeToString()])
    for name, expected in (("shop.Order", DecodedColumns), ("shop.Tree", DecodedRecords)):
        [(_, decoded)] = ProtobufCodec(Protobuf(file, name), ColumnNames()).decoded(values)
        assert type(decoded) is expected


def test_a_time_outside_of_the_calendar_is_rejected(orders):
    file, message = orders
    decoder, good = Decoder(Protobuf(file, "shop.Order"), Metadata()), message(i=1)
    bad = message(i=2, at={"seconds": 2**62})
    nested = message(i=3, lines=[{"at": {"seconds": -(2**62)}}])
    schema = Schema.of({"i": "INTEGER", "at": "TIMESTAMPTZ"})
    reading = decoder.read(records([each.SerializeToString() for each in (good, bad, nested)]), schema, HERE)
    assert reading.rows["i"].to_pylist() == [1]
    assert [reason.rpartition(": ")[2] for reason in reading.rejected["reason"].to_pylist()] == [
        f"a timestamp of {2**62} seconds is not in the years 1 to 9999",
        f"a timestamp of {-(2**62)} seconds is not in the years 1 to 9999",
    ]
