"""What a run does with a definition: a pure decision on facts already read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pipeline.core.errors import SourceError
from pipeline.core.reading import Piece
from pipeline.core.staging import Manifest
from pipeline.kernel.scan import DataFile

Kind = Literal["skip", "append", "merge", "rebuild"]


@dataclass(frozen=True)
class Decision:
    """Skip, append or merge what is new, or rebuild; why; and what is new."""

    kind: Kind
    reason: str
    pieces: tuple[Piece, ...] = ()
    """For a source: the pieces to read."""
    added: tuple[DataFile, ...] = field(default=(), repr=False)
    """For a table that appends or merges: the new files of its driving input."""
    removed: tuple[DataFile, ...] = field(default=(), repr=False)
    """The files of the driving input that are gone since: rows of the keys in them are replaced."""

    @property
    def takes_new(self) -> bool:
        """Whether only what is new is read, and joins what is there."""
        return self.kind in {"append", "merge"}


@dataclass(frozen=True)
class Inputs:
    """What is known of a table's inputs: their versions now, and what was added to the driving one."""

    versions: Mapping[str, int]
    marks: Mapping[str, int | None]
    driving: str
    added: tuple[DataFile, ...] | None
    """The files added to the driving input since it was consumed; `None` when it changed in another way."""
    splits_alone: bool
    """Whether the new rows of the driving input can be handled without the old ones."""
    merges: bool = False
    """Whether the table merges new rows by their key."""
    removed: tuple[DataFile, ...] = ()
    """The files of the driving input that went since it was consumed, where the table can follow that by its key."""
    rows: int = 0
    """The rows of the driving input now."""


def decide_source(
    fingerprint: str, manifest: Manifest | None, found: Sequence[Piece], *, full: bool = False
) -> Decision:
    """Decide for a source from its pieces now and those it consumed.

    Raises `SourceError` when it would have to be read again and some of what was read is no longer there.
    """
    pieces = tuple(found)
    if full:
        return Decision("rebuild", "--full", pieces)
    if manifest is None:
        return Decision("rebuild", "not made yet", pieces)
    now = {piece.uri: piece for piece in pieces}
    changed = [p.uri for p in manifest.pieces if p.uri in now and now[p.uri].stamp != p.stamp]
    redefined = manifest.fingerprint != fingerprint
    if redefined or changed:
        return _again(manifest, pieces, "the definition changed" if redefined else f"{_name(changed[0])} changed")
    known = {piece.uri for piece in manifest.pieces}
    new = tuple(piece for piece in pieces if piece.uri not in known)
    if not new:
        return Decision("skip", "no new files")
    return Decision("append", f"{len(new)} new file{'s' if len(new) > 1 else ''}", new)


def decide_reading(
    fingerprint: str, manifest: Manifest | None, found: Sequence[Piece], inputs: Inputs, *, full: bool = False
) -> Decision:
    """Decide for a table that reads a source which is not stored, from its pieces and the table's other inputs."""
    read = decide_source(fingerprint, manifest, found, full=full)
    if read.kind == "rebuild" or manifest is None:
        return read
    changed = _changed(manifest, inputs)
    if changed:
        return _again(manifest, tuple(found), f"{', '.join(map(repr, changed))} changed")
    if read.kind == "append" and not inputs.splits_alone:
        return _again(manifest, tuple(found), read.reason)
    return replace(read, kind="merge") if read.kind == "append" and inputs.merges else read


def _again(manifest: Manifest, pieces: tuple[Piece, ...], reason: str) -> Decision:
    """Read all pieces again; raise `SourceError` when some that were read are no longer there."""
    now = {piece.uri for piece in pieces}
    gone = [p.uri for p in manifest.pieces if p.uri not in now]
    if gone:
        raise SourceError(
            f"the source of {manifest.table!r} must be read again ({reason}), which would lose rows",
            got=f"{len(gone)} ingested file(s) no longer there, the first {gone[0]}",
            do="bring them back, or accept the loss with --full",
        )
    return Decision("rebuild", reason, pieces)


def decide_table(fingerprint: str, manifest: Manifest | None, inputs: Inputs, *, full: bool = False) -> Decision:
    """Decide for a table from its manifest and its inputs."""
    if full:
        return Decision("rebuild", "--full")
    if manifest is None:
        return Decision("rebuild", "not made yet")
    if manifest.fingerprint != fingerprint:
        return Decision("rebuild", "the definition changed")
    changed = _changed(manifest, inputs)
    if not changed:
        return Decision("skip", "up to date")
    if changed == [inputs.driving] and inputs.splits_alone and inputs.added is not None:
        return _take_new(inputs, inputs.added)
    others = ", ".join(repr(name) for name in changed)
    return Decision("rebuild", f"{others} changed")


def _changed(manifest: Manifest, inputs: Inputs) -> list[str]:
    """Return the inputs that are at another version than the one that was consumed."""
    return [
        name
        for name, version in inputs.versions.items()
        if (manifest.inputs.get(name), manifest.marks.get(name)) != (version, inputs.marks.get(name))
    ]


def _take_new(inputs: Inputs, added: tuple[DataFile, ...]) -> Decision:
    """Append or merge new rows; replace those of the keys in files that went, unless these are most of the input."""
    if not inputs.removed:
        rows = sum(file.rows for file in added)
        reason = f"{rows:,} new row{'s' * (rows != 1)} in {inputs.driving!r}"
        return Decision("merge" if inputs.merges else "append", reason, added=added)
    touched = max(sum(file.rows for file in added), sum(file.rows for file in inputs.removed))
    if touched > inputs.rows // 2:
        return Decision("rebuild", f"{inputs.driving!r} changed")
    reason = f"{touched:,} rows of {inputs.driving!r} are in files that were written again"
    return Decision("merge", reason, added=added, removed=inputs.removed)


def _name(uri: str) -> str:
    return uri.rpartition("/")[2]
