"""The `headwater` command."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command; an interrupt is answered from the first moment on."""
    try:
        from cluster.cli.app import run  # noqa: PLC0415 - the imports are the first second of a command

        run()
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        sys.exit(130)
