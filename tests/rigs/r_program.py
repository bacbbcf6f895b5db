"""R for tests: `python -m tests.rigs.r_program` unpacks it, with the packages that `r/headwater.R` needs, into `.peers-r`.

`make peers` runs it. The packages are those of Debian, whose development version has arrow.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.rigs.debian_packages import unpack

ROOT = Path(__file__).parents[2] / ".peers-r"
_PACKAGES = ("r-base-core", "r-cran-arrow", "r-cran-curl", "r-cran-dplyr", "r-cran-jsonlite")


def run_r(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script of R in a folder; skip the test if R is not there."""
    libraries, home = ROOT / "usr" / "lib" / "x86_64-linux-gnu", ROOT / "usr" / "lib" / "R"
    loader = libraries / "ld-linux-x86-64.so.2"
    if not loader.exists():
        pytest.skip("R is not unpacked: run `make peers` on a machine with Debian's apt-get")
    paths = ":".join(map(str, (home / "lib", libraries, libraries / "blas", libraries / "lapack")))
    command = [
        loader,
        "--library-path",
        paths,
        home / "bin" / "exec" / "R",
        "--no-echo",
        "--vanilla",
        "--file=script.R",
    ]
    (folder / "script.R").write_text(script, encoding="utf-8")
    environment = {
        "R_HOME": str(home),
        "R_SHARE_DIR": str(ROOT / "usr" / "share" / "R" / "share"),
        "R_DOC_DIR": str(ROOT / "usr" / "share" / "R" / "doc"),
        "R_LIBS": str(home / "site-library"),
        "TZDIR": str(ROOT / "usr" / "share" / "zoneinfo"),
        "LC_ALL": "C.UTF-8",
        "TZ": "Europe/Berlin",
        "EDITOR": "vi",
        "PAGER": "cat",
    }
    return subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=120
    )


def main() -> None:
    """Download and unpack R, or print why it cannot be had."""
    unpack("R", ROOT, _PACKAGES, dependencies=True)
    settings = ROOT / "usr" / "lib" / "R" / "etc" / "Renviron"
    if settings.parent.exists():
        settings.unlink(missing_ok=True)  # a link to a file that only an installation writes
        settings.touch()


if __name__ == "__main__":
    main()
