"""An object store on loopback: SeaweedFS, one process with master, volume, filer and S3 gateway."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks.object_store import KEY as KEY  # noqa: PLC0414 - for tests
from benchmarks.object_store import SECRET as SECRET  # noqa: PLC0414 - for tests
from benchmarks.object_store import credentials, object_store
from pipeline.core.errors import UnavailableError
from pipeline.lake import Storage

BUCKET = "lake"


@dataclass(frozen=True)
class S3:
    """A running store: its address and the settings of its clients."""

    port: int
    ports: Mapping[str, int] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def storage(self, name: str, *, port: int | None = None, **options: str) -> Storage:
        """Return a location in the bucket, accessed through another port (a proxy's) if given."""
        endpoint = self.endpoint if port is None else f"http://127.0.0.1:{port}"
        return Storage(f"s3://{BUCKET}/{name}", {**credentials(endpoint), **options})

    def environment(self, folder: Path, lake: str, *, port: int | None = None, **options: str) -> str:
        """Return the sections of a `headwater.toml` with a lake in the bucket; the secret is in a file of the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "secret").write_text(SECRET)
        settings = self.storage(lake, port=port, **options).options
        settings = {**settings, "AWS_SECRET_ACCESS_KEY": f"${{file:{folder / 'secret'}}}"}
        lines = "".join(f'"{name}" = "{value}"\n' for name, value in settings.items())
        return f'[env.dev]\nlake = "s3://{BUCKET}/{lake}"\n[env.dev.storage]\n{lines}'

    def table_bucket(self, name: str) -> TableBucket:
        """Create a bucket of Iceberg tables, with a REST catalog."""
        master, filer = (f"127.0.0.1:{self.ports[n]}.{self.ports[f'{n}.grpc']}" for n in ("master.port", "filer.port"))
        weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or "weed"
        done = subprocess.run(
            [weed, "shell", f"-master={master}", f"-filer={filer}"],
            input=f"s3tables.bucket -create -name {name} -account admin\n",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if "ARN:" not in done.stdout:
            pytest.fail(f"SeaweedFS did not create a bucket of tables: {done.stdout}{done.stderr}")
        return TableBucket(self, name)


@dataclass(frozen=True)
class TableBucket:
    """A bucket of Iceberg tables."""

    store: S3
    name: str

    @property
    def properties(self) -> dict[str, str]:
        """The properties of its REST catalog."""
        return {
            "type": "rest",
            "uri": f"http://127.0.0.1:{self.store.ports['s3.port.iceberg']}",
            "warehouse": f"s3://{self.name}",
            "credential": f"{KEY}:{SECRET}",
            "oauth2-server-uri": f"http://127.0.0.1:{self.store.ports['s3.port.iceberg']}/v1/oauth/tokens",
            "s3.endpoint": self.store.endpoint,
            "s3.access-key-id": KEY,
            "s3.secret-access-key": SECRET,
            "s3.region": "us-east-1",
        }

    def catalog(self) -> Any:
        from pyiceberg.catalog import load_catalog  # noqa: PLC0415 - an extra

        return load_catalog("rig", **self.properties)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    pytest.importorskip("s3fs", reason="the extra headwater[s3] is not installed")
    with ExitStack() as stack:
        try:
            ports = stack.enter_context(object_store())
        except UnavailableError as error:
            pytest.skip(str(error))
        store = S3(ports["s3.port"], ports)
        store.storage("").filesystem().mkdir(BUCKET)
        yield store
