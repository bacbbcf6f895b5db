"""A real Apache Kafka on loopback for tests and benchmarks: downloaded from Maven Central once, starts in about 1 s."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

VERSION = "4.4.0"
_HERE = Path(__file__).parent
_CLUSTER_ID = base64.urlsafe_b64encode(b"headwater-kafka!").decode().rstrip("=")
_STARTED = "Kafka Server started"
_MAIN, _FORMAT = "kafka.Kafka", "kafka.tools.StorageTool"
_START_S, _STOP_S, _FETCH_S = 180, 30, 900
_QUIET = (
    "-XX:+UseSerialGC",
    "-Xshare:auto",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
)
# The broker must not outlive this process: when our end of the shell's standard input is closed, explicitly or because
# this process died, the shell kills the broker. The shell closes its copy of the output, so it ends with the broker.
_LEASH = '"$@" </dev/null & echo "$!"; exec >&- 2>&-; read -r _; kill -9 "$!" ; wait'
_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>headwater</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{kafka}</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
</dependencies></project>
"""
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


class UnavailableError(Exception):
    """Kafka is not available on this machine; the message is the reason."""


class BrokerError(Exception):
    """A broker did not start; the message ends with the last lines of its log."""


def home() -> Path:
    """Return the folder of Kafka's jars (`HEADWATER_KAFKA`, or `.kafka` here); missing jars are downloaded.

    Raises `UnavailableError` without Java 17, Maven, or access to Maven Central, and `ValueError` for a jar whose
    checksum differs from `kafka.sha256`.
    """
    folder = Path(os.environ.get("HEADWATER_KAFKA") or _HERE.parent / ".kafka") / VERSION
    if shutil.which("java") is None:
        raise UnavailableError("Kafka needs Java 17: `java` was not found")
    if not (folder / "seed").is_dir():
        with _alone(folder):
            if not (folder / "seed").is_dir():
                _fetch(folder)
    return folder


def _fetch(folder: Path) -> None:
    """Fill a folder with `libs`, `classes.jsa` (a class archive for a faster start), and `seed`, a formatted disk."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _copy_jars(folder / "libs")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        disk = Path(scratch) / "disk"
        node = _Node(1, Path(scratch), _free_port(), _free_port())
        node.file.write_text(_properties(node, (node,), {}))
        _java(folder, (), _FORMAT, "format", "-t", _CLUSTER_ID, "-c", str(node.file))
        shutil.copytree(disk, Path(scratch) / "seed", ignore=shutil.ignore_patterns("meta.properties"))
        node.start(folder, (f"-XX:ArchiveClassesAtExit={folder / 'classes.jsa'}",))
        try:
            node.wait()
            node.end(signal.SIGTERM)
        finally:
            node.end(signal.SIGKILL)
        (Path(scratch) / "seed").rename(folder / "seed")


def _copy_jars(libs: Path) -> None:
    if shutil.which("mvn") is None:
        raise UnavailableError("Kafka is downloaded with Maven: `mvn` was not found")
    with tempfile.TemporaryDirectory() as folder:
        pom = Path(folder) / "pom.xml"
        pom.write_text(_POM.format(kafka=VERSION))
        process = subprocess.run(
            ["mvn", "-B", "-q", "-f", str(pom), _COPY, "-DincludeScope=runtime", f"-DoutputDirectory={libs}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_FETCH_S,
        )
    if process.returncode:
        reason = next((line for line in process.stdout.splitlines() if "ERROR" in line), process.stderr.strip()[-300:])
        raise UnavailableError(f"Kafka cannot be downloaded: {reason}")
    _check(libs)


def _check(libs: Path) -> None:
    checksums = dict(line.split()[::-1] for line in (_HERE / "kafka.sha256").read_text().splitlines())
    got = {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in libs.iterdir()}
    wrong = sorted(name for name in checksums.keys() | got.keys() if checksums.get(name) != got.get(name))
    if wrong:
        raise ValueError(f"jars that do not match kafka.sha256: {', '.join(wrong)}")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock the folder, so that one process at a time fills it."""
    import fcntl  # noqa: PLC0415 - not available on Windows, where Kafka is not supported

    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _command(folder: Path, options: Sequence[str], main: str, *words: str) -> list[str]:
    jars = ":".join(str(jar) for jar in sorted((folder / "libs").glob("*.jar")))
    return ["java", *_QUIET, *options, "-cp", jars, main, *words]


def _java(folder: Path, options: Sequence[str], main: str, *words: str) -> None:
    process = subprocess.run(
        _command(folder, options, main, *words), capture_output=True, text=True, check=False, timeout=_START_S
    )
    if process.returncode:
        raise UnavailableError(f"Kafka cannot be set up: {(process.stdout + process.stderr).strip()[-500:]}")


@dataclass
class _Node:
    """One broker, which is also a controller."""

    number: int
    folder: Path
    port: int
    controller_port: int
    process: subprocess.Popen[str] | None = None
    pid: int = 0
    started: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def file(self) -> Path:
        return self.folder / "server.properties"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def start(self, home: Path, options: Sequence[str]) -> None:
        self.started, self.ended = threading.Event(), threading.Event()
        command = _command(home, options, _MAIN, str(self.file))
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", _LEASH, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C must not reach the brokers; we stop them
        )
        assert self.process.stdout is not None  # noqa: S101 - it is a pipe
        self.pid = int(self.process.stdout.readline())
        threading.Thread(target=self._listen, args=(self.process.stdout, self.started, self.ended), daemon=True).start()

    def _listen(self, lines: IO[str], started: threading.Event, ended: threading.Event) -> None:
        with self.log.open("a") as log:
            for line in lines:
                log.write(line)
                log.flush()
                if _STARTED in line:
                    started.set()
        ended.set()
        started.set()

    def wait(self) -> None:
        if not self.started.wait(_START_S) or self.ended.is_set():
            raise BrokerError(
                f"broker {self.number} did not start:\n" + "\n".join(self.log.read_text().splitlines()[-20:])
            )

    def end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        if not self.ended.is_set():
            os.kill(self.pid, how)
            if how == signal.SIGTERM and not self.ended.wait(_STOP_S):
                os.kill(self.pid, signal.SIGKILL)
            self.ended.wait(_STOP_S)
        assert self.process.stdin is not None  # noqa: S101 - it is a pipe
        self.process.stdin.close()
        self.process.wait(_STOP_S)
        assert self.process.stdout is not None  # noqa: S101 - likewise
        self.process.stdout.close()
        self.process = None


