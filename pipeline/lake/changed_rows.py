"""The rows that differ between two relations, such as the rows of two versions of a table, as one SELECT.

Rows are matched by key, or compared as multisets without one. Columns that both relations have decide whether rows differ;
a column whose type changed is compared, and returned, as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.core.errors import RequestError
from pipeline.core.schema import Column, Schema
from pipeline.kernel.scan import Scan
from pipeline.kernel.sql_text import literal, quoted
from pipeline.lake.delta import Version

CHANGE_TYPE, CHANGED = "_change_type", "_changed"
"""The columns before those of the relations: `insert`, `delete`, `update_preimage` or `update_postimage`, as in Delta's change
feed, and for updates the names of the columns that differ."""
_OLD, _NEW, _KIND, _DIFFERS = "_hw_old", "_hw_new", "_hw_kind", "_hw_differs"


@dataclass(frozen=True)
class TypedSelect:
    """A SELECT, and its columns."""

    sql: str
    schema: Schema


@dataclass(frozen=True)
class ChangedRows(TypedSelect):
    """A SELECT of changed rows: `_change_type`, `_changed`, the columns of the later relation, and those that only the earlier one has."""

    key: tuple[str, ...]
    """The columns by which rows are matched; empty: as multisets, and none counts as updated."""


def changed_scans(before: Version, after: Version) -> tuple[Scan, Scan]:
    """Return the rows of two versions without the files that are in both."""
    common = {file.uri for file in before.files} & {file.uri for file in after.files}
    scans = (before.scan(), after.scan())
    first, second = (replace(each, files=tuple(f for f in each.files if f.uri not in common)) for each in scans)
    return first, second


def changed_rows(
    before: TypedSelect, after: TypedSelect, key: Sequence[str] = (), added: tuple[str, str] = (CHANGE_TYPE, CHANGED)
) -> ChangedRows:
    """Return the rows that differ, in no order. `key` is used if both relations have its columns.

    `added` are the names of the two columns that tell changes. Raises `RequestError` if the relations have one of them.
    """
    old, new = before.schema.as_dict(), after.schema.as_dict()
    taken = set(added) & {*old, *new}
    if taken:
        raise RequestError(f"the rows have a column {min(taken)!r}, which is the name of one that tells changes")
    names = (*new, *(name for name in old if name not in new))
    shared = tuple(name for name in new if name in old)
    types = {name: new.get(name, old.get(name, "")) for name in names}
    types |= {name: "VARCHAR" for name in shared if old[name] != new[name]}
    by = tuple(key) if set(key) <= set(shared) else ()
    if by:
        sql = _by_key(_numbered(before, types, _OLD), _numbered(after, types, _NEW), types, by, shared)
    else:
        sql = _as_multisets(before, after, types, shared)
    kind, differs = added
    told = f"{_KIND} as {quoted(kind)}, {_DIFFERS} as {quoted(differs)}"
    columns = (Column(kind, "VARCHAR"), Column(differs, "VARCHAR[]"), *(Column(*each) for each in types.items()))
    return ChangedRows(f"select {told}, * exclude ({_KIND}, {_DIFFERS}) from ({sql})", Schema(columns), by)


def _numbered(relation: TypedSelect, types: Mapping[str, str], name: str) -> str:
    """Return the rows with all columns by number, so that no name means two things, and whether there is a row."""
    has = set(relation.schema.names)
    columns = ", ".join(
        f"{quoted(each) if each in has else 'null'}::{kind} as {name}{n}"
        for n, (each, kind) in enumerate(types.items())
    )
    return f"(select {columns}, true as {name} from ({relation.sql}))"


def _by_key(before: str, after: str, types: Mapping[str, str], key: Sequence[str], shared: Sequence[str]) -> str:
    number = {name: n for n, name in enumerate(types)}
    on = " and ".join(f"{_OLD}{number[name]} is not distinct from {_NEW}{number[name]}" for name in key)
    pairs = [
        (name, f"{_OLD}{number[name]} is distinct from {_NEW}{number[name]}") for name in shared if name not in key
    ]
    differing = ", ".join(f"case when {differs} then {literal(name)} end" for name, differs in pairs)
    changed = f"list_filter([{differing}], lambda _hw_name: _hw_name is not null)" if pairs else "[]::varchar[]"
    is_old = f"{_KIND} in ('delete', 'update_preimage')"
    columns = ", ".join(
        f"case when {is_old} then {_OLD}{n} else {_NEW}{n} end as {quoted(name)}" for name, n in number.items()
    )
    return (
        f"select {_KIND}, {_DIFFERS}, {columns} from (select *, "
        f"unnest(case when {_OLD} is null then ['insert'] when {_NEW} is null then ['delete'] "
        f"else ['update_preimage', 'update_postimage'] end) as {_KIND}, "
        f"case when {_OLD} and {_NEW} then {changed} else [] end as {_DIFFERS} "
        f"from {before} full join {after} on {on} "
        f"where {' or '.join([f'{_OLD} is null', f'{_NEW} is null', *(differs for _, differs in pairs)])})"
    )


def _as_multisets(before: TypedSelect, after: TypedSelect, types: Mapping[str, str], shared: Sequence[str]) -> str:
    """Return the rows that one relation has more often than the other."""
    columns = ", ".join(f"{quoted(name)}::{types[name]} as {quoted(name)}" for name in shared) or "1"
    every = ", ".join(
        quoted(name) if name in shared else f"null::{kind} as {quoted(name)}" for name, kind in types.items()
    )
    old, new = (f"select {columns} from ({each.sql})" for each in (before, after))
    parts = (
        f"select '{kind}' as {_KIND}, []::varchar[] as {_DIFFERS}, {every} from ({one} except all {other})"
        for kind, one, other in (("insert", new, old), ("delete", old, new))
    )
    return " union all ".join(parts)
