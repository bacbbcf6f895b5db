"""The manifests of a table, each under the hash of its content, which the commit carries."""

from __future__ import annotations

from pipeline.core.errors import StorageError
from pipeline.core.staging import Manifest, manifest_id_of
from pipeline.lake.storage import Storage

_VERSION = ""
"""The version of manifests in the cache: their name already identifies their content."""


def manifest_name(manifest_id: int) -> str:
    """Return the path of a manifest below its table."""
    return f"_headwater/{manifest_id:016x}.json"


def write_manifest(storage: Storage, manifest: Manifest) -> None:
    """Write a manifest under its id; it is durable when this returns."""
    text = manifest.to_json()
    storage.write_text(manifest_name(manifest.manifest_id), text)
    storage.keep(manifest_name(manifest.manifest_id), _VERSION, text.encode())


def read_manifest(storage: Storage, table: str, manifest_id: int) -> Manifest:
    """Read a manifest by its id; raise `StorageError`, caused by `FileNotFoundError` if it does not exist."""
    name = manifest_name(manifest_id)
    try:
        cached = storage.cached(name, _VERSION)
        text = storage.read_text(name) if cached is None else cached.decode()
    except StorageError as error:
        raise StorageError(
            f"the manifest of table {table!r} is missing",
            got=error.got,
            do="restore the file, or recompute the table with --full",
        ) from error.__cause__
    if manifest_id_of(text) != manifest_id:
        raise StorageError(
            f"the manifest of table {table!r} is damaged",
            got=f"content that differs from what was committed in {name}",
            do="restore the file, or recompute the table with --full",
        )
    if cached is None:
        storage.keep(name, _VERSION, text.encode())
    return Manifest.from_json(text)
