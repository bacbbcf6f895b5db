"""Checks that the rows of a run match the existing table: contracts of sources, and columns that must not change."""

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
    """Return the columns of a source: declared or inferred from its first data, and added ones.

    The type of an undeclared column is inferred from the first split that has it. Raises `SchemaError` if a rebuild
    would infer other columns than before, unless `full` accepts them, and `OrderError` if new splits that sort before
    existing ones imply other types or another order of columns.
    """
    before = None if version is None else own_columns(version.schema).inferred()
    if before is not None and decision.takes_new:
        contract = grown(workspace, definition, with_declared(definition, before), decision.source_splits)
        if not decision.is_later:
            _require_first(contract, fresh_contract(workspace, definition, decision.source_splits))
        return contract
    contract = fresh_contract(workspace, definition, decision.source_splits)
    if before is not None and not full and definition.schema is None and definition.new_columns != "evolve":
        change = compare(_untyped(before), _untyped(contract))
        if change:
            raise SchemaError(
                f"source {definition.name!r} has other columns than before",
                got=str(change),
                do='accept them with --full if all data has them, otherwise set new_columns="evolve" on the source',
                place=definition.place,
            )
    return contract


def _require_first(contract: Schema, fresh: Schema) -> None:
    """Raise `OrderError` if splits that sort before others imply other types or another order of the columns."""
    known, theirs = contract.as_dict(), fresh.as_dict()
    for name, kind in theirs.items():
        if known.get(name, kind) != kind:
            raise OrderError(f"{name!r} is {kind} according to data that sorts first, not {known[name]}")
    if list({**theirs, **known}) != list(known):
        raise OrderError("the columns have another order according to data that sorts first")


def _untyped(schema: Schema) -> Schema:
    return Schema.of(dict.fromkeys(schema.names, ""))


def require_same(
    definition: StoredDefinition,
    decision: Decision,
    version: Version | None,
    schema: Schema,
    *,
    may_rebuild: bool = False,
) -> None:
    """Raise `SchemaError` if rows to append or merge have other columns or types than the existing rows.

    Columns can be added to a source. Other tables with additional columns must be recomputed, because only the
    definition determines their values in existing rows; if that is allowed, this raises `OrderError`.
    """
    if not decision.takes_new or version is None:
        return
    change = compare(version.schema, schema)
    only_more = bool(change.added) and not (change.removed or change.retyped)
    if only_more and isinstance(definition, Source):
        return
    if only_more and may_rebuild:
        raise OrderError(f"new columns: {', '.join(map(repr, change.added))}")
    if change:
        raise SchemaError(
            f"table {definition.name!r} has different columns for new rows than for existing ones",
            got=str(change),
            do="cast them in the definition, or recompute it with --full",
            place=definition.place,
        )
