"""The manifests of a table, each under the hash of its content, which the commit carries."""

from __future__ import annotations

from pipeline.core.errors import StorageError
from pipeline.core.staging import Manifest, manifest_id_of
from pipeline.lake.storage import Storage


def manifest_name(manifest_id: int) -> str:
    """Return the path of a manifest below its table."""
    return f"_headwater/{manifest_id:016x}.json"


def read_manifest(storage: Storage, table: str, manifest_id: int) -> Manifest:
    """Read a manifest by its id; raise `StorageError`, caused by `FileNotFoundError` if it does not exist."""
    try:
        text = storage.read_text(manifest_name(manifest_id))
    except StorageError as error:
        raise StorageError(
            f"the manifest of table {table!r} is missing",
            got=error.got,
            do="restore the file, or recompute the table with --full",
        ) from error.__cause__
    if manifest_id_of(text) != manifest_id:
        raise StorageError(
            f"the manifest of table {table!r} is damaged",
            got=f"content that differs from what was committed in {manifest_name(manifest_id)}",
            do="restore the file, or recompute the table with --full",
        )
    return Manifest.from_json(text)
