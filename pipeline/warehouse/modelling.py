"""Star schemas: dimensions with surrogate keys and history, facts with lookups, and marts.

A surrogate key is a hash of the natural key and, with history, of the start of the version's validity, so it does not
depend on the order of loads. Key 0 is the unknown member.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from sqlglot import exp

from pipeline.core.definitions import Action, Chart, Expectation, Table, caller, names
from pipeline.core.errors import DefinitionError, Place
from pipeline.core.fingerprint import fingerprint
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.scan import register
from pipeline.kernel.sql import SqlTransform, parse, sql_table, tables_of
from pipeline.kernel.sql_text import literal, quoted

VALID_FROM, VALID_TO, IS_CURRENT = "valid_from", "valid_to", "is_current"
UNKNOWN = 0
"""The surrogate key of the unknown member."""


@dataclass(frozen=True)
class Lookup:
    """A lookup of a dimension by a fact: equal values in `on`, and a version that is valid at `as_of`."""

    dimension: str
    on: tuple[tuple[str, str], ...]
    """Pairs of a column of the fact and a column of the dimension."""
    as_of: str | None = None

    @property
    def surrogate(self) -> str:
        """The name of the dimension's surrogate key."""
        return f"{self.dimension.removeprefix('dim_')}_key"

    @property
    def members(self) -> str:
        """The relation to join; without `as_of`, it raises an error if a natural key has several members."""
        if self.as_of is not None:
            return quoted(self.dimension)
        theirs = [quoted(name) for _, name in self.on]
        several = literal(f"{self.dimension!r} has several members per key: set as_of= if it has history")
        return (
            f"(select {', '.join(theirs)}, case when count(*) > 1 then error({several}) "
            f"else max({quoted(self.surrogate)}) end as {quoted(self.surrogate)} from {quoted(self.dimension)} "
            f"where {' and '.join(f'{name} is not null' for name in theirs)} group by all)"
        )

    def matches(self, fact: str, dimension: str) -> str:
        """Return the condition of the join."""
        conditions = [f"{fact}.{quoted(ours)} = {dimension}.{quoted(theirs)}" for ours, theirs in self.on]
        if self.as_of is not None:
            time = f"{fact}.{quoted(self.as_of)}"
            conditions.append(f"{time} >= {dimension}.{VALID_FROM}")
            conditions.append(f"({dimension}.{VALID_TO} is null or {time} < {dimension}.{VALID_TO})")
        return " and ".join(conditions)


def lookup(dimension: str, on: str | Mapping[str, str], *, as_of: str | None = None) -> Lookup:
    """Look up a dimension's surrogate key by its natural key.

    `on` is a column that both tables have, or a mapping from columns of the fact to columns of the dimension. For a
    dimension with history, `as_of` is the time column of the fact, at which the version must be valid. Facts are neither
    lost nor duplicated: a fact without a match, or with a null in `on` or `as_of`, gets key 0.
    """
    pairs = ((on, on),) if isinstance(on, str) else tuple(on.items())
    return Lookup(dimension, pairs, as_of)


