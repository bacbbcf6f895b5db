"""The `headwater` command."""

from __future__ import annotations

import io
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command. Interrupts are handled from the start, also while modules are imported."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be valid text
    try:
        from cluster.cli.app import run  # noqa: PLC0415 - imports take about a second

        run()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in {"pipeline", "cluster", "ml", "serve"}:
            raise
        name, command = error.name or "a package", f"{sys.executable} -m pip install --upgrade headwater"
        sys.stderr.write(f"error: the package {name!r} is not installed; run {command}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        sys.exit(130)
