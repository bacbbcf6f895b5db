"""Servers of queues on loopback: Mosquitto, moto for Kinesis, and Google's fake of Pub/Sub."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.local.ports import unused_port
from tests.rigs.go_programs import go_program
from tests.rigs.streams import StreamServer, nats_program, started

MOSQUITTO = "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_queued_messages 0\n"


def mosquitto_program() -> str:
    """Return the path of the broker; skip the test if it is not installed."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("no MQTT broker on this machine: mosquitto not found")
    return program


@pytest.fixture(scope="session")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StreamServer]:
    """An MQTT broker."""
    program, port = mosquitto_program(), unused_port()
    config = tmp_path_factory.mktemp("mosquitto") / "mosquitto.conf"
    config.write_text(MOSQUITTO.format(port=port))
    with started([program, "-c", str(config)], port) as server:
        yield server


@pytest.fixture(scope="session")
def nats_mqtt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StreamServer]:
    """A NATS server that speaks MQTT, from a package that contains its program."""
    program, port, folder = nats_program(), unused_port(), tmp_path_factory.mktemp("nats-mqtt")
    config = folder / "nats.conf"
    config.write_text(
        f'server_name: tests\nlisten: "127.0.0.1:{unused_port()}"\njetstream {{ store_dir: "{folder}" }}\n'
        f'mqtt {{ listen: "127.0.0.1:{port}", ack_wait: "5s" }}\n'
    )
    with started([program, "-c", str(config)], port) as server:
        yield server


@pytest.fixture(scope="session")
def kinesis_server() -> Iterator[str]:
    """The address of a server like Kinesis; credentials are set in the environment while it runs."""
    moto = pytest.importorskip("moto.server", reason="no server like Kinesis: pip install 'moto[server]'")
    names = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@pytest.fixture(scope="session")
def pubsub_server() -> Iterator[str]:
    """The address of the fake, which clients find in the environment."""
    pytest.importorskip("google.cloud.pubsub_v1", reason="no client of Pub/Sub: pip install 'headwater[pubsub]'")
    with started([go_program("pubsub"), "{port}"]) as server:
        address = f"127.0.0.1:{server.port}"
        os.environ["PUBSUB_EMULATOR_HOST"] = address
        try:
            yield address
        finally:
            del os.environ["PUBSUB_EMULATOR_HOST"]


def configured(folder: Path, text: str) -> Path:
    """Write a configuration file of Mosquitto, and return its path."""
    path = folder / "mosquitto.conf"
    path.write_text(text)
    return path