@dataclass(frozen=True)
class DimensionTransform(SqlTransform):
    """Adds surrogate keys to a SELECT of members; with history, converts a SELECT of observations to versions."""

    name: str
    key: tuple[str, ...]
    sequence_by: str | None = None
    has_past: bool = True
    """Whether the existing versions of the dimension are also read."""

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
        """A hash of the SELECT, the key and the sequence."""
        return fingerprint(self.members.sql("duckdb", comments=False), self.key, self.sequence_by)

    @property
    def surrogate(self) -> str:
        """The name of the surrogate key: `airport_key` for `dim_airport`."""
        return f"{self.name.removeprefix('dim_')}_key"

    @property
    def attributes(self) -> tuple[str, ...]:
        """The columns that describe a member: all except the key and the sequence."""
        return tuple(n for n in self.members.named_selects if n not in {*self.key, self.sequence_by})

    @property
    def sql(self) -> str:
        """The statement that computes the dimension."""
        return self._versions() if self.sequence_by else self._members()

    def __call__(self, *args: Any, **tables: Any) -> Any:
        """Run the transform on in-memory tables; without the previous version of the dimension, the history is empty."""
        inputs = {**dict(zip(self.inputs, args, strict=False)), **tables}
        step = self if self.name in inputs else self.first()
        with connect() as con:
            register(con, inputs)
            return arrow(con, step.sql)

    def first(self) -> DimensionTransform:
        """Return the transform of the first version, which reads only the inputs."""
        return replace(self, has_past=False)

    def _members(self) -> str:
        columns = self.members.named_selects
        hashed = _hash([quoted(name) for name in self.key])
        blank = ", ".join(f"null as {quoted(name)}" for name in columns)
        known = ", ".join(quoted(name) for name in columns)
        return (
            f"select {hashed} as {quoted(self.surrogate)}, {known} from ({self._plain}) "
            f"union all by name select {UNKNOWN}::bigint as {quoted(self.surrogate)}, {blank}"
        )

    def _versions(self) -> str:
        """Return SQL for the versions: the observations that change an attribute, each valid until the next.

        Of several observations at one time, one is used: those of the input precede existing versions, then the greatest
        attributes.
        """
        key = ", ".join(quoted(name) for name in self.key)
        kept = ", ".join(quoted(name) for name in (*self.key, *self.attributes))
        sequence = quoted(self.sequence_by or "")
        same = " and ".join(f"{quoted(a)} is not distinct from lag({quoted(a)}) over history" for a in self.attributes)
        hashed = _hash([*(quoted(name) for name in self.key), VALID_FROM])
        blank = ", ".join(f"null as {quoted(name)}" for name in (*self.key, *self.attributes))
        past = (
            f" union all by name select {kept}, {VALID_FROM}, true as _is_past from {quoted(self.name)} "
            f"where {quoted(self.surrogate)} <> {UNKNOWN}"
            if self.has_past
            else ""
        )
        first = ", ".join(["_is_past", *(f"{quoted(name)} desc" for name in self.attributes)])
        window = f"partition by {key} order by {VALID_FROM}"
        return (
            f"with observed as (select {kept}, {sequence} as {VALID_FROM}, false as _is_past from ({self._plain}){past}), "
            f"distinct_times as (select {kept}, {VALID_FROM} from observed "
            f"qualify row_number() over (partition by {key}, {VALID_FROM} order by {first}) = 1), "
            f"changes as (select *, row_number() over history = 1 or not ({same or 'true'}) as is_change "
            f"from distinct_times window history as ({window})) "
            f"select {hashed} as {quoted(self.surrogate)}, {kept}, {VALID_FROM}, "
            f"lead({VALID_FROM}) over history as {VALID_TO}, "
            f"lead({VALID_FROM}) over history is null as {IS_CURRENT} "
            f"from changes where is_change window history as ({window}) "
            f"union all by name select {UNKNOWN}::bigint as {quoted(self.surrogate)}, {blank}, "
            f"null as {VALID_FROM}, null as {VALID_TO}, true as {IS_CURRENT}"
        )


def dimension(
    text: str,
    *,
    key: str | Sequence[str],
    stored_as_scd_type: Literal[1, 2] = 1,
    sequence_by: str | None = None,
    expect: Sequence[Expectation] = (),
    description: str = "",
) -> Table:
    """Define a dimension as a SELECT of its members, one for each natural `key`.

    The table has a surrogate key, `<name without dim_>_key`, and an unknown member with key 0. With
    `stored_as_scd_type=2`, the SELECT returns observations, ordered by the column `sequence_by`. The dimension then has a
    version for every change of an attribute, valid in `[valid_from, valid_to)`, and keeps versions that its inputs no longer
    contain, for example if these are merged tables or aggregates. Of several observations of a key at one time, one is
    used. Members without a natural key and observations without a time are quarantined.

    Raises `DefinitionError` for type 2 without `sequence_by`, for a star, for unnamed and duplicate columns, and for a key
    that is not in the SELECT.
    """
    place = caller()
    if (stored_as_scd_type == 2) != (sequence_by is not None):  # noqa: PLR2004 - the standard number of the type
        raise DefinitionError(
            "stored_as_scd_type=2 and sequence_by= must be used together",
            got=f"stored_as_scd_type={stored_as_scd_type}, sequence_by={sequence_by!r}",
            do="set both, or neither",
            place=place,
        )
    _require(parse(text, place=place), names(key), names(sequence_by), place)
    return _Dimension(
        place=place,
        transform=DimensionTransform(text, "", names(key), sequence_by),
        description=description or sql_table(SqlTransform(text), place, layer="gold").description,
        layer="gold",
        role="dimension",
        expect=tuple(expect),
        remembers=sequence_by is not None,
    )


