"""Servers for tests that are written in Go: `python -m tests.rigs.go_programs` builds them into `.peers-go`.

`make peers` runs it. `tests/rigs/<name>` has the main function of each, and the modules with their checksums.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCES = Path(__file__).parent
PROGRAMS = SOURCES.parents[1] / ".peers-go"


@dataclass(frozen=True)
class GoProgram:
    """A program: what it stands for in messages, and its build tags."""

    system: str
    tags: str = ""


BUILT: Mapping[str, GoProgram] = {
    "ferretdb": GoProgram("FerretDB", "ferretdb_no_hana"),
    "gcs": GoProgram("fake-gcs-server"),
    "pubsub": GoProgram("the fake of Pub/Sub"),
}


def go_program(name: str) -> str:
    """Return the path of a built program; skip the test if there is none."""
    program = PROGRAMS / name
    if not program.exists():
        pytest.skip(f"{BUILT[name].system} is not built: run `make peers` with Go on the PATH")
    return str(program)


def build(name: str, program: GoProgram) -> str | None:
    """Build a program; return the reason if this fails. Go itself decides what is up to date."""
    target = PROGRAMS / name
    words = ["go", "build", "-mod=readonly", "-buildvcs=false", f"-tags={program.tags}", "-o", str(target), "."]
    process = subprocess.run(words, cwd=SOURCES / name, capture_output=True, text=True, check=False)
    return None if process.returncode == 0 else (process.stderr.strip().splitlines() or ["go build failed"])[-1]


def main() -> None:
    """Build all programs, and print which cannot be built."""
    if shutil.which("go") is None:
        sys.stdout.write(f"Go was not found: tests with {' and '.join(p.system for p in BUILT.values())} are skipped\n")
        return
    for name, program in BUILT.items():
        if reason := build(name, program):
            sys.stdout.write(f"{program.system} cannot be built, and its tests are skipped: {reason}\n")


if __name__ == "__main__":
    main()
