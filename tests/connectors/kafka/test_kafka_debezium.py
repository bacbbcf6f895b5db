"""Events of Debezium, as recorded from the real thing (tests/rigs/debezium), become changes of rows."""

from __future__ import annotations

import base64
import datetime as dt
import io
import json
import uuid
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import Producer
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.connectors.kafka import Avro, Debezium
from pipeline.connectors.kafka.debezium import decoder_of
from pipeline.connectors.kafka.decoding import Decoder
from pipeline.connectors.kafka.partitions import Partition
from pipeline.connectors.kafka.value_formats import Metadata
from pipeline.core.errors import Place
from pipeline.core.schema import Schema
from pipeline.core.sources import MISFIT, POSITION, ReadResult
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.pool import Limits
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.reprocessing.quarantine import quarantined_rows
from pipeline.streaming.planning.plan import Planner
from pipeline.streaming.runtime.options import StreamOptions
from pipeline.streaming.runtime.stream import Stream
from pipeline.streaming.runtime.verify import verify
from tests.rigs.proofs import examples

RECORDINGS = Path(__file__).parent / "recordings" / "debezium-3.6.1-postgresql-15"
CHANGE = {"_op": "varchar", "_sequence": "varchar", "_committed_at": "timestamptz", "_unavailable": "varchar[]"}
ORDERS = {
    "id": "bigint",
    "n": "decimal(10,2)",
    "free": "varchar",
    "at": "timestamp",
    "zoned": "timestamptz",
    "day": "date",
    "clock": "time",
    "span": "bigint",
    "bytes": "blob",
    "code": "varchar",
    "doc": "varchar",
    "yes": "boolean",
    "big": "varchar",
    "tags": "varchar[]",
    "kind": "varchar",
    "extra": "bigint",
    **CHANGE,
}
TYPES = {
    "n": "org.apache.kafka.connect.data.Decimal(2)",
    "free": "io.debezium.data.VariableScaleDecimal",
    "at": "io.debezium.time.MicroTimestamp",
    "day": "io.debezium.time.Date",
    "clock": "io.debezium.time.MicroTime",
    "bytes": "bytes",
}
AS_TEXT = {name: kind for name, kind in TYPES.items() if name not in {"n", "free"}}
FORMS = {"json": TYPES, "json-with-schema": {}, "json-decimals-as-text": AS_TEXT, "unwrapped": TYPES}
FULL = (
    *(Decimal("12.34"), "1.5", dt.datetime(2024, 2, 29, 10, 0, 0, 123456), dt.datetime(2024, 2, 29, 10, 0, 0, 123456, dt.UTC)),  # noqa: DTZ001 - it has no zone
    *(dt.date(2024, 2, 29), dt.time(12, 0, 0, 500000), 2802600000000, b"\x00\xff"),
    *("00000000-0000-0000-0000-000000000001", '{"a": 1}', True),
)  # fmt: skip
LONG, TAGS, NOTHING = "x" * 30, ["a", "b"], (None,) * 13


def recorded(form: str, table: str) -> list[bytes | None]:
    lines = (RECORDINGS / f"{form}.tsv").read_text().splitlines()
    values = [line.split("\t") for line in lines]
    return [None if v == "null" else v.encode() for topic, _, v in values if topic == f"shop.public.{table}"]


def records(values: list[bytes | None]) -> pa.Table:
    return pa.table({"value": pa.array(values, pa.binary()), POSITION: pa.array(range(len(values)), pa.int64())})


def decoder(events: Debezium):
    return decoder_of(Decoder("json", Metadata()), events)


def read(values: list[bytes | None], events: Debezium, schema: dict[str, str]) -> ReadResult:
    return decoder(events).read(records(values), Schema.of(schema), Partition("shop", 0))


