"""Downloads Apache Kafka from Maven Central once; a broker then starts in about one second."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cluster.local.kafka.node import CLUSTER_ID, START_S, BrokerNode, java_command, properties_of
from cluster.local.ports import unused_port
from pipeline.core.errors import StopError, UnavailableError

VERSION = "4.4.0"
_HERE = Path(__file__).parent
_CHECKOUT = _HERE.parents[2]
_FORMAT = "kafka.tools.StorageTool"
_FETCH_S = 900
_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>headwater</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{kafka}</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
</dependencies></project>
"""
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


def _default() -> Path:
    """Return where Kafka is kept: in a checkout of Headwater below it, otherwise in the user's cache."""
    if (_CHECKOUT / "pyproject.toml").is_file():
        return _CHECKOUT / ".kafka"
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "headwater" / "kafka"


def home() -> Path:
    """Return the folder of Kafka's jars ; missing jars are downloaded.

    It is below `HEADWATER_KAFKA`, the checkout of Headwater, or the cache of the user.

    Raises `UnavailableError` without Java 17, Maven, or access to Maven Central, and `StopError` for a jar whose
    checksum differs from `kafka.sha256`.
    """
    folder = Path(os.environ.get("HEADWATER_KAFKA") or _default()) / VERSION
    if shutil.which("java") is None:
        raise UnavailableError("Kafka needs Java 17: `java` was not found", do="install Java 17")
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
        node = BrokerNode(1, Path(scratch), unused_port(), unused_port())
        node.file.write_text(properties_of(node, (node,), {}, {}))
        _java(folder, (), _FORMAT, "format", "-t", CLUSTER_ID, "-c", str(node.file))
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
        process = subprocess.run(  # noqa: S603 - our own command
            ["mvn", "-B", "-q", "-f", str(pom), _COPY, "-DincludeScope=runtime", f"-DoutputDirectory={libs}"],  # noqa: S607 - from the path
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
        raise StopError("jars of Kafka do not match their checksums", got=", ".join(wrong), do="download them again")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock the folder, so that one process at a time fills it."""
    import fcntl  # noqa: PLC0415 - not available on Windows, where Kafka is not supported

    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _java(folder: Path, options: Sequence[str], main: str, *words: str) -> None:
    process = subprocess.run(  # noqa: S603 - our own command
        java_command(folder, options, main, *words), capture_output=True, text=True, check=False, timeout=START_S
    )
    if process.returncode:
        raise UnavailableError(f"Kafka cannot be set up: {(process.stdout + process.stderr).strip()[-500:]}")
