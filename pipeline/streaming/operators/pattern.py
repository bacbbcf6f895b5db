"""Patterns: events that follow one another, by key, within a time; each match is a row.

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
from pipeline.core.event_time import span
from pipeline.core.fingerprint import fingerprint
from pipeline.kernel.syntax.function_calls import is_reserved
from pipeline.streaming.operators.batch_form import StreamedInput, schemas_of
from pipeline.streaming.operators.operator import Operator
from pipeline.streaming.operators.pattern_matches import Matches, matches_in, validated
from pipeline.streaming.operators.pattern_steps import Contiguity, Pattern, Step
from pipeline.streaming.operators.row_conditions import require_condition

if TYPE_CHECKING:
    import pyarrow as pa

AfterMatch = Literal["skip past last event", "skip to next event"]
_MICROSECOND = timedelta(microseconds=1)


def event(name: str, table: str, where: str = "true", *, times: int = 1, or_more: bool = False) -> Step:
    """Begin a pattern: a row of `table` for which the SQL condition `where` is true, called `name` in later conditions.

    With `times` it is that many such rows, one after the other with others between; with `or_more`, any further ones
    until the next event of the pattern comes, or until `within` is over.
    """
    return Step(name, table, where, "first", times, or_more, caller())


def followed_by(name: str, table: str, where: str = "true", *, times: int = 1, or_more: bool = False) -> Step:
    """Go on with the first later row of `table` for which `where` is true; other rows may come between.

    `where` is SQL over the row's columns, alone or as `name.column`, and over earlier events of the match, as
    `earlier.column`. An event with `times` other than 1, or `or_more`, is a list of rows: `failed[1].at`, `failed[-1].at`,
    `len(failed)`. In its own condition, `previous` is the row that it took before, and null for its first.
    """
    return Step(name, table, where, "relaxed", times, or_more, caller())


def directly_followed_by(name: str, table: str, where: str = "true", *, times: int = 1, or_more: bool = False) -> Step:
    """Go on with the very next row of the key, of all tables that the pattern reads, if it is of `table` and `where` is true."""
    return Step(name, table, where, "strict", times, or_more, caller())


def not_followed_by(name: str, table: str, where: str = "true") -> Step:
    """End the match if such a row comes before the next event does; as the last step, before `within` is over.

    A row that is both the forbidden one and the next event counts as forbidden.
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
    """Define a table of the matches of a pattern, each one row: the columns of `by`, then those of `select`.

    Rows of one value of `by` (nulls are equal) are looked at in the order of their event time, then of the tables as
    the steps first name them, then of the log: by `_source`, then by `_position`, where the table has them; then of all
    their columns. `event_time` is the column of it, for each table if they differ. So it does not matter in which order
    rows arrive: a stream looks at them when the watermark has passed them.

    A match begins at each row that the first step takes and goes on with the first later row that the next step takes,
    without a second try: it ends without a result when a row comes that it forbids, or when its last event would be
    later than `within` after its first. A pattern whose last step is `not_followed_by`, or has `or_more`, comes out when
    `within` is over, others with their last event.

    Of matches whose events overlap, the one that is complete first comes out, and of several the one that began first; the
    others that began before its last event, or with it, are dropped. With `after_match="skip to next event"` all come out.

    Raises `DefinitionError` for steps that are no pattern, names used twice, and SQL that cannot be read.
    """
    place = caller()
    _require_a_pattern(steps, place)
    if after_match not in {"skip past last event", "skip to next event"}:
        raise DefinitionError(
            "after_match= is 'skip past last event' or 'skip to next event'", got=repr(after_match), place=place
        )
    keys = names(by)
    if not keys or not select:
        raise DefinitionError("a pattern needs by= and select= with at least one column", place=place)
    twice = next((column for column in select if column in keys), None)
    if twice is not None:
        raise DefinitionError(
            f"{twice!r} is a column of by=, which comes first by itself",
            do="give it another name in select=",
            place=place,
        )
    for column, expression in select.items():
        require_condition(f"column {column!r}", expression, place)
    tables = tuple(dict.fromkeys(step.table for step in steps))
    times = dict.fromkeys(tables, event_time) if isinstance(event_time, str) else dict(event_time)
    unknown = next((table for table in tables if table not in times), None)
    if unknown is not None:
        raise DefinitionError(f"event_time= has no column for {unknown!r}", do="name one for each table", place=place)
    definition = Pattern(
        steps=steps,
        by=keys,
        within_us=span(within, "within", place) // _MICROSECOND,
        event_times=tuple((table, times[table]) for table in tables),
        select=tuple(select.items()),
        overlapping=after_match == "skip to next event",
    )
    return Table(
        place=place,
        description=description,
        layer=layer,
        partition_by=names(partition_by),
        expect=checks(expect, place),
        transform=PatternTransform(definition, place),
        streaming=streaming_of(None, None, None, None, place),
    )


def _require_a_pattern(steps: Sequence[Step], place: Place) -> None:
    """Raise `DefinitionError` for steps that are no pattern."""
    if not steps or steps[0].contiguity != "first" or any(step.contiguity == "first" for step in steps[1:]):
        raise DefinitionError("a pattern begins with one event(...), and other steps follow", place=place)
    seen: set[str] = {"previous"}
    for step, after in zip(steps, (*steps[1:], None), strict=True):
        if not step.name.isidentifier() or step.name.startswith("_") or step.name.lower() in seen:
            raise DefinitionError(
                "each step has a name of its own, a plain word", got=repr(step.name), place=step.place
            )
        if is_reserved(step.name):
            raise DefinitionError(
                "a step's name is a word of SQL, so its columns cannot be named",
                got=repr(step.name),
                do="give it another name",
                place=step.place,
            )
        seen.add(step.name.lower())
        if step.times < 1:
            raise DefinitionError(f"{step.name!r} happens once or more", got=f"times={step.times}", place=step.place)
        if step.or_more and after is not None and after.contiguity == "absent":
            raise DefinitionError(
                f"{after.name!r} may not come after {step.name!r}, which has no end of its own",
                do="take or_more away, or put another event between them",
                place=after.place,
            )
        require_condition(f"step {step.name!r}", step.where, step.place)


@dataclass(frozen=True)
class PatternTransform:
    """The matches of a pattern."""

    pattern: Pattern
    place: Place

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tables of its steps, as they are first named."""
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
        """Return the same; the place of a row in the log, beside the columns of a contract, only orders rows."""
        streamed = schemas_of(tables, dict(self.pattern.event_times), contracts)
        return matches_in(Matches(self.pattern, streamed), tables, self.place)

    def operator(self, inputs: Mapping[str, StreamedInput], place: Place) -> Operator:
        """Return what streams it."""
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
