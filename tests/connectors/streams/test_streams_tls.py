"""Streams and queues over TLS: a certificate of a known authority is accepted, any other is an error that is not retried."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis

from pipeline import mqtt, rabbitmq_queue, rabbitmq_stream, redis_stream
from pipeline.core.errors import SourceError, SourceUnavailableError
from tests.rigs.queues import mosquitto as mosquitto  # noqa: PLC0414 - the fixture
from tests.rigs.rabbitmq import rabbitmq as rabbitmq  # noqa: PLC0414 - likewise
from tests.rigs.streams import valkey as valkey  # noqa: PLC0414 - likewise
from tests.rigs.tls_proxy import tls_proxy

pytest.importorskip("cryptography", reason="no certificates: pip install 'headwater[certificates]'")
from cluster.local.kafka.certificates import CertificateAuthority

IDLE = "200 milliseconds"


def redis(server, name):
    with Redis(port=server.port) as client:
        client.xadd(name, {"id": 1})
    return server.port, lambda proxy, ca, _: redis_stream(name, url=f"rediss://127.0.0.1:{proxy}/0", ca=ca)


def stream(server, name):
    with server.channel() as channel:
        channel.queue_declare(name, durable=True, arguments={"x-queue-type": "stream"})
    return server.stream_port, lambda proxy, ca, _: rabbitmq_stream(
        name, url=f"rabbitmq-stream+tls://127.0.0.1:{proxy}/", ca=ca
    )


def queue(server, name):
    with server.channel() as channel:
        channel.queue_declare(name, durable=True)
    return server.amqp_port, lambda proxy, ca, folder: rabbitmq_queue(
        name, url=f"amqps://127.0.0.1:{proxy}/", ca=ca, idle=IDLE, spool=folder
    )


def topics(server, name):
    return server.port, lambda proxy, ca, folder: mqtt(
        name, client_id=name, url=f"mqtts://127.0.0.1:{proxy}", ca=ca, idle=IDLE, spool=folder
    )


@pytest.mark.parametrize(
    ("server", "made"), [("valkey", redis), ("rabbitmq", stream), ("rabbitmq", queue), ("mosquitto", topics)]
)
def test_a_trusted_certificate_is_accepted_and_others_are_named(request, tmp_path, server, made):
    port, reader = made(request.getfixturevalue(server), f"tls-{uuid.uuid4().hex[:8]}")
    authority, other = CertificateAuthority(tmp_path), CertificateAuthority(tmp_path, "other")
    hosts, spool = ("127.0.0.1", "localhost"), str(tmp_path / "spool")
    expired = authority.issue("expired", hosts, ends=datetime.now(UTC) - timedelta(days=1))
    elsewhere, known = authority.issue("elsewhere", ("elsewhere.example",)), str(authority.file)
    with tls_proxy(port, authority.issue("server", hosts)) as proxy:
        assert reader(proxy, known, spool).plan(None).cursor.kind == "offsets"
        for ca in (str(other.file), None):
            refused = refusal(reader(proxy, ca, spool))
            assert re.search("self-signed certificate.*; pass the authority that issued it: ca=", refused)
    with tls_proxy(port, expired) as proxy:
        refused = refusal(reader(proxy, known, spool))
        assert "certificate has expired; renew the certificate of the server" in refused
    with tls_proxy(port, elsewhere) as proxy:
        refused = refusal(reader(proxy, known, spool))
        assert "certificate is not valid for '127.0.0.1'; use a host of its certificate in the address" in refused


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_of_authorities_that_cannot_be_read_is_named(tmp_path, content):
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    options, spool = {"ca": str(file)}, {"spool": str(tmp_path), "idle": IDLE}
    for reader in (
        redis_stream("s", url="rediss://127.0.0.1:9/0", **options),
        rabbitmq_stream("s", url="rabbitmq-stream+tls://127.0.0.1:9/", **options),
        rabbitmq_queue("q", url="amqps://127.0.0.1:9/", **options, **spool),
        mqtt("t", client_id="c", url="mqtts://127.0.0.1:9", **options, **spool),
    ):
        refused = refusal(reader, "the file of authorities cannot be read")
        assert re.search(r"got '.*ca\.pem'.*; pass the path of a PEM file", refused)


def refusal(reader, problem="the certificate of the server is not trusted"):
    """Return the text of the error of a reader, which is not one that passes."""
    with pytest.raises(SourceError, match=problem) as error:
        reader.plan(None)
    assert not isinstance(error.value, SourceUnavailableError)
    return str(error.value)
