"""Scales, ticks and number formats: round numbers, units, and no share rounded up to 100 %."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import quantity
from pipeline.report import words
from pipeline.report.scales import Scale, apart, inside, spread, ticks
from pipeline.report.svg import element, picture, shortened, text

numbers = st.floats(-1e9, 1e9, allow_nan=False)


def test_scale_maps_ends_to_ends_and_a_single_value_to_the_middle():
    down = Scale(0, 10, 300, 100)
    assert (down(0), down(10), down(5)) == (300, 100, 200)
    assert Scale(4, 4, 0, 100)(4) == 50


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, (0, 0.2, 0.4, 0.6, 0.8, 1)),
        (0, 24.8, (0, 5, 10, 15, 20, 25)),
        (-3, 7, (-4, -2, 0, 2, 4, 6, 8)),
        (0, 0, (0, 0.2, 0.4, 0.6, 0.8, 1)),
        (5, 5, (0, 1, 2, 3, 4, 5)),
    ],
)
def test_ticks_are_round_and_enclose_the_values(low, high, expected):
    assert ticks(low, high) == expected


@given(numbers, numbers)
def test_ticks_enclose_any_range_in_few_even_steps(a, b):
    low, high = sorted((a, b))
    marks = ticks(low, high)
    slack = 1e-6 * max(abs(low), abs(high), 1e-6)
    assert marks[0] <= low + slack
    assert marks[-1] >= high - slack
    assert 2 <= len(marks) <= 9


def test_inner_ticks_are_within_the_values():
    assert inside(3, 17) == (5, 7.5, 10, 12.5, 15)


@given(st.lists(st.floats(0, 400), max_size=16).map(sorted))
def test_spread_labels_do_not_overlap_and_stay_within_the_range(positions):
    placed = apart(positions, 16, 0, 400)
    assert len(placed) == len(positions)
    assert all(b - a >= 16 - 1e-6 for a, b in pairwise(placed))
    assert all(-1e-6 <= place <= 400 + 1e-6 for place in placed)


def test_spread_moves_labels_as_little_as_possible():
    assert spread([10, 10], [4]) == [8, 12]
    assert spread([0, 100], [4]) == [0, 100]
    assert spread([], []) == []


@pytest.mark.parametrize(
    ("share", "expected"),
    [(1, "100 %"), (0, "0 %"), (0.999999, "99.99 %"), (0.9925, "99.25 %"), (0.5, "50.00 %")],
)
def test_share_below_one_is_never_rounded_up_to_100_percent(share, expected):
    assert words.percent(share) == expected


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0.094, "0.09 s"), (12.34, "12.3 s"), (59.99, "60.0 s"), (133, "2 min 13 s"), (3725, "1 h 02 min")],
)
def test_durations_have_a_suitable_unit(number, expected):
    assert words.seconds(number) == expected


@pytest.mark.parametrize(
    ("number", "expected"),
    [(1234567.0, "1,234,567"), (1234.56, "1,234.6"), (3.14159, "3.142"), (0.0000012, "1.20e-06"), (float("nan"), "–")],  # noqa: RUF001
)
def test_numbers_have_thousands_separators_and_few_digits(number, expected):
    assert words.figure(number) == expected


def test_quantities_speeds_and_sizes_have_units():
    assert (quantity(1, "row"), quantity(336776, "row")) == ("1 row", "336,776 rows")
    assert (words.speed(25_000_000, 2), words.speed(10, 1), words.speed(0, 1)) == ("12.5", "< 0.1", words.ABSENT)
    assert [words.size(n) for n in (1, 512, 40_100, 10_900_000, 3 * 10**9)] == [
        "1 byte",
        "512 bytes",
        "40.1 kB",
        "10.9 MB",
        "3.0 GB",
    ]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("mean_departure_delay", "mean departure delay"),
        ("altitude_ft", "altitude (feet)"),
        ("took_ms", "took (milliseconds)"),
        ("s", "s"),
    ],
)
def test_axis_shows_the_unit_in_the_name_of_the_column(column, expected):
    assert words.axis_label(column) == expected


def test_times_are_shown_in_utc():
    assert words.moment("2026-01-05T01:30:00+02:00") == "4 January 2026, 23:30:00 UTC"
    assert words.minute("2026-01-05T01:30:00+02:00") == "2026-01-04 23:30 UTC"
    assert words.between("2026-01-05T00:00:00+00:00", "2026-01-05T00:01:30+00:00") == 90
    assert words.between("2026-01-05T00:00:00+00:00", None) is None


def test_elements_escape_text_and_attributes():
    drawn = element("text", "<b>&", class_='"><script>', data_name="a", x=1.26, y=2.0, fill=None)
    assert drawn == '<text class="&#34;&gt;&lt;script&gt;" data-name="a" x="1.3" y="2">&lt;b&gt;&amp;</text>'
    assert "<title>&lt;i&gt;</title>" in text((0, 0), "a", "b", hover="<i>")
    assert 'aria-label="&lt;a&gt;"' in picture(1, 1, "<a>")


def test_long_words_are_truncated_with_an_ellipsis():
    assert (shortened("abcdef", 4), shortened("abcd", 4)) == ("abc…", "abcd")
