"""Backfill: partitions are recomputed individually, each is committed once, and an interrupted backfill resumes."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import time
from dataclasses import replace

import pytest

from pipeline.core.errors import ConflictError, RequestError, SchemaError, StorageError
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.runner import backfill as module
from pipeline.runner.backfill import BackfillOptions, backfill, plan_backfill
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from pipeline.runner.schedule import has_running_steps
from tests.rigs.uncommitted import uncommitted
from tests.runner.conftest import TOML, rows_of

WEB = '''\
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import drop, fact, fail, files, quarantine, source, sql, table

raw = source(
    files(Path(__file__).parent / "data" / "visits*.csv"),
    schema={"id": "bigint", "day": "date", "page": "varchar", "seconds": "double"},
)
visits = sql(
    "select id, day, page, seconds * 1 as seconds from raw",
    key="id",
    partition_by=["day", "page"],
    expect=[quarantine("took_time", "seconds > 0"), drop("is_page", "page <> 'robots'")],
)
by_day = fact("select day, page, count(*) as n from visits group by all", key=["day", "page"], partition_by="day")


@table(partition_by="length")
def lengths(visits: pa.Table) -> pa.Table:
    """Visits by their length."""
    return pa.table({"length": pc.cast(visits["seconds"], pa.int32(), safe=False), "id": visits["id"]})
'''
VISITS = """\
id,day,page,seconds
1,2026-01-01,a,10
2,2026-01-01,b,-1
3,2026-01-02,a,5
3,2026-01-02,b,5
4,2026-01-02,robots,5
5,2026-01-03,a,9
6,2026-01-10,b,11
7,,a,3
8,,a,0
"""
MORE = "id,day,page,seconds\n9,2026-01-02,c,4\n"


@pytest.fixture
def web(tmp_path):
    folder = tmp_path / "web"
    (folder / "data").mkdir(parents=True)
    (folder / "headwater.toml").write_text(TOML.replace("shop", "web"))
    (folder / "web.py").write_text(WEB)
    (folder / "data" / "visits1.csv").write_text(VISITS)
    run(folder)
    return folder


def run(folder, **options):
    return {step.name: step for step in Runner(load(folder), RunOptions(**options)).run().steps}


def change(folder, before, after):
    code = folder / "web.py"
    assert before in code.read_text()
    code.write_text(code.read_text().replace(before, after))


def fill(folder, name="visits", partitions=None, **asked):
    workspace = Workspace(load(folder))
    records = backfill(workspace, plan_backfill(workspace, name, BackfillOptions(partitions, **asked)))
    return {filled.partition: filled for filled in records}


def seconds(folder):
    rows = Workspace(load(folder)).query("select id, seconds from visits order by id").to_pylist()
    return {row["id"]: row["seconds"] for row in rows}


@pytest.mark.proof
def test_backfill_of_an_up_to_date_table_changes_nothing(web):
    before = rows_of(web)
    records = fill(web)
    assert list(records) == ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-10", None]
    assert [filled.rows for filled in records.values()] == [1, 1, 1, 1, 1]
    assert rows_of(web) == before
    [step] = Workspace(load(web)).catalog.run().steps
    flow = step.flow
    assert (step.decision, step.reason, step.total_rows) == ("backfill", "5 of 5 partitions", 5)
    assert (flow.rows_in, flow.rows_out, flow.quarantined, flow.dropped, flow.uncounted) == (9, 5, 3, 1, 0)
    decisions = {name: step.decision for name, step in run(web).items()}
    assert (decisions["raw"], decisions["visits"]) == ("skip", "skip")


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        ("2026-01-02", ["2026-01-02"]),
        ("2026-01-02..2026-01-03", ["2026-01-02", "2026-01-03"]),
        ("2026-01-03..", ["2026-01-03", "2026-01-10"]),
        ("..2026-01-01", ["2026-01-01"]),
        ("2025-01-01..2027-01-01", ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-10"]),
        (None, ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-10", None]),
    ],
)
def test_partitions_are_selected_in_the_order_of_their_type(web, requested, expected):
    assert list(plan_backfill(Workspace(load(web)), "visits", BackfillOptions(requested)).left) == expected


def test_numeric_partitions_are_sorted_numerically(web):
    plan = plan_backfill(Workspace(load(web)), "lengths", BackfillOptions("5..10"))
    assert list(plan.left) == ["5", "9", "10"]


def test_only_the_files_of_a_partition_are_replaced(web):
    table = Workspace(load(web)).table("visits")
    before = {file.uri for file in table.version().files}
    fill(web, partitions="2026-01-02")
    after = {file.uri for file in table.version().files}
    assert {uri for uri in before ^ after if "day=2026-01-02" not in uri} == set()
    assert len(before - after) == len(after - before) == 1


@pytest.mark.proof
def test_changed_definition_is_applied_partition_by_partition(web):
    recomputed = rows_of(web)["visits"]
    change(web, "seconds * 1 as", "seconds * 2 as")
    fill(web, partitions="..2026-01-02")
    assert seconds(web) == {1: 20, 3: 10, 5: 9, 6: 11, 7: 3}
    assert Workspace(load(web)).version("visits").manifest.fingerprint.startswith("partly ")
    records = fill(web)
    assert list(records) == ["2026-01-03", "2026-01-10", None]
    assert seconds(web) == {1: 20, 3: 10, 5: 18, 6: 22, 7: 6}
    assert run(web)["visits"].decision == "skip"
    filled = rows_of(web)
    run(web, full=True)
    assert rows_of(web) == filled
    assert filled["visits"] != recomputed


@pytest.mark.proof
def test_run_recomputes_a_partial_backfill_even_if_the_definition_is_restored(web):
    change(web, "seconds * 1 as", "seconds * 2 as")
    fill(web, partitions="2026-01-01")
    change(web, "seconds * 2 as", "seconds * 1 as")
    assert run(web)["visits"].decision == "rebuild"
    assert seconds(web) == {1: 10, 3: 5, 5: 9, 6: 11, 7: 3}


@pytest.mark.proof
def test_quarantine_of_a_partition_is_replaced(web):
    change(web, "seconds > 0", "seconds > -5")
    fill(web, partitions="2026-01-01")
    lake = Workspace(load(web)).lake
    rows = lake.rows(lake.quarantine("visits")).to_pylist()
    assert sorted(row["_position"] for row in rows) == [5, 10]  # 3, of that day, is valid now
    fill(web)
    rows = lake.rows(lake.quarantine("visits")).to_pylist()
    assert [row["_position"] for row in rows] == [5]  # the second row of key 3


@pytest.mark.proof
def test_inputs_are_read_in_the_consumed_versions(web):
    (web / "data" / "visits2.csv").write_text(MORE)
    run(web, select=("raw",))
    fill(web, partitions="2026-01-02")
    assert 9 not in seconds(web)
    assert run(web)["visits"].decision == "append"
    assert 9 in seconds(web)
    incremental = rows_of(web)
    run(web, full=True)
    assert rows_of(web) == incremental


def test_completed_partitions_are_not_repeated_unless_requested(web):
    assert len(fill(web)) == 5
    assert fill(web) == {}
    assert len(fill(web, restart=True)) == 5
    (web / "data" / "visits2.csv").write_text(MORE)
    run(web)
    assert len(fill(web)) == 5  # a different backfill, because the inputs differ


def test_failed_partitions_can_be_retried_alone(web):
    before = seconds(web)
    change(web, "expect=[quarantine", "expect=[fail('short', 'coalesce(seconds, 0) < 10 or seconds = 11'), quarantine")
    records = fill(web)
    assert [p for p, filled in records.items() if filled.error] == ["2026-01-01"]
    assert "violates 'short'" in records["2026-01-01"].error
    assert uncommitted(web) == []
    assert seconds(web) == before
    assert Workspace(load(web)).catalog.run().status == "failed"
    change(web, "seconds * 1 as", "least(seconds, 9.5) as")
    assert list(fill(web, failed=True)) == ["2026-01-01"]
    assert seconds(web) == {**before, 1: 9.5}
    assert fill(web, failed=True) == {}


@pytest.mark.proof
@pytest.mark.parametrize("name", ["by_day", "lengths"])
def test_concurrent_partitions_give_the_same_result(web, name):
    before = rows_of(web)
    records = fill(web, name, parallel=2)
    assert len(records) == len(rows_of(web)[name]) or name == "by_day"
    assert rows_of(web) == before
    assert run(web)[name].decision == "skip"


@pytest.mark.proof
def test_partition_without_rows_is_removed(web):
    change(
        web,
        '"select id, day, page, seconds * 1 as seconds from raw"',
        "\"select id, day, page, seconds * 1 as seconds from raw where day <> '2026-01-10'\"",
    )
    records = fill(web)
    assert records["2026-01-10"].rows == 0
    assert set(seconds(web)) == {1, 3, 5}
    assert run(web)["visits"].decision == "skip"


def test_concurrent_commit_is_a_conflict(web):
    workspace = Workspace(load(web))
    plan = plan_backfill(workspace, "visits", BackfillOptions())
    run(web, full=True, select=("visits",))
    with pytest.raises(ConflictError, match="another process committed 'visits'"):
        backfill(workspace, plan)
    assert workspace.catalog.run().status == "failed"


@pytest.mark.parametrize(
    ("name", "partitions", "message"),
    [
        ("raw", None, "table 'raw' is not partitioned: it cannot be backfilled; add partition_by= to its definition"),
        ("visit", None, "'visit' is not defined; did you mean 'visits'"),
        ("visits", "2027-01-01", r"no partition is in '2027-01-01'; day is from 2026-01-01 to 2026-01-10"),
        ("visits", "2026-01-03..2026-01-02", "no partition is in"),
        ("visits", "monday", r"'monday' is not a value of the partition column 'day': got a column of DATE; write"),
    ],
)
def test_tables_that_cannot_be_backfilled(web, name, partitions, message):
    with pytest.raises(RequestError, match=message):
        plan_backfill(Workspace(load(web)), name, BackfillOptions(partitions))


def test_unpartitioned_tables_cannot_be_backfilled(web):
    code = (web / "web.py").read_text()
    change(web, 'key="id",\n', 'key="id",\n    sequence_by="seconds",\n')
    with pytest.raises(RequestError, match="'visits' is merged, and rows of one key may be in several partitions"):
        plan_backfill(Workspace(load(web)), "visits", BackfillOptions())
    (web / "web.py").write_text(code.replace("seconds * 1 as seconds", "seconds * 1 as seconds, 1 as more"))
    with pytest.raises(SchemaError, match=r"'visits' has different columns .*new column 'more'"):
        plan_backfill(Workspace(load(web)), "visits", BackfillOptions())
    (web / "web.py").write_text(code + "late = sql('select day from raw', partition_by='day')\n")
    with pytest.raises(StorageError, match="'late' does not exist yet"):
        plan_backfill(Workspace(load(web)), "late", BackfillOptions())


def test_backfill_fails_if_consumed_inputs_are_unavailable(web):
    shutil.rmtree(web / ".headwater" / "lake" / "bronze" / "raw")
    run(web, select=("raw",))
    with pytest.raises(StorageError, match=r"consumed version 0 of 'raw', which is no longer available; .*--full"):
        plan_backfill(Workspace(load(web)), "visits", BackfillOptions())


PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["pipeline.runner.runner", "pipeline", "deltalake", "sqlalchemy.dialects.sqlite"])


def fill_and_die(folder, after, *, before_aside=False):
    def count_down(_):
        nonlocal after
        after -= 1
        if after == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    if before_aside:  # between a commit and its post-commit
        real = module.update_quarantine
        module.update_quarantine = lambda *args: (count_down(None), real(*args))
    workspace = Workspace(load(folder))
    backfill(
        workspace,
        plan_backfill(workspace, "visits", BackfillOptions()),
        on_partition=(lambda _: None) if before_aside else count_down,
    )


def test_an_interrupted_backfill_stops_its_statements_and_is_recorded(web):
    plan = plan_backfill(Workspace(load(web)), "visits", BackfillOptions(parallel=2))
    change(web, "from raw", "from raw where (select count(*) from range(100000000000) t(i) where hash(i) = 42) >= 0")
    workspace = Workspace(load(web))
    slow = replace(plan, definition=workspace.project.graph["visits"])
    interrupted, is_over = [], threading.Event()

    def interrupt() -> None:
        while not has_running_steps() and not is_over.wait(0.02):
            pass
        if not is_over.wait(0.2):  # the statement runs
            interrupted.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            backfill(workspace, slow)
    finally:
        is_over.set()  # otherwise another test would be interrupted
        thread.join()
    assert time.monotonic() - interrupted[0] < 10
    assert not has_running_steps()
    assert workspace.catalog.run().status == "stopped"


@pytest.mark.proof
@pytest.mark.parametrize("before_aside", [False, True])
def test_killed_backfill_resumes(web, before_aside):
    change(web, "seconds * 1 as", "seconds * 2 as")
    process = PROCESSES.Process(target=fill_and_die, args=(web, 2), kwargs={"before_aside": before_aside})
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert list(fill(web)) == ["2026-01-03", "2026-01-10", None]
    assert run(web)["visits"].decision == "skip"
    assert uncommitted(web) == []
    filled = rows_of(web)
    run(web, full=True)
    assert rows_of(web) == filled
