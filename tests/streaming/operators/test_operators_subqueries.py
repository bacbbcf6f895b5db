"""Windows over subqueries of single rows: they follow the watermark if these pass on the event time."""

from __future__ import annotations

import pytest

from pipeline.core.definitions import Streaming
from pipeline.core.refusal import Refusal
from pipeline.core.schema import Schema
from pipeline.kernel.sql import SqlTransform
from pipeline.streaming.operators.grouped_statement import operator_of

SCHEMAS = {"t": Schema.of({"at": "TIMESTAMP", "x": "DOUBLE"}), "u": Schema.of({"at": "TIMESTAMP", "y": "DOUBLE"})}
WINDOW = "select tumble(s.{}, interval '1 hour') as w, count(*) as n from ({}) as s group by all"


def planned(text):
    return operator_of(SqlTransform(text), "t", SCHEMAS, Streaming(), "at")


@pytest.mark.parametrize(
    ("column", "inner"),
    [
        ("at", "select at, x from t"),
        ("b", "select at as b from t"),
        ("at", "select * from t"),
        ("c", "select b as c from (select at as b, unnest([1, 2]) as i from t) as r"),
        ("at", "select t.at, u.y from t cross join u"),
    ],
)
def test_the_event_time_passes_through(column, inner):
    assert not isinstance(planned(WINDOW.format(column, inner)), Refusal)


@pytest.mark.parametrize(
    ("column", "inner"),
    [
        ("at", "select at + interval '1 day' as at from t"),
        ("at", "select max(at) as at from t group by x"),
        ("at", "select distinct at from t"),
        ("at", "select u.at, t.x from t cross join u"),
        ("at", "select at from (select coalesce(at, now()) as at from t) as r"),
        ("at", "select at from t limit 1"),
    ],
)
def test_another_time_does_not_follow_the_watermark(column, inner):
    refused = planned(WINDOW.format(column, inner))
    assert isinstance(refused, Refusal)
