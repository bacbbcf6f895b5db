"""Snapshot facts: the values of each period, and the milestones of each process, made of their events."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from pipeline.core.definitions import Action, Expectation, Table, caller, names
from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.core.partition_fields import partitioning
from pipeline.kernel.sql import SqlTransform, check_condition, parse, sql_table
from pipeline.kernel.sql_text import listed, literal, quoted
from pipeline.warehouse.modelling.facts import fact_table
from pipeline.warehouse.modelling.lookups import Lookup

Period = Literal["day", "week", "month", "quarter", "year"]
PERIOD_START, PERIOD_END, STAGE = "period_start", "period_end", "stage"


def periodic_snapshot(
    text: str,
    *,
    key: str | Sequence[str],
    at: str,
    period: Period = "day",
    lookups: Mapping[str, Lookup] | None = None,
    grain: str = "",
    partition_by: str | Sequence[str] | None = None,
    expect: Sequence[Expectation] = (),
    description: str = "",
) -> Table:
    """Define a fact with a row for each key and period, with the values that were valid at the end of the period.

    The SELECT returns values of a `key` at a time, the column `at`. There is a row for each period from the first one of the
    key to the last one of the data; a key without a new value in a period keeps the one before. Of several values at one
    time, the greatest are used. `period_start` and `period_end` (exclusive) are added to the columns. A value without a
    time or a key is quarantined.

    Raises `DefinitionError` for an unknown period, and for columns that the SELECT lacks or that it must not have.
    """
    place = caller()
    if period not in get_args(Period):
        do = did_you_mean(str(period), get_args(Period))
        raise DefinitionError("unknown value of period=", got=repr(period), do=do, place=place)
    columns = _listed_columns(text, (*names(key), at), (PERIOD_START, PERIOD_END), place)
    return fact_table(
        _periodic(text, names(key), at, period, columns),
        place,
        (*names(key), PERIOD_START),
        lookups,
        kind="periodic snapshot",
        grain=grain,
        partition_by=partitioning(partition_by, place),
        expect=expect,
        description=description or sql_table(SqlTransform(text), place, layer="gold").description,
    )


def accumulating_snapshot(
    text: str,
    *,
    key: str | Sequence[str],
    at: str,
    milestones: Mapping[str, str],
    lookups: Mapping[str, Lookup] | None = None,
    grain: str = "",
    partition_by: str | Sequence[str] | None = None,
    expect: Sequence[Expectation] = (),
    description: str = "",
) -> Table:
    """Define a fact with a row for each process, with the time of each of its milestones.

    The SELECT returns the events of processes, which `key` identifies, each at a time, the column `at`. `milestones` maps
    names to SQL conditions, in the order in which they are usually reached. For each `m` there is `m_at`, the time of the
    first event that satisfies its condition, and for each `a` and the next `b`, `a_to_b_seconds` between them. `stage` is
    the last milestone in this order that was reached, or null. The other columns have the values of the newest event.

    Raises `DefinitionError` for an invalid condition, and for columns that the SELECT lacks or that it must not have.
    """
    place = caller()
    if not milestones:
        raise DefinitionError("an accumulating snapshot has no milestones", do="set milestones=", place=place)
    for name, condition in milestones.items():
        check_condition(Expectation(name, condition, Action.WARN), place)
    added = (STAGE, *(f"{name}_at" for name in milestones), *(name for name, _, _ in _lags(tuple(milestones))))
    columns = _listed_columns(text, (*names(key), at), added, place)
    return fact_table(
        _accumulating(text, names(key), at, milestones, columns),
        place,
        names(key),
        lookups,
        kind="accumulating snapshot",
        grain=grain,
        partition_by=partitioning(partition_by, place),
        expect=expect,
        description=description or sql_table(SqlTransform(text), place, layer="gold").description,
    )


def _periodic(text: str, key: tuple[str, ...], at: str, period: str, columns: tuple[str, ...]) -> str:
    time, others = quoted(at), [name for name in columns if name not in {*key, at}]
    is_known = " and ".join(f"{quoted(name)} is not null" for name in (*key, at))
    greatest = ", ".join(["_at desc", *(f"{quoted(name)} desc" for name in others)])
    found = listed(columns)
    return f"""
    with rows_read as (
{text}
    ),
    observed as (
        select {found}, {time} as _at, date_trunc('{period}', {time}) as _period from rows_read where {is_known}
    ),
    last_in_period as (
        select * from observed qualify row_number() over (partition by {listed(key)}, _period order by {greatest}) = 1
    ),
    first_periods as (select {listed(key)}, min(_period) as _first from observed group by {listed(key)}),
    span as (select min(_period) as _begin, max(_period) as _end from observed),
    periods as (select unnest(generate_series(_begin, _end, interval 1 {period})) as {PERIOD_START} from span)
    select {", ".join(f"o.{quoted(name)}" for name in columns)}, p.{PERIOD_START}::date as {PERIOD_START},
           (p.{PERIOD_START} + interval 1 {period})::date as {PERIOD_END}
    from first_periods k join periods p on p.{PERIOD_START} >= k._first
    asof join last_in_period o
    on {" and ".join(f"k.{quoted(name)} = o.{quoted(name)}" for name in key)} and p.{PERIOD_START} >= o._period
    union all by name select {found} from rows_read where not ({is_known})
    """


def _accumulating(
    text: str, key: tuple[str, ...], at: str, milestones: Mapping[str, str], columns: Sequence[str]
) -> str:
    time = quoted(at)
    times = [
        f"min({time}) filter (where {condition}) as {quoted(f'{name}_at')}" for name, condition in milestones.items()
    ]
    latest = [
        f"(arg_max({{'v': {quoted(name)}}}, {time})).v as {quoted(name)}" for name in columns if name not in {*key, at}
    ]
    spans = [f"epoch({quoted(f'{b}_at')} - {quoted(f'{a}_at')}) as {quoted(n)}" for n, a, b in _lags(tuple(milestones))]
    reached = " ".join(f"when {quoted(f'{n}_at')} is not null then {literal(n)}" for n in reversed(tuple(milestones)))
    return f"""
    with processes as (select {", ".join([listed(key), *times, *latest])} from (
{text}
    ) group by {listed(key)})
    select {", ".join(["*", *spans, f"case {reached} end as {STAGE}"])} from processes
    """


def _lags(milestones: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return the names of the columns between consecutive milestones, with both milestones."""
    return [(f"{a}_to_{b}_seconds", a, b) for a, b in itertools.pairwise(milestones)]


def _listed_columns(text: str, needed: Sequence[str], added: Sequence[str], place: Place) -> tuple[str, ...]:
    """Return the columns of a SELECT; raise `DefinitionError` if they are not listed, lack one, or contain an added one."""
    columns = tuple(parse(text, place=place).named_selects)
    if "*" in columns:
        raise DefinitionError("a snapshot must list its columns", got="*", do="replace the star", place=place)
    for name in needed:
        if name not in columns:
            do = did_you_mean(name, columns)
            raise DefinitionError(f"the SELECT of the snapshot has no column {name!r}", do=do, place=place)
    taken = next((name for name in added if name in columns), None)
    if taken is not None:
        raise DefinitionError(f"the snapshot has a duplicate column {taken!r}", do="rename one", place=place)
    return columns
