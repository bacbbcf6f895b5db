"""Clients of OData for tests: `python -m tests.rigs.odata_clients` installs them into `.peers-odata`; `make peers` runs it.

Apache Olingo's is from Maven Central and needs Java 17, npm's `@odata/client` needs Node. Scripts of packages are not run.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

HOME = Path(__file__).parents[2] / ".peers-odata"
_HERE = Path(__file__).parent
_NODE_CLIENT = "@odata/client@2.21.10"
_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>headwater</groupId>
  <artifactId>olingo-client</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.olingo</groupId>
      <artifactId>odata-client-core</artifactId>
      <version>5.0.0</version>
    </dependency>
  </dependencies>
</project>
"""


def olingo(url: str, key: str) -> list[str]:
    """Run the program of Olingo's client against a service; return the lines that it prints."""
    java, jars = shutil.which("java"), HOME / "jars.txt"
    if java is None or not jars.exists():
        pytest.skip("Apache Olingo is not installed: run `make peers` with Java 17 and Maven on the PATH")
    return _lines([java, "-cp", jars.read_text(), str(_HERE / "OlingoClient.java"), url, key], HOME)


def node_client(url: str, key: str) -> list[str]:
    """Run the program of `@odata/client` against a service; return the lines that it prints."""
    node = shutil.which("node")
    if node is None or not (HOME / "node_modules" / "@odata" / "client").exists():
        pytest.skip("@odata/client is not installed: run `make peers` with Node on the PATH")
    program = HOME / "odata_client.js"  # packages are looked up beside the program
    program.write_text((_HERE / "odata_client.js").read_text())
    return _lines([node, str(program), url, key], HOME)


def _lines(words: Sequence[str], folder: Path) -> list[str]:
    process = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120, cwd=folder)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout.splitlines()


def main() -> None:
    """Install the clients, or print why they cannot be installed."""
    HOME.mkdir(exist_ok=True)
    (HOME / "pom.xml").write_text(_POM)
    jars = ["-q", "-B", "dependency:build-classpath", f"-Dmdep.outputFile={HOME / 'jars.txt'}"]
    _install("Apache Olingo", "mvn", jars)
    _install(
        "@odata/client",
        "npm",
        ["install", "--prefix", str(HOME), "--ignore-scripts", "--no-audit", "--no-fund", _NODE_CLIENT],
    )


def _install(name: str, program: str, words: Sequence[str]) -> None:
    path = shutil.which(program)
    if path is None:
        sys.stdout.write(f"{program} was not found: tests with {name} are skipped\n")
        return
    process = subprocess.run([path, *words], capture_output=True, text=True, check=False, cwd=HOME)
    if process.returncode:
        reason = ((process.stdout + process.stderr).strip().splitlines() or [f"{program} failed"])[-1]
        sys.stdout.write(f"{name} cannot be installed, and its tests are skipped: {reason}\n")


if __name__ == "__main__":
    main()
