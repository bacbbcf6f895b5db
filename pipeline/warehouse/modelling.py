"""Star schemas: dimensions with surrogate keys and history, facts that look them up, and marts.

A surrogate key is a hash of the natural key (and, with history, of the time a version begins), so that it does
not depend on the order of loads; key 0 is the member for what is not known.
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
"""The surrogate key of the member that stands for everything a dimension does not know."""


@dataclass(frozen=True)
class Lookup:
    """A fact's way to a dimension: equal values in `on`, and a time at which a version was valid."""

    dimension: str
    on: tuple[tuple[str, str], ...]
    """Pairs of the fact's column and the dimension's."""
    as_of: str | None = None

    @property
    def surrogate(self) -> str:
        """The name of the dimension's surrogate key."""
        return f"{self.dimension.removeprefix('dim_')}_key"

    @property
    def members(self) -> str:
        """What to join: without a time one member for each natural key, or an error, so that no row multiplies."""
        if self.as_of is not None:
            return quoted(self.dimension)
        theirs = [quoted(name) for _, name in self.on]
        several = literal(f"{self.dimension!r} has several members of one key: give as_of= if it has history")
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
    """Find a dimension's surrogate key by its natural key.

    `on` is a column that both have, or a mapping of the fact's columns to the dimension's. `as_of` is the fact's
    time column, for a dimension with history: the version then valid is found. No fact is lost or multiplied: one
    without a match, or with a null in `on` or `as_of`, gets key 0.
    """
    pairs = ((on, on),) if isinstance(on, str) else tuple(on.items())
    return Lookup(dimension, pairs, as_of)


@dataclass(frozen=True)
class DimensionTransform(SqlTransform):
    """A SELECT of members, given surrogate keys; with history, a SELECT of observations, made into versions."""

    name: str
    key: tuple[str, ...]
    sequence_by: str | None = None
    has_past: bool = True
    """Whether the versions that the dimension has already are read too."""

    @cached_property
    def members(self) -> exp.Query:
        """The SELECT as it was written, parsed."""
        return parse(self.text)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """What the SELECT reads; with history, the dimension itself too."""
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
        """The columns that describe a member: all but the key and the sequence."""
        return tuple(n for n in self.members.named_selects if n not in {*self.key, self.sequence_by})

    @property
    def sql(self) -> str:
        """The statement that computes the dimension."""
        return self._versions() if self.sequence_by else self._members()

    def __call__(self, *args: Any, **tables: Any) -> Any:
        """Run it on in-memory tables; without the dimension's own last version, it starts with none."""
        inputs = {**dict(zip(self.inputs, args, strict=False)), **tables}
        step = self if self.name in inputs else self.first()
        with connect() as con:
            register(con, inputs)
            return arrow(con, step.sql)

    def first(self) -> DimensionTransform:
        """Return the step that makes the first version, from the inputs alone."""
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
        """Observations in order, of which only those stay that change an attribute; each is valid to the next.

        Of several at one time one counts: an input's before a remembered one, then the greatest attributes.
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
            f"told as (select {kept}, {VALID_FROM} from observed "
            f"qualify row_number() over (partition by {key}, {VALID_FROM} order by {first}) = 1), "
            f"changes as (select *, row_number() over history = 1 or not ({same or 'true'}) as is_change "
            f"from told window history as ({window})) "
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

    The table has a surrogate key, `<name without dim_>_key`, and a member with key 0 for the unknown. With
    `stored_as_scd_type=2` the SELECT gives observations in the order of the column `sequence_by`; the dimension
    keeps a version for every change of an attribute, valid in `[valid_from, valid_to)`, and remembers versions that its
    inputs no longer show, where these are merged tables or aggregates. Of observations of one key at one time, one
    counts. A member without its natural key, and an observation without its time, are quarantined.

    Raises `DefinitionError` for type 2 without `sequence_by`, a star, columns without a name or named twice, or a
    key that the SELECT does not have.
    """
    place = caller()
    if (stored_as_scd_type == 2) != (sequence_by is not None):  # noqa: PLR2004 - the field's own number
        raise DefinitionError(
            "a dimension with history needs its order, and only such a one",
            got=f"stored_as_scd_type={stored_as_scd_type}, sequence_by={sequence_by!r}",
            do="give both stored_as_scd_type=2 and sequence_by=, or neither",
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
    """A dimension, whose transform and key take its name once it has one."""

    def named(self, name: str) -> _Dimension:
        named = super().named(name)
        transform = self.transform
        if not isinstance(transform, DimensionTransform) or transform.name:
            return named
        transform = replace(transform, name=named.name)
        if transform.surrogate in (*transform.key, *transform.attributes):
            raise DefinitionError(
                f"dimension {named.name!r} has a column {transform.surrogate!r} already, the name of its surrogate key",
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
    """Return what sets aside a member without its natural key, and an observation without its time."""
    unknown = f"{quoted(transform.surrogate)} = {UNKNOWN}"
    present = " and ".join(f"{quoted(name)} is not null" for name in transform.key)
    expectations = [Expectation("has_natural_key", f"{unknown} or ({present})", Action.QUARANTINE)]
    if transform.sequence_by is not None:
        expectations.append(Expectation("has_time", f"{unknown} or {VALID_FROM} is not null", Action.QUARANTINE))
    return tuple(expectations)


@dataclass(frozen=True)
class FactTransform(SqlTransform):
    """A SELECT of events, with the surrogate keys of the dimensions it looks up added."""

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
    """Define a fact table as a SELECT of events and the dimensions to look up.

    `lookups` maps the names of the surrogate columns to add to a `lookup`; an event whose member is not there
    gets key 0, the unknown member, and is kept. Raises `DefinitionError` for a name that is there already.
    """
    place = caller()
    described = sql_table(SqlTransform(text), place, layer="gold", expect=tuple(expect), description=description)
    twice = set(parse(text, place=place).named_selects) & set(lookups or {})
    if twice:
        raise DefinitionError(
            f"the fact's SELECT has a column {min(twice)!r} already",
            do="give the looked up key another name",
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
    """Define a mart: a SELECT that answers a question, with an optional chart for the report."""
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
        raise DefinitionError("a dimension names its columns", got="*", do="list them", place=place)
    if not key:
        raise DefinitionError("a dimension has a natural key", do="give key=", place=place)
    for name in (*key, *sequence):
        if name not in columns:
            raise DefinitionError(f"the dimension's SELECT has no column {name!r}", got=", ".join(columns), place=place)
    taken = {VALID_FROM, VALID_TO, IS_CURRENT} if sequence else set()
    for number, name in enumerate(columns):
        if not name:
            raise DefinitionError(f"column {number + 1} of the dimension has no name", do="give it one", place=place)
        if name in columns[:number] or name in taken:
            raise DefinitionError(f"the dimension has two columns {name!r}", do="rename one", place=place)


def _hash(columns: list[str]) -> str:
    """Return SQL for 60 bits of the MD5 of columns, never 0 in practice."""
    text = " || chr(31) || ".join(f"coalesce({column}::varchar, chr(30))" for column in columns)
    return f"({literal('0x')} || md5({text})[:15])::bigint"
