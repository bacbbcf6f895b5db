"""Files that are written but not yet committed, and what a commit says about itself.

A **manifest** is the one record of how a table came to its newest version. It is written under the hash of
its content before the commit, and the commit carries that hash, so that data and bookkeeping change in one step.
Everything else (the quarantine, the catalog) is brought to what the manifest says afterwards, and can be again.
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
"""The format of the manifests that are written; earlier ones can be read."""
_IN_JSON = {"quarantined": "aside", "quarantine_mode": "aside_mode", "manifest_ids": "marks"}
"""The keys that fields have in the JSON of a manifest: they are part of its format."""
_FROM_JSON = {key: name for name, key in _IN_JSON.items()}
_STAMP = re.compile(r"\d+-\d+")
Mode = Literal["append", "overwrite", "merge"]
"""How files come to a table: beside what is there, in its place, or in the place of some of its files."""


@dataclass(frozen=True)
class StagedFile:
    """One Parquet file: its path below the table, and what the Delta log will say of it."""

    path: str
    size_bytes: int
    rows: int
    partition: Mapping[str, str | None]
    stats: str


class Stager(Protocol):
    """Writes rows as files under names that a retry of the same split writes again."""

    def stage(
        self, con: duckdb.DuckDBPyConnection, select: str, split: int, schema: Schema | None = None
    ) -> tuple[StagedFile, ...]:
        """Write the rows of a SELECT; no files for no rows. Invisible to readers until they are committed.

        `schema` is what the SELECT gives, where that is known.
        """

    def scan(self, files: Sequence[StagedFile]) -> str:
        """Return SQL for what stands after FROM to read staged files again."""


@dataclass(frozen=True)
class RowCounts:
    """The rows of one step: `rows_made = rows_out + quarantined + dropped + superseded + deletes`; none is uncounted.

    `rows_in` counts what was read from the driving input, `late` what a stream took too late for its window. For a
    merged table, `superseded` counts rows with a later one of their key, and `deletes` those that removed theirs.
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
        """The rows made of which nothing is known: 0, or there is a mistake in Headwater."""
        return self.rows_made - self.rows_out - self.quarantined - self.dropped - self.superseded - self.deletes

    def __add__(self, other: RowCounts) -> RowCounts:
        """Return the sum, field by field."""
        ours, theirs = asdict(self), asdict(other)
        return RowCounts(**{name: ours[name] + theirs[name] for name in ours})


@dataclass(frozen=True)
class Manifest:
    """How a table came to a version: the definition, the inputs consumed so far, and the last step's figures."""

    table: str
    run_id: str
    fingerprint: str
    mode: Mode
    inputs: Mapping[str, int] = field(default_factory=dict)
    """The version of each input table up to which it is consumed."""
    manifest_ids: Mapping[str, int | None] = field(default_factory=dict)
    """The marks of those versions: a table that was removed and made again has the numbers, but not the marks."""
    cursor: Cursor | None = None
    """How far the source that it reads is consumed."""
    gaps: Sequence[Gap] = ()
    """What of the source was lost before it was read, as the user accepted."""
    flow: RowCounts = field(default_factory=RowCounts)
    checks: Mapping[str, int] = field(default_factory=dict)
    """Violations by expectation."""
    quarantined: Sequence[StagedFile] = ()
    """Staged files of quarantined rows, to be committed to the quarantine."""
    quarantine_mode: Mode = "append"
    """Whether they come beside what is in the quarantine, or in its place."""
    tombstones: Sequence[StagedFile] = ()
    """For a merged table: files of the keys that were deleted, each with the sequence of its delete."""
    backfill: str = ""
    """The backfill that made this version: a hash of the definition and of the inputs that it reads."""
    backfilled: Sequence[str | None] = ()
    """The partitions that this backfill has done so far."""
    epoch: Epoch | None = None
    """For a streamed table: how far its stream is."""
    seconds: float = 0.0
    at: str = ""
    """When it was written, ISO 8601 in UTC."""
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """Return the manifest as JSON with sorted keys: the same manifest gives the same text."""
        parts = {_IN_JSON.get(name, name): value for name, value in asdict(self).items()}
        return json.dumps(parts, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Return what `to_json` wrote, in this or an earlier format; raise `StorageError` for a later one."""
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
        """The number a Delta transaction carries for this manifest: 63 bits of its SHA-256."""
        return manifest_id_of(self.to_json())


def _of_this_format(parts: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a manifest in today's format."""
    version, what = parts.get("format_version", 1), f"the manifest of table {parts.get('table')!r}"
    require_known(version, FORMAT_VERSION, what, "upgrade Headwater, or recompute the table: headwater run --full")
    if version == 1:  # listed what was consumed in place of a cursor
        pieces = parts.pop("pieces", ())
        parts = {"backfilled": (), "tombstones": (), "epoch": None, "gaps": (), **parts, "cursor": _listed(pieces)}
    return {**parts, "format_version": FORMAT_VERSION}


def _listed(pieces: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the cursor for pieces of format 1; offsets of logs were not in it, so theirs cannot be read."""
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
