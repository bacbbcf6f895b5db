"""One broker of Apache Kafka, which is also a controller: its settings and its process."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from cluster.local.kafka.listeners import Listener
from pipeline.core.errors import HeadwaterError

CLUSTER_ID = base64.urlsafe_b64encode(b"headwater-kafka!").decode().rstrip("=")
STARTED = "Kafka Server started"
START_S, STOP_S = 180, 30
_MAIN = "kafka.Kafka"
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


class BrokerError(HeadwaterError):
    """A broker did not start; the message ends with the last lines of its log."""


def java_command(folder: Path, options: Sequence[str], main: str, *words: str) -> list[str]:
    """Return the command that runs a class of Kafka's jars below a folder."""
    jars = ":".join(str(jar) for jar in sorted((folder / "libs").glob("*.jar")))
    return ["java", *_QUIET, *options, "-cp", jars, main, *words]


@dataclass
class BrokerNode:
    """One broker, which is also a controller."""

    number: int
    folder: Path
    port: int
    controller_port: int
    listeners: Mapping[str, int] = field(default_factory=dict)
    """The ports of further listeners, by name."""
    process: subprocess.Popen[str] | None = None
    pid: int = 0
    started: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def file(self) -> Path:
        """The settings."""
        return self.folder / "server.properties"

    @property
    def log(self) -> Path:
        """The output of the broker."""
        return self.folder / "server.log"

    def command(self, home: Path, options: Sequence[str]) -> list[str]:
        """Return the command that runs the broker, with Kafka's folder and options of Java."""
        return java_command(home, options, _MAIN, str(self.file))

    def start(self, home: Path, options: Sequence[str]) -> None:
        """Start the broker, which ends with this process."""
        self.started, self.ended = threading.Event(), threading.Event()
        command = self.command(home, options)
        self.process = subprocess.Popen(  # noqa: S603 - our own command
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
                if STARTED in line:
                    started.set()
        ended.set()
        started.set()

    def wait(self) -> None:
        """Wait until the broker is ready; raise `BrokerError` if it ends before."""
        if not self.started.wait(START_S) or self.ended.is_set():
            raise BrokerError(
                f"broker {self.number} did not start:\n" + "\n".join(self.log.read_text().splitlines()[-20:])
            )

    def end(self, how: signal.Signals) -> None:
        """End the broker with a signal, if it runs."""
        if self.process is None:
            return
        if not self.ended.is_set():
            os.kill(self.pid, how)
            if how == signal.SIGTERM and not self.ended.wait(STOP_S):
                os.kill(self.pid, signal.SIGKILL)
            self.ended.wait(STOP_S)
        assert self.process.stdin is not None  # noqa: S101 - it is a pipe
        self.process.stdin.close()
        self.process.wait(STOP_S)
        assert self.process.stdout is not None  # noqa: S101 - likewise
        self.process.stdout.close()
        self.process = None


def properties_of(
    node: BrokerNode,
    nodes: Sequence[BrokerNode],
    settings: Mapping[str, str],
    listeners: Mapping[str, Listener],
) -> str:
    """Return the settings of a broker as the text of `server.properties`."""
    further = "".join(f",{name}://127.0.0.1:{node.listeners[name]}" for name in listeners)
    protocols = "".join(f",{name}:{each.protocol}" for name, each in listeners.items())
    copies = str(min(3, len(nodes)))
    lines = {
        "process.roles": "broker,controller",
        "node.id": str(node.number),
        "listeners": f"PLAINTEXT://127.0.0.1:{node.port},CONTROLLER://127.0.0.1:{node.controller_port}{further}",
        "inter.broker.listener.name": "PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": f"PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}",
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
        **{name: value for each in listeners.items() for name, value in each[1].properties(each[0]).items()},
        **settings,
    }
    return "".join(f"{name}={value}\n" for name, value in lines.items())


def random_id() -> str:
    """Return the id of a new disk."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A", 1)
