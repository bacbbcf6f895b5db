"""A project that Ray Serve serves from a process of its own, and the processes of its replicas."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.local.ports import unused_port

PROGRAM = """
import json, sys
from serve.deployment import deploy
from serve.deployment.replicas import Replicas

port, direct, replicas = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
deploy.start(sys.argv[1], port=port, direct_port=direct, replicas=Replicas(**json.loads(replicas)))
print("ready", flush=True)
arguments = (sys.argv[1], "dev", ("127.0.0.1", direct), None, None)
for line in sys.stdin:
    deploy._deploy(arguments, {"num_replicas": int(line)})
    print("deployed", flush=True)
deploy.stop()
"""


@dataclass(frozen=True)
class ServedProject:
    """A running server."""

    process: subprocess.Popen[str]
    url: str
    direct_url: str

    def deploy(self, replicas: int) -> None:
        """Deploy again with a number of replicas, and wait until they run."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{replicas}\n")
        self.process.stdin.flush()
        self._expect("deployed")

    def replicas(self) -> set[int]:
        """Return the processes that listen on the direct port."""
        return listeners(int(self.direct_url.rpartition(":")[2]))

    def wait_for_replicas(self, number: int, *, but: Sequence[int] = (), within_s: float = 90) -> set[int]:
        """Return the processes of the replicas as soon as there are this many, and none of some."""
        until = time.monotonic() + within_s
        while len(found := self.replicas()) != number or not found.isdisjoint(but):
            assert time.monotonic() < until, f"there are {len(found)} replicas"
            time.sleep(0.1)
        return found

    def _expect(self, line: str) -> None:
        assert self.process.stdout is not None
        read = self.process.stdout.readline()
        assert read == f"{line}\n", read


@contextmanager
def served_project(root: Path, **replicas: float) -> Iterator[ServedProject]:
    """Serve a project until the context ends, with a number of replicas as `Replicas` has it."""
    port, direct = unused_port(), unused_port()
    environ = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", PROGRAM, str(root), str(port), str(direct), json.dumps(replicas)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ) as process:
        try:
            served = ServedProject(process, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{direct}")
            served._expect("ready")  # noqa: SLF001 - of this module
            yield served
        finally:
            if process.poll() is None:
                process.communicate(timeout=120)


def listeners(port: int) -> set[int]:
    """Return the processes that listen on a port of IPv4."""
    local = f":{port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {f"socket:[{words[9]}]" for words in lines if words[1].endswith(local) and words[3] == "0A"}
    found = set()
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(str(each.readlink()) in inodes for each in folder.iterdir()):
                found.add(int(folder.parent.name))
        except OSError:
            continue  # it has ended, or belongs to another user
    return found
