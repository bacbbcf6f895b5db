"""The contract that a table's rows are held to from one run to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.core.cursors import Bound
from pipeline.core.definitions import Feed, Source, Stored
from pipeline.core.errors import OrderError, SchemaError, SourceError, SourceUnavailableError
from pipeline.core.reading import PROVENANCE, Evolvable, Part, Piece, Reader
from pipeline.core.schema import Schema, compare
from pipeline.kernel.types import stored
from pipeline.lake import Version
from pipeline.run.decide import Decision
from pipeline.run.readers import LogReader, reader_of
from pipeline.run.workspace import Workspace

_LOOKED_AT = 1 << 18
"""How many records of a partition a start of a stream looks at for columns: as many as it takes at once."""


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
    """Return the columns of a source: those declared, else those inferred from its first data, and those that are added.

    A column that is not declared has the type that the first part with it tells. Raises `SchemaError` when a rebuild
    would infer other columns than before, unless `full` accepts them, and `OrderError` when parts that come before
    others tell another type or order of columns.
    """
    before = None if version is None else own_columns(version.schema).inferred()
    if before is not None and decision.takes_new:
        contract = grown(workspace, definition, with_declared(definition, before), decision.parts)
        if not decision.is_later:
            _require_first(contract, fresh_contract(workspace, definition, decision.parts))
        return contract
    contract = fresh_contract(workspace, definition, decision.parts)
    if before is not None and not full and definition.schema is None and definition.new_columns != "add":
        change = compare(_untyped(before), _untyped(contract))
        if change:
            raise SchemaError(
                f"source {definition.name!r} has other columns than before",
                got=str(change),
                do='accept them with --full where all data has them, else give the source new_columns="add"',
                place=definition.place,
            )
    return contract


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
    parts = _held(log, read)
    if version is not None:
        return grown(workspace, definition, with_declared(definition, own_columns(version.schema).inferred()), parts)
    return fresh_contract(workspace, definition, parts)


def _held(log: LogReader, read: Mapping[str, int]) -> tuple[Part, ...]:
    """Return what a log holds beyond offsets that were read: a partition that is taken whole, else its next records."""
    found = []
    for uri, extent in sorted(log.extents().items()):
        begin, whole = max(read.get(uri, extent.begin), extent.begin), log.traits.has_whole_partitions
        if begin < extent.end:
            end = None if whole else min(extent.end, begin + _LOOKED_AT)
            found.append(Part(Piece(uri, extent.end - begin, extent.stamp), begin, end, begin or 1))
    return tuple(found)


def with_declared(definition: Source, found: Schema) -> Schema:
    """Return columns that were found, with those that are declared in their place and before them."""
    declared = Schema(()) if definition.schema is None else definition.schema
    if declared.columns and definition.new_columns != "add":
        return declared
    known = set(declared.names)
    return Schema((*declared.columns, *(c for c in found.columns if c.name not in known)))


def own_columns(schema: Schema) -> Schema:
    """Return the columns of a source's table without those of the provenance."""
    return schema.select(tuple(name for name in schema.names if name not in PROVENANCE))


def grown(workspace: Workspace, source: Source, contract: Schema, parts: Sequence[Part]) -> Schema:
    """Return a contract with the columns that parts add, where the source is to have them.

    Each has the type that the first part with it tells.
    """
    if source.new_columns != "add":
        return contract
    reader = reader_of(workspace, source)
    for part in parts:
        contract = Schema((*contract.columns, *_beyond(reader, part, contract).columns))
    return contract


def _beyond(reader: Reader, part: Part, contract: Schema) -> Schema:
    try:
        found = reader.beyond(part, contract) if isinstance(reader, Evolvable) else Schema(())
    except SourceUnavailableError:
        raise
    except SourceError:
        return Schema(())  # reading the part says what it is
    return stored(found).inferred()


def fresh_contract(workspace: Workspace, source: Source, parts: Sequence[Part]) -> Schema:
    """Return the columns that are declared, else those that the first part tells, and those that all parts add."""
    base = inferred(workspace, source, parts) if source.schema is None else source.schema
    return grown(workspace, source, base, parts)


def _require_first(contract: Schema, told: Schema) -> None:
    """Raise `OrderError` when parts that come before others tell another type or order of the columns: theirs counts."""
    known, theirs = contract.as_dict(), told.as_dict()
    for name, kind in theirs.items():
        if known.get(name, kind) != kind:
            raise OrderError(f"{name!r} is {kind} by data that comes before, not {known[name]}")
    if list({**theirs, **known}) != list(known):
        raise OrderError("the columns have another order by data that comes before")


def _untyped(schema: Schema) -> Schema:
    return Schema.of(dict.fromkeys(schema.names, ""))


def require_same(
    definition: Stored, decision: Decision, version: Version | None, schema: Schema, *, may_be_made_anew: bool = False
) -> None:
    """Raise `SchemaError` when rows to append or merge have other columns or types than those already there.

    A source may get columns. Any other table with more columns has to be made anew, for what they are in its old rows only
    its definition tells: where it may be, this raises `OrderError`.
    """
    if not decision.takes_new or version is None:
        return
    change = compare(version.schema, schema)
    only_more = bool(change.added) and not (change.removed or change.retyped)
    if only_more and isinstance(definition, Source):
        return
    if only_more and may_be_made_anew:
        raise OrderError(f"new columns: {', '.join(map(repr, change.added))}")
    if change:
        raise SchemaError(
            f"table {definition.name!r} gives other columns for the new rows than for the old ones",
            got=str(change),
            do="cast them in the definition, or recompute it with --full",
            place=definition.place,
        )
