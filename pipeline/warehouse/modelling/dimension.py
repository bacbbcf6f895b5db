"""Dimensions: members with surrogate keys, with or without history.

A surrogate key is a hash of the natural key and, for a version, of the start of its validity, so it does not depend on the
order of loads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from sqlglot import exp

from pipeline.core.definitions import Action, Expectation, Table, caller, names
from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.core.fingerprint import fingerprint
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.scan import register
from pipeline.kernel.sql import SqlTransform, parse, sql_table, tables_of
from pipeline.kernel.sql_text import listed, literal, quoted
from pipeline.warehouse.modelling.history import IS_CURRENT, VALID_FROM, History, one_parent, tracked_of
from pipeline.warehouse.modelling.members import UNKNOWN, Label, SpecialMember, special_members

ScdType = Literal[1, 2, 3, 6]
_VERSIONED = (2, 6)
Levels = tuple[tuple[str, tuple[str, ...]], ...]
"""Hierarchies by name, each with its columns from the top."""


def surrogate_of(dimension: str) -> str:
    """Return the name of a dimension's surrogate key: `airport_key` for `dim_airport`."""
    return f"{dimension.removeprefix('dim_')}_key"


@dataclass(frozen=True)
class DimensionTransform(SqlTransform):
    """Adds surrogate keys to a SELECT of members; with history, to the versions of a SELECT of observations."""

    name: str
    key: tuple[str, ...]
    sequence_by: str | None = None
    has_past: bool = True
    """Whether the existing rows of the dimension are also read."""
    scd_type: ScdType = 1
    tracked: tuple[str, ...] = ()
    """The attributes whose changes count in a dimension with history."""
    special: tuple[SpecialMember, ...] = (SpecialMember(UNKNOWN),)
    hierarchies: Levels = ()
    numbered_by: str = ""
    """SQL for the surrogate key, of a dimension whose natural key is a number of its own; by default, a hash."""

    @cached_property
    def members(self) -> exp.Query:
        """The parsed SELECT as written."""
        return parse(self.text)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The tables that the SELECT reads; with history, also the dimension itself."""
        tables = tables_of(self.members)
        return (*tables, self.name) if self.sequence_by is not None and self.has_past else tables

    @property
    def fingerprint(self) -> str:
        """A hash of the SELECT, the key, the sequence and the other options."""
        plain = DimensionTransform("", "", ())
        rest = [
            value
            for value, default in (
                (self.scd_type, 2 if self.sequence_by else 1),
                (self.tracked, self.attributes if self.sequence_by else ()),
                (self.special, plain.special),
                (self.hierarchies, ()),
                (self.numbered_by, ""),
            )
            if value != default
        ]
        return fingerprint(self.members.sql("duckdb", comments=False), self.key, self.sequence_by, *map(repr, rest))

    @property
    def surrogate(self) -> str:
        """The name of the surrogate key."""
        return surrogate_of(self.name)

    @property
    def attributes(self) -> tuple[str, ...]:
        """The columns that describe a member: all except the key and the sequence."""
        return tuple(n for n in self.members.named_selects if n not in {*self.key, self.sequence_by})

    @property
    def has_versions(self) -> bool:
        """Whether a member may have several rows, each valid for a time."""
        return self.scd_type in _VERSIONED

    @property
    def history(self) -> History:
        """How its observations become rows; only for a dimension with history."""
        untracked = tuple(name for name in self.attributes if name not in self.tracked)
        return History(self.key, self.sequence_by or "", self.tracked, untracked, has_current=self.scd_type == 6)  # noqa: PLR2004 - the standard number of the type

    @property
    def sql(self) -> str:
        """The statement that computes the dimension."""
        columns = (*self.key, *self.attributes)
        if self.sequence_by is None:
            columns, rows = tuple(self.members.named_selects), self._plain
            hashed = [quoted(name) for name in self.key]
        else:
            past = f"(from {quoted(self.name)} where {quoted(self.surrogate)} > {UNKNOWN})" if self.has_past else None
            compute = self.history.versions if self.has_versions else self.history.members
            rows = compute(self._plain, past)
            hashed = [*(quoted(name) for name in self.key), *([VALID_FROM] if self.has_versions else [])]
        known = f"select {self.numbered_by or _hash(hashed)} as {quoted(self.surrogate)}, * from ({rows})"
        current = f", true as {IS_CURRENT}" if self.has_versions else ""
        special = [member.sql(self.surrogate, columns, current) for member in self.special]
        all_rows = " union all by name ".join([known, *special])
        if not self.hierarchies:
            return all_rows
        members = f"(select * from _members where {IS_CURRENT})" if self.has_versions else "_members"
        checks = " union all ".join(one_parent(levels, members, self.name, name) for name, levels in self.hierarchies)
        return (
            f"with _members as ({all_rows}) select * from _members "
            f"where (select coalesce(max(_checked), 0) from ({checks})) = 0"
        )

    def __call__(self, *args: Any, **tables: Any) -> Any:
        """Run the transform on in-memory tables; without the previous version of the dimension, the history is empty."""
        inputs = {**dict(zip(self.inputs, args, strict=False)), **tables}
        step = self if self.name in inputs else self.first()
        with connect() as con:
            register(con, inputs)
            return arrow(con, step.tree.sql("duckdb", comments=False))

    def first(self) -> DimensionTransform:
        """Return the transform of the first version, which reads only the inputs."""
        return replace(self, has_past=False)


def dimension(
    text: str,
    *,
    key: str | Sequence[str],
    stored_as_scd_type: ScdType = 1,
    sequence_by: str | None = None,
    track_history_column_list: str | Sequence[str] = (),
    track_history_except_column_list: str | Sequence[str] = (),
    unknown: Mapping[str, Label] | None = None,
    not_applicable: Mapping[str, Label] | None = None,
    hierarchies: Mapping[str, Sequence[str]] | None = None,
    expect: Sequence[Expectation] = (),
    description: str = "",
) -> Table:
    """Define a dimension as a SELECT of its members, one for each natural `key`.

    The table has a surrogate key, `<name without dim_>_key`, and an unknown member with key 0.

    With `stored_as_scd_type=2`, the SELECT returns observations, ordered by the column `sequence_by`. The dimension then has
    a version for every change of an attribute, valid in `[valid_from, valid_to)`. Type 6 also has the current value of each
    tracked attribute, `current_<name>`, in all versions. Type 3 has one row per member, with the value before the last
    change, `previous_<name>`, and the time of that change, `<name>_since`. What inputs no longer contain is kept, for
    example if they are merged tables or aggregates. Of several observations of a key at one time, one is used. Members
    without a natural key and observations without a time are quarantined.

    All attributes are tracked, or those in `track_history_column_list`, or all but those in
    `track_history_except_column_list`. The others have the value that was last observed, at the time `observed_at`.

    `unknown` contains attributes of the unknown member. `not_applicable` those of a member with key -1, which exists only
    with this option. `hierarchies` are lists of columns from the top level down; a run fails if a value has two parents.

    Raises `DefinitionError` for a history without `sequence_by`, for a star, for unnamed and duplicate columns, and for names
    that are not in the SELECT.
    """
    place = caller()
    has_history = stored_as_scd_type != 1
    if stored_as_scd_type not in {1, 2, 3, 6}:
        got, do = repr(stored_as_scd_type), "use 1, 2, 3 or 6"
        raise DefinitionError("unknown value of stored_as_scd_type=", got=got, do=do, place=place)
    if has_history != (sequence_by is not None):
        raise DefinitionError(
            f"stored_as_scd_type={stored_as_scd_type if has_history else 2} and sequence_by= must be used together",
            got=f"stored_as_scd_type={stored_as_scd_type}, sequence_by={sequence_by!r}",
            do="set both, or neither",
            place=place,
        )
    natural, tree = names(key), parse(text, place=place)
    _require(tree, natural, names(sequence_by), place)
    transform = DimensionTransform(text, "", natural, sequence_by, scd_type=stored_as_scd_type)
    only, except_ = names(track_history_column_list), names(track_history_except_column_list)
    _require_tracked(transform, only, except_, place)
    transform = replace(
        transform,
        tracked=tracked_of(transform.attributes, only, except_) if has_history else (),
        special=special_members(unknown, not_applicable, (*natural, *transform.attributes), place),
        hierarchies=_levels(hierarchies or {}, tree.named_selects, place),
    )
    _require_free(transform, place)
    described = description or sql_table(SqlTransform(text), place, layer="gold").description
    return dimension_table(transform, place, description=described, expect=expect)


def junk_dimension(text: str, *, expect: Sequence[Expectation] = (), description: str = "") -> Table:
    """Define a dimension with a row for each combination of the columns of a SELECT, such as flags and codes.

    The columns together are the natural key, and may be null: look it up with `match_nulls=True`. Raises
    `DefinitionError` for a star, and for unnamed and duplicate columns.
    """
    place = caller()
    columns = tuple(parse(text, place=place).named_selects)
    _require(parse(text, place=place), columns or ("",), (), place)
    described = sql_table(SqlTransform(text), place, layer="gold")
    transform = DimensionTransform(f"select distinct {listed(columns)} from (\n{text}\n)", "", columns)
    return dimension_table(
        transform, place, description=description or described.description, expect=expect, may_have_null_keys=True
    )


def dimension_table(
    transform: DimensionTransform,
    place: Place,
    *,
    description: str,
    expect: Sequence[Expectation] = (),
    may_have_null_keys: bool = False,
) -> Table:
    """Return the definition of a dimension; its surrogate key and its expectations follow when it has a name."""
    return _Dimension(
        place=place,
        transform=transform,
        description=description,
        layer="gold",
        role="dimension",
        expect=tuple(expect),
        remembers=transform.sequence_by is not None,
        may_have_null_keys=may_have_null_keys,
    )


@dataclass(frozen=True, kw_only=True)
class _Dimension(Table):
    """A dimension, whose transform and key depend on its name."""

    may_have_null_keys: bool = False

    def named(self, name: str) -> _Dimension:
        named = super().named(name)
        transform = self.transform
        if not isinstance(transform, DimensionTransform) or transform.name:
            return named
        transform = replace(transform, name=named.name)
        if transform.surrogate in (*transform.key, *transform.attributes):
            raise DefinitionError(
                f"column {transform.surrogate!r} of dimension {named.name!r} has the name of its surrogate key",
                do="rename the column or the dimension",
                place=self.place,
            )
        expectations = _member_expectations(transform, may_have_null_keys=self.may_have_null_keys)
        return replace(named, transform=transform, key=(transform.surrogate,), expect=(*named.expect, *expectations))


def _member_expectations(transform: DimensionTransform, *, may_have_null_keys: bool) -> tuple[Expectation, ...]:
    """Return the expectations that quarantine members without a natural key, and observations without a time."""
    keys = [str(member.key) for member in transform.special]
    special = f"{quoted(transform.surrogate)} " + (f"= {keys[0]}" if len(keys) == 1 else f"in ({', '.join(keys)})")
    present = " and ".join(f"{quoted(name)} is not null" for name in transform.key)
    expectations = []
    if not may_have_null_keys:
        expectations.append(Expectation("has_natural_key", f"{special} or ({present})", Action.QUARANTINE))
    if transform.sequence_by is not None:
        time = VALID_FROM if transform.has_versions else quoted(f"{transform.tracked[0]}_since")
        expectations.append(Expectation("has_time", f"{special} or {time} is not null", Action.QUARANTINE))
    return tuple(expectations)


def _require(tree: exp.Query, key: tuple[str, ...], sequence: tuple[str, ...], place: Place) -> None:
    columns = tree.named_selects
    if "*" in columns:
        raise DefinitionError("a dimension must list its columns", got="*", do="replace the star", place=place)
    if not key:
        raise DefinitionError("a dimension requires a natural key", do="set key=", place=place)
    for number, name in enumerate(columns):
        if not name:
            raise DefinitionError(f"column {number + 1} of the dimension has no name", do="add an alias", place=place)
        if name in columns[:number]:
            raise DefinitionError(f"the dimension has a duplicate column {name!r}", do="rename one", place=place)
    for name in (*key, *sequence):
        if name not in columns:
            raise DefinitionError(
                f"the SELECT of the dimension has no column {name!r}", got=", ".join(columns), place=place
            )


def _require_tracked(transform: DimensionTransform, only: Sequence[str], except_: Sequence[str], place: Place) -> None:
    """Raise `DefinitionError` unless the lists of tracked columns are lists of attributes, and one is left."""
    if not (only or except_):
        if transform.scd_type in {3, 6} and not transform.attributes:
            raise DefinitionError("a dimension with history has no attribute", do="select one", place=place)
        return
    option = "track_history_column_list" if only else "track_history_except_column_list"
    if transform.sequence_by is None:
        raise DefinitionError(f"{option}= requires a dimension with history", do=f"remove {option}=", place=place)
    if only and except_:
        problem = "track_history_column_list= and track_history_except_column_list= contradict each other"
        raise DefinitionError(problem, do="remove one of them", place=place)
    for name in (*only, *except_):
        if name not in transform.attributes:
            do = did_you_mean(name, transform.attributes)
            raise DefinitionError(f"{option}= names {name!r}, which is no attribute", do=do, place=place)
    if not tracked_of(transform.attributes, only, except_):
        raise DefinitionError(f"{option}= leaves no attribute to track", do="use type 1", place=place)


def _require_free(transform: DimensionTransform, place: Place) -> None:
    """Raise `DefinitionError` if the SELECT has a column that the history adds."""
    if transform.sequence_by is None:
        return
    history = transform.history
    added = history.added if transform.has_versions else history.added_to_members
    taken = next((name for name in transform.members.named_selects if name in added), None)
    if taken is not None:
        raise DefinitionError(f"the dimension has a duplicate column {taken!r}", do="rename one", place=place)


def _levels(hierarchies: Mapping[str, Sequence[str]], columns: Sequence[str], place: Place) -> Levels:
    for hierarchy, levels in hierarchies.items():
        if isinstance(levels, str) or len(levels) < 2:  # noqa: PLR2004 - a parent and a child
            raise DefinitionError(
                f"hierarchy {hierarchy!r} needs at least two levels", do="list its columns from the top", place=place
            )
        for name in levels:
            if name not in columns:
                do = did_you_mean(name, columns)
                raise DefinitionError(
                    f"hierarchy {hierarchy!r} names a column {name!r}, which the dimension does not have",
                    do=do,
                    place=place,
                )
    return tuple((hierarchy, tuple(levels)) for hierarchy, levels in hierarchies.items())


def _hash(columns: Sequence[str]) -> str:
    """Return SQL for the first 60 bits of the MD5 of columns, which is never 0 in practice."""
    text = " || chr(31) || ".join(f"coalesce({column}::varchar, chr(30))" for column in columns)
    return f"({literal('0x')} || md5({text})[:15])::bigint"
