"""Durations as text."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import DefinitionError
from pipeline.core.event_time import LONGEST, format_duration, parse_duration

UNITS = ("days", "hours", "min", "s", "ms", "weeks", "d", "h")


@given(st.lists(st.tuples(st.integers(0, 10**18), st.sampled_from(UNITS)), min_size=1, max_size=3))
def test_any_duration_is_valid_or_too_long(parts):
    text = " ".join(f"{number} {unit}" for number, unit in parts)
    with suppress(DefinitionError):  # no other error
        duration = parse_duration(text, "within")
        assert datetime.now(UTC) + duration > datetime(2000, 1, 1, tzinfo=UTC)
        assert parse_duration(format_duration(duration), "within") == duration


@given(st.text(max_size=12))
def test_any_text_is_a_duration_or_named(text):
    with suppress(DefinitionError):  # no other error
        assert parse_duration(text, "within") >= timedelta()


def test_the_longest_duration():
    assert parse_duration(LONGEST, "within") == LONGEST
    with pytest.raises(DefinitionError, match="within= is too long"):
        parse_duration(LONGEST + timedelta(microseconds=1), "within")
