"""Ray nodes on loopback, started before a measurement, in processes that can be measured and stopped."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cpu_share import limited
from cluster.local.ports import unused_port

RAY = Path(sys.executable).parent / "ray"
LOOPBACK = "127.0.0.2"
"""Not 127.0.0.1, because Ray replaces it with the machine's external address."""
START_S = 90
_WAIT = """
import ray, sys, time
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    time.sleep(0.2)
"""


@dataclass(frozen=True)
class Nodes:
    """A running cluster: its processes, and the environment variables that a process needs to join it."""

    pids: tuple[int, ...]
    environ: Mapping[str, str]


@contextmanager
def running(count: int = 1, cpus: int | None = None, share: float | None = None) -> Iterator[Nodes]:
    """Start nodes with `cpus` cores each (default: all), wait until they are connected, and stop them at the end.

    With a `share`, all processes of a node together get at most this many cores of the machine.
    """
    port = unused_port()
    address = f"{LOOPBACK}:{port}"
    keys = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environ = {**keys, "RAY_ADDRESS": address}
    with ExitStack() as stack:
        pids = []
        for number in range(count):
            role = ["--head", f"--port={port}", "--include-dashboard=false"] if not number else [f"--address={address}"]
            pids.append(stack.enter_context(_started(role, cpus or os.cpu_count() or 1, keys, share)))
            _wait(address, number + 1, environ)
        yield Nodes(tuple(pids), environ)


@contextmanager
def _started(role: list[str], cpus: int, keys: Mapping[str, str], share: float | None) -> Iterator[int]:
    options = [f"--node-ip-address={LOOPBACK}", f"--num-cpus={cpus}", "--disable-usage-stats"]
    command = [str(RAY), "start", "--block", *role, *options]
    with ExitStack() as stack:
        if share is not None:
            command = stack.enter_context(limited(share)).starting(command)
        process = subprocess.Popen(
            command,
            env={**os.environ, **keys},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield process.pid
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # after SIGTERM, it waits half a minute for Ray's own actors
            process.wait()


def _wait(address: str, count: int, environ: Mapping[str, str]) -> None:
    command = [sys.executable, "-c", _WAIT, address, str(count)]
    status = subprocess.run(
        command, env={**os.environ, **environ}, timeout=START_S, capture_output=True, text=True, check=False
    )
    if status.returncode:
        raise SystemExit(f"no Ray cluster of {count} on {address}:\n{status.stderr}")
