"""Servers and data for tests that are packages of npm: `python -m tests.rigs.npm_programs` installs them into `.peers-npm`.

`make peers` runs it. Scripts of the packages are not run.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parents[2] / ".peers-npm"
AZURITE = "azurite@3.35.0"  # later versions need Node 22
DATASETS = "vega-datasets@3.2.1"
GRAPHQL = ("graphql@16.12.0", "graphql-http@1.23.1", "graphql-ws@6.4.2", "ws@8.18.3")  # clients and audits
OIDC_PROVIDER = "oidc-provider@9.13.3"
TYPESCRIPT = ("typescript@5.9.3", "@types/node@20.19.25")


def npm_program(name: str) -> list[str]:
    """Return the command of an installed program; skip the test if it is not installed."""
    node, program = shutil.which("node"), PACKAGES / "node_modules" / ".bin" / name
    if node is None or not program.exists():
        pytest.skip(f"{name} is not installed: run `make peers` with Node on the PATH")
    return [node, str(program)]


def npm_file(name: str) -> Path:
    """Return a file of an installed package; skip the test if it is not installed."""
    file = PACKAGES / "node_modules" / name
    if not file.exists():
        pytest.skip(f"{name} is not installed: run `make peers` with Node on the PATH")
    return file


def main() -> None:
    """Install the packages, or print why they cannot be installed."""
    npm = shutil.which("npm")
    if npm is None:
        sys.stdout.write("Node was not found: tests with its packages are skipped\n")
        return
    PACKAGES.mkdir(exist_ok=True)
    words = [
        npm,
        "install",
        "--prefix",
        str(PACKAGES),
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        AZURITE,
        DATASETS,
        *GRAPHQL,
        OIDC_PROVIDER,
        *TYPESCRIPT,
    ]
    process = subprocess.run(words, capture_output=True, text=True, check=False)
    if process.returncode:
        reason = (process.stderr.strip().splitlines() or ["npm failed"])[-1]
        sys.stdout.write(f"packages of npm cannot be installed, and their tests are skipped: {reason}\n")


if __name__ == "__main__":
    main()
