from __future__ import annotations

import pytest

from pipeline.core.definitions import Action, Expectation
from pipeline.quality import drop, fail, quarantine, score, warn


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        ([], None),
        ([(0, 0)], None),
        ([(10, 0)], 100.0),
        ([(10, 10)], 0.0),
        ([(10, 1)], 90.0),
        ([(10, 0), (10, 5)], 75.0),
        ([(1_000_000, 0), (10, 5)], 75.0),  # equal weight for every expectation, regardless of the number of rows
        ([(0, 0), (10, 5)], 50.0),
    ],
)
def test_score_is_the_mean_share_of_rows_that_satisfy_each_expectation(checks, expected):
    assert score(checks) == expected


def test_each_function_has_its_action():
    expectations = [word("n", "x > 0") for word in (warn, quarantine, drop, fail)]

    assert expectations == [Expectation("n", "x > 0", action) for action in Action]
