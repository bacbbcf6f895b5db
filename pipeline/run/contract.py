"""The contract that a table's rows are held to from one run to the next."""

from __future__ import annotations

from pipeline.core.definitions import Source, Stored
from pipeline.core.errors import SchemaError
from pipeline.core.reading import PROVENANCE
from pipeline.core.schema import Schema, compare
from pipeline.kernel.types import stored
from pipeline.lake import Version
from pipeline.run.decide import Decision


def source_contract(definition: Source, version: Version | None, decision: Decision, *, full: bool) -> Schema:
    """Return the columns of a source: those declared, else those inferred from its first data.

    Raises `SchemaError` when a rebuild would infer other columns than before, unless `full` accepts them.
    """
    if definition.schema is not None:
        return definition.schema
    if version is None or full:
        return stored(definition.reader.schema(decision.pieces[0]))
    before = version.schema.select(tuple(n for n in version.schema.names if n not in PROVENANCE))
    if decision.kind == "rebuild":
        found = stored(definition.reader.schema(decision.pieces[0]))
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
