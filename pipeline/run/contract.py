"""The contract that a table's rows are held to from one run to the next."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.core.definitions import Feed, Source, Stored
from pipeline.core.errors import SchemaError, SourceError
from pipeline.core.reading import PROVENANCE, Part
from pipeline.core.schema import Schema, compare
from pipeline.kernel.types import stored
from pipeline.lake import Version
from pipeline.run.decide import Decision
from pipeline.run.readers import reader_of
from pipeline.run.workspace import Workspace


def feed_contract(workspace: Workspace, feed: Feed, parts: Sequence[Part]) -> Schema:
    """Return the columns of a source that is not stored: those declared, else those of the tables that it reads."""
    return feed.schema if feed.schema.columns else inferred(workspace, feed, parts)


def inferred(workspace: Workspace, source: Source | Feed, parts: Sequence[Part]) -> Schema:
    """Return the columns of the first of a source's parts; raise `SourceError` when there is none."""
    if not parts:
        raise SourceError(
            f"source {source.name!r} has nothing yet to tell its columns by", do="give schema=", place=source.place
        )
    found = stored(reader_of(workspace, source).schema(parts[0].piece)).inferred()
    return found if source.event_time is None else source.event_time.in_rows(found, source.place)


def source_contract(
    workspace: Workspace, definition: Source, version: Version | None, decision: Decision, *, full: bool
) -> Schema:
    """Return the columns of a source: those declared, else those inferred from its first data.

    Raises `SchemaError` when a rebuild would infer other columns than before, unless `full` accepts them.
    """
    if definition.schema is not None:
        return definition.schema
    if version is None or full:
        return inferred(workspace, definition, decision.parts)
    before = version.schema.select(tuple(n for n in version.schema.names if n not in PROVENANCE)).inferred()
    if decision.kind == "rebuild":
        found = inferred(workspace, definition, decision.parts)
        change = compare(Schema.of(dict.fromkeys(before.names, "")), Schema.of(dict.fromkeys(found.names, "")))
        if change:
            raise SchemaError(
                f"source {definition.name!r} has other columns than before",
                got=str(change),
                do="accept them with --full, or declare schema=",
                place=definition.place,
            )
    return before


def require_same(definition: Stored, decision: Decision, version: Version | None, schema: Schema) -> None:
    """Raise `SchemaError` when rows to append or merge have other columns or types than those already there."""
    if not decision.takes_new or version is None:
        return
    change = compare(version.schema, schema)
    if change:
        raise SchemaError(
            f"table {definition.name!r} gives other columns for the new rows than for the old ones",
            got=str(change),
            do="cast them in the definition, or recompute it with --full",
            place=definition.place,
        )
