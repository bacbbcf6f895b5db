"""Whether the rows of a run fit the table that is there: the contract of a source, and columns that may not change."""

from __future__ import annotations

from pipeline.core.definitions import Source, StoredDefinition
from pipeline.core.errors import OrderError, SchemaError
from pipeline.core.schema import Schema, compare
from pipeline.lake import Version
from pipeline.project.contracts import fresh_contract, grown, own_columns, with_declared
from pipeline.project.workspace import Workspace
from pipeline.runner.decide import Decision


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


def _require_first(contract: Schema, fresh: Schema) -> None:
    """Raise `OrderError` when parts that come before others tell another type or order of the columns: theirs counts."""
    known, theirs = contract.as_dict(), fresh.as_dict()
    for name, kind in theirs.items():
        if known.get(name, kind) != kind:
            raise OrderError(f"{name!r} is {kind} by data that comes before, not {known[name]}")
    if list({**theirs, **known}) != list(known):
        raise OrderError("the columns have another order by data that comes before")


def _untyped(schema: Schema) -> Schema:
    return Schema.of(dict.fromkeys(schema.names, ""))


def require_same(
    definition: StoredDefinition,
    decision: Decision,
    version: Version | None,
    schema: Schema,
    *,
    may_be_made_anew: bool = False,
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
