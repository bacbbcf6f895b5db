"""Dimensions that need no data: the days of a calendar, and the times of a day."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Literal, get_args

from pipeline.core.definitions import Table, caller
from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.kernel.sql_text import literal
from pipeline.warehouse.modelling.dimension import DimensionTransform, dimension_table

Grain = Literal["hour", "minute", "second"]
Day = str | dt.date
_MONTHS = 12


def date_dimension(
    first: Day,
    last: Day,
    *,
    fiscal_year_start: int = 1,
    holidays: Mapping[Any, str] | None = None,
    description: str = "One row per day.",
) -> Table:
    """Define a dimension with a row for each day from `first` to `last`, both included; its natural key is `date`.

    The surrogate key is the date as a number, 20260131 for January 31, 2026. `fiscal_year_start` is the month in which a
    fiscal year begins; it has the number of the calendar year in which it ends. `holidays` maps dates, or texts such as
    2026-01-01, to names; an object of the package `holidays` is such a mapping. A workday is a day from Monday to Friday that
    is no holiday.

    Raises `DefinitionError` for an invalid date or month, and for a last day before the first.
    """
    place = caller()
    begin, end = _date(first, "first", place), _date(last, "last", place)
    if end < begin:
        raise DefinitionError("the last day is before the first", got=f"{begin} to {end}", place=place)
    if fiscal_year_start not in range(1, _MONTHS + 1):
        got = repr(fiscal_year_start)
        raise DefinitionError("fiscal_year_start= must be a month from 1 to 12", got=got, place=place)
    named = {_date(day, "holidays", place): str(name) for day, name in (holidays or {}).items()}
    listed = ", ".join(f"({literal(str(day))}::date, {literal(named[day])})" for day in sorted(named))
    known = f"(values {listed})" if named else "(select null::date, null::varchar where false)"
    shift = (1 - fiscal_year_start) % _MONTHS
    return dimension_table(
        DimensionTransform(
            f"""
    with days as (
        select unnest(generate_series({literal(str(begin))}::date, {literal(str(end))}::date, interval 1 day))::date as date
    ),
    holidays(day, name) as (select * from {known})
    select date, year(date) as year, quarter(date) as quarter, month(date) as month, monthname(date) as month_name,
           day(date) as day, dayofyear(date) as day_of_year, isodow(date) as weekday, dayname(date) as weekday_name,
           isoyear(date) as iso_year, weekofyear(date) as iso_week,
           isodow(date) >= 6 as is_weekend, date = last_day(date) as is_month_end,
           year(date + interval {shift} month) as fiscal_year,
           quarter(date + interval {shift} month) as fiscal_quarter,
           month(date + interval {shift} month) as fiscal_month,
           h.name as holiday, h.name is not null as is_holiday, isodow(date) < 6 and h.name is null as is_workday
    from days left join holidays h on h.day = date
    """,
            "",
            ("date",),
            numbered_by="year * 10000 + month * 100 + day",
        ),
        place,
        description=description,
    )


def time_dimension(*, grain: Grain = "minute", description: str = "") -> Table:
    """Define a dimension with a row for each hour, minute or second of a day; its natural key is `time`.

    The surrogate key is the number of seconds since midnight, plus 1. Raises `DefinitionError` for an unknown grain.
    """
    place = caller()
    if grain not in get_args(Grain):
        do = did_you_mean(str(grain), get_args(Grain))
        raise DefinitionError("unknown value of grain=", got=repr(grain), do=do, place=place)
    seconds = {"hour": 3600, "minute": 60, "second": 1}[grain]
    label = {"hour": "%H:00", "minute": "%H:%M", "second": "%H:%M:%S"}[grain]
    return dimension_table(
        DimensionTransform(
            f"""
    with moments as (select unnest(generate_series(0, 86399, {seconds})) as second_of_day),
    times as (select second_of_day, make_timestamp(second_of_day * 1000000) as moment from moments)
    select moment::time as time, hour(moment) as hour, minute(moment) as minute, second(moment) as second,
           second_of_day::integer as second_of_day, strftime(moment, {literal(label)}) as label,
           case when hour(moment) < 12 then 'AM' else 'PM' end as am_pm,
           case when hour(moment) < 6 then 'night' when hour(moment) < 12 then 'morning'
                when hour(moment) < 18 then 'afternoon' else 'evening' end as part_of_day
    from times
    """,
            "",
            ("time",),
            numbered_by="second_of_day + 1",
        ),
        place,
        description=description or f"One row per {grain} of a day.",
    )


def _date(value: object, what: str, place: Place) -> dt.date:
    if isinstance(value, dt.datetime):
        return value.date()
    if isinstance(value, dt.date):
        return value
    try:
        return dt.date.fromisoformat(str(value))
    except ValueError as error:
        do = "write it as 2026-01-31"
        raise DefinitionError(f"{what}= contains an invalid date", got=repr(value), do=do, place=place) from error
