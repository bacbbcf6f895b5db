"""SQL for dimensions with history: observations of members become versions, or the current and the previous values.

Both forms read observations in any order, and what the dimension already knows as further observations. Of several
observations of a member at one time, one is used: those of the input precede what is known, then the greatest attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.kernel.sql_text import listed, literal, quoted

VALID_FROM, VALID_TO, IS_CURRENT = "valid_from", "valid_to", "is_current"
OBSERVED_AT = "observed_at"
"""The time of the last observation in a version, in dimensions of which some attributes are not tracked."""
_CURRENT, _PREVIOUS, _SINCE = "current_", "previous_", "_since"


@dataclass(frozen=True)
class History:
    """Which columns of an observation are the key, the time, and attributes whose changes count."""

    key: tuple[str, ...]
    sequence_by: str
    tracked: tuple[str, ...]
    untracked: tuple[str, ...] = ()
    has_current: bool = False
    """Whether each version also has the current values of the tracked attributes: type 6."""

    @property
    def attributes(self) -> tuple[str, ...]:
        """All attributes."""
        return (*self.tracked, *self.untracked)

    @property
    def added(self) -> tuple[str, ...]:
        """The columns of versions besides those of the observations."""
        observed = (OBSERVED_AT,) if self.untracked else ()
        current = tuple(f"{_CURRENT}{name}" for name in self.tracked) if self.has_current else ()
        return (VALID_FROM, VALID_TO, IS_CURRENT, *observed, *current)

    @property
    def added_to_members(self) -> tuple[str, ...]:
        """The columns of members with previous values, besides those of the observations."""
        pairs = tuple(name for a in self.tracked for name in (f"{_PREVIOUS}{a}", f"{a}{_SINCE}"))
        return (*pairs, OBSERVED_AT) if self.untracked else pairs

    def versions(self, observations: str, past: str | None) -> str:
        """Return a SELECT of the versions, each valid until the next; `past` is the relation of those that are known.

        A change of a tracked attribute begins a version; the others have the value last observed in it.
        """
        observed, window = self._observed(observations, self._past_versions(past)), self._by_time()
        changes = (
            f"{observed}, changes as (select *, {_changed(self.tracked)} as _is_change from at_times "
            f"window history as ({window}))"
        )
        columns = listed((*self.key, *self.attributes))
        if not self.untracked:
            chosen = f"select {columns}, _at as {VALID_FROM} from changes where _is_change"
        else:
            latest = ", ".join(f"{_newest(quoted(name), '_at')} as {quoted(name)}" for name in self.untracked)
            first = ", ".join(f"{_of_first(quoted(name))} as {quoted(name)}" for name in self.tracked)
            chosen = (
                f"select {', '.join([listed(self.key), first, latest])}, min(_at) as {VALID_FROM}, "
                f"max(_at) as {OBSERVED_AT} from (select *, sum(_is_change::integer) over history as _version "
                f"from changes window history as ({window})) group by {listed(self.key)}, _version"
            )
        by_start = f"partition by {listed(self.key)} order by {VALID_FROM}"
        observed_at = f", {OBSERVED_AT}" if self.untracked else ""
        current = "".join(
            f", last_value({quoted(name)}) over (history rows between unbounded preceding and unbounded following) "
            f"as {quoted(_CURRENT + name)}"
            for name in (self.tracked if self.has_current else ())
        )
        return (
            f"{changes} select {columns}, {VALID_FROM}, lead({VALID_FROM}) over history as {VALID_TO}, "
            f"lead({VALID_FROM}) over history is null as {IS_CURRENT}{observed_at}{current} "
            f"from ({chosen}) window history as ({by_start}) union all by name {self._without_time}"
        )

    def members(self, observations: str, past: str | None) -> str:
        """Return a SELECT of one row per member: its current attributes, and the previous values of the tracked ones."""
        observed, window = self._observed(observations, self._past_members(past)), self._by_time()
        flags, columns = [], []
        for number, name in enumerate(self.tracked):
            value = quoted(name)
            is_first = "lag(_at) over history is null"
            flags.append(f"{is_first} or {_changed((name,))} as _changed{number}")
            flags.append(f"lag({value}) over history as _before{number}")
            when = f"filter (where _changed{number})"
            columns += [
                f"{_newest(value, '_at', when)} as {value}",
                f"{_newest(f'_before{number}', '_at', when)} as {quoted(_PREVIOUS + name)}",
                f"max(_at) {when} as {quoted(name + _SINCE)}",
            ]
        columns += [f"{_newest(quoted(name), '_at')} as {quoted(name)}" for name in self.untracked]
        columns += [f"max(_at) as {OBSERVED_AT}"] if self.untracked else []
        return (
            f"{observed}, changes as (select *, {', '.join(flags)} from at_times window history as ({window})) "
            f"select {listed(self.key)}, {', '.join(columns)} from changes group by {listed(self.key)} "
            f"union all by name {self._without_time}"
        )

    @property
    def _without_time(self) -> str:
        """A SELECT of the observations without a time, whose rows have none of the added columns."""
        kept = listed((*self.key, *self.attributes))
        return f"select {kept} from observations where {quoted(self.sequence_by)} is null"

    def _observed(self, observations: str, past: str) -> str:
        """Return the CTEs of the observations with their time `_at`, one per member and time."""
        kept = listed((*self.key, *self.attributes))
        first = ", ".join(["_rank", *(f"{quoted(name)} desc" for name in self.attributes)])
        time = quoted(self.sequence_by)
        return (
            f"with observations as ({observations}), observed as ("
            f"select {kept}, {time} as _at, 0 as _rank from observations where {time} is not null{past}), "
            f"at_times as (select {kept}, _at from observed "
            f"qualify row_number() over (partition by {listed(self.key)}, _at order by {first}) = 1)"
        )

    def _past_versions(self, past: str | None) -> str:
        if past is None:
            return ""
        kept = listed((*self.key, *self.attributes))
        again = f" union all by name select {kept}, {OBSERVED_AT} as _at, 1 as _rank from {past}"
        return f" union all by name select {kept}, {VALID_FROM} as _at, 2 as _rank from {past}" + (
            again if self.untracked else ""
        )

    def _past_members(self, past: str | None) -> str:
        """Return what a member with previous values says about its past, as observations of all of its attributes.

        There is one for each time at which an attribute got its current value, and one without a time for the previous
        values, which comes before all others.
        """
        if past is None:
            return ""
        times = [quoted(name + _SINCE) for name in self.tracked] + ([OBSERVED_AT] if self.untracked else [])
        moments = f"list_append(list_distinct([{', '.join(times)}]), null)"
        values = ", ".join(
            f"case when _at >= {quoted(name + _SINCE)} then {quoted(name)} else {quoted(_PREVIOUS + name)} end "
            f"as {quoted(name)}"
            for name in self.tracked
        )
        rest = f", {listed(self.untracked)}" if self.untracked else ""
        return (
            f" union all by name select {listed(self.key)}, {values}{rest}, _at, 1 as _rank "
            f"from (select *, unnest({moments}) as _at from {past})"
        )

    def _by_time(self) -> str:
        return f"partition by {listed(self.key)} order by _at nulls first"


def tracked_of(attributes: Sequence[str], only: Sequence[str], except_: Sequence[str]) -> tuple[str, ...]:
    """Return the tracked attributes: these, or all except these."""
    return tuple(name for name in attributes if (name in only if only else name not in except_))


def one_parent(levels: Sequence[str], members: str, dimension: str, hierarchy: str) -> str:
    """Return a SELECT that raises an error if a level of a hierarchy has a value with several parents.

    `levels` are ordered from the top; `members` is the relation of the current members.
    """
    checks = [
        f"select max(case when _parents > 1 then error({literal(_several(dimension, hierarchy, child, parents))} "
        f"|| _child) else 0 end) as _checked from (select {quoted(child)}::varchar as _child, "
        f"count(distinct row({listed(list(parents))})) as _parents from {members} "
        f"where {quoted(child)} is not null group by {quoted(child)})"
        for child, parents in ((levels[n], levels[:n][-1:]) for n in range(1, len(levels)))
    ]
    return " union all ".join(checks)


def _several(dimension: str, hierarchy: str, child: str, parents: Sequence[str]) -> str:
    return f"hierarchy {hierarchy!r} of {dimension!r}: several values of {', '.join(parents)} for {child} "


def _changed(names: Sequence[str]) -> str:
    """Return SQL that is true for the first row of a window, and for one that differs from the row before."""
    same = " and ".join(f"{quoted(name)} is not distinct from lag({quoted(name)}) over history" for name in names)
    return f"(row_number() over history = 1 or not ({same or 'true'}))"


def _newest(value: str, time: str, when: str = "") -> str:
    """Return SQL for the value at the greatest time, also if it is null."""
    return f"(arg_max({{'v': {value}}}, {time}) {when}).v"


def _of_first(value: str) -> str:
    return f"(arg_min({{'v': {value}}}, _at)).v"
