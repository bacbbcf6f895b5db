"""A cluster of Apache Kafka on loopback, which ends with the process that started it."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from cluster.local.kafka.download import home
from cluster.local.kafka.listeners import Listener
from cluster.local.kafka.node import CLUSTER_ID, BrokerNode, properties_of, random_id
from cluster.local.ports import unused_port


def heap_options(home: Path, brokers: int) -> tuple[str, ...]:
    """Return options of Java for brokers of development: a small heap, and an archive of classes for a faster start."""
    heap = 384 if brokers == 1 else 256
    archive = home / "classes.jsa"
    faster = (f"-XX:SharedArchiveFile={archive}",) if archive.is_file() else ()
    return (f"-Xmx{heap}m", f"-Xms{heap // 2}m", *faster)


def create_disks(
    folder: Path, brokers: int, settings: Mapping[str, str], listeners: Mapping[str, Listener]
) -> tuple[BrokerNode, ...]:
    """Create the disks and the settings of brokers 1 to `brokers`; raises the errors of `home`."""
    seed, nodes = home() / "seed", []
    for number in range(1, brokers + 1):
        place = folder / f"broker-{number}"
        place.mkdir(parents=True)
        ports = {name: unused_port() for name in listeners}
        nodes.append(BrokerNode(number, place, unused_port(), unused_port(), ports))
    for node in nodes:
        shutil.copytree(seed, node.folder / "disk")
        (node.folder / "disk" / "meta.properties").write_text(
            f"version=1\ncluster.id={CLUSTER_ID}\nnode.id={node.number}\ndirectory.id={random_id()}\n"
        )
        node.file.write_text(properties_of(node, nodes, settings, listeners))
    return tuple(nodes)


class LocalBrokers:
    """Brokers in a folder, each also a controller. They listen on 127.0.0.1 and end with this process in any case.

    `settings` are lines of `server.properties` for every broker, `listeners` further addresses by name. Entering the context
    starts them and waits until all are ready.
    """

    def __init__(
        self,
        folder: Path,
        brokers: int = 1,
        settings: Mapping[str, str] | None = None,
        listeners: Mapping[str, Listener] | None = None,
    ) -> None:
        """Create the disks of brokers 1 to `brokers`; raises the errors of `home`."""
        self._home = home()
        self.nodes = create_disks(folder, brokers, settings or {}, listeners or {})

    def __enter__(self) -> Self:
        """Start all brokers."""
        try:
            for node in self.nodes:
                self._launch(node)
            for node in self.nodes:
                node.wait()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill all brokers."""
        self.close()

    def close(self) -> None:
        """Kill all brokers; their disks are kept."""
        for node in self.nodes:
            node.end(signal.SIGKILL)

    @property
    def bootstrap(self) -> str:
        """The brokers' addresses, in the form that clients expect."""
        return ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def bootstrap_of(self, listener: str) -> str:
        """The addresses of a further listener."""
        return ",".join(f"127.0.0.1:{node.listeners[listener]}" for node in self.nodes)

    def log(self, number: int = 1) -> str:
        """Return the log of a broker."""
        return self._node(number).log.read_text()

    def pid(self, number: int = 1) -> int:
        """Return the process of a started broker."""
        return self._node(number).pid

    def kill(self, number: int = 1) -> None:
        """Kill a broker (SIGKILL)."""
        self._node(number).end(signal.SIGKILL)

    def stop(self, number: int = 1) -> None:
        """Stop a broker gracefully (SIGTERM): it hands over its leaderships."""
        self._node(number).end(signal.SIGTERM)

    def start(self, number: int = 1, *, wait: bool = True) -> None:
        """Start a stopped broker again, with its previous disk and ports."""
        self._launch(self._node(number))
        if wait:
            self._node(number).wait()

    def _launch(self, node: BrokerNode) -> None:
        node.start(self._home, heap_options(self._home, len(self.nodes)))

    def _node(self, number: int) -> BrokerNode:
        return self.nodes[number - 1]
