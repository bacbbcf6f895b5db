"""Webhooks: what is acknowledged is on disk, once, and signed by its sender."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.connectors.spool.recent_ids import MOST_IDS
from pipeline.connectors.spool.record_log import parts_of
from pipeline.connectors.webhook.signatures import Signature
from pipeline.connectors.webhook.source import webhook
from pipeline.core.cursors import Bound
from pipeline.core.errors import DefinitionError, SourceError
from pipeline.core.schema import Schema
from pipeline.core.splits import SourceObject, SourceSplit
from tests.rigs import proofs

BODY = b'{"id": 1}'
SCHEMA = Schema.of({"id": "bigint"})


def endpoint(folder: Path, **options):
    return webhook("orders", unsigned="signature" not in options, spool=str(folder), **options)


def stored(hook) -> list[bytes]:
    return [parts_of(line)[2] for line in hook.partition().records(0, 1 << 40)]


def signed(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()


def test_a_message_is_on_disk_when_it_is_acknowledged(tmp_path):
    hook = endpoint(tmp_path)
    answer = hook.receiver().receive({}, b'{"id":\n 1}')
    assert (answer.status, answer.result) == (200, "accepted")
    assert stored(hook) == [b'{"id":  1}']


def test_a_message_with_a_known_id_is_not_stored_again(tmp_path):
    hook = endpoint(tmp_path)
    receiver = hook.receiver()
    results = [receiver.receive({"idempotency-key": key}, BODY).result for key in ("a", "b", "a", "", "")]
    assert results == ["accepted", "accepted", "duplicate", "accepted", "accepted"]
    assert hook.receiver().receive({"idempotency-key": "b"}, BODY).result == "duplicate"  # another process
    assert receiver.receive({"x-github-delivery": "c"}, BODY).result == "accepted"
    assert hook.receiver().receive({"x-github-delivery": "c"}, BODY).result == "duplicate"
    assert len(stored(hook)) == 5
    own = endpoint(tmp_path / "own", id_header="X-Id")
    assert [own.receiver().receive({"x-id": "a", "idempotency-key": "b"}, BODY).result for _ in range(2)] == [
        "accepted",
        "duplicate",
    ]
    assert MOST_IDS > 100_000


def test_two_receivers_see_each_others_ids(tmp_path):
    hook = endpoint(tmp_path)
    first, second = hook.receiver(), hook.receiver()
    for number in range(5):
        assert first.receive({"webhook-id": f"{number}"}, BODY).result == "accepted"
        assert second.receive({"webhook-id": f"{number}"}, BODY).result == "duplicate"


def test_many_messages_share_a_write(tmp_path):
    hook = endpoint(tmp_path)
    receiver = hook.receiver()
    with ThreadPoolExecutor(16) as pool:
        answers = list(
            pool.map(lambda n: receiver.receive({"webhook-id": str(n % 100)}, b'{"id": %d}' % n), range(200))
        )
    assert sum(answer.result == "accepted" for answer in answers) == 100
    assert len(stored(hook)) == 100


@pytest.mark.parametrize("body", [b"", b"  \n"])
def test_a_message_without_body_is_refused(tmp_path, body):
    assert endpoint(tmp_path).receiver().receive({}, body).problem == "the message has no body"


def test_a_message_that_is_too_long_is_refused(tmp_path):
    answer = endpoint(tmp_path, most_bytes=5).receiver().receive({}, BODY)
    assert (answer.status, answer.problem) == (413, "the message is longer than 5 bytes")


def test_a_disk_that_fails_acknowledges_nothing(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="records cannot be written"):
        endpoint(tmp_path / "file").receiver().receive({}, BODY)


NOW = 1_772_359_200
STANDARD = base64.b64encode(b"0123456789abcdef").decode()


@pytest.mark.parametrize(
    ("signature", "headers"),
    [
        (Signature("env:HOOK"), {"x-signature": signed(b"key", BODY).hex().upper()}),
        (Signature("env:HOOK", header="Sign", prefix="v0="), {"sign": "v0=" + signed(b"key", BODY).hex()}),
        (Signature("env:HOOK", "github"), {"x-hub-signature-256": "sha256=" + signed(b"key", BODY).hex()}),
        (
            Signature("env:HOOK", "stripe"),
            {"stripe-signature": f"t={NOW},v1=old,v1={signed(b'key', f'{NOW}.'.encode() + BODY).hex()},v0=x"},
        ),
        (
            Signature(f"whsec_{STANDARD}", "standard"),
            {
                "webhook-id": "m1",
                "webhook-timestamp": str(NOW),
                "webhook-signature": "v1,b2xk v1,"
                + base64.b64encode(signed(b"0123456789abcdef", f"m1.{NOW}.".encode() + BODY)).decode(),
            },
        ),
        (
            Signature("not base64!", "standard"),
            {
                "webhook-id": "m1",
                "webhook-timestamp": str(NOW),
                "webhook-signature": "v1,"
                + base64.b64encode(signed(b"not base64!", f"m1.{NOW}.".encode() + BODY)).decode(),
            },
        ),
    ],
    ids=["body", "prefix", "github", "stripe", "standard", "standard without Base64"],
)
def test_signatures(monkeypatch, signature, headers):
    monkeypatch.setenv("HOOK", "key")
    assert signature.problem(headers, BODY, NOW + 200) == ""
    assert signature.problem(headers, BODY + b" ", NOW) == "the signature does not match"
    assert signature.problem({}, BODY, NOW).startswith("no signature in the header")
    assert "key" not in repr(signature).replace("key=", "")
    if signature.scheme in {"stripe", "standard"}:
        assert signature.problem(headers, BODY, NOW + 301) == "the timestamp of the signature is 301 s from now"


@pytest.mark.parametrize("stamp", ["", "soon", "9" * 16, "-5", "²"])
def test_timestamps_that_are_none(stamp):
    headers = {"stripe-signature": f"t={stamp},v1=x"}
    assert Signature("key", "stripe").problem(headers, BODY, NOW) == "the timestamp of the signature is not a number"


def test_a_message_with_a_wrong_signature_is_not_stored(tmp_path):
    hook = endpoint(tmp_path, signature=Signature("key", "github"))
    answer = hook.receiver().receive({"x-hub-signature-256": "sha256=00"}, BODY)
    assert (answer.status, answer.problem) == (401, "the signature does not match")
    assert hook.extents() == {}


def test_options_that_are_refused():
    with pytest.raises(DefinitionError, match="must consist of letters, digits, - and _: got 'a/b'"):
        webhook("a/b", unsigned=True)
    with pytest.raises(DefinitionError, match="needs one of signature=, unsigned=True and keyed=True"):
        webhook("a")
    with pytest.raises(DefinitionError, match="unknown scheme of signatures: got 'md5'"):
        Signature("key", "md5")
    with pytest.raises(DefinitionError, match="unknown metadata: got 'ip'"):
        webhook("a", unsigned=True, metadata=("ip",))


def test_metadata_and_rejected_messages(tmp_path):
    hook = endpoint(tmp_path, metadata=("id", "received_at", "headers"))
    receiver = hook.receiver(lambda: NOW + 0.25)
    receiver.receive({"webhook-id": "m1", "x-shop": "7", "authorization": "secret", "x-my-signature": "s"}, BODY)
    receiver.receive({}, b"{}")
    receiver.receive({}, b"no JSON")
    receiver.receive({}, b'{"id": "x", "other": 1.10}')
    schema = Schema.of(
        {"id": "bigint", "_id": "varchar", "_received_at": "timestamptz", "_headers": "map(varchar, varchar)"}
    )
    (split,) = hook.plan(None).splits
    reading = hook.read(split, schema)
    first, second = reading.rows.to_pylist()
    assert (first["id"], first["_id"], first["_headers"]) == (1, "m1", [("webhook-id", "m1"), ("x-shop", "7")])
    assert first["_received_at"] == datetime(2026, 3, 1, 10, 0, 0, 250_000, tzinfo=UTC)
    assert (second["id"], second["_id"]) == (None, None)
    rejected = reading.rejected.to_pylist()
    assert [row["_position"] for row in rejected] == [2, 3]
    assert rejected[0]["reason"] == "not a JSON object"
    assert hook.parse(['{"id": 3}'], SCHEMA).rows.column("id").to_pylist() == [3]
    assert "secret" not in hook.partition().records(0, 1)[0].decode()


@pytest.mark.parametrize(
    ("body", "amount"),
    [
        (b'{"_id": "theirs", "amount": 12345678901234567890.123}', "12345678901234567890.123"),
        (b'{ "amount" : 1e2 , "_received_at": {"a": ["_id", 1]}, "_id" :null }', "1e2"),
        (b'{"_id": 1}', None),
    ],
)
def test_metadata_takes_the_place_of_fields_with_its_names(tmp_path, body, amount):
    hook = endpoint(tmp_path, metadata=("id", "received_at"))
    hook.receiver(lambda: NOW).receive({"webhook-id": "m1"}, body)
    (split,) = hook.plan(None).splits
    reading = hook.read(split, Schema.of({"amount": "varchar", "_id": "varchar", "_received_at": "timestamptz"}))
    (row,) = reading.rows.to_pylist()
    assert (row["_id"], row["amount"]) == ("m1", amount)
    assert row["_received_at"] == datetime(2026, 3, 1, 10, tzinfo=UTC)


def test_headers_with_credentials_are_not_stored(tmp_path):
    hook = endpoint(tmp_path, metadata=("headers",), signature=Signature("env:HOOK", header="X-Sealed"))
    secrets = {"x-gitlab-token": "s", "x-api-key": "s", "x-sealed": "s", "x-hmac-sha256": "s", "set-cookie": "s"}
    kept = {"idempotency-key": "1", "x-shop": "7"}
    assert hook.kept_headers({**secrets, **kept}) == kept


def test_records_that_are_gone(tmp_path):
    hook = endpoint(tmp_path)
    hook.receiver().receive({}, BODY)
    (split,) = hook.plan(None).splits
    beyond = SourceSplit(split.source_object, 0, 5)
    with pytest.raises(SourceError, match="some records are no longer in the log: got 1 of the records 0 to 4"):
        hook.read(beyond, SCHEMA)
    other = SourceSplit(SourceObject(split.source_object.uri, 1, "another"), 0, 1)
    with pytest.raises(SourceError, match="the log was deleted and created again"):
        hook.read(other, SCHEMA)
    with pytest.raises(SourceError, match="there are no records to infer the columns from"):
        endpoint(tmp_path / "empty").schema(split.source_object)
    assert hook.schema(split.source_object).as_dict() == {"id": "BIGINT"}


def serve_until_killed(folder: Path, acknowledged: Path) -> None:
    receiver = endpoint(folder).receiver()

    def send(worker: int) -> None:
        with (acknowledged / str(worker)).open("a") as file:
            for number in range(10_000):
                receiver.receive(
                    {"webhook-id": f"{worker}-{number}"}, json.dumps({"id": f"{worker}-{number}"}).encode()
                )
                file.write(f"{worker}-{number}\n")
                file.flush()

    threads = [threading.Thread(target=send, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_receiver_that_is_killed_loses_nothing_that_it_acknowledged(tmp_path):
    acknowledged = tmp_path / "acknowledged"
    acknowledged.mkdir()
    for _ in range(proofs.examples(1, 5)):
        process = multiprocessing.get_context("spawn").Process(
            target=serve_until_killed, args=(tmp_path / "log", acknowledged)
        )
        process.start()
        before = sum(len(path.read_text().splitlines()) for path in acknowledged.iterdir())
        while sum(len(path.read_text().splitlines()) for path in acknowledged.iterdir()) < before + 50:
            process.join(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    hook = endpoint(tmp_path / "log")
    kept = [json.loads(body)["id"] for body in stored(hook)]
    sent = {line for path in acknowledged.iterdir() for line in path.read_text().split("\n")[:-1]}
    assert sent <= set(kept)
    assert len(kept) == len(set(kept))
    assert sum(split.end - split.begin for split in hook.plan(None, Bound()).splits) == len(kept)
