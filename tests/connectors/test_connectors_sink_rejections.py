"""Rows and options that sinks reject, with their error messages; keys of the online store."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime

import pyarrow as pa
import pytest

from pipeline import to_callback, to_kafka, to_online
from pipeline.connectors.json_rows import key_text, texts
from pipeline.connectors.online_store import OnlineStore
from pipeline.core.errors import DefinitionError, RequestError, SchemaError, SinkError
from pipeline.core.sinks import Delivery, SinkContext, SinkPosition

V0, V1 = SinkPosition(0, 10), SinkPosition(1, 11)


@pytest.fixture
def home(tmp_path):
    return SinkContext("refusals", uuid.uuid4().hex[:8], "alerts", tmp_path)


def first(rows, key=("id",)):
    return Delivery(V0, None, rows.to_reader(), rows.schema.empty_table(), key, is_whole=True)


@pytest.mark.parametrize(
    "key",
    [(7,), ("S1",), ('é "quoted" / \n',), (True,), (date(2026, 1, 31),), (7, "S1"), ("a", date(2026, 1, 31), False)],
)
def test_lookup_of_a_key_by_its_stored_text(key):
    names = tuple(f"k{number}" for number in range(len(key)))
    rows = pa.table({name: [value] for name, value in zip(names, key, strict=True)})

    ((row_keys, _),) = texts(rows.to_batches(), rows.schema, names)

    assert row_keys == [key_text(key)]


@pytest.mark.parametrize("value", [1.5, None, datetime(2026, 1, 31, tzinfo=UTC), b"x"])
def test_key_of_a_different_type_is_rejected(value):
    with pytest.raises(RequestError, match="a key must consist of text, integers, dates or booleans"):
        key_text([value])


def test_row_without_key_is_rejected(home):
    target = to_online(key="id").open(home)
    with pytest.raises(SchemaError, match="a row has no key"):
        target.write(first(pa.table({"id": pa.array([1, None]), "x": [1, 2]})))
    assert target.reached() is None
    target.close()


@pytest.mark.parametrize(
    ("to", "problem"),
    [
        (to_online(key="ship"), "the sink cannot delete rows, because its key is not the table"),
        (to_callback(print), "rows were deleted from the table"),
    ],
)
def test_deletes_without_a_key_are_rejected(home, to, problem):
    rows = pa.table({"id": [1, 2], "ship": ["a", "a"]})
    target = to.open(home)
    target.write(first(rows.slice(2)))
    with pytest.raises(SinkError, match=problem):
        target.write(Delivery(V1, V0, rows.slice(2).to_reader(), rows, ("id",)))
    assert target.reached() == V0
    target.close()


def test_invalid_options_of_the_online_store(home, tmp_path):
    with pytest.raises(SinkError, match="cannot be read"):
        OnlineStore(tmp_path / "none.db", "alerts").get(1)
    (tmp_path / "text.db").write_text("no database, and longer than its header would be " * 4)
    with pytest.raises(SinkError, match=r"text\.db cannot be used"):
        to_online("text.db", key="id").open(home)


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_exception_of_a_callback_becomes_a_sink_error(home, kind):
    def page(version, rows):
        raise kind(f"{rows.num_rows} rows of {version}")

    problem = f"failed on version 0: got {kind.__name__}: 1 rows of 0; the delivery is retried"
    with pytest.raises(SinkError, match=problem):
        to_callback(page).open(home).write(first(pa.table({"id": [1]})))


def test_missing_topic(kafka, home):
    with pytest.raises(SinkError, match="the Kafka topic 'nowhere' does not exist"):
        to_kafka("nowhere", servers=kafka.bootstrap).open(home)


def test_missing_bootstrap_servers(home, monkeypatch):
    monkeypatch.delenv("HEADWATER_KAFKA_SERVERS", raising=False)
    with pytest.raises(DefinitionError, match="no Kafka bootstrap servers are configured"):
        to_kafka("alerts").open(home)


def test_rejected_row_leaves_no_records_of_its_version(kafka, home):
    topic = f"small-{uuid.uuid4().hex[:8]}"
    kafka.create_topic(topic, settings={"max.message.bytes": "2000"})
    target = to_kafka(topic, servers=kafka.bootstrap, key="id").open(home)
    noise = "".join(uuid.uuid4().hex for _ in range(400))
    with pytest.raises(SinkError, match=r"does not accept the rows: got .*(too large|[Ll]arger)"):
        target.write(first(pa.table({"id": [1], "x": [noise]})))
    target.close()

    again = to_kafka(topic, servers=kafka.bootstrap, key="id").open(home)
    assert again.reached() is None
    again.write(first(pa.table({"id": [1], "x": ["small"]})))
    assert again.reached() == V0
    again.close()


def test_project_name_that_is_not_a_valid_topic_name(kafka, tmp_path):
    topic = f"named-{uuid.uuid4().hex[:8]}"
    kafka.create_topic(topic)
    target = to_kafka(topic, servers=kafka.bootstrap).open(SinkContext("häfen & co", "dev", topic, tmp_path))
    assert target.position_topic == f"headwater.h-fen---co.dev.{topic}.reached"
    target.write(first(pa.table({"id": [1]})))
    target.close()
    assert str(target.to) == f"Kafka topic {topic}"