class Cluster:
    """Brokers in a folder, each also a controller. They listen on 127.0.0.1 and end with this process in any case.

    `settings` are lines of `server.properties` for every broker. Entering the context starts them and waits until all
    are ready.
    """

    def __init__(self, folder: Path, brokers: int = 1, settings: Mapping[str, str] | None = None) -> None:
        """Create the disks of brokers 1 to `brokers`; raises the errors of `home`."""
        self._home = home()
        self._heap = 384 if brokers == 1 else 256
        nodes = []
        for number in range(1, brokers + 1):
            place = folder / f"broker-{number}"
            place.mkdir(parents=True)
            nodes.append(_Node(number, place, _free_port(), _free_port()))
        self._nodes = tuple(nodes)
        for node in nodes:
            shutil.copytree(self._home / "seed", node.folder / "disk")
            (node.folder / "disk" / "meta.properties").write_text(
                f"version=1\ncluster.id={_CLUSTER_ID}\nnode.id={node.number}\ndirectory.id={_random_id()}\n"
            )
            node.file.write_text(_properties(node, self._nodes, settings or {}))

    def __enter__(self) -> Self:
        """Start all brokers."""
        try:
            for node in self._nodes:
                self._launch(node)
            for node in self._nodes:
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
        for node in self._nodes:
            node.end(signal.SIGKILL)

    @property
    def bootstrap(self) -> str:
        """The brokers' addresses, in the form that clients expect."""
        return ",".join(f"127.0.0.1:{node.port}" for node in self._nodes)

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

    def create_topic(
        self, name: str, partitions: int = 1, *, replicas: int = 1, settings: Mapping[str, str] | None = None
    ) -> None:
        """Create a topic and wait until every partition has a leader that all brokers know."""
        from confluent_kafka.cimpl import NewTopic  # noqa: PLC0415 - fetching needs no client

        topic = NewTopic(name, partitions, replicas, config=dict(settings or {}))
        admin = self.admin()  # keep a reference: its requests end with it
        for creation in admin.create_topics([topic], operation_timeout=_START_S).values():
            creation.result()
        for node in self._nodes:
            if not node.ended.is_set():
                self._await(node, name, partitions)

    def _await(self, node: _Node, name: str, partitions: int) -> None:
        """Wait until a broker knows a topic and the leaders of all its partitions."""
        from confluent_kafka.admin import AdminClient  # noqa: PLC0415 - fetching needs no client

        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{node.port}", "log_level": 0})
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            metadata = admin.list_topics(name, timeout=_START_S).topics[name].partitions
            if len(metadata) == partitions and all(partition.leader >= 0 for partition in metadata.values()):
                return
            time.sleep(0.02)
        raise BrokerError(f"broker {node.number} does not know the topic {name!r}")

    def admin(self) -> AdminClient:
        """Return a new client for topics and settings."""
        from confluent_kafka.admin import AdminClient  # noqa: PLC0415 - likewise

        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def _launch(self, node: _Node) -> None:
        archive = self._home / "classes.jsa"
        faster = (f"-XX:SharedArchiveFile={archive}",) if archive.is_file() else ()
        node.start(self._home, (f"-Xmx{self._heap}m", f"-Xms{self._heap // 2}m", *faster))

    def _node(self, number: int) -> _Node:
        return self._nodes[number - 1]


def _properties(node: _Node, nodes: Sequence[_Node], settings: Mapping[str, str]) -> str:
    copies = str(min(3, len(nodes)))
    lines = {
        "process.roles": "broker,controller",
        "node.id": str(node.number),
        "listeners": f"PLAINTEXT://127.0.0.1:{node.port},CONTROLLER://127.0.0.1:{node.controller_port}",
        "inter.broker.listener.name": "PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.quorum.voters": ",".join(f"{n.number}@127.0.0.1:{n.controller_port}" for n in nodes),
        "log.dirs": str(node.folder / "disk"),
        "auto.create.topics.enable": "false",
        "offsets.topic.num.partitions": "1",
        "offsets.topic.replication.factor": copies,
        "transaction.state.log.num.partitions": "1",
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": "1" if len(nodes) == 1 else "2",
        "min.insync.replicas": "1" if len(nodes) == 1 else "2",
        "group.initial.rebalance.delay.ms": "0",
        "log.retention.ms": "-1",  # a topic that is to forget says so
        # notice sooner what production notices in minutes
        "controller.quorum.election.timeout.ms": "300",
        "controller.quorum.election.backoff.max.ms": "300",
        "broker.heartbeat.interval.ms": "300",
        "broker.session.timeout.ms": "2000",
        "log.initial.task.delay.ms": "100",
        "log.retention.check.interval.ms": "200",
        "log.segment.delete.delay.ms": "0",
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
        **settings,
    }
    return "".join(f"{name}={value}\n" for name, value in lines.items())


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _random_id() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A", 1)


if __name__ == "__main__":
    try:
        print(home())
    except UnavailableError as error:
        sys.exit(str(error))