def rows(reading: ReadResult, *without: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in reading.rows.drop_columns([POSITION, *without]).to_pylist()]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_changes(form: str):
    reading = read(recorded(form, "orders"), Debezium(types=FORMS[form]), ORDERS)
    [lost] = reading.rejected.to_pylist()  # the key changed, and the value of 'big' was not sent
    assert "column 'big' was not sent with a new row: the database needs REPLICA IDENTITY FULL" in lost["row"]
    negative = (Decimal("-0.05"), *FULL[1:])
    assert rows(reading, "_sequence", "_committed_at") == [
        (1, *FULL, LONG, TAGS, "first", None, "read", None),
        (2, *FULL, LONG, TAGS, "second", None, "read", None),
        (3, *FULL, LONG, TAGS, "third", None, "insert", None),
        (1, *FULL, None, TAGS, "changed", None, "update", ["big"]),
        (1, *negative, "small", TAGS, "changed", None, "update", None),
        (2, *NOTHING, None, None, "delete", None),
        (3, *NOTHING, None, None, "delete", None),
        (4, *NOTHING, "a", None, "insert", None),
        (5, *NOTHING, "b", None, "insert", None),
        (6, *NOTHING, None, None, "insert", None),
        (7, *NOTHING, None, 70, "insert", None),
    ]
    sequences = reading.rows.column("_sequence").to_pylist()
    assert sequences == sorted(sequences)
    times = reading.rows.column("_committed_at").to_pylist()
    assert times == sorted(times)
    assert times[0].year > 2020


@pytest.mark.parametrize("form", [form for form in FORMS if form != "unwrapped"])
def test_a_truncate_is_a_change(form: str):
    reading = read(recorded(form, "plain"), Debezium(), {"id": "bigint", "name": "varchar", **CHANGE})
    assert rows(reading, "_sequence", "_committed_at", "_unavailable") == [
        *((1, "a", "read"), (1, "b", "update"), (None, None, "truncate"), (2, "c", "insert")),
    ]


def test_a_scan_gives_what_reading_gives():
    values = recorded("json-with-schema", "orders")
    columns = {name: kind for name, kind in ORDERS.items() if name != "free"}  # a number as text is read again
    reading, schema = read(values, Debezium(), columns), Schema.of(columns)
    with (
        connect(Limits(threads=1)) as con,
        decoder(Debezium()).scan(con, records(values), schema, Partition("shop", 0)) as scan,
    ):
        assert scan is not None
        assert scan.rows == reading.rows.num_rows + reading.rejected.num_rows
        names = ", ".join(f'"{name}"' for name in (*schema.names, POSITION))
        scanned = arrow(con, f"select {names} from ({scan.query}) where not {MISFIT}")
        assert scanned.to_pylist() == reading.rows.to_pylist()


def test_columns_are_inferred():
    inferred = decoder(Debezium()).infer(records(recorded("json-with-schema", "orders")), Place("x")).as_dict()
    assert {name: inferred[name] for name in ("id", "day", "at", "_op")} == {
        "id": "BIGINT",
        "day": "DATE",
        "at": "TIMESTAMP",
        "_op": "VARCHAR",
    }


def test_an_event_in_cloud_events():
    values = recorded("json", "plain")
    wrapped = [
        json.dumps(
            {"specversion": "1.0", "id": "1", "source": "/x", "type": "y", "data": {"payload": json.loads(v or b"")}}
        ).encode()
        for v in values
    ]
    schema = {"id": "bigint", "name": "varchar", **CHANGE}
    assert rows(read(wrapped, Debezium(), schema)) == rows(read(values, Debezium(), schema))


def test_rejected_events_keep_their_text_and_can_be_replayed():
    schema = {"id": "bigint", "name": "varchar", **CHANGE}
    good = recorded("json", "plain")[0]
    bad = good.replace(b'"id":1', b'"id":"one"')
    reading = read([good, bad, b"no JSON", b'{"other": 1}', b"\xff\xfe", None], Debezium(), schema)
    assert reading.rows.column("id").to_pylist() == [1]
    assert [reason.partition(":")[0] for reason in reading.rejected.column("reason").to_pylist()] == [
        "column 'id' is not BIGINT",
        *["not a JSON object"] * 3,
    ]
    texts = reading.rejected.column("row").to_pylist()
    assert "not an event of Debezium" in texts[2]
    fixed = decoder(Debezium()).parse([texts[0].replace('"one"', "7")], Schema.of(schema))
    assert fixed.rows.column("id").to_pylist() == [7]
    assert fixed.rows.column("_op").to_pylist() == ["read"]


