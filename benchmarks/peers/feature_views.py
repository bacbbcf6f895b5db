"""The labelled rows and feature views of the benchmark `features`, and the point-in-time join written by hand.

Of view 0, `v0`, the entity is `e0`, the event time `t`, and the features are `a0` and `b0`; the others likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

HISTORY = (5, 10, 20, 40, 80)
"""The rows of an entity, for each view."""
TTL_DAYS = (None, None, 30, None, 30)
"""How long a row applies, for each view; `None` for ever."""
VIEWS = range(len(HISTORY))
FEATURES = tuple(f"{name}{n}" for n in VIEWS for name in "ab")


def joined(labels: Path, views: Sequence[Path]) -> str:
    """Return the SELECT of the labelled rows with their features, over folders of Parquet files."""
    values, joins = [], []
    for n, (view, days) in enumerate(zip(views, TTL_DAYS, strict=True)):
        for feature in (f"a{n}", f"b{n}"):
            valid = f"l.at <= v{n}.t + interval {days} days"
            values.append(
                f"v{n}.{feature}" if days is None else f"case when {valid} then v{n}.{feature} end as {feature}"
            )
        joins.append(f"asof left join '{view}/*.parquet' as v{n} on l.e{n} = v{n}.e{n} and l.at >= v{n}.t")
    return f"select l.*, {', '.join(values)} from '{labels}/*.parquet' as l {' '.join(joins)}"
