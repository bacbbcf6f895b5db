"""A schema registry that others wrote, with Confluent's interface: `python -m tests.rigs.apicurio` downloads it into `.peers-registry`.

`make peers` runs it. It needs Maven, and Java 17 to run.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from cluster.local.ports import unused_port

FOLDER = Path(__file__).parents[2] / ".peers-registry"
VERSION = "3.0.9"  # later versions need Java 21
_ARTIFACT = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"
_GET = (
    "org.apache.maven.plugins:maven-dependency-plugin:2.8:get"  # later versions read the parents of its description too
)
_STARTS_S = 60


@contextmanager
def apicurio() -> Iterator[str]:
    """Start a registry in memory, and yield the address of its interface of Confluent's; skip the test without it."""
    java, program = shutil.which("java"), FOLDER / f"apicurio-registry-app-{VERSION}-runner.jar"
    if java is None or not program.exists():
        pytest.skip("Apicurio Registry is not installed: run `make peers` with Maven and Java 17 on the PATH")
    port = unused_port()
    options = [f"-Dquarkus.http.port={port}", "-Dquarkus.http.host=127.0.0.1"]
    server = subprocess.Popen(
        [java, *options, "-jar", str(program)], cwd=FOLDER, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
    try:
        until = time.monotonic() + _STARTS_S
        while not _answers(url):
            assert server.poll() is None, "the registry does not start"
            assert time.monotonic() < until, "the registry does not answer"
            time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/subjects", timeout=5).is_success
    except httpx.TransportError:
        return False


def main() -> None:
    """Download it, or print why that fails."""
    if shutil.which("mvn") is None:
        sys.stdout.write("Maven was not found: the test with Apicurio Registry is skipped\n")
        return
    if (FOLDER / f"apicurio-registry-app-{VERSION}-runner.jar").exists():
        return
    repository = FOLDER / "maven"
    archive = repository / f"io/apicurio/apicurio-registry-app/{VERSION}/apicurio-registry-app-{VERSION}-all.tar.gz"
    words = [
        "mvn",
        "-B",
        "-q",
        _GET,
        f"-Dartifact={_ARTIFACT}",
        "-Dtransitive=false",
        f"-Dmaven.repo.local={repository}",
    ]
    process = subprocess.run(words, capture_output=True, text=True, check=False)
    if process.returncode:
        reason = next((line for line in process.stdout.splitlines() if "ERROR" in line), "Maven failed")
        sys.stdout.write(f"Apicurio Registry cannot be downloaded, and its test is skipped: {reason}\n")
        return
    with tarfile.open(archive) as content:
        content.extractall(FOLDER, filter="data")
    shutil.rmtree(repository)


if __name__ == "__main__":
    main()
