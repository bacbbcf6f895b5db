"""The high-water mark of a cursor column: no row is lost or read twice, whatever a source delivers again."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.connectors.spool.deduplication import deduplicating
from pipeline.connectors.spool.high_water import CursorColumn, HighWater, floor_of, merged, text_of
from pipeline.core.errors import DefinitionError, SourceError
from tests.rigs import proofs

AT = CursorColumn("at")


def new_rows(column, lines, before, running, until_us=None):
    """Return what one page has that is new."""
    with deduplicating(column, before, until_us) as pages:
        return pages.new_rows(lines, running)


def lines(*values: object, **more: object) -> list[bytes]:
    return [json.dumps({"n": n, "at": value, **more}).encode() for n, value in enumerate(values)]


def mark(*values: object, column: CursorColumn = AT) -> HighWater:
    running = new_rows(column, lines(*values), None, None).running
    assert running is not None
    return HighWater.of_json(json.loads(json.dumps(running.to_json())))


@pytest.mark.parametrize(
    ("values", "kind", "key", "text"),
    [
        ((1, 30, 4), "integer", 30, "30"),
        (("9", "10"), "integer", 10, "10"),
        ((1, 2.5), "number", Decimal("2.5"), "2.5"),
        (("2024-01-01", "2024-01-03"), "timestamp", 1704240000000000, "2024-01-03"),
        (("2024-01-01T00:00:00", "2023-01-01 10:00"), "timestamp", 1704067200000000, "2024-01-01T00:00:00"),
        (("2024-10-20T15:30:00-0030", "2024-10-20T15:45:00Z"), "instant", 1729440000000000, "2024-10-20T15:30:00-0030"),
        (("b", "a10"), "text", "b", "b"),
        (("2024-01-01", "soon"), "text", "soon", "soon"),
        ((None, 5), "integer", 5, "5"),
    ],
)
def test_values_are_compared_by_their_type(values, kind, key, text):
    high = mark(*values, column=replace(AT, nulls="include"))
    assert (high.kind, high.key, high.text) == (kind, key, text)


def test_values_with_and_without_a_zone_cannot_be_compared():
    with pytest.raises(
        SourceError,
        match="some values of the cursor column 'at' have a time zone, others have none: got a time zone in 1 of 2",
    ):
        mark("2024-01-01T00:00:00Z", "2024-01-01T00:00:00")


def test_the_type_of_the_mark_is_kept():
    for value in ("x", 7.5):
        with pytest.raises(
            SourceError, match=f"the type of the cursor column 'at' changed: got '{value}', previously integers"
        ):
            new_rows(AT, lines(value), mark(7), None)


def test_a_value_of_another_type_is_read_once_and_does_not_move_the_mark():
    before = mark(7)
    page = lines(8, "broken")
    found = new_rows(AT, page, before, None)
    assert found.lines == page
    assert found.running.key == 8
    again = new_rows(AT, page, merged(before, found.running, AT), None)
    assert again.lines == []


def test_nested_fields():
    column = CursorColumn("meta.at")
    found = new_rows(column, [b'{"meta": {"at": 5}}', b'{"meta": {"at": 7}}'], None, None)
    assert found.running.key == 7


@pytest.mark.parametrize(("nulls", "kept"), [("include", 2), ("exclude", 1)])
def test_rows_without_a_value(nulls, kept):
    column = replace(AT, nulls=nulls)
    assert len(new_rows(column, lines(None, 5), None, None).lines) == kept
    first = new_rows(column, lines(None, None), None, None)
    assert len(first.lines) == (2 if nulls == "include" else 0)
    mark = HighWater.of_json(json.loads(json.dumps(merged(None, first.running, column).to_json())))
    assert not mark.has_value
    again = new_rows(column, lines(None, None, None), mark, None)
    assert len(again.lines) == (1 if nulls == "include" else 0)
    both = merged(mark, new_rows(column, lines(None, 7), mark, None).running, column)
    assert (both.kind, both.key, both.text) == ("integer", 7, "7")
    assert merged(both, again.running, column).key == 7


def test_rows_without_a_value_are_refused():
    with pytest.raises(
        SourceError, match=r"rows have no value in the cursor column 'at': got 2 of 3 rows of a response; pass"
    ):
        new_rows(AT, lines(None, 5, None), None, None)
    with pytest.raises(SourceError, match="got 1 of 1 rows"):
        new_rows(AT, [b"not json"], None, None)


def test_rows_after_the_end_are_left():
    until = int(datetime(2024, 1, 2, tzinfo=UTC).timestamp() * 1e6)
    found = new_rows(AT, lines("2024-01-01T00:00:00Z", "2024-01-02T00:00:01Z"), None, None, until)
    assert len(found.lines) == 1
    assert found.running.text == "2024-01-01T00:00:00Z"
    assert len(new_rows(AT, lines(5, 6), None, None, until).lines) == 2


def test_too_many_rows_at_the_mark():
    page = [json.dumps({"n": n, "at": 1}).encode() for n in range(2001)]
    with pytest.raises(
        SourceError,
        match=r"too many rows have the highest values of the cursor column 'at'.*got 2,001 rows, at most 2,000",
    ):
        new_rows(AT, page, None, None)
    assert len(new_rows(replace(AT, drops_repeated=False), page, None, None).lines) == 2001


def test_too_many_rows_without_a_value():
    page = [json.dumps({"n": n, "at": None}).encode() for n in range(2001)]
    column = replace(AT, nulls="include")
    with pytest.raises(
        SourceError,
        match=r"too many rows have no value in the cursor column 'at'.*got 2,001 rows, at most 2,000; fill the column",
    ):
        new_rows(column, page, None, None)
    assert new_rows(replace(AT, nulls="exclude"), page, None, None).lines == []


@pytest.mark.parametrize(
    ("kind", "key", "lag", "problem"),
    [
        ("text", "b", 1, "lag= does not fit the cursor column 'at': got 1 for texts; remove lag="),
        ("integer", 5, timedelta(minutes=5), "for integers; write a number"),
        ("instant", 5, 300, "for instants; write for example '5 minutes'"),
    ],
)
def test_a_lag_of_another_type(kind, key, lag, problem):
    with pytest.raises(DefinitionError, match=problem):
        floor_of(kind, key, replace(AT, lag=lag))


def test_options_that_are_refused():
    with pytest.raises(DefinitionError, match="unknown value of null_cursors=: got 'keep'"):
        CursorColumn("at", nulls="keep")
    with pytest.raises(DefinitionError, match="lag= must not be negative"):
        CursorColumn("at", lag=-1)


@pytest.mark.parametrize(
    ("kind", "key", "text"),
    [
        ("instant", 1729440000000000, "2024-10-20T16:00:00Z"),
        ("instant", 1729440000123456, "2024-10-20T16:00:00.123456Z"),
        ("timestamp", -1, "1969-12-31T23:59:59.999999"),
        ("number", Decimal("2.500000000000"), "2.5"),
        ("number", Decimal("100.000000000000"), "100"),
        ("integer", 7, "7"),
        ("text", "b", "b"),
    ],
)
def test_keys_as_text(kind, key, text):
    assert text_of(kind, key) == text


ROW = st.tuples(st.integers(0, 3) | st.none(), st.integers(0, 2))
"""The distance from the highest value so far (0: a new highest value; none: no value), and what makes rows equal or not."""


@settings(max_examples=proofs.examples(25, 600), deadline=None)
@given(
    batches=st.lists(st.lists(ROW, max_size=6), min_size=1, max_size=6),
    lag=st.integers(0, 3),
    inclusive=st.booleans(),
    size=st.integers(1, 4),
    died=st.sets(st.integers(0, 5)),
    ignores_since=st.booleans(),
    descending=st.booleans(),
)
def test_no_row_is_lost_or_doubled(batches, lag, inclusive, size, died, ignores_since, descending):  # noqa: PLR0913 - independent inputs
    """Rows appear between fetches, up to `lag` below the highest value; fetches return them from a value on, in pages."""
    column, table, read, high, highest = CursorColumn("at", lag, "include"), [], [], None, 0
    for number, batch in enumerate(batches):
        for distance, content in batch:
            highest += distance == 0
            at = None if distance is None else max(highest - min(distance, lag), 0)
            table.append({"at": at, "content": content})
        since = None if high is None or not high.has_value or ignores_since else high.floor(column)
        found = [
            row
            for row in table
            if since is None or row["at"] is None or row["at"] > since or (inclusive and row["at"] == since)
        ]
        found.sort(key=lambda row: -1 if row["at"] is None else row["at"], reverse=descending)
        running, new = None, []
        for begin in range(0, len(found), size):
            page = [json.dumps(row).encode() for row in found[begin : begin + size]]
            taken = new_rows(column, page, high, running)
            running, new = taken.running, new + [json.loads(line) for line in taken.lines]
        if number in died:
            continue  # neither the rows nor the mark were committed
        read += new
        high = merged(high, running, column)
        high = None if high is None else HighWater.of_json(json.loads(json.dumps(high.to_json())))
        expected = table
        if not inclusive and not ignores_since:  # such a source must not deliver rows at the lowest value later
            expected = read
        assert Counter(map(str, read)) == Counter(map(str, expected))
        assert all(Counter(map(str, read))[row] <= count for row, count in Counter(map(str, table)).items())