def test_the_order_of_other_databases():
    mysql = {"file": "mysql-bin.000003", "pos": 255, "row": 1, "ts_ms": 1000, "snapshot": "false"}
    server = {"commit_lsn": "00000025:00000d98:00a2", "change_lsn": "00000025:00000d98:0003", "event_serial_no": 2}
    values = [
        json.dumps({"op": "c", "after": {"id": n}, "source": source}).encode()
        for n, source in enumerate([mysql, server, {"db": "unknown"}])
    ]
    reading = read(values, Debezium(), {"id": "bigint", **CHANGE})
    assert reading.rows.column("_sequence").to_pylist() == [
        "mysql-bin.000003-00000000000000ff-00000001",
        "00000025:00000d98:00a2-00000025:00000d98:0003-00000002",
        None,
    ]
    assert reading.rows.column("_committed_at").to_pylist()[0] == dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=dt.UTC)


@settings(deadline=None, max_examples=examples(20, 500))
@given(st.decimals(min_value=-(10**30), max_value=10**30, places=4, allow_nan=False))
def test_decimals_are_exact(number: Decimal):
    with localcontext(prec=60):
        unscaled = int(number.scaleb(4))
    size = (unscaled.bit_length() + 8) // 8
    encoded = base64.b64encode(unscaled.to_bytes(size, "big", signed=True)).decode()
    value = json.dumps({"op": "c", "after": {"n": encoded}, "source": {}}).encode()
    events = Debezium(types={"n": "org.apache.kafka.connect.data.Decimal(4)"})
    reading = read([value], events, {"n": "decimal(38,4)"})
    assert reading.rows.column("n").to_pylist() == [number]


def meant(kind: str, n: int) -> str | None:
    """Return the text that a number of Debezium means: nothing is rounded, and a time has no modulus."""
    per_second = next((n for name, n in (("Micro", 10**6), ("Nano", 10**9)) if kind.startswith(name)), 10**3)
    places = len(str(per_second)) - 1
    if kind.endswith("Timestamp"):
        seconds, rest = divmod(n, per_second)
        try:
            start = (dt.datetime(1970, 1, 1) + dt.timedelta(seconds=seconds)).isoformat(sep=" ")  # noqa: DTZ001
        except OverflowError:
            return None
        sign = ""
    else:
        seconds, rest = divmod(abs(n), per_second)
        start, sign = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}", "-" if n < 0 else ""
    return sign + start + (f".{rest:0{places}d}".rstrip("0") if rest else "")


@pytest.mark.parametrize("kind", ["Timestamp", "MicroTimestamp", "NanoTimestamp", "Time", "MicroTime", "NanoTime"])
@settings(deadline=None, max_examples=examples(4, 300))
@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-(10**15), 10**15), min_size=20, max_size=40))
def test_numbers_of_times_mean_what_they_are(kind: str, numbers: list[int]):
    numbers = [*numbers, 0, -1, 1, 108_000 * 10**6, -3600 * 10**6, 1_700_000_000_123_456_789, 86_400 * 10**3]
    values = [json.dumps({"op": "c", "after": {"t": n}, "source": {}}).encode() for n in numbers]
    reading = read(values, Debezium(types={"t": f"io.debezium.time.{kind}"}), {"t": "varchar"})
    found = dict(zip(reading.rows.column(POSITION).to_pylist(), reading.rows.column("t").to_pylist(), strict=True))
    for place, number in enumerate(numbers):
        expected = meant(kind, number)
        is_infinite = kind == "NanoTimestamp" and abs(number) >= 2**63 - 1
        assert found.get(place) == (None if is_infinite else expected), number  # years 1 to 9999, as in contracts
    assert reading.rows.num_rows + reading.rejected.num_rows == len(numbers)


@pytest.mark.parametrize(
    ("kind", "value"),
    [("io.debezium.time.MicroTime", "1.5"), ("io.debezium.time.Date", 1.5), ("io.debezium.time.Date", 2**40), ("io.debezium.time.Date", 2**31 - 1), ("io.debezium.time.Date", -(2**31)), ("io.debezium.time.MicroTimestamp", 9223372036825200000), ("io.debezium.time.Timestamp", 2**62), ("org.apache.kafka.connect.data.Decimal(0)", base64.b64encode(b"\x01" * 30).decode()), ("io.debezium.data.VariableScaleDecimal", {"scale": 1}), ("bytes", "?")],
)  # fmt: skip
def test_a_value_that_is_not_of_its_type_is_no_text_of_a_column(kind: str, value: object):
    event = json.dumps({"op": "c", "after": {"x": value, "n": None}, "source": {}}).encode()
    reading = read([event], Debezium(types={"x": kind, "n": kind}), {"x": "varchar", "n": "varchar"})
    assert reading.rows.num_rows == 0
    [lost] = reading.rejected.to_pylist()
    assert f"column 'x' has a value that is no {kind.partition('(')[0]}" in lost["row"]


