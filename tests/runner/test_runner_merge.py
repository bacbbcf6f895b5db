"""A merged table in a project: changes in any order and number of runs, with all rows counted."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import quarantine, sql, table
from pipeline.core.errors import DefinitionError, Place
from pipeline.core.merge_options import merge_of
from pipeline.core.staging import Manifest
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.reprocessing.quarantine import quarantined_rows, replay
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from tests.batch.conftest import cluster as cluster  # noqa: PLC0414 - re-exported fixture
from tests.runner.conftest import TOML

CRM = '''\
from pathlib import Path

import pyarrow as pa

from pipeline import files, mart, quarantine, source, sql, table, warn

DATA = Path(__file__).parent / "data"

raw_changes = source(
    files(DATA / "changes*.csv"),
    schema={"customer": "bigint", "at": "timestamp", "op": "varchar", "country": "varchar"},
)
customers = sql(
    """
    -- Customers as they are now.
    select customer, at, op, country from raw_changes
    """,
    key="customer",
    sequence_by="at",
    apply_as_deletes="op = 'D'",
    expect=[quarantine("has_country", "country is not null"), warn("is_near", "country = 'CH'")],
)


@table(key="customer", sequence_by="at", apply_as_deletes="op = 'D'", partition_by="op")
def customers_too(raw_changes: pa.Table) -> pa.Table:
    """The same, as a function."""
    return raw_changes.select(["customer", "at", "op", "country"])


by_country = mart("select country, count(*) as customers from customers group by country", key="country")
'''
FIRST = """\
customer,at,op,country
1,2026-01-01 08:00,I,CH
2,2026-01-01 09:00,I,DE
1,2026-01-02 08:00,U,FR
3,2026-01-02 09:00,I,
,2026-01-02 10:00,I,CH
4,,I,CH
"""
SECOND = """\
customer,at,op,country
2,2026-01-03 09:00,D,
1,2026-01-01 12:00,U,AT
5,2026-01-03 10:00,I,CH
"""
THIRD = """\
customer,at,op,country
2,2026-01-02 12:00,U,IT
6,2026-01-04 10:00,I,IT
"""


@pytest.fixture
def crm(tmp_path):
    folder = tmp_path / "crm"
    (folder / "data").mkdir(parents=True)
    (folder / "headwater.toml").write_text(TOML.replace("shop", "crm"))
    (folder / "crm.py").write_text(CRM)
    (folder / "data" / "changes1.csv").write_text(FIRST)
    return folder


def run(folder, **options):
    return {step.name: step for step in Runner(load(folder), RunOptions(**options)).run().steps}


def add(folder, number, text):
    (folder / "data" / f"changes{number}.csv").write_text(text)


def customers(folder, name="customers"):
    rows = Workspace(load(folder)).query(f"select customer, country from {name} order by customer").to_pylist()
    return {row["customer"]: row["country"] for row in rows}


def test_merge_counts_every_row(crm):
    steps = run(crm)
    flow = steps["customers"].flow
    assert (flow.rows_in, flow.rows_out, flow.quarantined, flow.superseded, flow.deletes) == (6, 2, 3, 1, 0)
    assert flow.uncounted == 0
    assert {c.expectation: c.violations for c in steps["customers"].checks} == {
        "has_country": 1,
        "is_near": 3,
        "key_is_not_null": 1,
        "sequence_is_not_null": 1,
    }
    add(crm, 2, SECOND)
    steps = run(crm)
    assert (steps["customers"].decision, steps["by_country"].decision) == ("merge", "rebuild")
    for name in ("customers", "customers_too"):
        flow = steps[name].flow
        assert (flow.rows_in, flow.rows_out, flow.quarantined, flow.superseded, flow.deletes) == (3, 1, 0, 1, 1), name
        assert flow.uncounted == 0
    assert steps["customers"].reason == "3 new rows in 'raw_changes'"
    assert customers(crm) == {1: "FR", 5: "CH"}


def test_incremental_merge_equals_a_full_run(crm, rows):
    run(crm)
    add(crm, 2, SECOND)
    run(crm)
    add(crm, 3, THIRD)
    steps = run(crm)
    assert (steps["customers"].flow.rows_out, steps["customers"].flow.superseded) == (1, 1)  # 2 was deleted later
    assert customers(crm) == {1: "FR", 5: "CH", 6: "IT"}
    assert customers(crm, "customers_too") == {1: "FR", 3: None, 5: "CH", 6: "IT"}
    assert {step.decision for step in run(crm).values()} == {"skip"}
    incremental = rows(crm)
    run(crm, full=True)
    assert rows(crm) == incremental
    add(crm, 4, THIRD.replace("U,IT", "U,PT"))
    run(crm)
    assert customers(crm) == {1: "FR", 5: "CH", 6: "IT"}  # the full run kept the tombstone


def test_merge_is_independent_of_the_order_of_events(crm):
    add(crm, 1, THIRD)
    run(crm)
    add(crm, 2, SECOND)
    run(crm)
    add(crm, 3, FIRST)
    run(crm)
    assert customers(crm) == {1: "FR", 5: "CH", 6: "IT"}


def test_changed_merge_definition_recomputes(crm):
    run(crm)
    (crm / "crm.py").write_text(CRM.replace("apply_as_deletes=\"op = 'D'\",\n    expect", "expect"))
    steps = run(crm)
    assert (steps["customers"].decision, steps["customers"].reason) == ("rebuild", "the definition changed")
    assert steps["customers_too"].decision == "skip"


def test_replayed_row_is_merged_not_appended(crm):
    run(crm)
    add(crm, 2, "customer,at,op,country\n3,2026-01-05 09:00,U,CH\n")
    run(crm)
    (crm / "crm.py").write_text(CRM.replace("country is not null", "op is not null"))
    workspace = Workspace(load(crm))
    flow = replay(workspace, "customers")
    assert (flow.rows_out, flow.quarantined, flow.superseded, flow.uncounted) == (0, 2, 1, 0)
    assert customers(crm)[3] == "CH"
    assert sorted(r["reasons"] for r in quarantined_rows(workspace, "customers").to_pylist()) == [
        "key_is_not_null",
        "sequence_is_not_null",
    ]
    assert run(crm)["customers"].decision == "skip"


@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
@pytest.mark.filterwarnings("ignore:`use_.*` is deprecated:DeprecationWarning")  # warnings inside Ray
def test_merge_on_ray_gives_the_same_result(crm, rows):
    add(crm, 2, SECOND)
    run(crm)
    here = rows(crm)
    (crm / "headwater.toml").write_text((crm / "headwater.toml").read_text() + '\n[env.dev]\nexecution = "ray"\n')
    steps = run(crm, full=True)
    assert steps["customers"].executor == "ray"
    assert rows(crm) == here


HERE = Place("crm.py", 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"apply_as_deletes": "op = 'D'"}, r"apply_as_deletes= requires sequence_by=: got .*; set sequence_by="),
        ({"sequence_by": "at"}, "a table with sequence_by= requires a key: got sequence_by='at'; set key="),
        ({"key": "at", "sequence_by": "at"}, "sequence_by= must not be part of the key"),
        ({"key": "a", "sequence_by": "at", "apply_as_deletes": "op = "}, "'apply_as_deletes' is not a SQL condition"),
        ({"key": "a", "sequence_by": "at", "apply_as_deletes": "max(op) = 1"}, "must not read more than one row"),
        (
            {"key": "a", "sequence_by": "at", "expect": [quarantine("sequence_is_not_null", "true")]},
            "'sequence_is_not_null' has a name that is reserved for keys",
        ),
    ],
)
def test_invalid_merges_are_rejected(fields, message):
    with pytest.raises(DefinitionError, match=message):
        sql("select a, at, op from t", **fields)


def test_same_rules_apply_to_functions():
    with pytest.raises(DefinitionError, match="a table with sequence_by= requires a key"):

        @table(sequence_by="at")
        def f(t: pa.Table) -> pa.Table:
            return t

    assert merge_of((), {}, HERE) is None


def test_manifests_of_earlier_formats_are_read(crm):
    run(crm)
    [path] = (crm / ".headwater" / "lake" / "silver" / "customers" / "_headwater").glob("*.json")
    parts = json.loads(path.read_text())
    del (
        parts["format_version"],
        parts["cursor"],
        parts["gaps"],
        parts["tombstones"],
        parts["flow"]["superseded"],
        parts["flow"]["deletes"],
    )
    assert Manifest.from_json(json.dumps(parts)).tombstones == ()


FOLLOWING = """
near = sql(
    "select customer as id, upper(country) as country, at, op from customers",
    key="id",
    expect=[quarantine("is_known", "country <> 'IT'")],
)
joined = sql("select c.*, r.n from customers as c left join regions as r using (country)", layer="gold")
raw_regions = source(files(DATA / "regions.csv"), schema={"country": "varchar", "n": "bigint"})
regions = sql("select country, n from raw_regions")
unkeyed = sql("select country, at from customers")
otherwise = sql("select customer, country from customers", key="country")
second = sql("select id, country || '!' as shout from near", key="id")
"""


@pytest.fixture
def following(crm):
    """Tables downstream of a merged table that is large enough for a partial change: two files, one of which changes."""
    (crm / "crm.py").write_text(CRM + FOLLOWING)
    (crm / "data" / "regions.csv").write_text("country,n\nCH,1\nCH,2\nDE,3\nFR,4\n")
    many = "".join(f"{i},2026-01-01 08:00,I,{'CH' if i % 3 else 'IT'}\n" for i in range(1000, 3000))
    add(crm, 1, "customer,at,op,country\n" + many)
    run(crm)
    add(crm, 2, FIRST)
    run(crm)
    return crm


def test_changes_of_a_merged_table_are_applied_by_key(following, rows):
    first = {name: Workspace(load(following)).version(name).files for name in ("near", "joined")}
    for number, text in (
        (3, SECOND),
        (4, THIRD),
        (5, "customer,at,op,country\n6,2026-02-01 08:00,U,AT\n1,2026-02-01 08:00,D,\n"),
    ):
        add(following, number, text)
        steps = run(following)
        decisions = {name: step.decision for name, step in steps.items()}
        only_new = number == 4  # a late row, and a row of a new key
        assert decisions["unkeyed"] == ("append" if only_new else "rebuild")
        assert decisions["otherwise"] == "rebuild"  # a customer whose number is lower than all existing ones
        assert decisions["near"] == decisions["joined"] == ("append" if only_new else "merge")
        assert decisions["second"] != "rebuild"
        assert all(step.flow.uncounted == 0 for step in steps.values())
        followed = rows(following)
        assert len(followed["near"]) + len(followed["quarantine/near"]) == len(followed["customers"])
    assert "in files that were written again" in steps["near"].reason
    last = {name: Workspace(load(following)).version(name).files for name in ("near", "joined")}
    for name, files in first.items():
        assert set(files) & set(last[name]), f"all of {name} was rewritten"
    run(following, full=True)
    assert rows(following) == followed


@pytest.mark.proof
def test_large_change_of_an_input_recomputes(following):
    changes = "".join(f"{i},2026-03-01 08:00,U,AT\n" for i in range(1000, 2000))
    add(following, 3, "customer,at,op,country\n" + changes)
    steps = run(following)
    assert (steps["customers"].decision, steps["near"].decision) == ("merge", "rebuild")


@pytest.mark.proof
def test_changes_are_not_applied_if_old_files_are_missing(following, rows):
    before = Workspace(load(following)).version("customers")
    add(following, 3, SECOND)
    run(following, select=("raw_changes", "customers"))
    now = {file.uri for file in Workspace(load(following)).version("customers").files}
    for file in before.files:
        if file.uri not in now:
            Path(file.uri).unlink()  # like a vacuum
    assert run(following)["near"].decision == "rebuild"
    followed = rows(following)
    run(following, full=True)
    assert rows(following) == followed
