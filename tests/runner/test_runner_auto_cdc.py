"""AUTO CDC in a project: batch runs, downstream tables, the warehouse, the quarantine, and streams."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import RequestError
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.reprocessing.quarantine import quarantined_rows
from pipeline.runner.backfill import BackfillOptions, plan_backfill
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from pipeline.streaming.planning.plan import Planner
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from pipeline.streaming.runtime.stream import Stream
from pipeline.streaming.runtime.verify import verify
from tests.runner.conftest import TOML

CRM = '''\
from pathlib import Path

import pyarrow as pa

from pipeline import files, mart, source, sql, table

DATA = Path(__file__).parent / "data"

raw = source(
    files(DATA / "changes*.csv"),
    schema={"customer": "bigint", "at": "bigint", "op": "varchar", "country": "varchar", "visits": "bigint"},
)
history = sql(
    """
    -- Where customers were.
    select customer, at, op, country, visits from raw
    """,
    key="customer",
    sequence_by="at",
    apply_as_deletes="op = 'D'",
    except_column_list=["at", "op"],
    stored_as_scd_type=2,
    track_history_except_column_list=["visits"],
    layer="gold",
)


@table(
    key="customer",
    sequence_by="at",
    apply_as_deletes="op = 'D'",
    apply_as_truncates="op = 'T'",
    ignore_null_updates=True,
    except_column_list=["at", "op"],
    partition_by="customer",
)
def present(raw: pa.Table) -> pa.Table:
    """Customers as they are now."""
    return raw.select(["customer", "at", "op", "country", "visits"])


plain = sql("select customer, at, op, country from raw", key="customer", sequence_by="at", apply_as_deletes="op = 'D'")
by_country = mart("select country, count(*) as customers from present group by country", key="country")
'''
FIRST = """\
customer,at,op,country,visits
1,1,I,CH,1
2,1,I,DE,1
1,3,U,FR,1
3,2,I,IT,1
3,2,I,AT,1
,4,I,CH,1
"""
SECOND = """\
customer,at,op,country,visits
1,2,U,CH,7
2,4,D,,
1,4,U,,9
"""
THIRD = """\
customer,at,op,country,visits
,5,T,,
4,6,I,PT,1
1,2,U,CH,7
"""


@pytest.fixture
def crm(tmp_path):
    folder = tmp_path / "crm"
    (folder / "data").mkdir(parents=True)
    (folder / "headwater.toml").write_text(TOML.replace("shop", "crm"))
    (folder / "crm.py").write_text(CRM)
    (folder / "data" / "changes1.csv").write_text(FIRST)
    return folder


def run(folder: Path, **options):
    return {step.name: step for step in Runner(load(folder), RunOptions(**options)).run().steps}


def rows(folder: Path, name: str):
    table = Workspace(load(folder)).query(f"select * from {name} order by all")
    return [tuple(row.values()) for row in table.to_pylist()]


def test_runs_and_a_full_run_agree(crm):
    steps = run(crm)
    flow = steps["history"].flow
    assert (flow.rows_in, flow.rows_out, flow.quarantined, flow.superseded, flow.deletes) == (6, 4, 2, 0, 0)
    assert flow.uncounted == 0
    reasons = [row["reasons"] for row in quarantined_rows(Workspace(load(crm)), "history").to_pylist()]
    assert sorted(reasons) == ["equal_sequence", "key_is_not_null"]
    (crm / "data" / "changes2.csv").write_text(SECOND)
    steps = run(crm)
    assert (steps["history"].decision, steps["present"].decision) == ("merge", "merge")
    assert rows(crm, "history") == [
        (1, "CH", 7, 1, 3),
        (1, "FR", 1, 3, 4),
        (1, None, 9, 4, None),
        (2, "DE", 1, 1, 4),
        (3, "IT", 1, 2, None),
    ]
    assert rows(crm, "present") == [(1, "FR", 9), (3, "IT", 1)]
    (crm / "data" / "changes3.csv").write_text(THIRD)
    steps = run(crm)
    assert steps["present"].flow.uncounted == 0
    assert rows(crm, "present") == [(4, "PT", 1)]
    assert rows(crm, "by_country") == [("PT", 1)]
    assert {step.decision for step in run(crm).values()} == {"skip"}
    before = {name: rows(crm, name) for name in ("history", "present", "by_country")}
    run(crm, full=True)
    assert {name: rows(crm, name) for name in before} == before
    with Workspace(load(crm)).warehouse.read() as con:
        assert con.execute("select customer, country from history order by all").fetchall() == [
            (row[0], row[1]) for row in before["history"]
        ]


DOWNSTREAM = """\
from pathlib import Path
from pipeline import files, source, sql