def test_times_with_more_digits_than_the_contract_are_rejected():
    event = json.dumps({"op": "c", "after": {"t": 1_700_000_000_123_456_789}, "source": {}}).encode()
    reading = read([event], Debezium(types={"t": "io.debezium.time.NanoTimestamp"}), {"t": "timestamp"})
    assert "'t' is not TIMESTAMP: 2023-11-14 22:13:20.123456789" in reading.rejected.to_pylist()[0]["reason"]


@settings(deadline=None, max_examples=examples(20, 500))
@given(st.lists(st.binary(max_size=40) | st.text(max_size=40).map(str.encode), max_size=8))
def test_garbage_neither_ends_a_run_nor_enters_a_table(values: list[bytes]):
    reading = read(list(values), Debezium(), {"id": "bigint", **CHANGE})
    assert reading.rows.num_rows == 0
    assert reading.rejected.num_rows <= len(values)


ENVELOPES = st.fixed_dictionaries(
    {},
    optional={
        "op": st.sampled_from(["c", "u", "d", "r", "t", "m", "x", "", None, 1, ["c"]]),
        "__op": st.sampled_from(["c", "x", None, 1]),
        "__deleted": st.sampled_from(["true", "false", True, None]),
        "before": st.sampled_from([None, {"id": 1}, [], "text"]),
        "after": st.sampled_from([None, {"id": 1}, {"id": "one"}, {"id": 1, "": 1, "a/~": 2, "A/~": 3}, [], "text"])
        | st.dictionaries(st.text(max_size=3), st.integers(), max_size=3),
        "source": st.sampled_from([None, {"lsn": 1}, {"lsn": "x"}, 1]),
        "transaction": st.sampled_from([None, {"total_order": 1}, {"total_order": "x"}, 1]),
    },
)


