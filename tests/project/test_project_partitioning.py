"""A project whose partitioning changes: nothing is computed again, queries and backfills go on, and streams too."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pipeline.lake import former_files
from pipeline.project.maintenance import maintain
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.runner.backfill import BackfillOptions, backfill, plan_backfill
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.plan_changes import plan_changes
from pipeline.runner.runner import Runner
from tests.rigs.command import environment
from tests.runner.conftest import TOML

VISITS = """
from pipeline import files, lake_policy, mart, quarantine, source, sql
raw = source(files("data/*.csv"), schema={"id": "bigint", "ts": "timestamptz", "page": "varchar", "seconds": "double"})
visits = sql(
    "select id, ts, page, seconds * 1 as seconds from raw",
    key="id",
    partition_by="page",
    expect=[quarantine("took_time", "seconds > 0")],
)
by_day = mart("select ts::date as day, count(*) as visits from visits where ts >= '2026-01-02' group by all")
policy = lake_policy("visits", cluster_by=())
"""


def rows(day, begin, page="home"):
    return "".join(f"{begin + n},2026-01-0{day}T0{n}:00:00Z,{page}{n % 2},{n - 1}\n" for n in range(6))


@pytest.fixture
def web(tmp_path):
    folder = tmp_path / "web"
    (folder / "data").mkdir(parents=True)
    (folder / "headwater.toml").write_text(TOML)
    (folder / "shop.py").write_text(VISITS)
    write(folder, 1, rows(1, 0) + rows(2, 10))
    run(folder)
    return folder


def write(folder, number, text):
    (folder / "data" / f"{number}.csv").write_text("id,ts,page,seconds\n" + text)


def run(folder, **options):
    outcome = Runner(load(folder), RunOptions(**options)).run()
    assert outcome.status == "done"
    return {step.name: step.decision for step in outcome.steps}


def change(folder, *pairs):
    text = (folder / "shop.py").read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    (folder / "shop.py").write_text(text)


def ids(folder, where="true"):
    return Workspace(load(folder)).query(f"select id from visits where {where} order by id")["id"].to_pylist()


KEPT = [2, 3, 4, 5, 12, 13, 14, 15]


def test_a_change_is_planned_and_computes_nothing(web):
    change(
        web, ('partition_by="page"', 'partition_by=["day(ts)", "bucket(4, id)"]'), ("cluster_by=()", 'cluster_by="id"')
    )
    (changed,) = plan_changes(Workspace(load(web)))
    assert (changed.name, changed.cause, changed.decision) == ("visits", "layout", "skip")
    assert changed.reason.startswith(
        "new files are divided by day(ts), bucket(4, id) instead of page and new files are ordered by id instead of nothing; "
        "2 files of 8 rows and 0.0 MB stay as they are; 0 rows and 0 bytes are written again; up to date"
    )
    assert set(run(web).values()) == {"skip"}

    write(web, 2, rows(3, 20))
    assert run(web)["visits"] == "append"
    assert plan_changes(Workspace(load(web))) == ()
    assert ids(web) == [*KEPT, 22, 23, 24, 25]
    assert ids(web, "ts::date = '2026-01-03' and id = 22") == [22]
    assert ids(web, "page = 'home0' and ts < '2026-01-02'") == [2, 4]
    assert run(web, full=True)["visits"] == "rebuild"
    assert ids(web) == [*KEPT, 22, 23, 24, 25]


def test_the_command_says_what_a_change_rewrites(web, headwater_command):
    def command(*words):
        return headwater_command.run("plan", *words, cwd=web, env=environment(), timeout=60).stdout

    change(web, ('partition_by="page"', 'partition_by="month(ts)"'), ("cluster_by=()", "rewrite_mb=5"))
    planned = command("--json")
    (changed,) = json.loads(planned)
    assert (changed["cause"], changed["work"]["rows"]) == ("layout", 0)
    assert "each maintenance writes up to 5 MB of them again" in changed["reason"]
    shown = command().replace("\n", " ")
    assert "visits  layout, skip" in shown
    assert "0 tables to compute" in shown


def test_maintenance_takes_over_a_changed_partitioning(web):
    change(web, ('partition_by="page"', 'partition_by="day(ts)"'), ("cluster_by=()", "rewrite_mb=5"))
    workspace = Workspace(load(web))
    table = workspace.table("visits")
    assert len(former_files(table, table.version())) == 2
    maintain(workspace, "visits")
    assert former_files(table, table.version()) == ()
    assert ids(web) == KEPT
    assert set(run(web).values()) == {"skip"}  # also the tables that read it


def test_partitions_of_a_transform_are_backfilled(web):
    change(web, ('partition_by="page"', 'partition_by=["day(ts)", "page"]'))
    workspace = Workspace(load(web))
    change(web, ("seconds * 1 as seconds", "seconds * 2 as seconds"))
    workspace = Workspace(load(web))
    records = backfill(workspace, plan_backfill(workspace, "visits", BackfillOptions("2026-01-02..")))
    assert {each.partition: each.rows for each in records} == {"2026-01-02": 4}
    assert seconds(web) == [1, 2, 3, 4, 2, 4, 6, 8]
    assert workspace.lake.rows(workspace.lake.quarantine("visits")).num_rows == 4
    records = backfill(Workspace(load(web)), plan_backfill(Workspace(load(web)), "visits", BackfillOptions()))
    assert {each.partition: each.rows for each in records} == {"2026-01-01": 4}
    assert seconds(web) == [2, 4, 6, 8, 2, 4, 6, 8]
    assert set(run(web).values()) <= {"skip", "rebuild"}
    assert Workspace(load(web)).version("visits").rows == 8


def seconds(folder):
    return Workspace(load(folder)).query("select seconds from visits order by id")["seconds"].to_pylist()


@pytest.mark.share(1)
@pytest.mark.parametrize("partition_by", ["bucket(3, id)", "truncate(10, id)", "page"])
def test_a_backfill_after_a_change_keeps_the_rows_of_other_partitions(web, partition_by):
    change(web, ('partition_by="page"', "partition_by='day(ts)'"))
    write(web, 2, rows(3, 20))
    run(web)
    change(web, ("partition_by='day(ts)'", f'partition_by="{partition_by}"'))
    every = [*KEPT, 22, 23, 24, 25]
    workspace = Workspace(load(web))
    plan = plan_backfill(workspace, "visits", BackfillOptions())
    for partition in plan.every:
        workspace = Workspace(load(web))
        backfill(workspace, plan_backfill(workspace, "visits", BackfillOptions(partition)))
        assert ids(web) == every
    assert len(plan.every) > 1
    table = Workspace(load(web)).table("visits")
    assert former_files(table, table.version()) == ()


def test_a_version_from_before_keeps_its_fingerprint(web):
    workspace = Workspace(load(web))
    definition, version = workspace.stored("visits"), workspace.version("visits")
    before = replace(definition, partitioned_before=("page",)).fingerprint
    table = workspace.table("visits")
    manifest = replace(version.manifest, fingerprint=before)
    table.commit(manifest, table.staged(version), version.schema, version)
    assert (before != definition.fingerprint, run(web)["visits"]) == (True, "skip")
    change(web, ('partition_by="page"', 'partition_by="day(ts)"'), ("cluster_by=()", "rewrite_mb=5"))
    assert run(web)["visits"] == "skip"
    maintain(Workspace(load(web)), "visits")
    assert (Workspace(load(web)).version("visits").partition_by, run(web)["visits"]) == ((), "skip")


def test_what_queries_read_is_compacted_first_and_says_why(web):
    write(web, 2, rows(3, 20))
    run(web)
    workspace = Workspace(load(web))
    assert maintain(workspace, "visits").files_before == 0
    for _ in range(12):
        workspace.query("select count(*) from visits where page = 'home1'")
        workspace.query("select * from visits where page = 'none'")  # opens no file
    before = len(workspace.require("visits").files)
    done = maintain(workspace, "visits")
    assert (done.files_before, done.files_after) == (2, 1)
    assert done.reason == "page=home1: read by 12 of 12 queries"
    assert len(workspace.require("visits").files) == before - 1
    assert maintain(workspace, "visits").reason == ""
