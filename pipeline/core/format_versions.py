"""Versions of the formats on disk. Each format is numbered separately, from 1, and written in its newest version.

Data without a version number is version 1. Earlier versions can be read; unknown versions are rejected.
"""

from __future__ import annotations

from pipeline.core.errors import StorageError


def require_known(version: object, newest: int, what: str, do: str) -> None:
    """Raise `StorageError` if a format version is later than the newest known one, or is not a version number."""
    if not isinstance(version, int) or not 1 <= version <= newest:
        raise StorageError(
            f"{what} was written by a later version of Headwater",
            got=f"format {version}; this version reads formats up to {newest}",
            do=do,
        )