SCHEMAS = st.recursive(
    st.sampled_from([None, 1, "after", "long", "org.apache.kafka.connect.data.Decimal"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.fixed_dictionaries({}, optional=dict.fromkeys(("fields", "field", "name", "type", "parameters"), inner))
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=examples(30, 1000))
@given(st.lists(ENVELOPES, max_size=8), st.none() | SCHEMAS)
def test_each_event_is_a_change_or_rejected_but_a_logical_message(events: list[dict[str, Any]], schema: Any):
    wrapped = [event if schema is None else {"schema": schema, "payload": event} for event in events]
    reading = read([json.dumps(event).encode() for event in wrapped], Debezium(), {"id": "bigint", **CHANGE})
    messages = sum(event.get("op") == "m" for event in events)
    assert len(events) - messages <= reading.rows.num_rows + reading.rejected.num_rows <= len(events)
    assert set(reading.rows.column("id").to_pylist()) <= {1, None}


AVRO = {
    "type": "record",
    "name": "Envelope",
    "namespace": "shop.public.orders",
    "fields": [
        {
            "name": "before",
            "type": [
                "null",
                {
                    "type": "record",
                    "name": "Value",
                    "fields": [
                        {"name": "id", "type": "long"},
                        {"name": "n", "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 30, "scale": 2, "connect.name": "org.apache.kafka.connect.data.Decimal"}]},
                        {"name": "day", "type": ["null", {"type": "int", "connect.name": "io.debezium.time.Date"}]},
                        {"name": "at", "type": ["null", {"type": "long", "connect.name": "io.debezium.time.MicroTimestamp"}]},
                        {"name": "raw", "type": ["null", "bytes"]},
                        {"name": "big", "type": ["null", "string"]},
                    ],
                    "connect.name": "shop.public.orders.Value",
                },
            ],
        },
        {"name": "after", "type": ["null", "Value"]},
        {"name": "source", "type": {"type": "record", "name": "Source", "fields": [
            {"name": "lsn", "type": ["null", "long"]}, {"name": "ts_us", "type": ["null", "long"]},
            {"name": "sequence", "type": ["null", "string"]}, {"name": "snapshot", "type": ["null", "string"]}]}},
        {"name": "op", "type": "string"},
    ],
}  # fmt: skip


def test_events_in_avro(tmp_path: Path):
    fastavro = pytest.importorskip("fastavro", reason="no Avro library: pip install headwater[avro]")
    (tmp_path / "7.avsc").write_text(json.dumps(AVRO))
    source = {"lsn": 255, "ts_us": 1_000_000, "sequence": '[null,"255"]', "snapshot": "false"}
    row = {
        "id": 1,
        "n": Decimal("1234567890123456789012345.67"),
        "day": 19782,
        "at": 1709200800123456,
        "raw": b"\x00\xff",
        "big": "a",
    }
    events = [
        {"before": None, "after": row, "source": source, "op": "c"},
        {"before": None, "after": {**row, "big": "__debezium_unavailable_value"}, "source": source, "op": "u"},
        {
            "before": {"id": 1, "n": None, "day": None, "at": None, "raw": None, "big": None},
            "after": None,
            "source": source,
            "op": "d",
        },
        {"before": None, "after": row, "source": source, "op": "x"},
    ]
    values: list[bytes | None] = []
    for event in events:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(json.dumps(AVRO))), event)
        values.append(b"\x00\x00\x00\x00\x07" + out.getvalue())
    schema = {
        "id": "bigint",
        "n": "decimal(30,2)",
        "day": "date",
        "at": "timestamp",
        "raw": "blob",
        "big": "varchar",
        **CHANGE,
    }
    reading = read([*values, None, b"\x00\x00\x00\x00\x07garbage"], Debezium(Avro(f"file://{tmp_path}")), schema)
    expected = (1, row["n"], dt.date(2024, 2, 29), dt.datetime(2024, 2, 29, 10, 0, 0, 123456), b"\x00\xff")  # noqa: DTZ001 - it has no zone
    assert rows(reading, "_committed_at") == [
        (*expected, "a", "insert", "0000000000000000-00000000000000ff-00000000", None),
        (*expected, None, "update", "0000000000000000-00000000000000ff-00000000", ["big"]),
        (1, *(None,) * 5, "delete", "0000000000000000-00000000000000ff-00000000", None),
    ]
    assert reading.rejected.num_rows == 2


SHOP = """\
from pipeline import kafka, source, sql
from pipeline.connectors.kafka import Debezium

order_changes = source(
    kafka({topic!r}, servers={servers!r}, format=Debezium()),
    schema=dict(
        id="bigint", n="decimal(10,2)", big="varchar", kind="varchar",
        _op="varchar", _sequence="varchar", _committed_at="timestamptz", _unavailable="varchar[]",
    ),
    event_time="_committed_at", lateness="1 hour", stored={stored},
)
orders = sql(
    "select id, n, big, kind, _op, _sequence, _committed_at, _unavailable from order_changes",
    key="id", sequence_by="_sequence", apply_as_deletes="_op = 'delete'", unavailable_columns="_unavailable",
    except_column_list=["_op", "_sequence", "_committed_at"],
)
"""
PRESENT = [
    (1, Decimal("-0.05"), "small", "changed"),
    (4, None, None, "a"),
    (5, None, None, "b"),
    (6, None, None, None),
    (7, None, None, None),
]
"""What the table has at the end. The large value of the row whose key changed was sent only under its old key: it is quarantined."""


def test_a_topic_of_events_is_applied_as_a_stream(kafka_cluster, tmp_path: Path):
    topic = f"dbz-{uuid.uuid4().hex[:8]}"
    kafka_cluster.create_topic(topic)
    producer = Producer({"bootstrap.servers": kafka_cluster.bootstrap, "log_level": 0})
    values = recorded("json-with-schema", "orders")
    for value in [*values[:6], *values[2:]]:  # as after a restart of Debezium, some events come again
        producer.produce(topic, value)
    producer.flush()
    (tmp_path / "headwater.toml").write_text('[project]\nname = "shop"\ndefinitions = "shop.py"\n')
    (tmp_path / "shop.py").write_text(SHOP.format(topic=topic, servers=kafka_cluster.bootstrap, stored=False))
    workspace = Workspace(load(tmp_path))
    stream = Stream(workspace, Planner(workspace).plan("orders"), StreamOptions())
    while stream.progress.totals["rows_in"] < 16:
        stream.run_micro_batch()
    stream.save()
    stream.close()
    rows = workspace.query("select id, n, big, kind from orders order by id").to_pylist()
    assert [tuple(row.values()) for row in rows] == PRESENT
    [lost] = {row["row"] for row in quarantined_rows(workspace, "orders").to_pylist()}
    assert "column 'big' was not sent with a new row" in lost
    assert verify(workspace, "orders").holds
