"""A RabbitMQ server on loopback with streams, from the installed programs; tests are skipped if these are missing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pika
import pytest

from cluster.local.ports import unused_ports
from tests.rigs.running import running, wait_for_port

STARTS_WITHIN_S = 120
_CONFIG = """listeners.tcp.1 = 127.0.0.1:{amqp}
stream.listeners.tcp.1 = 127.0.0.1:{stream}
stream.advertised_host = 127.0.0.1
stream.advertised_port = {stream}
loopback_users.guest = true
log.console = true
log.file = false
disk_free_limit.absolute = 50MB
"""


@dataclass(frozen=True)
class RabbitRig:
    """A running server: its ports for AMQP 0.9.1 and for streams."""

    amqp_port: int
    stream_port: int

    @contextmanager
    def channel(self) -> Iterator[pika.adapters.blocking_connection.BlockingChannel]:
        """A channel of the user guest, whose messages are confirmed."""
        connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", self.amqp_port))
        try:
            channel = connection.channel()
            channel.confirm_delivery()
            yield channel
        finally:
            connection.close()


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitRig]:
    """A server; it starts in about ten seconds."""
    server = shutil.which("rabbitmq-server", path="/usr/lib/rabbitmq/bin:/usr/sbin:/usr/local/sbin") or shutil.which(
        "rabbitmq-server"
    )
    epmd = shutil.which("epmd")
    if server is None or epmd is None:
        pytest.skip("no RabbitMQ on this machine: rabbitmq-server or epmd not found")
    folder = Path(tempfile.mkdtemp(prefix="headwater-rabbitmq-"))
    amqp, stream, names, distribution = unused_ports(4)
    (folder / "plugins").write_text("[rabbitmq_stream].\n")
    (folder / "rabbitmq.conf").write_text(_CONFIG.format(amqp=amqp, stream=stream))
    environment = {
        **os.environ,
        "HOME": str(folder),
        "ERL_EPMD_PORT": str(names),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"headwater{amqp}@localhost",
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1",
    }
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        log = folder / "output"
        for command in ([epmd, "-port", str(names), "-address", "127.0.0.1"], [server]):
            stack.enter_context(running(command, log, folder=folder, environment=environment))
        for port in (amqp, stream):
            wait_for_port(port, log, within_s=STARTS_WITHIN_S)
        yield RabbitRig(amqp, stream)
