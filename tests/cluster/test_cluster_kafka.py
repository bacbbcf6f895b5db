"""`headwater kafka`: brokers that run in the background until they are stopped, with TLS if asked."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime, timedelta

import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner

from cluster.cli.kafka import app
from cluster.local.kafka.background import read, start, stop
from cluster.local.kafka.download import home
from cluster.local.kafka.node import BrokerError
from pipeline.connectors.kafka import Tls, kafka
from pipeline.connectors.kafka.topic_admin import topic_admin
from pipeline.connectors.kafka.topics import changes, topic
from pipeline.core.errors import RequestError, UnavailableError


@pytest.fixture(autouse=True)
def jars():
    try:
        return home()
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def folder(tmp_path):
    yield tmp_path / ".headwater" / "kafka"
    stop(tmp_path / ".headwater" / "kafka")


def run(folder, *words):
    result = CliRunner().invoke(app, [*words, "--project", str(folder.parents[1])])
    return result.exit_code, result.output


@pytest.mark.proof
def test_a_broker_keeps_its_data_when_it_is_stopped_and_started(folder):
    assert read(folder) is None
    started = start(folder, 1, tls=False)
    assert started.is_running
    assert not started.has_tls
    wanted = topic("orders", partitions=1, replicas=1, servers=started.bootstrap)
    with topic_admin(wanted, started.bootstrap) as admin:
        admin.apply(wanted, changes(wanted, None))
    producer = Producer({"bootstrap.servers": started.bootstrap, "log_level": 0})
    producer.produce("orders", b'{"id": 1}')
    assert producer.flush(20) == 0
    with pytest.raises(RequestError, match=r"Kafka is already running: got .*; stop it: headwater kafka stop"):
        start(folder, 1, tls=False)
    assert stop(folder) == 1
    assert stop(folder) == 0
    assert not read(folder).is_running
    with pytest.raises(RequestError, match="the folder has the data of other brokers: got 1 brokers without TLS"):
        start(folder, 3, tls=False)
    with socket.create_server(("127.0.0.1", started.brokers[0].port)):
        with pytest.raises(BrokerError, match=r"(?s)broker 1 did not start.*Address already in use"):
            start(folder, 1, tls=False)
        assert not read(folder).is_running
    again = start(folder, 1, tls=False)
    assert again.bootstrap == started.bootstrap
    assert [extent.end for extent in kafka("orders", servers=again.bootstrap).extents().values()] == [1]
    assert stop(folder, remove=True) == 1
    assert not folder.exists()


@pytest.mark.proof
def test_three_brokers_with_tls_are_started_and_stopped_by_commands(folder):
    pytest.importorskip("cryptography", reason="no certificates: pip install 'headwater[certificates]'")
    code, shown = run(folder, "status")
    assert (code, "Kafka has not been started here" in shown) == (3, True)
    code, shown = run(folder, "start", "--brokers", "3", "--tls", "--json")
    assert code == 0, shown
    facts = json.loads(shown)
    assert len(facts["servers"].split(",")) == 3
    wanted = topic("orders", partitions=3, servers=facts["servers"], security=Tls(ca=facts["ca"]))
    with topic_admin(wanted, facts["servers"]) as admin:
        admin.apply(wanted, changes(wanted, None))
        assert admin.existing(["orders"])["orders"].replicas == 3
    code, shown = run(folder, "status")
    assert (code, shown.count("running")) == (0, 3)
    assert "HEADWATER_KAFKA_SERVERS" in shown
    assert "Tls(ca=" in shown
    assert run(folder, "stop", "--remove") == (0, "3 brokers stopped\n")
    assert run(folder, "stop") == (0, "Kafka is not running\n")


def test_certificates_name_their_hosts_and_keys_are_private(tmp_path):
    pytest.importorskip("cryptography", reason="no certificates: pip install 'headwater[certificates]'")
    from cryptography import x509  # noqa: PLC0415 - skipped without

    from cluster.local.kafka.certificates import CertificateAuthority  # noqa: PLC0415 - likewise

    path = CertificateAuthority(tmp_path).issue("broker one", ("localhost", "127.0.0.1"))
    assert path.name == "broker-one.pem"
    assert path.stat().st_mode & 0o077 == 0
    certificate = x509.load_pem_x509_certificates(path.read_bytes())[0]
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert certificate.not_valid_after_utc - datetime.now(UTC) > timedelta(days=300)
