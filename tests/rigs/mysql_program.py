"""MySQL for tests: `python -m tests.rigs.mysql_program` unpacks it, with its libraries, into `.peers-mysql`.

`make peers` runs it. The releases of Debian have MariaDB only, and its development version has MySQL, which needs newer
libraries than the machine has. So nothing is installed: the packages are unpacked, and the server is started with the loader
of these libraries.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rigs.debian_packages import unpack

ROOT = Path(__file__).parents[2] / ".peers-mysql"
LIBRARIES = ROOT / "usr" / "lib" / "x86_64-linux-gnu"
_PACKAGES = (
    "mysql-server-core",
    *("libaio1t64", "libc6", "libcurl4t64", "libfido2-1", "libgcc-s1", "libgoogle-perftools4t64", "libicu78"),
    *("liblz4-1", "libmecab2", "libnuma1", "libprotobuf-lite32t64", "libprotobuf32t64", "libssl3t64", "libstdc++6"),
    *("libtcmalloc-minimal4t64", "libtirpc3t64", "libzstd1", "zlib1g"),
)
"""The server, and what it is linked with."""


def mysqld() -> list[str]:
    """Return the command of the server; skip the test if it is not there."""
    server, loader = ROOT / "usr" / "sbin" / "mysqld", LIBRARIES / "ld-linux-x86-64.so.2"
    if not server.exists() or not loader.exists():
        pytest.skip("MySQL is not unpacked: run `make peers` on a machine with Debian's apt-get")
    return [str(loader), "--library-path", str(LIBRARIES), str(server)]


def main() -> None:
    """Download and unpack the packages, or print why they cannot be had."""
    unpack("MySQL", ROOT, _PACKAGES)


if __name__ == "__main__":
    main()