@dataclass(frozen=True, kw_only=True)
class _Dimension(Table):
    """A dimension, whose transform and key depend on its name."""

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
        return replace(
            named,
            transform=transform,
            key=(transform.surrogate,),
            expect=(*named.expect, *_member_expectations(transform)),
        )


def _member_expectations(transform: DimensionTransform) -> tuple[Expectation, ...]:
    """Return the expectations that quarantine members without a natural key, and observations without a time."""
    unknown = f"{quoted(transform.surrogate)} = {UNKNOWN}"
    present = " and ".join(f"{quoted(name)} is not null" for name in transform.key)
    expectations = [Expectation("has_natural_key", f"{unknown} or ({present})", Action.QUARANTINE)]
    if transform.sequence_by is not None:
        expectations.append(Expectation("has_time", f"{unknown} or {VALID_FROM} is not null", Action.QUARANTINE))
    return tuple(expectations)


@dataclass(frozen=True)
class FactTransform(SqlTransform):
    """A SELECT of events, extended by the surrogate keys of its dimensions."""

    lookups: tuple[tuple[str, Lookup], ...]

    @property
    def sql(self) -> str:
        """The SELECT with its lookups."""
        columns, joins = [], []
        for number, (column, look) in enumerate(self.lookups):
            alias = f"d{number}"
            columns.append(f"coalesce({alias}.{quoted(look.surrogate)}, {UNKNOWN}) as {quoted(column)}")
            joins.append(f"left join {look.members} as {alias} on {look.matches('f', alias)}")
        return f"select f.*{''.join(', ' + c for c in columns)} from ({self._plain}) as f {' '.join(joins)}"


def fact(
    text: str,
    *,
    key: str | Sequence[str],
    lookups: Mapping[str, Lookup] | None = None,
    partition_by: str | Sequence[str] | None = None,
    expect: Sequence[Expectation] = (),
    description: str = "",
) -> Table:
    """Define a fact table as a SELECT of events with lookups of dimensions.

    `lookups` maps the names of additional surrogate key columns to a `lookup`. An event without a matching member is kept,
    with key 0. Raises `DefinitionError` if the SELECT already has a column with such a name.
    """
    place = caller()
    described = sql_table(SqlTransform(text), place, layer="gold", expect=tuple(expect), description=description)
    twice = set(parse(text, place=place).named_selects) & set(lookups or {})
    if twice:
        raise DefinitionError(
            f"the SELECT of the fact already has a column {min(twice)!r}",
            do="rename the lookup",
            place=place,
        )
    return Table(
        place=place,
        transform=FactTransform(text, tuple((lookups or {}).items())),
        description=described.description,
        layer="gold",
        role="fact",
        key=names(key),
        partition_by=names(partition_by),
        expect=described.expect,
    )


def mart(
    text: str,
    *,
    key: str | Sequence[str] | None = None,
    expect: Sequence[Expectation] = (),
    description: str = "",
    chart: Chart | None = None,
) -> Table:
    """Define a mart: a SELECT for analysis, with an optional chart in the report."""
    return sql_table(
        SqlTransform(text),
        caller(),
        layer="gold",
        role="mart",
        key=names(key),
        expect=tuple(expect),
        description=description,
        chart=chart,
    )


def _require(tree: exp.Query, key: tuple[str, ...], sequence: tuple[str, ...], place: Place) -> None:
    columns = tree.named_selects
    if "*" in columns:
        raise DefinitionError("a dimension must list its columns", got="*", do="replace the star", place=place)
    if not key:
        raise DefinitionError("a dimension requires a natural key", do="set key=", place=place)
    for name in (*key, *sequence):
        if name not in columns:
            raise DefinitionError(
                f"the SELECT of the dimension has no column {name!r}", got=", ".join(columns), place=place
            )
    taken = {VALID_FROM, VALID_TO, IS_CURRENT} if sequence else set()
    for number, name in enumerate(columns):
        if not name:
            raise DefinitionError(f"column {number + 1} of the dimension has no name", do="add an alias", place=place)
        if name in columns[:number] or name in taken:
            raise DefinitionError(f"the dimension has a duplicate column {name!r}", do="rename one", place=place)


def _hash(columns: list[str]) -> str:
    """Return SQL for the first 60 bits of the MD5 of columns, which is never 0 in practice."""
    text = " || chr(31) || ".join(f"coalesce({column}::varchar, chr(30))" for column in columns)
    return f"({literal('0x')} || md5({text})[:15])::bigint"
