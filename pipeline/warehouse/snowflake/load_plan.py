"""What a load does to a table, decided from the ledger, the table's columns and the change since the loaded version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.warehouse.snowflake import statements
from pipeline.warehouse.snowflake.column_types import SnowflakeColumn, is_same, is_widening, stored_name
from pipeline.warehouse.snowflake.staged_files import LoadMode
from pipeline.warehouse.warehouse import Load


@dataclass(frozen=True)
class LoadPlan:
    """How rows are loaded, and the DDL before the transaction."""

    mode: LoadMode
    before: tuple[str, ...] = ()
    changes_columns: bool = False
    """Whether columns are replaced, after which the table has no loaded version until the load is committed."""


def plan_load(
    load: Load, loaded: tuple[int, int] | None, known: Mapping[str, str] | None, columns: Sequence[SnowflakeColumn]
) -> LoadPlan:
    """Return how to load a version into a table with the columns `known`; `None` if it does not exist.

    New columns are added, with their declared masking policies, and numbers widened in place. Other changes of columns
    replace the rows too: columns are dropped and added, so privileges of the table stay, and its readers see nulls until
    the load is committed.
    """
    comment = (statements.set_comment(load.name, load.description),) if load.description else ()
    if known is None:
        return LoadPlan("replace", (statements.create_table(load.name, columns), *comment))
    wanted = {stored_name(column.name): column for column in columns}
    added = [column for name, column in wanted.items() if name not in known]
    differing = [c for name, c in wanted.items() if name in known and not is_same(known[name], c.type)]
    widened = [c for c in differing if is_widening(known[stored_name(c.name)], c.type)]
    replaced = [c for c in differing if c not in widened]
    dropped = [name for name in known if name not in wanted]
    masking = {stored_name(column): policy for column, policy in load.masking}
    ddl = [statements.add_column(load.name, c, masking.get(stored_name(c.name))) for c in added]
    ddl += [statements.widen_column(load.name, c) for c in widened]
    if replaced or dropped:
        # columns are added first: a table cannot lose its last column
        gone = [statements.drop_column(load.name, stored_name(c.name)) for c in replaced]
        again = [statements.add_column(load.name, c, masking.get(stored_name(c.name))) for c in replaced]
        ddl = [statements.mark_unknown(load.name), *ddl, *_paired(gone, again)]
        ddl += [statements.drop_column(load.name, name) for name in dropped]
        return LoadPlan("replace", (*ddl, *comment), changes_columns=True)
    return LoadPlan(_mode(load, loaded), (*ddl, *comment))


def _mode(load: Load, loaded: tuple[int, int] | None) -> LoadMode:
    if loaded is None or load.since != loaded:
        return "replace"
    if not load.removed:
        return "append"
    return "replace" if load.replaces_most else "merge"


def _paired(gone: Sequence[str], again: Sequence[str]) -> list[str]:
    return [statement for pair in zip(gone, again, strict=True) for statement in pair]
