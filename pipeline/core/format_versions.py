"""Versions of what is kept on disk. Each has a number of its own, counted from 1, and is written in its newest version.

What was written before formats had numbers is version 1. Earlier versions are read; one that is not known is refused.
"""

from __future__ import annotations

from pipeline.core.errors import StorageError


def require_known(version: object, newest: int, what: str, do: str) -> None:
    """Raise `StorageError` for a version of a format that is later than the newest one known here, or is no version."""
    if not isinstance(version, int) or not 1 <= version <= newest:
        raise StorageError(
            f"{what} was written by a later version of Headwater",
            got=f"format {version}; this version reads formats up to {newest}",
            do=do,
        )
