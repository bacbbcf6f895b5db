"""Backfill of a merged table, whose partition column is in its key, in this process and on a cluster."""

from __future__ import annotations

import json

import pytest

from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.reprocessing.quarantine import quarantined_rows
from pipeline.runner.backfill import BackfillOptions, backfill, plan_backfill
from pipeline.runner.decide import RunOptions
from pipeline.runner.runner import Runner
from tests.batch.conftest import cluster as cluster  # noqa: PLC0414 - re-exported fixture
from tests.rigs.uncommitted import uncommitted
from tests.runner.conftest import TOML

CRM = """\
from pathlib import Path
from pipeline import files, quarantine, source, sql

raw = source(
    files(Path(__file__).parent / "data" / "changes*.csv"),
    schema={"day": "date", "id": "bigint", "seq": "bigint", "op": "varchar", "v": "double"},
)
orders = sql(
    "select day, id, seq, op, v * 1 as v from raw",
    key=["day", "id"], sequence_by="seq", apply_as_deletes="op = 'delete'", partition_by="day",
    expect=[quarantine("is_positive", "v > 0")],
)
"""
CHANGES = """\
day,id,seq,op,v
2026-01-01,1,1,put,10
2026-01-01,1,3,put,30
2026-01-01,1,2,put,20
2026-01-01,2,5,delete,1
2026-01-01,2,4,put,40
2026-01-01,3,1,put,-1
2026-01-02,1,1,put,50
2026-01-02,4,9,delete,1
2026-01-03,5,1,put,60
"""
OLDER = "day,id,seq,op,v\n2026-01-01,2,3,put,99\n2026-01-02,4,8,put,99\n2026-01-02,4,10,put,70\n"


@pytest.fixture
def crm(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "headwater.toml").write_text(TOML.replace("shop.py", "crm.py"))
    (tmp_path / "crm.py").write_text(CRM)
    (tmp_path / "data" / "changes1.csv").write_text(CHANGES)
    Runner(load(tmp_path)).run()
    return tmp_path


def rows(folder):
    found = Workspace(load(folder)).query("select day::varchar as day, id, v from orders order by all").to_pylist()
    return [(row["day"][-2:], row["id"], row["v"]) for row in found]


def changed(folder):
    (folder / "crm.py").write_text(CRM.replace("v * 1", "v * 2"))


def filled(folder, partitions=None):
    workspace = Workspace(load(folder))
    records = backfill(workspace, plan_backfill(workspace, "orders", BackfillOptions(partitions)))
    assert all(record.error is None for record in records)
    return {record.partition: record.rows for record in records}


def test_a_partition_is_merged_anew_and_the_others_keep_their_rows_and_deletes(crm):
    changed(crm)
    assert filled(crm, "2026-01-01") == {"2026-01-01": 1}
    assert rows(crm) == [("01", 1, 60.0), ("02", 1, 50.0), ("03", 5, 60.0)]


def test_older_rows_that_arrive_after_a_backfill_are_ignored(crm):
    assert filled(crm, "2026-01-01") == {"2026-01-01": 1}
    (crm / "data" / "changes2.csv").write_text(OLDER)

    steps = {step.name: step for step in Runner(load(crm)).run().steps}

    assert steps["orders"].decision == "merge"
    assert rows(crm) == [("01", 1, 30.0), ("02", 1, 50.0), ("02", 4, 70.0), ("03", 5, 60.0)]


def test_deletes_of_a_backfilled_partition_are_those_of_its_input(crm):
    tombstones = Workspace(load(crm)).table("orders").version().manifest.tombstones
    assert sum(file.rows for file in tombstones) == 2

    filled(crm)

    version = Workspace(load(crm)).table("orders").version()
    assert sum(file.rows for file in version.manifest.tombstones) == 2
    assert rows(crm) == [("01", 1, 30.0), ("02", 1, 50.0), ("03", 5, 60.0)]
    [step] = Workspace(load(crm)).catalog.run().steps
    flow = step.flow
    assert (flow.rows_in, flow.rows_out, flow.superseded, flow.deletes, flow.quarantined) == (9, 3, 3, 2, 1)
    assert flow.uncounted == 0


def test_every_partition_equals_a_full_recomputation(crm):
    changed(crm)

    filled(crm)
    after = rows(crm)

    assert Runner(load(crm)).run().steps[-1].decision == "skip"  # the table counts as computed by its definition
    Runner(load(crm), RunOptions(full=True)).run()
    assert rows(crm) == after == [("01", 1, 60.0), ("02", 1, 100.0), ("03", 5, 120.0)]


@pytest.mark.ray
@pytest.mark.timeout(180)
def test_partitions_are_computed_by_the_workers_of_a_cluster(crm, cluster):
    assert cluster
    changed(crm)
    (crm / "headwater.toml").write_text(TOML.replace("shop.py", "crm.py") + '[env.dev]\nexecution = "ray"\n')

    assert filled(crm) == {"2026-01-01": 1, "2026-01-02": 1, "2026-01-03": 1}

    assert rows(crm) == [("01", 1, 60.0), ("02", 1, 100.0), ("03", 5, 120.0)]
    [step] = Workspace(load(crm)).catalog.run().steps
    assert step.executor == "ray"
    [quarantined] = quarantined_rows(Workspace(load(crm)), "orders").to_pylist()
    assert json.loads(quarantined["row"])["id"] == 3
    assert uncommitted(crm) == []
