"""Messages of a real PostgreSQL server, as they were sent and damaged: a damaged one is an error, never another row."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import postgres_changes
from pipeline.connectors.databases.changes.columns import OP
from pipeline.connectors.databases.postgres_changes.messages import MessageDecoder, ReadTable
from pipeline.connectors.databases.postgres_changes.server import connected
from pipeline.core.errors import SourceError
from tests.rigs.postgres import PostgresDatabase
from tests.rigs.proofs import examples

PROBLEM = "PostgreSQL sent a message that cannot be decoded: got .*; run again"


@dataclass(frozen=True)
class Sent:
    """Messages with changes of one table, in several transactions."""

    messages: list[bytes]
    through: int

    def decoded(self, *calls: list[bytes]) -> pa.Table:
        """Decode messages in these calls, or all at once."""
        decoder = MessageDecoder(self.through, {"public.t": ReadTable(self.through, ("id",))})
        parts = [changes.rows for messages in calls or (self.messages,) for changes in decoder.decode(messages)]
        return pa.concat_tables(parts, promote_options="default")


@pytest.fixture
def sent(pg: PostgresDatabase, tmp_path: Path) -> Sent:
    pg.run(
        "create type mood as enum ('sad', 'ok')",
        "create table t (id int primary key, name text, kind mood, big text)",
        "alter table t alter big set storage external",
    )
    slot = f"hw_{uuid.uuid4().hex[:12]}"
    source = postgres_changes(pg.url, "t", slot=slot, spool=str(tmp_path))
    state = source.drained()
    pg.run(
        "begin; insert into t values (1, 'a', 'ok', repeat('x', 3000)), (2, null, null, ''); update t set name = 'ü'; commit",
        "update t set id = 10 where id = 1",
        "alter table t replica identity full",
        "update t set kind = 'sad'",
        "delete from t where id = 2",
        "truncate t",
    )
    with connected(source.address) as server:
        messages = list(server.peek(slot, slot, 1000))
        server.drop_slot(slot)
    return Sent(messages, state.through)


def test_messages_can_be_divided_anywhere(sent: Sent):
    whole = sent.decoded()
    assert whole.column(OP).to_pylist() == [
        *("insert", "insert", "update", "update", "delete", "insert", "update", "update", "delete", "truncate"),
    ]
    for at in range(len(sent.messages)):
        assert sent.decoded(sent.messages[:at], sent.messages[at:]).equals(whole)


def test_a_message_of_another_size_is_an_error(sent: Sent):
    for number, message in enumerate(sent.messages):
        for damaged in (*(message[:size] for size in range(min(len(message), 80))), message[:-1], message + b"n"):
            before, after = sent.messages[:number], sent.messages[number + 1 :]
            with pytest.raises(SourceError, match=PROBLEM):
                sent.decoded([*before, damaged, *after])


@settings(
    max_examples=examples(200, 20_000), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_garbage_is_an_error_and_a_changed_byte_no_other_one(sent: Sent, data: st.DataObject):
    number = data.draw(st.integers(0, len(sent.messages) - 1))
    garbage, after = data.draw(st.binary(max_size=60)), sent.messages[number + 1 :]
    with pytest.raises(SourceError, match=PROBLEM):
        sent.decoded([*sent.messages[:number], garbage, *after])
    message = sent.messages[number]
    at, change = data.draw(st.integers(0, len(message) - 1)), data.draw(st.integers(1, 255))
    changed = message[:at] + bytes([message[at] ^ change]) + message[at + 1 :]
    try:
        rows = sent.decoded([*sent.messages[:number], changed, *after])
    except SourceError as error:
        assert "PostgreSQL sent a message that cannot be decoded" in str(error)  # noqa: PT017
    else:  # the protocol has no checksums: a name, a number or a text can be another one
        assert rows.num_rows <= 2 * sent.decoded().num_rows  # without its key, an update is a delete and an insert


def test_changes_outside_of_a_transaction_are_an_error(sent: Sent):
    begins = [message for message in sent.messages if message[:1] == b"B"]
    for problem, messages in (
        ("a change is in no transaction", sent.messages[1:]),
        ("a transaction ends that did not begin", [m for m in sent.messages if m != begins[1]]),
    ):
        with pytest.raises(SourceError, match=problem):
            sent.decoded(messages)
    with pytest.raises(SourceError, match="a message is of an unknown kind, or cut off"):
        replace(sent, messages=[b""]).decoded()
