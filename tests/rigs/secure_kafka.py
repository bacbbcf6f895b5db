"""A broker with listeners for TLS, client certificates, and users and passwords; some have certificates that are not valid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from benchmarks.kafka import Cluster
from cluster.local.kafka.listeners import Listener
from pipeline.core.errors import UnavailableError

USER, PASSWORD = "reader", "correct horse"
LOOPBACK = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class SecureKafka:
    """The brokers, and the files of clients."""

    cluster: Cluster
    ca: str
    other_ca: str
    client: str
    """A file with the key and the certificate of a client."""
    stranger: str
    """The same, of an authority that the broker does not know."""


@pytest.fixture(scope="session")
def secure_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """Start the broker, with a user of each mechanism."""
    pytest.importorskip("cryptography", reason="no certificates: pip install 'headwater[certificates]'")
    from cluster.local.kafka.certificates import CertificateAuthority  # noqa: PLC0415 - skipped without

    folder = tmp_path_factory.mktemp("secure-kafka")
    authority, other = CertificateAuthority(folder), CertificateAuthority(folder, "other CA")
    broker = authority.issue("broker", LOOPBACK)
    expired = authority.issue("expired", LOOPBACK, ends=datetime.now(UTC) - timedelta(days=1))
    listeners = {
        "TLS": Listener("SSL", broker),
        "MTLS": Listener("SSL", broker, authority.file),
        "SASLTLS": Listener("SASL_SSL", broker, users={USER: PASSWORD}),
        "SASLTEXT": Listener("SASL_PLAINTEXT", users={USER: PASSWORD}),
        "EXPIRED": Listener("SSL", expired),
        "OTHERHOST": Listener("SSL", authority.issue("elsewhere", ("elsewhere.example",))),
    }
    try:
        cluster = Cluster(_folder(folder), listeners=listeners)
    except UnavailableError as error:
        pytest.skip(str(error))
    with cluster:
        _create_users(cluster)
        yield SecureKafka(
            cluster,
            str(authority.file),
            str(other.file),
            str(authority.issue("client")),
            str(other.issue("stranger")),
        )


def _folder(folder: Path) -> Path:
    return folder / "brokers"


def _create_users(cluster: Cluster) -> None:
    from confluent_kafka.admin import (  # noqa: PLC0415 - the client needs time to load
        ScramCredentialInfo,
        ScramMechanism,
        UserScramCredentialUpsertion,
    )

    admin = cluster.admin()
    for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
        info = ScramCredentialInfo(mechanism, 4096)
        change = UserScramCredentialUpsertion(USER, info, PASSWORD.encode())
        for done in admin.alter_user_scram_credentials([change]).values():
            done.result(30)
