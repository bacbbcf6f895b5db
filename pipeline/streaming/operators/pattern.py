"""Patterns: sequences of events with the same key within a time limit. Each match becomes a row.

pattern(
    event("arrived", "arrivals", "arr_delay > 15"),
    followed_by("departed", "departures", "dep_delay > 15 and departed.origin = arrived.dest"),
    by="tailnum", within="6 hours", event_time={"arrivals": "arr_time", "departures": "dep_time"},
    select={"flight": "arrived.flight", "next_flight": "departed.flight"},
)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pipeline.core.definitions import Expectation, Layer, Table, caller, checks, names, streaming_of
from pipeline.core.errors import DefinitionError, Place
from pipeline.core.event_time import parse_duration
from pipeline.core.fingerprint import fingerprint
from pipeline.core.partition_fields import partitioning
from pipeline.kernel.syntax.function_calls import is_reserved
from pipeline.kernel.syntax.row_expressions import require_row_expression
from pipeline.streaming.operators.batch_form import StreamedInput, schemas_of
from pipeline.streaming.operators.operator import Operator
from pipeline.streaming.operators.pattern_matches import Matches, matches_in, validated
from pipeline.streaming.operators.pattern_steps import Contiguity, Pattern, Step

if TYPE_CHECKING:
    import pyarrow as pa

AfterMatch = Literal["skip past last event", "skip to next event"]
_MICROSECOND = timedelta(microseconds=1)


def event(name: str, table: str, where: str = "true", *, times: int = 1, or_more: bool = False) -> Step:
    """Start a pattern with a row of `table` that satisfies the SQL condition `where`.

    Later conditions refer to the row as `name`.
    `times` requires that many such rows; other rows may come between them. `or_more` also takes all further such rows
    until the next event of the pattern arrives or `within` expires.
    """
    return Step(name, table, where, "first", times, or_more, caller())


def followed_by(name: str, table: str, where: str = "true", *, times: int = 1, or_more: bool = False) -> Step:
    """Continue with the first later row of `table` that satisfies `where`. Other rows may come between.

    `where` is a SQL condition over the row's columns (`column` or `name.column`) and over earlier events of the match
    (`earlier.column`). An event with `times` greater than 1 or with `or_more` is a list of rows: `failed[1].at`,
    `failed[-1].at`, `len(failed)`. In the condition of such an event, `previous` is the last row it has taken, or null
    for its first row.
    """
    return Step(name, table, where, "relaxed", times, or_more, caller())


def directly_followed_by(name: str, table: str, where: str = "true", *, times: int = 1, or_more: bool = False) -> Step:
    """Continue with the next row of the key in any table of the pattern; it must be in `table` and satisfy `where`."""
    return Step(name, table, where, "strict", times, or_more, caller())


def not_followed_by(name: str, table: str, where: str = "true") -> Step:
    """Discard the match if such a row comes before the next event or, as the last step, before `within` expires.

    A row that qualifies both as the forbidden event and as the next event counts as forbidden.
    """
    return Step(name, table, where, "absent", 1, False, caller())  # noqa: FBT003 - a field


def pattern(  # noqa: PLR0913 - options of a definition
    *steps: Step,
    by: str | Sequence[str],
    within: str | timedelta,
    event_time: str | Mapping[str, str],
    select: Mapping[str, str],
    after_match: AfterMatch = "skip past last event",
    partition_by: str | Sequence[str] | None = None,
    expect: Sequence[Expectation] = (),
    layer: Layer = "silver",
    description: str = "",
) -> Table:
    """Define a table of the matches of a pattern. Each match is one row: the columns of `by`, then those of `select`.

    Rows with equal values of `by` (nulls are equal) are processed by event time, then by table in the order in which
    the steps first name them, then by `_source` and `_position` where the table has them, then by all columns.
    `event_time` names the event time column, for each table if they differ. The result does not depend on the order of
    arrival: a stream processes rows once the watermark has passed them.

    A match starts at each row that satisfies the first step. Each next step takes the first later row that satisfies
    it; there is no backtracking. A match is discarded when a forbidden row arrives, or when its last event would be
    more than `within` after its first. A match is emitted with its last event. If the last step is `not_followed_by` or
    has `or_more`, it is emitted when `within` has expired.

    Of overlapping matches, the one that completes first is emitted, and of those the one that started first. Other
    matches that started no later than its last event are dropped. `after_match="skip to next event"` emits all matches.

    Raises `DefinitionError` for invalid steps, duplicate names, and SQL that cannot be parsed.
    """
    place = caller()
    _require_valid_steps(steps, place)
    if after_match not in {"skip past last event", "skip to next event"}:
        raise DefinitionError(
            "after_match= must be 'skip past last event' or 'skip to next event'", got=repr(after_match), place=place
        )
    keys = names(by)
    _require_columns(keys, select, place)
    event_times = _event_times(steps, event_time, place)
    definition = Pattern(
        steps=steps,
        by=keys,
        within_us=parse_duration(within, "within", place) // _MICROSECOND,
        event_times=event_times,
        select=tuple(select.items()),
        overlapping=after_match == "skip to next event",
    )
    return Table(
        place=place,
        description=description,
        layer=layer,
        partition_by=partitioning(partition_by, place),
        expect=checks(expect, place),
        transform=PatternTransform(definition, place),
        streaming=streaming_of(None, None, None, None, place),
    )


def _require_columns(keys: Sequence[str], select: Mapping[str, str], place: Place) -> None:
    """Raise `DefinitionError` if the output has no or duplicate columns, or an expression that cannot be parsed."""
    if not keys or not select:
        raise DefinitionError("a pattern needs at least one column in by= and in select=", place=place)
    duplicate = next((column for column in select if column in keys), None)
    if duplicate is not None:
        raise DefinitionError(
            f"{duplicate!r} is already in the output because it is a column of by=",
            do="use another name in select=",
            place=place,
        )
    for column, expression in select.items():
        require_row_expression(f"column {column!r}", expression, place)


def _event_times(
    steps: Sequence[Step], event_time: str | Mapping[str, str], place: Place
) -> tuple[tuple[str, str], ...]:
    """Return the tables of the steps with their event time columns; raise `DefinitionError` for one without."""
    tables = tuple(dict.fromkeys(step.table for step in steps))
    columns = dict.fromkeys(tables, event_time) if isinstance(event_time, str) else dict(event_time)
    missing = next((table for table in tables if table not in columns), None)
    if missing is not None:
        raise DefinitionError(f"event_time= has no column for {missing!r}", do="name one for each table", place=place)
    return tuple((table, columns[table]) for table in tables)


def _require_valid_steps(steps: Sequence[Step], place: Place) -> None:
    """Raise `DefinitionError` for steps that do not form a pattern."""
    if not steps or steps[0].contiguity != "first" or any(step.contiguity == "first" for step in steps[1:]):
        raise DefinitionError("a pattern must start with exactly one event(...), followed by other steps", place=place)
    seen: set[str] = {"previous"}
    for step, after in zip(steps, (*steps[1:], None), strict=True):
        if not step.name.isidentifier() or step.name.startswith("_") or step.name.lower() in seen:
            raise DefinitionError(
                "the name of a step must be a unique plain identifier", got=repr(step.name), place=step.place
            )
        if is_reserved(step.name):
            raise DefinitionError(
                "the name of a step is a reserved word of SQL",
                got=repr(step.name),
                do="use another name",
                place=step.place,
            )
        seen.add(step.name.lower())
        if step.times < 1:
            raise DefinitionError(
                f"times= of step {step.name!r} must be positive", got=f"times={step.times}", place=step.place
            )
        if step.or_more and after is not None and after.contiguity == "absent":
            raise DefinitionError(
                f"{after.name!r} cannot follow {step.name!r}, which has or_more",
                do="remove or_more, or put another event between them",
                place=after.place,
            )
        require_row_expression(f"step {step.name!r}", step.where, step.place)


@dataclass(frozen=True)
class PatternTransform:
    """The matches of a pattern."""

    pattern: Pattern
    place: Place

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tables of the steps, in the order in which they are first named."""
        return self.pattern.tables

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the pattern."""
        steps = tuple(replace(step, place=Place("")) for step in self.pattern.steps)
        return fingerprint("pattern", replace(self.pattern, steps=steps))

    @property
    def language(self) -> str:
        """`arrow`."""
        return "arrow"

    def __call__(self, *args: Any, **tables: Any) -> pa.Table:
        """Return the matches in in-memory tables."""
        return self.over_log({**dict(zip(self.inputs, args, strict=False)), **tables}, {})

    def over_log(self, tables: Mapping[str, pa.Table], contracts: Mapping[str, Sequence[str]]) -> pa.Table:
        """Return the matches in tables with log positions, which are not in the contract and only order the rows."""
        streamed = schemas_of(tables, dict(self.pattern.event_times), contracts)
        return matches_in(Matches(self.pattern, streamed), tables, self.place)

    def operator(self, inputs: Mapping[str, StreamedInput], place: Place) -> Operator:
        """Return the operator that streams the pattern."""
        return validated(Matches(self.pattern, {name: inputs[name] for name in self.inputs if name in inputs}), place)


__all__ = [
    "Contiguity",
    "PatternTransform",
    "Step",
    "directly_followed_by",
    "event",
    "followed_by",
    "not_followed_by",
    "pattern",
]
