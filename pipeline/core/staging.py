"""Staged files, which are written but not yet committed, and the manifest of a commit.

A **manifest** records how a version of a table was created. It is written under the hash of its content before the
commit, and the commit contains that hash, so data and metadata change atomically. The quarantine and the catalog are
updated from the manifest after the commit; this is idempotent.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pipeline.core.cursors import Cursor, Gap
from pipeline.core.epochs import Epoch, epoch_of
from pipeline.core.format_versions import require_known
from pipeline.core.schema import Schema

if TYPE_CHECKING:
    import duckdb

FORMAT_VERSION = 2
"""The format version of new manifests; earlier versions can be read."""
_IN_JSON = {"quarantined": "aside", "quarantine_mode": "aside_mode", "manifest_ids": "marks"}
"""The JSON keys of fields whose names differ; they are part of the manifest format."""
_FROM_JSON = {key: name for name, key in _IN_JSON.items()}
_STAMP = re.compile(r"\d+-\d+")
Mode = Literal["append", "overwrite", "merge"]
"""How a commit adds files: in addition to the existing files, replacing all of them, or replacing some of them."""


@dataclass(frozen=True)
class StagedFile:
    """A Parquet file: its path relative to the table, and its entry in the Delta log."""

    path: str
    size_bytes: int
    rows: int
    partition: Mapping[str, str | None]
    stats: str


class Stager(Protocol):
    """Writes rows to files. A retry of the same split writes the same file names."""

    def stage(
        self, con: duckdb.DuckDBPyConnection, select: str, split: int, schema: Schema | None = None
    ) -> tuple[StagedFile, ...]:
        """Write the rows of a SELECT; an empty result writes no files. Files are invisible to readers until committed.

        `schema` is the schema of the SELECT, if it is known.
        """

    def scan(self, files: Sequence[StagedFile]) -> str:
        """Return a FROM clause item that reads staged files."""


@dataclass(frozen=True)
class RowCounts:
    """The row counts of a step: `rows_made = rows_out + quarantined + dropped + superseded + deletes`.

    `rows_in` counts rows read from the driving input, `late` counts rows that a stream received too late for their
    window. For a merged table, `superseded` counts rows replaced by a later row of their key, `deletes` counts deletes.
    """

    rows_in: int = 0
    rows_made: int = 0
    rows_out: int = 0
    quarantined: int = 0
    dropped: int = 0
    late: int = 0
    bytes_in: int = 0
    superseded: int = 0
    deletes: int = 0

    @property
    def uncounted(self) -> int:
        """The rows that are not accounted for; a value other than 0 is a bug in Headwater."""
        return self.rows_made - self.rows_out - self.quarantined - self.dropped - self.superseded - self.deletes

    def __add__(self, other: RowCounts) -> RowCounts:
        """Return the sum, field by field."""
        ours, theirs = asdict(self), asdict(other)
        return RowCounts(**{name: ours[name] + theirs[name] for name in ours})


@dataclass(frozen=True)
class Manifest:
    """The metadata of a version of a table: the definition, the inputs consumed so far, and the counts of the step."""

    table: str
    run_id: str
    fingerprint: str
    mode: Mode
    inputs: Mapping[str, int] = field(default_factory=dict)
    """The last consumed version of each input table."""
    manifest_ids: Mapping[str, int | None] = field(default_factory=dict)
    """The manifest ids of those versions; they differ for a table that was dropped and recreated."""
    cursor: Cursor | None = None
    """How far the source is consumed."""
    gaps: Sequence[Gap] = ()
    """Offsets of the source that were lost before they were read, and accepted by the user."""
    flow: RowCounts = field(default_factory=RowCounts)
    checks: Mapping[str, int] = field(default_factory=dict)
    """Violations by expectation."""
    quarantined: Sequence[StagedFile] = ()
    """Staged files of quarantined rows, to be committed to the quarantine."""
    quarantine_mode: Mode = "append"
    """Whether these files are added to the quarantine or replace it."""
    tombstones: Sequence[StagedFile] = ()
    """For a merged table: files with the deleted keys and the sequence of each delete."""
    backfill: str = ""
    """The id of the backfill that created this version: a hash of the definition and its inputs."""
    backfilled: Sequence[str | None] = ()
    """The partitions that this backfill has completed so far."""
    epoch: Epoch | None = None
    """For a streamed table: the epoch of its stream."""
    seconds: float = 0.0
    at: str = ""
    """When the manifest was written, as ISO 8601 in UTC."""
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """Return the manifest as JSON with sorted keys, so that equal manifests have equal texts."""
        parts = {_IN_JSON.get(name, name): value for name, value in asdict(self).items()}
        return json.dumps(parts, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Return the manifest from JSON in this or an earlier format; raise `StorageError` for a later format."""
        parts = _of_this_format(json.loads(text))
        parts = {_FROM_JSON.get(name, name): value for name, value in parts.items()}
        parts["cursor"] = None if parts["cursor"] is None else Cursor(**parts["cursor"])
        parts["gaps"] = tuple(Gap(**gap) for gap in parts["gaps"])
        parts["quarantined"] = tuple(StagedFile(**file) for file in parts["quarantined"])
        parts["backfilled"] = tuple(parts["backfilled"])
        parts["tombstones"] = tuple(StagedFile(**file) for file in parts["tombstones"])
        parts["flow"] = RowCounts(**parts["flow"])
        parts["epoch"] = None if parts["epoch"] is None else epoch_of(parts["epoch"])
        return cls(**parts)

    @property
    def manifest_id(self) -> int:
        """The number that identifies this manifest in the Delta log: 63 bits of its SHA-256."""
        return manifest_id_of(self.to_json())


def _of_this_format(parts: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a manifest in the current format."""
    version, what = parts.get("format_version", 1), f"the manifest of table {parts.get('table')!r}"
    require_known(version, FORMAT_VERSION, what, "upgrade Headwater, or recompute the table: headwater run --full")
    if version == 1:  # lists the consumed source objects instead of a cursor
        pieces = parts.pop("pieces", ())
        parts = {"backfilled": (), "tombstones": (), "epoch": None, "gaps": (), **parts, "cursor": _listed(pieces)}
    return {**parts, "format_version": FORMAT_VERSION}


def _listed(pieces: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the cursor for the source objects of format 1; it has no offsets of logs, so those cannot be read."""
    if not pieces:
        return None
    stamps = {str(piece["uri"]): str(piece["stamp"]) for piece in pieces}
    if not all(_STAMP.fullmatch(stamp) for stamp in stamps.values()):
        return {"kind": "offsets", "value": {}, "format_version": 0}
    files = {uri: [*map(int, stamp.split("-")), ""] for uri, stamp in stamps.items()}
    return {"kind": "files", "value": {"files": files}, "format_version": 1}


def manifest_id_of(text: str) -> int:
    """Return the first 63 bits of a text's SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