raw = source(files(Path(__file__).parent / "data" / "*.csv"), schema={"k": "bigint", "at": "bigint", "country": "varchar", "n": "bigint"})
history = sql(
    "select k, at, country, n from raw", key="k", sequence_by="at", except_column_list=["at"], stored_as_scd_type=2,
    partition_by="country",
)
versions = sql("select k, country, n, __START_AT as since from history", key=("k", "since"))
countries = sql("select k, upper(country) as name, n from history")
"""


def test_tables_that_read_a_history_follow_it(crm):
    """A file of the history that is written again can have only some of the versions of a key that did not change."""
    (crm / "crm.py").write_text(DOWNSTREAM)
    (crm / "data" / "changes1.csv").write_text(
        "k,at,country,n\n" + "".join(f"{k},1,c{k // 100},0\n" for k in range(1000))
    )
    moved = "".join(f"{k},2,c1,0\n" for k in range(1, 6))
    changes = {2: f"{moved}6,2,c0,1\n", 3: "6,3,c0,2\n", 4: "3,2,c1,0\n7,4,c9,1\n", 5: "2,0,c5,1\n"}
    assert run(crm)["versions"].decision == "create"
    for number, text in changes.items():
        (crm / "data" / f"changes{number}.csv").write_text(f"k,at,country,n\n{text}")
        assert run(crm)["versions"].decision == "merge"
        history = Workspace(load(crm)).query("select k, country, n, __START_AT as since from history order by all")
        assert Workspace(load(crm)).query("select * from versions order by all").to_pylist() == history.to_pylist()
        names = (
            Workspace(load(crm)).query("select k, lower(name) as country, n from countries order by all").to_pylist()
        )
        assert names == [{n: v for n, v in row.items() if n != "since"} for row in history.to_pylist()]


def test_of_rows_with_an_equal_sequence_one_is_kept_and_the_others_are_quarantined(crm):
    steps = run(crm)
    flow = steps["plain"].flow
    assert (flow.rows_in, flow.rows_out, flow.quarantined, flow.superseded) == (6, 3, 2, 1)
    assert flow.uncounted == 0
    assert rows(crm, "plain") == [(1, 3, "U", "FR"), (2, 1, "I", "DE"), (3, 2, "I", "IT")]
    (crm / "data" / "changes2.csv").write_text("customer,at,op,country,visits\n3,2,I,US,1\n2,1,I,DE,2\n1,2,U,XX,1\n")
    flow = run(crm)["plain"].flow
    assert (flow.rows_in, flow.rows_out, flow.quarantined, flow.superseded) == (
        3,
        2,
        0,
        1,
    )  # the equal row takes the place of the other
    assert rows(crm, "plain") == [(1, 3, "U", "FR"), (2, 1, "I", "DE"), (3, 2, "I", "US")]
    set_aside = quarantined_rows(Workspace(load(crm)), "plain").to_pylist()
    conflicts = [json.loads(row["row"])["country"] for row in set_aside if row["reasons"] == "equal_sequence"]
    assert sorted(conflicts) == ["AT", "IT"]


BY_STRUCT = """\
from pathlib import Path
from pipeline import files, source, sql

