from __future__ import annotations

import datetime as dt

import pytest

from pipeline.core.as_of import AsOf
from pipeline.core.errors import RequestError

NOON = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)


def of(at):
    return AsOf.of(at, lambda: NOON)


@pytest.mark.parametrize(
    ("at", "time"),
    [
        ("2026-05-01", dt.datetime(2026, 5, 1, tzinfo=dt.UTC)),
        ("2026-05-01T14:00+02:00", NOON),
        (dt.datetime(2026, 5, 1, 12), NOON),  # noqa: DTZ001 - times without an offset are in UTC
        ("-2h", NOON - dt.timedelta(hours=2)),
        ("2h", NOON - dt.timedelta(hours=2)),
        ("90 min", NOON - dt.timedelta(minutes=90)),
        ("- 90 minutes", NOON - dt.timedelta(minutes=90)),
        ("2 days AGO", NOON - dt.timedelta(days=2)),
        (dt.timedelta(hours=1), NOON - dt.timedelta(hours=1)),
        (["-1h", "orders=3"], NOON - dt.timedelta(hours=1)),
        (None, None),
        ({"orders": 3}, None),
    ],
)
def test_times_are_parsed(at, time):
    assert of(at).time == time


def test_versions_are_parsed_by_table():
    assert of(["orders=3", " items = 12 ", "-1h", "orders=3"]).versions == {"orders": 3, "items": 12}
    assert of("orders=0").versions == of({"orders": 0}).versions == of(of({"orders": 0})).versions == {"orders": 0}


@pytest.mark.parametrize("at", ["yesterday", "2", "-2 years", "orders=-1", "orders=", "", "ago", "-999999999d"])
def test_other_texts_are_refused(at):
    with pytest.raises(RequestError, match=r"the time or version to read cannot be parsed: .*use a time like"):
        of(at)


def test_two_times_or_two_versions_of_a_table_are_refused():
    with pytest.raises(RequestError, match="two times to read are given: got '-2h'; give one"):
        of(["-1h", "-2h"])
    with pytest.raises(RequestError, match="two versions of 'a' to read are given: got 'a=2'; give one"):
        of(["a=1", "a=2"])
