"""A change log with duplicates, reordering, and deleted and reinserted keys: the table equals its source."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.streaming.planning.plan import Planner
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from pipeline.streaming.runtime.stream import Stream
from pipeline.streaming.runtime.verify import verify

DEFINITIONS = """\
from pipeline import generate, source, sql

N = "(i // 2 + p * 200)"  # every change comes twice
changes = source(
    generate(
        {
            "k": f"{N} * 7919 % 40",
            "seq": f"({N} * 104729 % 100003)::bigint",  # in no order
            "op": f"case when {N} % 5 = 0 then 'd' else 'u' end",
            "v": f"'v' || {N}",
            "at": "timestamp '2026-01-01' + to_seconds(i)",
        },
        partitions=3, count=400,
    ),
    schema={"k": "bigint", "seq": "bigint", "op": "varchar", "v": "varchar", "at": "timestamp"},
    event_time="at", lateness="1 hour", stored=False,
)
present = sql("select k, seq, op, v from changes", key="k", sequence_by="seq", apply_as_deletes="op = 'd'")
"""
EXPECTED = """
select k, seq, v from (
    select (i // 2 + p * 200) as n, n * 7919 % 40 as k, n * 104729 % 100003 as seq, 'v' || n as v, n % 5 = 0 as gone
    from range(400) as a(i), range(3) as b(p)
) qualify row_number() over (partition by k order by seq desc) = 1 and not gone order by k
"""


@pytest.mark.share(1)
@pytest.mark.fault(31)
@pytest.mark.parametrize("offsets", [7, 60, 1000])
def test_duplicated_and_reordered_changes_yield_the_current_state(tmp_path, offsets):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "crm"\ndefinitions = "crm.py"\n')
    (tmp_path / "crm.py").write_text(DEFINITIONS)
    workspace = Workspace(load(tmp_path))
    plan = Planner(workspace).plan("present")
    intervals = Intervals(batch_s=0.01, commit_s=0.3, idle_commit_s=0.3, batch_offsets=offsets)
    stops = [60, 10_000]  # stopped at a number of rows and resumed
    for stop in stops:
        stream = Stream(workspace, plan, replace(StreamOptions(), intervals=intervals))
        while not stream.last.has_ended and stream.progress.totals["rows_in"] < stop:
            stream.run_micro_batch()
        stream.save()
        stream.close()

    rows = workspace.query("select k, seq, v from present order by k").to_pylist()

    expected = workspace.query(f"select * from ({EXPECTED}) where (select count(*) from present) >= 0").to_pylist()
    assert rows == expected
    assert verify(workspace, "present").holds