raw = source(
    files(Path(__file__).parent / "data" / "*.ndjson"),
    schema={"k": "varchar", "x": "bigint", "at": "struct(lsn bigint, n bigint)", "op": "varchar"},
)
HOW = {"key": "k", "sequence_by": "at", "apply_as_deletes": "op = 'D'", "layer": "gold"}
plain = sql("select k, x, at, op from raw", **HOW)
history = sql("select k, x, at, op from raw", stored_as_scd_type=2, except_column_list=["op", "at"], **HOW)
"""


def test_the_sequence_can_be_a_struct(crm):
    """Its fields are compared one after the other; the warehouse has the history too, whose key contains the struct."""
    (crm / "crm.py").write_text(BY_STRUCT)
    changes = [(3, 2, 2, "U"), (1, 1, 1, "U"), (None, 2, 1, "D"), (2, 1, 2, "U")]
    for number in range(2):
        lines = [
            json.dumps({"k": "a", "x": x, "at": {"lsn": lsn, "n": n}, "op": op})
            for x, lsn, n, op in changes[number * 2 :][:2]
        ]
        (crm / "data" / f"{number}.ndjson").write_text("\n".join(lines))
        run(crm)
    spans = [(1, (1, 1), (1, 2)), (2, (1, 2), (2, 1)), (3, (2, 2), None)]
    found = [(x, *(each and tuple(each.values()) for each in span)) for _, x, *span in rows(crm, "history")]
    assert found == spans
    assert [row[1] for row in rows(crm, "plain")] == [3]
    loaded = Workspace(load(crm)).warehouse.query("select * from history order by all").to_pylist()
    assert [tuple(row.values()) for row in loaded] == rows(crm, "history")


def test_history_is_not_backfilled(crm):
    run(crm)
    with pytest.raises(RequestError, match="has history that its inputs no longer contain"):
        plan_backfill(Workspace(load(crm)), "present", BackfillOptions())


STREAMED = """\
from pipeline import generate, source, sql

N = "(i // 2 + p * 200)"  # every change comes twice
changes = source(
    generate(
        {
            "k": f"{N} * 7919 % 40",
            "seq": f"({N} * 104729 % 100003)::bigint",  # in no order
            "op": f"case when {N} % 5 = 0 then 'd' else 'u' end",
            "v": f"case when {N} % 3 > 0 then 'v' || {N} % 4 end",
            "at": "timestamp '2026-01-01' + to_seconds(i)",
        },
        partitions=3, count=400,
    ),
    schema={"k": "bigint", "seq": "bigint", "op": "varchar", "v": "varchar", "at": "timestamp"},
    event_time="at", lateness="1 hour", stored=False,
)
CDC = dict(key="k", sequence_by="seq", apply_as_deletes="op = 'd'", ignore_null_updates_column_list=["v"], except_column_list=["op"])
history = sql("select k, seq, op, v from changes", stored_as_scd_type=2, track_history_column_list=["v"], **CDC)
present = sql("select k, seq, op, v from changes", **CDC)
"""


@pytest.mark.parametrize("name", ["history", "present"])
def test_a_stream_that_is_stopped_and_resumed_equals_the_batch_answer(tmp_path, name):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "crm"\ndefinitions = "crm.py"\n')
    (tmp_path / "crm.py").write_text(STREAMED)
    workspace = Workspace(load(tmp_path))
    plan = Planner(workspace).plan(name)
    intervals = Intervals(batch_s=0.01, commit_s=0.3, idle_commit_s=0.3, batch_offsets=60)
    for stop in (60, 10_000):
        stream = Stream(workspace, plan, replace(StreamOptions(), intervals=intervals))
        while not stream.last.has_ended and stream.progress.totals["rows_in"] < stop:
            stream.run_micro_batch()
        stream.save()
        stream.close()
    assert verify(workspace, name).holds
    assert len(rows(tmp_path, name)) > 20
