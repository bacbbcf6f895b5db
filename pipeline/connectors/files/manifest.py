"""Manifests: text files that list the files which are complete, one path in a line."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from pathlib import Path

from pipeline.connectors.files.stores import FileStore, Wanted, is_remote
from pipeline.core.errors import Place, SourceError
from pipeline.core.splits import SourceObject


def listed_files(manifests: FileStore, files: FileStore, *, is_required: bool) -> frozenset[str]:
    """Return the locations of the files that manifests list, as the store of the files names them.

    A path is absolute, or relative to the folder of its manifest. Without a manifest, there are no files, unless one
    `is_required`: then it raises `SourceError`, as for a manifest that is not UTF-8.
    """
    found = manifests.source_objects("raise" if is_required else "accept")
    return frozenset(files.recorded([location for each in found for location in _locations(manifests, each)]))


def _locations(manifests: FileStore, manifest: SourceObject) -> Iterator[str]:
    with manifests.copies([Wanted(manifest)]) as (path,):
        content = Path(path).read_bytes()
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise SourceError(
            "the manifest is not text in UTF-8",
            got=str(error),
            do="write one path in a line",
            place=Place(manifest.uri),
        ) from error
    for line in filter(None, map(str.strip, lines)):
        yield line if is_remote(line) else posixpath.join(posixpath.dirname(manifest.uri), line)
