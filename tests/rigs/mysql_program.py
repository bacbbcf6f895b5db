"""MySQL for tests: `python -m tests.rigs.mysql_program` unpacks it, with its libraries, into `.peers-mysql`.

`make peers` runs it. The releases of Debian have MariaDB only, and its development version has MySQL, which needs newer
libraries than the machine has. So nothing is installed: the packages are downloaded by `apt-get` with lists of its own,
unpacked, and the server is started with the loader of these libraries.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / ".peers-mysql"
LIBRARIES = ROOT / "usr" / "lib" / "x86_64-linux-gnu"
_SUITE = "sid"
_PACKAGES = (
    "mysql-server-core",
    *("libaio1t64", "libc6", "libcurl4t64", "libfido2-1", "libgcc-s1", "libgoogle-perftools4t64", "libicu78"),
    *("liblz4-1", "libmecab2", "libnuma1", "libprotobuf-lite32t64", "libprotobuf32t64", "libssl3t64", "libstdc++6"),
    *("libtcmalloc-minimal4t64", "libtirpc3t64", "libzstd1", "zlib1g"),
)
"""The server, and what it is linked with."""
_SOURCE = "Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"


def mysqld() -> list[str]:
    """Return the command of the server; skip the test if it is not there."""
    server, loader = ROOT / "usr" / "sbin" / "mysqld", LIBRARIES / "ld-linux-x86-64.so.2"
    if not server.exists() or not loader.exists():
        pytest.skip("MySQL is not unpacked: run `make peers` on a machine with Debian's apt-get")
    return [str(loader), "--library-path", str(LIBRARIES), str(server)]


def main() -> None:
    """Download and unpack the packages, or print why they cannot be had."""
    try:
        _unpack()
    except (OSError, subprocess.CalledProcessError) as error:
        errors = getattr(error, "stderr", "") or str(error)
        sys.stdout.write(f"MySQL cannot be had, and its tests are skipped: {errors.strip().splitlines()[-1]}\n")


def _unpack() -> None:
    if ROOT.exists():
        return
    targets = _output(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])
    uri = next((line for line in targets.splitlines() if line.rstrip("/").endswith("/debian")), None)
    if uri is None:
        raise OSError("apt-get has no repository of Debian")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for each in ("parts", "lists/partial", "cache/archives/partial", "debs"):
            (folder / each).mkdir(parents=True)
        (folder / "parts" / "mysql.sources").write_text(_SOURCE.format(uri=uri, suite=_SUITE))
        settings = {
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": folder / "parts",
            "Dir::State::lists": folder / "lists",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": folder / "cache",
            "APT::Sandbox::User": "root",
        }
        apt = ["apt-get", "-q", *(word for key, value in settings.items() for word in ("-o", f"{key}={value}"))]
        _output([*apt, "update"])
        _output([*apt, "download", *_PACKAGES], folder / "debs")
        for package in sorted((folder / "debs").glob("*.deb")):
            _output(["dpkg-deb", "-x", str(package), str(folder / "root")])
        shutil.move(folder / "root", ROOT)


def _output(command: Sequence[str], folder: Path | None = None) -> str:
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
