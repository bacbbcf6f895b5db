"""Programs of Debian for tests: downloaded by `apt-get` with lists of its own and unpacked, so that nothing is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

_SOURCE = "Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
_SUITE = "sid"
"""The development version, which needs newer libraries than the machine has: programs are started with their own loader."""


def unpack(name: str, root: Path, packages: Sequence[str], *, dependencies: bool = False) -> None:
    """Download and unpack packages, or print why they cannot be had; with `dependencies`, also all that they need."""
    try:
        if not root.exists():
            _unpack(root, packages, dependencies=dependencies)
    except (OSError, subprocess.CalledProcessError) as error:
        errors = getattr(error, "stderr", "") or str(error)
        sys.stdout.write(f"{name} cannot be had, and its tests are skipped: {errors.strip().splitlines()[-1]}\n")


def _unpack(root: Path, packages: Sequence[str], *, dependencies: bool) -> None:
    targets = _output(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])
    uri = next((line for line in targets.splitlines() if line.rstrip("/").endswith("/debian")), None)
    if uri is None:
        raise OSError("apt-get has no repository of Debian")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for each in ("parts", "lists/partial", "cache/archives/partial", "debs"):
            (folder / each).mkdir(parents=True)
        (folder / "parts" / "unpacked.sources").write_text(_SOURCE.format(uri=uri, suite=_SUITE))
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
        if dependencies:
            _output([*apt, "install", "--download-only", "--yes", "--no-install-recommends", *packages])
        else:
            _output([*apt, "download", *packages], folder / "debs")
        for package in sorted(folder.rglob("*.deb")):
            _output(["dpkg-deb", "-x", str(package), str(folder / "root")])
        _point_within(folder / "root")
        shutil.move(folder / "root", root)


def _point_within(root: Path) -> None:
    """Let absolute links point to files below the root."""
    for path in list(root.rglob("*")):
        if (
            path.is_symlink()
            and (target := str(path.readlink())).startswith("/")
            and os.path.lexists(f"{root}{target}")
        ):
            path.unlink()
            path.symlink_to(os.path.relpath(f"{root}{target}", path.parent))


def _output(command: Sequence[str], folder: Path | None = None) -> str:
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
