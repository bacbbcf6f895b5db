"""The contracts of sources: declared, inferred, and extended by new columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipeline.core.cursors import Bound
from pipeline.core.definitions import Feed, Source
from pipeline.core.errors import SourceError, SourceUnavailableError, StorageError
from pipeline.core.schema import Schema
from pipeline.core.sources import PROVENANCE, Evolvable, Reader
from pipeline.core.splits import SourceObject, SourceSplit
from pipeline.kernel.type_widening import wider_types
from pipeline.kernel.types import stored
from pipeline.lake import Version
from pipeline.project.readers import LogReader, reader_of
from pipeline.project.workspace import Workspace

_SAMPLED_RECORDS = 1 << 18
"""The number of records per partition that are read for new columns when a stream starts."""


def feed_contract(workspace: Workspace, feed: Feed, splits: Sequence[SourceSplit]) -> Schema:
    """Return the contract of a source with `stored=False`: as declared, otherwise that of the tables it reads."""
    return feed.schema if feed.schema.columns else inferred(workspace, feed, splits)


def inferred(workspace: Workspace, source: Source | Feed, splits: Sequence[SourceSplit]) -> Schema:
    """Return the contract inferred from the first split of a source that can be read; raise `SourceError` if there are none.

    Only a source that quarantines what is unreadable may have others before it.
    """
    if not splits:
        raise SourceError(
            f"source {source.name!r} has no data to infer its columns from", do="set schema=", place=source.place
        )
    columns = stored(_first_readable(reader_of(workspace, source), source, splits)).inferred()
    return columns if source.event_time is None else source.event_time.in_rows(columns, source.place)


def _first_readable(reader: Reader, source: Source | Feed, splits: Sequence[SourceSplit]) -> Schema:
    *others, last = splits if source.unreadable == "quarantine" else splits[:1]
    for split in others:
        try:
            return reader.schema(split.source_object)
        except SourceUnavailableError:
            raise
        except SourceError:
            continue  # reading the split quarantines it
    return reader.schema(last.source_object)


def stream_contract(workspace: Workspace, definition: Source | Feed, log: LogReader) -> Schema:
    """Return the contract of a streamed source: declared or inferred columns, and new columns if they are to be added.

    These are the columns of its table, with its types if types evolve, and those of unread records of its log, up to a
    limit.
    """
    version = None
    if isinstance(definition, Source) and definition.evolves:
        version = _committed(workspace, definition)
    if not isinstance(definition, Source) or definition.new_columns != "evolve":
        if version is not None and isinstance(definition, Source):
            return with_declared(definition, own_columns(version.schema).inferred())
        if definition.schema is not None and definition.schema.columns:
            return definition.schema
        return inferred(workspace, definition, log.plan(None, Bound(rows=1)).splits)
    epoch = None if version is None or version.manifest is None else version.manifest.epoch
    read = {} if epoch is None else epoch.inputs[definition.name].offsets
    splits = _unread(log, read)
    if version is not None:
        return grown(workspace, definition, with_declared(definition, own_columns(version.schema).inferred()), splits)
    return fresh_contract(workspace, definition, splits)


def _committed(workspace: Workspace, source: Source) -> Version | None:
    """Return the newest version, without its manifest if that is missing or damaged: a stream may replace the table."""
    try:
        return workspace.version(source.name)
    except StorageError:
        return workspace.version(source.name, lenient=True)


def _unread(log: LogReader, read: Mapping[str, int]) -> tuple[SourceSplit, ...]:
    """Return the unread splits of a log: complete partitions if they are always read completely, else the next records."""
    splits = []
    for uri, extent in sorted(log.extents().items()):
        begin, is_whole = max(read.get(uri, extent.begin), extent.begin), log.traits.has_whole_partitions
        if begin < extent.end:
            end = None if is_whole else min(extent.end, begin + _SAMPLED_RECORDS)
            splits.append(SourceSplit(SourceObject(uri, extent.end - begin, extent.stamp), begin, end, begin or 1))
    return tuple(splits)


def with_declared(definition: Source, inferred_columns: Schema) -> Schema:
    """Return the declared columns, followed by the inferred columns that are not declared.

    If its type may evolve, a declared column has the type of the table if that is wider.
    """
    declared = Schema(()) if definition.schema is None else definition.schema
    kinds = inferred_columns.select(definition.new_types.columns_with("evolve", inferred_columns.names)).as_dict()
    declared = Schema(tuple(replace(c, type=_wider(c.type, kinds.get(c.name, c.type))) for c in declared.columns))
    if declared.columns and definition.new_columns != "evolve":
        return declared
    known = set(declared.names)
    return Schema((*declared.columns, *(c for c in inferred_columns.columns if c.name not in known)))


def _wider(declared: str, present: str) -> str:
    return present if present in wider_types(declared) else declared


def own_columns(schema: Schema) -> Schema:
    """Return the columns of a source's table without the provenance."""
    return schema.select(tuple(name for name in schema.names if name not in PROVENANCE))


def grown(workspace: Workspace, source: Source, contract: Schema, splits: Sequence[SourceSplit]) -> Schema:
    """Return a contract extended by the new columns of splits, if the source adds new columns.

    The type of a new column is inferred from the first split that contains it.
    """
    if source.new_columns != "evolve":
        return contract
    reader = reader_of(workspace, source)
    for split in splits:
        contract = Schema((*contract.columns, *_beyond(reader, split, contract).columns))
    return contract


def _beyond(reader: Reader, split: SourceSplit, contract: Schema) -> Schema:
    try:
        added = reader.beyond(split, contract) if isinstance(reader, Evolvable) else Schema(())
    except SourceUnavailableError:
        raise
    except SourceError:
        return Schema(())  # reading the split raises the error
    return stored(added).inferred()


def fresh_contract(workspace: Workspace, source: Source, splits: Sequence[SourceSplit]) -> Schema:
    """Return the declared contract, otherwise that of the first split, extended by the new columns of all splits."""
    base = inferred(workspace, source, splits) if source.schema is None else source.schema
    return grown(workspace, source, base, splits)
