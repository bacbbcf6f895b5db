"""Lookups of dimensions by facts and bridges: the surrogate key of a member by its natural key, as of the event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pipeline.core.definitions import caller
from pipeline.core.errors import DefinitionError, did_you_mean
from pipeline.kernel.sql_text import literal, quoted
from pipeline.warehouse.modelling.dimension import DimensionTransform, surrogate_of
from pipeline.warehouse.modelling.history import VALID_FROM, VALID_TO
from pipeline.warehouse.modelling.members import NOT_APPLICABLE, UNKNOWN

Missing = Literal["unknown", "not_applicable"]
"""The member of a fact whose natural key is null."""
Before = Literal["unknown", "first"]
"""The member of an event before the first version of its member."""


@dataclass(frozen=True)
class Lookup:
    """A lookup of a dimension by a fact: equal values in `on`, and a version that is valid at `as_of`."""

    dimension: str
    on: tuple[tuple[str, str], ...]
    """Pairs of a column of the fact and a column of the dimension."""
    as_of: str | None = None
    before: Before = "unknown"
    missing: Missing = "unknown"
    match_nulls: bool = False

    @property
    def surrogate(self) -> str:
        """The name of the dimension's surrogate key."""
        return surrogate_of(self.dimension)

    @property
    def members(self) -> str:
        """The relation to join, without the special members; without `as_of`, several members of a key are an error."""
        theirs = [quoted(name) for _, name in self.on]
        real = f"{quoted(self.surrogate)} > {UNKNOWN}"
        if self.before == "first":
            begins = f"lag({VALID_FROM}) over (partition by {', '.join(theirs)} order by {VALID_FROM}) is null"
            return f"(select *, {begins} as _is_first from {quoted(self.dimension)} where {real})"
        if self.as_of is not None:
            return quoted(self.dimension)
        several = literal(f"{self.dimension!r} has several members per key: set as_of= if it has history")
        present = " and ".join([real, *(f"{name} is not null" for name in theirs if not self.match_nulls)])
        return (
            f"(select {', '.join(theirs)}, case when count(*) > 1 then error({several}) "
            f"else max({quoted(self.surrogate)}) end as {quoted(self.surrogate)} from {quoted(self.dimension)} "
            f"where {present} group by all)"
        )

    def matches(self, fact: str, dimension: str) -> str:
        """Return the condition of the join."""
        equals = "is not distinct from" if self.match_nulls else "="
        conditions = [f"{fact}.{quoted(ours)} {equals} {dimension}.{quoted(theirs)}" for ours, theirs in self.on]
        if self.as_of is not None:
            time = f"{fact}.{quoted(self.as_of)}"
            since = f"{time} >= {dimension}.{VALID_FROM}"
            conditions.append(f"({since} or {dimension}._is_first)" if self.before == "first" else since)
            conditions.append(f"({dimension}.{VALID_TO} is null or {time} < {dimension}.{VALID_TO})")
        return " and ".join(conditions)

    def misfit(self, dimension: DimensionTransform) -> str | None:
        """Return why a dimension cannot answer this lookup, or `None` if it can."""
        columns = (*dimension.key, *dimension.attributes)
        unknown = next((theirs for _, theirs in self.on if theirs not in columns), None)
        if unknown is not None:
            return f"{self.dimension!r} has no column {unknown!r}; {did_you_mean(unknown, columns)}"
        if self.as_of is not None and not dimension.has_versions:
            return f"{self.dimension!r} has no versions; remove as_of="
        if self.as_of is None and dimension.has_versions:
            return f"{self.dimension!r} has versions; set as_of= to the time of the event"
        has_member = any(member.key == NOT_APPLICABLE for member in dimension.special)
        if self.missing == "not_applicable" and not has_member:
            return f"{self.dimension!r} has no member 'not applicable'; set not_applicable= there"
        return None

    def value(self, fact: str, dimension: str) -> str:
        """Return SQL for the surrogate key: that of the match, or of a special member."""
        found = f"coalesce({dimension}.{quoted(self.surrogate)}, {UNKNOWN})"
        if self.missing == "unknown":
            return found
        missing = " and ".join(f"{fact}.{quoted(ours)} is null" for ours, _ in self.on)
        return f"case when {missing} then {NOT_APPLICABLE} else {found} end"


def lookup(
    dimension: str,
    on: str | Sequence[str] | Mapping[str, str],
    *,
    as_of: str | None = None,
    before: Before = "unknown",
    missing: Missing = "unknown",
    match_nulls: bool = False,
) -> Lookup:
    """Look up a dimension's surrogate key by its natural key.

    `on` is a column that both tables have, several of them, or a mapping from columns of the fact to columns of the
    dimension. For a dimension with history, `as_of` is the time column of the fact, at which the version must be valid.
    Facts are neither lost nor duplicated: a fact without a match, or with a null in `on` or `as_of`, gets key 0.

    With `before="first"`, an event before the first version of its member gets that version. With
    `missing="not_applicable"`, a fact whose `on` is null gets key -1, which the dimension must have. With
    `match_nulls=True`, nulls are values, as in a junk dimension.

    Raises `DefinitionError` for options that contradict each other.
    """
    place = caller()
    for name, value, known in (("before", before, get_args(Before)), ("missing", missing, get_args(Missing))):
        if value not in known:
            do = did_you_mean(value, known)
            raise DefinitionError(f"unknown value of {name}=", got=repr(value), do=do, place=place)
    if before == "first" and as_of is None:
        raise DefinitionError("before='first' requires as_of=", do="set as_of=, or remove before=", place=place)
    if match_nulls and (as_of is not None or missing != "unknown"):
        other = "as_of=" if as_of is not None else "missing="
        raise DefinitionError(f"match_nulls= and {other} contradict each other", do="remove one of them", place=place)
    if isinstance(on, Mapping):
        pairs = tuple(on.items())
    else:
        pairs = tuple((name, name) for name in ((on,) if isinstance(on, str) else on))
    return Lookup(dimension, pairs, as_of, before, missing, match_nulls)
