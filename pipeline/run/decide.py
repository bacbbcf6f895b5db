"""What a run does with a definition: a pure decision on facts already read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline.core.errors import SourceError
from pipeline.core.reading import Piece
from pipeline.core.staging import Manifest
from pipeline.kernel.scan import DataFile

Kind = Literal["skip", "append", "rebuild"]


@dataclass(frozen=True)
class Decision:
    """Skip, append what is new, or rebuild; why; and for an append, what is new."""

    kind: Kind
    reason: str
    pieces: tuple[Piece, ...] = ()
    """For a source: the pieces to read."""
    added: tuple[DataFile, ...] = field(default=(), repr=False)
    """For a table that appends: the new files of its driving input."""


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
        reason = "the definition changed" if redefined else f"{_name(changed[0])} changed"
        gone = [p.uri for p in manifest.pieces if p.uri not in now]
        if gone:
            raise SourceError(
                f"source {manifest.table!r} must be read again ({reason}), which would lose rows",
                got=f"{len(gone)} ingested file(s) no longer there, the first {gone[0]}",
                do="bring them back, or accept the loss with --full",
            )
        return Decision("rebuild", reason, pieces)
    known = {piece.uri for piece in manifest.pieces}
    new = tuple(piece for piece in pieces if piece.uri not in known)
    if not new:
        return Decision("skip", "no new files")
    return Decision("append", f"{len(new)} new file{'s' if len(new) > 1 else ''}", new)


def decide_table(fingerprint: str, manifest: Manifest | None, inputs: Inputs, *, full: bool = False) -> Decision:
    """Decide for a table from its manifest and its inputs."""
    if full:
        return Decision("rebuild", "--full")
    if manifest is None:
        return Decision("rebuild", "not made yet")
    if manifest.fingerprint != fingerprint:
        return Decision("rebuild", "the definition changed")
    changed = [
        name
        for name, version in inputs.versions.items()
        if (manifest.inputs.get(name), manifest.marks.get(name)) != (version, inputs.marks.get(name))
    ]
    if not changed:
        return Decision("skip", "up to date")
    if changed == [inputs.driving] and inputs.splits_alone and inputs.added is not None:
        rows = sum(file.rows for file in inputs.added)
        return Decision("append", f"{rows:,} new row{'s' * (rows != 1)} in {inputs.driving!r}", added=inputs.added)
    others = ", ".join(repr(name) for name in changed)
    return Decision("rebuild", f"{others} changed")


def _name(uri: str) -> str:
    return uri.rpartition("/")[2]
