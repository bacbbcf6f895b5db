"""One incident for each cause."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ml.monitoring.incidents import incidents

DAY = timedelta(days=1)
START = datetime(2026, 1, 1, tzinfo=UTC)


def result(day, **changed):
    start = None if day is None else START + day * DAY
    segment = changed.get("segment")
    since = None if changed.get("state") == "quiet" else START
    plain = {"feature": "x", "segment": segment, "version": "1", "state": "alarm", "since": since, "rows": 10}
    return {"window_start": start, "reason": f"x {segment}", **plain, **changed}


def found(*results):
    return [(i.feature, i.by, i.segments, i.reason) for i in incidents(results, ("version",), DAY, 3)]


def test_alarms_of_segments_are_one():
    rows = [result(5), result(5, segment="a"), result(5, segment="b", state="quiet")]
    assert found(*rows) == [("x", "version 1", ("a",), "x None")]
    rows = [result(5, state="quiet"), result(5, segment="a", rows=1), result(5, segment="b", rows=2)]
    assert found(*rows) == [("x", "version 1", ("b", "a"), "x b")]


def test_an_alarm_that_ended_is_not_open():
    assert found(result(4), result(5, state="quiet")) == []
    assert found(result(5), result(None, state="not judged")) == [("x", "version 1", (), "x None")]


def test_a_window_that_is_not_judged_ends_no_alarm():
    unjudged = result(5, state="not judged", reason="16 rows, needs 200")
    assert found(result(4), unjudged) == [("x", "version 1", (), "x None")]
    assert found(result(3), {**unjudged, "since": None}) == []


def test_an_alarm_of_a_version_that_has_no_more_rows_is_not_open():
    assert found(result(2), result(5, version="2", state="quiet")) == []
    assert [by for _, by, _, _ in found(result(3), result(5, version="2"))] == ["version 1", "version 2"]


def test_without_results_there_are_none():
    assert found() == found(result(None)) == []
