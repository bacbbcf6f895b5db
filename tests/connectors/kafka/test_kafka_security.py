"""TLS, client certificates, and users and passwords against a real broker: for sources, sinks and topics as code."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import to_kafka
from pipeline.connectors.kafka import Sasl, Tls, kafka
from pipeline.connectors.kafka.rejections import certificate_problem, explained, is_rejection, probe
from pipeline.connectors.kafka.topic_admin import topic_admin
from pipeline.connectors.kafka.topics import changes, topic
from pipeline.core.errors import SinkError, SourceError, SourceUnavailableError
from pipeline.core.schema import Schema
from pipeline.core.sinks import Delivery, SinkContext, SinkPosition
from tests.rigs.secure_kafka import PASSWORD, USER
from tests.rigs.secure_kafka import secure_kafka as secure_kafka  # noqa: PLC0414 - the fixture

REFERENCE = "env:KAFKA_PASSWORD"
SCHEMA = Schema.of({"id": "BIGINT"})
WAY_OUT = "check security=: the user, the password and the mechanism"
CERTIFICATE = r"pass a certificate that the brokers trust: security=Tls\(certificate=…, key=…\)"

ACCEPTED = {
    "tls": ("TLS", lambda files: Tls(ca=files.ca)),
    "client certificate": ("MTLS", lambda files: Tls(ca=files.ca, certificate=files.client, key=files.client)),
    "plain": ("SASLTLS", lambda files: Sasl(USER, REFERENCE, mechanism="PLAIN", tls=Tls(ca=files.ca))),
    "scram 256": ("SASLTLS", lambda files: Sasl(USER, REFERENCE, mechanism="SCRAM-SHA-256", tls=Tls(ca=files.ca))),
    "scram 512": ("SASLTLS", lambda files: Sasl(USER, REFERENCE, tls=Tls(ca=files.ca))),
    "without tls": ("SASLTEXT", lambda _: Sasl(USER, REFERENCE, tls=None)),
}
REJECTED = {
    "plain": ("SASLTLS", lambda files: Sasl(USER, REFERENCE, mechanism="PLAIN", tls=Tls(ca=files.ca)), WAY_OUT),
    "scram": ("SASLTLS", lambda files: Sasl(USER, REFERENCE, tls=Tls(ca=files.ca)), WAY_OUT),
    "unknown authority": (
        "TLS",
        lambda files: Tls(ca=files.other_ca),
        r"certificate in certificate chain; pass the authority that issued it: security=Tls\(ca='ca.pem'\)",
    ),
    "expired": (
        "EXPIRED",
        lambda files: Tls(ca=files.ca),
        "certificate has expired; renew the certificate of the server",
    ),
    "other host": (
        "OTHERHOST",
        lambda files: Tls(ca=files.ca),
        "not valid for '127.0.0.1'; use a host of its certificate in servers=",
    ),
    "no client certificate": ("MTLS", lambda files: Tls(ca=files.ca), CERTIFICATE),
    "unknown client": (
        "MTLS",
        lambda files: Tls(ca=files.ca, certificate=files.stranger, key=files.stranger),
        CERTIFICATE,
    ),
    "no file": ("TLS", lambda _: Tls(ca="/none.pem"), r"ssl\.ca\.location failed"),
}


def send(name, servers, security):
    """Send two rows with a sink."""
    target = to_kafka(name, servers=servers, security=security).open(SinkContext("p", "dev", name, Path()))
    try:
        rows = pa.table({"id": [1, 2]})
        target.write(Delivery(SinkPosition(1, 1), None, rows.to_reader(), rows.slice(0, 0)))
    finally:
        target.close()


def make(name, servers, security):
    """Declare and create a topic."""
    wanted = topic(name, partitions=1, replicas=1, servers=servers, security=security)
    with topic_admin(wanted, servers) as admin:
        admin.apply(wanted, changes(wanted, admin.existing([name])[name]))
        return admin.existing([name])[name]


@pytest.mark.share(3)
@pytest.mark.parametrize(("listener", "security"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_topics_are_created_written_and_read(secure_kafka, monkeypatch, listener, security):
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    name, servers = f"secure-{uuid.uuid4().hex[:8]}", secure_kafka.cluster.bootstrap_of(listener)
    client = security(secure_kafka)
    assert make(name, servers, client).partitions == 1
    send(name, servers, client)
    reader = kafka(name, servers=servers, security=client)
    with reader.tail(dict.fromkeys(reader.extents(), 0)) as tail:
        end = time.monotonic() + 20
        while (ready := tail.ready(5)).rows < 2 and time.monotonic() < end:
            pass
        assert ready.rows == 2  # a broker shows the rows of a transaction a moment after its commit
    [split] = reader.plan(None).splits
    assert reader.read(split, SCHEMA).rows["id"].to_pylist() == [1, 2]
    assert [finding.state.name for finding in reader.check()] == ["NOTE"]


@pytest.mark.share(3)
@pytest.mark.parametrize(("listener", "security", "message"), REJECTED.values(), ids=REJECTED.keys())
def test_a_client_that_is_not_accepted_is_told_why_at_once(secure_kafka, monkeypatch, listener, security, message):
    monkeypatch.setenv("KAFKA_PASSWORD", "wrong horse")
    servers, client = secure_kafka.cluster.bootstrap_of(listener), security(secure_kafka)
    begun = time.monotonic()
    with pytest.raises(SourceError, match=message) as error:
        kafka("t", servers=servers, security=client).plan(None)
    assert not isinstance(error.value, SourceUnavailableError)  # it is not tried again
    assert time.monotonic() < begun + 15
    assert "horse" not in str(error.value)
    rejection = probe({"bootstrap.servers": servers, **client.options()}, 10)
    assert rejection is not None
    assert "horse" not in rejection.got


@pytest.mark.share(1)
@pytest.mark.parametrize("case", ["scram", "expired"])
def test_sinks_and_topics_as_code_are_told_too(secure_kafka, monkeypatch, case):
    monkeypatch.setenv("KAFKA_PASSWORD", "wrong horse")
    listener, security, message = REJECTED[case]
    servers, client = secure_kafka.cluster.bootstrap_of(listener), security(secure_kafka)
    with pytest.raises(SinkError, match=f"Kafka rejects the client of Kafka topic t: .*{message}") as error:
        send("t", servers, client)
    assert "horse" not in str(error.value)
    with pytest.raises(SourceError, match=f"Kafka rejects the client: .*{message}"):
        make("t", servers, client)


def test_a_tail_that_is_not_accepted_ends(secure_kafka, monkeypatch):
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    name, servers = f"secure-{uuid.uuid4().hex[:8]}", secure_kafka.cluster.bootstrap_of("SASLTLS")
    client = Sasl(USER, REFERENCE, tls=Tls(ca=secure_kafka.ca))
    make(name, servers, client)
    send(name, servers, client)
    reader = kafka(name, servers=servers, security=client)
    extents = reader.extents()
    monkeypatch.setenv("KAFKA_PASSWORD", "wrong horse")

    def wait():
        with reader.tail(dict.fromkeys(extents, 0)) as tail:
            end = time.monotonic() + 20
            while time.monotonic() < end:
                tail.ready(1)

    with pytest.raises(SourceError, match=f"Kafka rejects the client: .*{WAY_OUT}"):
        wait()


def test_an_accepted_client_has_no_problem_and_an_absent_broker_is_no_rejection(secure_kafka):
    options = {"bootstrap.servers": secure_kafka.cluster.bootstrap_of("TLS"), **Tls(ca=secure_kafka.ca).options()}
    assert probe(options) is None
    assert certificate_problem(options) is None
    assert certificate_problem({"bootstrap.servers": "127.0.0.1:9", "ssl.ca.location": secure_kafka.ca}) is None
    assert probe({"bootstrap.servers": "127.0.0.1:9"}, 0.5) is None


def test_messages_of_connections_that_end_are_no_rejection():
    assert not is_rejection(-195, "ssl://127.0.0.1:1/1: Disconnected (after 3ms in state UP)")
    assert not is_rejection(-181, "ssl://127.0.0.1:1/1: SSL handshake failed: Connection reset by peer")
    assert explained("ssl://127.0.0.1:1/bootstrap: something else", {}).do == "check security="
