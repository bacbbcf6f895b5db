"""Why brokers do not accept a client: a wrong password, or a certificate that one side does not trust. Waiting does not help."""

from __future__ import annotations

import logging
import re
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from pipeline.connectors.certificates import way_out
from pipeline.core.errors import Place, SourceError

_LOG = logging.getLogger("headwater.kafka")
_CODES = frozenset(
    {
        KafkaError._AUTHENTICATION,  # noqa: SLF001 - the client's names for its internal errors
        KafkaError._FATAL,  # noqa: SLF001
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
    }
)
_UNTRUSTED = "certificate verify failed"
_CLIENT_CERTIFICATE = re.compile(r"alert (bad certificate|certificate \w+|unknown ca|handshake failure|access denied)")
_FEATURES = re.compile(r"^.*?/(bootstrap|\d+): ")
"""The address at the begin of a message of librdkafka."""
_HANDSHAKE_S = 3.0


@dataclass(frozen=True)
class Rejection:
    """Why a client is not accepted, and what to do."""

    got: str
    do: str

    def error(self, place: Place) -> SourceError:
        """Return the error of a source."""
        return SourceError("Kafka rejects the client", got=self.got, do=self.do, place=place)


def is_rejection(code: int, text: str) -> bool:
    """Return whether an error of the client means that it is not accepted; `text` is its message."""
    return code in _CODES or _UNTRUSTED in text or _CLIENT_CERTIFICATE.search(text) is not None


def explained(text: str, options: Mapping[str, object]) -> Rejection:
    """Return why a client with these options got a message; the certificate of the brokers is looked at, if that is why."""
    short = _FEATURES.sub("", text)
    if _UNTRUSTED in text:
        return certificate_problem(options) or Rejection(short, "check security=Tls(ca=…)")
    if _CLIENT_CERTIFICATE.search(text):
        do = "pass a certificate that the brokers trust: security=Tls(certificate=…, key=…)"
        return Rejection(short, do)
    if "uthenti" in text:
        return Rejection(short, "check security=: the user, the password and the mechanism")
    return Rejection(short, "check security=")


def probe(options: Mapping[str, object], limit_s: float = _HANDSHAKE_S) -> Rejection | None:
    """Connect, and return why the client is not accepted; `None` if it is, or if there is no answer in time."""
    seen: list[str] = []

    def on_error(error: KafkaError) -> None:
        if is_rejection(error.code(), error.str()):
            seen.append(error.str())

    try:
        settings: dict[str, Any] = {**options, "error_cb": on_error}
        admin = AdminClient(settings, logger=_LOG)
    except KafkaException as error:
        return explained(error.args[0].str(), options)
    until = time.monotonic() + limit_s
    while time.monotonic() < until and not seen:
        try:
            admin.list_topics(timeout=0.3)
        except KafkaException as error:
            on_error(error.args[0])
            admin.poll(0)
        else:
            return None
    return explained(seen[0], options) if seen else None


def certificate_problem(options: Mapping[str, object]) -> Rejection | None:
    """Return what is wrong with the certificate of the first broker that answers; `None` if nothing is."""
    ca = options.get("ssl.ca.location")
    context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    for server in str(options.get("bootstrap.servers", "")).split(","):
        host, _, port = server.strip().rpartition(":")
        host = host.rpartition("://")[2].strip("[]")
        try:
            with (
                socket.create_connection((host, int(port)), timeout=_HANDSHAKE_S) as plain,
                context.wrap_socket(plain, server_hostname=host),
            ):
                continue
        except ssl.SSLCertVerificationError as error:
            message = error.verify_message.rstrip(".")
            do = way_out(message, "security=Tls(ca='ca.pem')", "servers=")
            return Rejection(f"the certificate of {server}: {message}", do)
        except (OSError, ValueError):
            continue
    return None
