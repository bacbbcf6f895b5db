"""The contract that a table's rows are held to from one run to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.core.cursors import Bound
from pipeline.core.definitions import Feed, Source
from pipeline.core.errors import SourceError, SourceUnavailableError
from pipeline.core.schema import Schema
from pipeline.core.sources import PROVENANCE, Evolvable, Reader
from pipeline.core.splits import SourceObject, SourceSplit
from pipeline.kernel.types import stored
from pipeline.project.readers import LogReader, reader_of
from pipeline.project.workspace import Workspace

_SAMPLED_RECORDS = 1 << 18
"""How many records of a partition a start of a stream looks at for columns: as many as it takes at once."""


def feed_contract(workspace: Workspace, feed: Feed, parts: Sequence[SourceSplit]) -> Schema:
    """Return the columns of a source that is not stored: those declared, else those of the tables that it reads."""
    return feed.schema if feed.schema.columns else inferred(workspace, feed, parts)


def inferred(workspace: Workspace, source: Source | Feed, parts: Sequence[SourceSplit]) -> Schema:
    """Return the columns of the first of a source's parts; raise `SourceError` when there is none."""
    if not parts:
        raise SourceError(
            f"source {source.name!r} has nothing yet to tell its columns by", do="give schema=", place=source.place
        )
    columns = stored(reader_of(workspace, source).schema(parts[0].piece)).inferred()
    return columns if source.event_time is None else source.event_time.in_rows(columns, source.place)


def stream_contract(workspace: Workspace, definition: Source | Feed, log: LogReader) -> Schema:
    """Return the columns of a source that is streamed: those declared, else inferred, and those that are added.

    These are the columns of its table, and of what its log holds and the table does not have yet, up to a bound.
    """
    is_declared = definition.schema is not None and bool(definition.schema.columns)
    if not isinstance(definition, Source) or definition.new_columns != "add":
        if definition.schema is not None and is_declared:
            return definition.schema
        return inferred(workspace, definition, log.plan(None, Bound(rows=1)).parts)
    version = workspace.version(definition.name, lenient=True)
    epoch = None if version is None or version.manifest is None else version.manifest.epoch
    read = {} if epoch is None else epoch.inputs[definition.name].offsets
    parts = _unread(log, read)
    if version is not None:
        return grown(workspace, definition, with_declared(definition, own_columns(version.schema).inferred()), parts)
    return fresh_contract(workspace, definition, parts)


def _unread(log: LogReader, read: Mapping[str, int]) -> tuple[SourceSplit, ...]:
    """Return what a log holds beyond offsets that were read: a partition that is taken whole, else its next records."""
    splits = []
    for uri, extent in sorted(log.extents().items()):
        begin, is_whole = max(read.get(uri, extent.begin), extent.begin), log.traits.has_whole_partitions
        if begin < extent.end:
            end = None if is_whole else min(extent.end, begin + _SAMPLED_RECORDS)
            splits.append(SourceSplit(SourceObject(uri, extent.end - begin, extent.stamp), begin, end, begin or 1))
    return tuple(splits)


def with_declared(definition: Source, inferred_columns: Schema) -> Schema:
    """Return columns that were found, with those that are declared in their place and before them."""
    declared = Schema(()) if definition.schema is None else definition.schema
    if declared.columns and definition.new_columns != "add":
        return declared
    known = set(declared.names)
    return Schema((*declared.columns, *(c for c in inferred_columns.columns if c.name not in known)))


def own_columns(schema: Schema) -> Schema:
    """Return the columns of a source's table without those of the provenance."""
    return schema.select(tuple(name for name in schema.names if name not in PROVENANCE))


def grown(workspace: Workspace, source: Source, contract: Schema, parts: Sequence[SourceSplit]) -> Schema:
    """Return a contract with the columns that parts add, where the source is to have them.

    Each has the type that the first part with it tells.
    """
    if source.new_columns != "add":
        return contract
    reader = reader_of(workspace, source)
    for part in parts:
        contract = Schema((*contract.columns, *_beyond(reader, part, contract).columns))
    return contract


def _beyond(reader: Reader, part: SourceSplit, contract: Schema) -> Schema:
    try:
        added = reader.beyond(part, contract) if isinstance(reader, Evolvable) else Schema(())
    except SourceUnavailableError:
        raise
    except SourceError:
        return Schema(())  # reading the part says what it is
    return stored(added).inferred()


def fresh_contract(workspace: Workspace, source: Source, parts: Sequence[SourceSplit]) -> Schema:
    """Return the columns that are declared, else those that the first part tells, and those that all parts add."""
    base = inferred(workspace, source, parts) if source.schema is None else source.schema
    return grown(workspace, source, base, parts)
