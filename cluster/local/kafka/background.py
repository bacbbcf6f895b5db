"""Brokers of Apache Kafka that run in the background until they are stopped, with their data in a folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.local.kafka.brokers import create_disks, heap_options
from cluster.local.kafka.download import home
from cluster.local.kafka.listeners import Listener
from cluster.local.kafka.node import START_S, STARTED, STOP_S, BrokerError, BrokerNode
from cluster.local.nodes import has_ended, is_same, spawned
from pipeline.core.errors import RequestError
from pipeline.core.processes import started

TLS = "TLS"
_FILE, _CERTIFICATES = "brokers.json", "certificates"
_POLL_S = 0.1


@dataclass(frozen=True)
class BackgroundBroker:
    """A broker: its number, its ports, and its process."""

    number: int
    port: int
    controller_port: int
    tls_port: int | None
    pid: int
    started: str
    """The start time of the process, which identifies it."""

    @property
    def is_running(self) -> bool:
        """Whether the broker is running."""
        return bool(self.started) and is_same(self.pid, self.started)


@dataclass(frozen=True)
class BackgroundKafka:
    """Brokers, and how to reach them."""

    folder: Path
    brokers: tuple[BackgroundBroker, ...]

    @property
    def has_tls(self) -> bool:
        """Whether clients use TLS."""
        return all(each.tls_port is not None for each in self.brokers)

    @property
    def bootstrap(self) -> str:
        """The addresses for clients: with TLS, if the brokers have it."""
        ports = (each.tls_port if self.has_tls else each.port for each in self.brokers)
        return ",".join(f"127.0.0.1:{port}" for port in ports)

    @property
    def ca(self) -> Path | None:
        """The file of the authority, with TLS."""
        return self.folder / _CERTIFICATES / "ca.pem" if self.has_tls else None

    @property
    def is_running(self) -> bool:
        """Whether all brokers are running."""
        return bool(self.brokers) and all(each.is_running for each in self.brokers)


def read(folder: Path) -> BackgroundKafka | None:
    """Return the brokers whose data is in a folder; `None` if there are none."""
    path = folder / _FILE
    if not path.is_file():
        return None
    brokers = json.loads(path.read_text(encoding="utf-8"))
    return BackgroundKafka(folder.resolve(), tuple(BackgroundBroker(**each) for each in brokers))


def start(folder: Path, brokers: int, *, tls: bool) -> BackgroundKafka:
    """Start brokers, and wait until they are ready. Those that were stopped start again, with their data and ports.

    Raises `RequestError` if they are running, or if the folder has another number of brokers, `UnavailableError` if
    Kafka cannot be downloaded, and `BrokerError` if one does not start.
    """
    known = read(folder)
    if known is not None:
        _require_same(known, brokers, tls=tls)
        nodes = [_node(known, each) for each in known.brokers]
    else:
        nodes = list(_created(folder.resolve(), brokers, tls=tls))
    options = heap_options(home(), len(nodes))
    started_nodes: list[BackgroundBroker] = []
    try:
        for node in nodes:
            started_nodes.append(_start(node, options))
            _write(folder, started_nodes, nodes)
        for node, broker in zip(nodes, started_nodes, strict=True):
            _wait(node, broker)
    except BaseException:
        _end(started_nodes)
        raise
    return BackgroundKafka(folder.resolve(), tuple(started_nodes))


def stop(folder: Path, *, remove: bool = False) -> int:
    """Stop the brokers of a folder, and return how many were running; `remove` also deletes their data."""
    known = read(folder)
    running = [] if known is None else [each for each in known.brokers if each.is_running]
    _end(running)
    if remove and known is not None:
        shutil.rmtree(folder)
    return len(running)


def _require_same(known: BackgroundKafka, brokers: int, *, tls: bool) -> None:
    if any(each.is_running for each in known.brokers):
        raise RequestError("Kafka is already running", got=known.bootstrap, do="stop it: headwater kafka stop")
    if len(known.brokers) != brokers or known.has_tls != tls:
        before = f"{len(known.brokers)} brokers {'with' if known.has_tls else 'without'} TLS"
        do = "start as many, or delete the data: headwater kafka stop --remove"
        raise RequestError("the folder has the data of other brokers", got=before, do=do)


def _created(folder: Path, brokers: int, *, tls: bool) -> Sequence[BrokerNode]:
    folder.mkdir(parents=True, exist_ok=True)
    if not tls:
        return create_disks(folder, brokers, {}, {})
    from cluster.local.kafka.certificates import CertificateAuthority  # noqa: PLC0415 - optional dependency

    place = folder / _CERTIFICATES
    place.mkdir(mode=0o700, exist_ok=True)
    authority = CertificateAuthority(place, "ca")
    certificate = authority.issue("broker", ("localhost", "127.0.0.1"))
    return create_disks(folder, brokers, {}, {TLS: Listener("SSL", certificate)})


def _node(known: BackgroundKafka, broker: BackgroundBroker) -> BrokerNode:
    ports: Mapping[str, int] = {} if broker.tls_port is None else {TLS: broker.tls_port}
    place = known.folder / f"broker-{broker.number}"
    return BrokerNode(broker.number, place, broker.port, broker.controller_port, ports)


def _start(node: BrokerNode, options: Sequence[str]) -> BackgroundBroker:
    java, *words = node.command(home(), options)
    pid = spawned([shutil.which(java) or java, *words], os.environ, node.log)
    tls_port = node.listeners.get(TLS)
    return BackgroundBroker(node.number, node.port, node.controller_port, tls_port, pid, started(pid))


def _write(folder: Path, brokers: Sequence[BackgroundBroker], nodes: Sequence[BrokerNode]) -> None:
    """Write which brokers there are, also those that have not been started yet."""
    others = nodes[len(brokers) :]
    rest = [BackgroundBroker(n.number, n.port, n.controller_port, n.listeners.get(TLS), 0, "") for n in others]
    draft = folder / f".{_FILE}"
    draft.write_text(json.dumps([asdict(each) for each in (*brokers, *rest)], indent=1), encoding="utf-8")
    draft.replace(folder / _FILE)


def _wait(node: BrokerNode, broker: BackgroundBroker) -> None:
    until = time.monotonic() + START_S
    while STARTED not in (text := node.log.read_text(encoding="utf-8", errors="replace")):
        if not broker.is_running or time.monotonic() > until:
            raise BrokerError(f"broker {node.number} did not start:\n" + "\n".join(text.splitlines()[-20:]))
        time.sleep(_POLL_S)


def _end(brokers: Sequence[BackgroundBroker]) -> None:
    """End brokers, gracefully if they do so in time."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for broker in _running(brokers):
            with suppress(ProcessLookupError):
                os.kill(broker.pid, sign)
        until = time.monotonic() + STOP_S
        while any(_running(brokers)) and time.monotonic() < until:
            time.sleep(_POLL_S)
    for broker in brokers:
        has_ended(broker.pid)  # if it was started by this process, the system forgets it


def _running(brokers: Sequence[BackgroundBroker]) -> Iterator[BackgroundBroker]:
    return (each for each in brokers if each.is_running)
