"""Sources that are not stored: tables read their files directly, each once, and every row is counted."""

from __future__ import annotations

import re

import pytest

from pipeline.core.errors import DefinitionError, RequestError, SourceError
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.reprocessing.quarantine import quarantined_rows, replay
from pipeline.runner.dry_run import RunOptions, plan_run
from pipeline.runner.runner import Runner

TOML = '[project]\nname = "feed"\ndefinitions = "feed.py"\n'
HEAD = """\
from pathlib import Path

import pyarrow as pa

from pipeline import files, mart, quarantine, source, sql, table, warn

DATA = Path(__file__).parent / "data"
sales = source(files(DATA / "*.csv"), schema={"id": "bigint", "shop": "varchar", "n": "integer", "day": "date"}, stored=False)
"""
SILVER = 'big = sql("select id, shop, n * 2 as twice from sales where n > 1", key="id", expect=[quarantine("named", "shop is not null")])\n'
FIRST = "id,shop,n,day\n1,a,1,2024-01-01\n2,b,2,2024-01-02\n3,,3,2024-01-03\n4,a,4,2024-01-04\n"


@pytest.fixture
def feed(tmp_path):
    (tmp_path / "headwater.toml").write_text(TOML)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "1.csv").write_text(FIRST)

    def write(text: str):
        (tmp_path / "feed.py").write_text(HEAD + text)
        return tmp_path

    return write


def run(folder, **options):
    return {step.name: step for step in Runner(load(folder), RunOptions(**options)).run().steps}


def test_table_reads_the_files_and_counts_their_rows(feed):
    folder = feed(SILVER)

    steps = run(folder)

    assert list(steps) == ["big"]
    flow = steps["big"].flow
    assert (flow.rows_in, flow.rows_made, flow.rows_out, flow.quarantined) == (4, 3, 2, 1)
    workspace = Workspace(load(folder))
    assert workspace.query("select * from big order by id").to_pylist() == [
        {"id": 2, "shop": "b", "twice": 4},
        {"id": 4, "shop": "a", "twice": 8},
    ]
    [quarantined] = quarantined_rows(workspace, "big").to_pylist()
    assert (quarantined["reasons"], quarantined["_position"]) == ("named", 4)
    assert quarantined["_source"].endswith("1.csv")


def test_star_selects_the_contract_columns_and_positions_are_available(feed):
    folder = feed(
        'big = sql("select *, n + 1 as more from sales where n > 1", expect=[quarantine("named", "shop is not null")])\n'
    )

    assert run(folder)["big"].flow.quarantined == 1
    workspace = Workspace(load(folder))
    assert workspace.require("big").schema.names == ("id", "shop", "n", "day", "more")
    [quarantined] = quarantined_rows(workspace, "big").to_pylist()
    assert (quarantined["_position"], quarantined["row"]) == (
        4,
        '{"id":3,"shop":null,"n":3,"day":"2024-01-03","more":4}',
    )
    (folder / "feed.py").write_text(HEAD + 'big = sql("select *, _position from sales")\n')
    run(folder)
    assert Workspace(load(folder)).query("select _position from big order by id").column(0).to_pylist() == [2, 3, 4, 5]


def test_invalid_row_is_rejected_even_if_the_statement_filters_it_out(feed):
    folder = feed('big = sql("select id, n from sales where n > 1 and id < 3")\n')
    (folder / "data" / "2.csv").write_text("id,shop,n,day\n1.5,a,0,2024-01-01\n2,a,two,2024-01-01\n1,a,2,2024-01-01\n")

    flow = run(folder)["big"].flow

    assert (flow.rows_in, flow.rows_out, flow.quarantined) == (7, 2, 2)
    quarantined = quarantined_rows(Workspace(load(folder)), "big").to_pylist()
    assert [(row["_position"], row["row"]) for row in quarantined] == [
        (2, "1.5,a,0,2024-01-01"),
        (3, "2,a,two,2024-01-01"),
    ]


def test_unused_column_is_not_validated(feed):
    folder = feed('big = sql("select id from sales")\n')
    (folder / "data" / "1.csv").write_text("id,shop,n,day\n1,a,many,never\n2,a,1,2024-01-01\n")
    assert run(folder)["big"].flow.rows_out == 2
    (folder / "data" / "2.csv").write_text("id,shop,n,day\nx,a,many,never\n4,a,1.5,2024-01-01\n")

    flow = run(folder)["big"].flow

    assert (flow.rows_in, flow.rows_out, flow.quarantined) == (2, 1, 1)


def test_only_new_files_are_appended(feed):
    folder = feed(SILVER + 'totals = mart("select shop, count(*) as n from big group by all")\n')
    run(folder)
    assert {step.decision for step in run(folder).values()} == {"skip"}
    (folder / "data" / "2.csv").write_text("id,shop,n,day\n9,c,9,2024-01-09\n2,b,2,2024-01-02\n")

    steps = run(folder)

    assert {name: step.decision for name, step in steps.items()} == {"big": "append", "totals": "rebuild"}
    assert (steps["big"].flow.rows_in, steps["big"].flow.rows_out, steps["big"].flow.quarantined) == (2, 1, 1)
    assert Workspace(load(folder)).query("select count(*) as n from big").to_pylist() == [{"n": 3}]


def test_groups_over_a_feed_are_recomputed_from_all_files(feed):
    folder = feed('totals = mart("select shop, count(*) as n, sum(n) as total from sales group by shop")\n')
    run(folder)
    (folder / "data" / "2.csv").write_text("id,shop,n,day\n9,a,9,2024-01-09\n9,a,x,2024-01-09\n")

    step = run(folder)["totals"]

    assert (step.decision, step.flow.quarantined, step.flow.rows_out) == ("rebuild", 1, 3)
    rows = Workspace(load(folder)).query("select * from totals order by shop").to_pylist()
    assert rows[0] == {"shop": "a", "n": 3, "total": 14}
    (folder / "data" / "1.csv").unlink()
    (folder / "data" / "3.csv").write_text(FIRST)
    with pytest.raises(SourceError, match=r"the source of 'totals' must be read again .*would lose rows: .*1.csv"):
        run(folder)


def test_changed_source_recomputes_its_readers(feed):
    folder = feed(SILVER)
    run(folder)
    (folder / "feed.py").write_text((HEAD + SILVER).replace('"n": "integer"', '"n": "double"'))

    [planned] = [f for f in plan_run(Workspace(load(folder)), RunOptions()) if f.definition.name == "big"]

    assert (planned.decision.kind, planned.decision.reason) == ("rebuild", "the definition changed")


def test_function_over_a_feed(feed):
    folder = feed("""
@table()
def doubled(sales: pa.Table) -> pa.Table:
    return sales.select(["id", "n", "_position"])
""")
    (folder / "data" / "2.csv").write_text("id,shop,n,day\n7,a,1,2024-01-01\nx,a,1,2024-01-01\n")

    flow = run(folder)["doubled"].flow

    assert (flow.rows_in, flow.rows_out, flow.quarantined) == (6, 5, 1)


def test_feed_is_not_a_table(feed):
    workspace = Workspace(load(feed(SILVER)))

    with pytest.raises(RequestError, match="there is no table 'sales'"):
        workspace.query("select * from sales")


def test_rejected_rows_of_a_feed_cannot_be_replayed_separately(feed):
    folder = feed(SILVER)
    run(folder)

    with pytest.raises(RequestError, match="'big' reads a source that is not stored"):
        replay(Workspace(load(folder)), "big")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            'a = sql("select 1 as x from big join sales using (id)")\n',
            "'a' must read 'sales', a source with stored=False",
        ),
        (
            "import ray.data\n@table()\ndef a(sales: ray.data.Dataset) -> ray.data.Dataset:\n    return sales\n",
            "'a' must read 'sales', a source with stored=False",
        ),
        ('b = source(files(DATA / "*.csv"), stored=False)\n', "a source with stored=False requires schema="),
        (
            'b = source(files(DATA / "*.csv"), schema={"id": "bigint"}, key="id", stored=False)\n',
            "and cannot have key=",
        ),
    ],
)
def test_invalid_feed_is_rejected_before_anything_runs(feed, text, problem):
    folder = feed(SILVER + text)

    with pytest.raises(DefinitionError, match=re.escape(problem)):
        load(folder)


@pytest.mark.parametrize("stored", [True, False])
def test_unreadable_file_fails_the_run_or_is_quarantined(feed, stored):
    text = (HEAD + 'big = sql("select id from sales")\n').replace(", stored=False", "" if stored else ", stored=False")
    folder = feed("")
    (folder / "feed.py").write_text(text.replace('DATA / "*.csv"', 'DATA / "*.csv*", format="csv"'))
    (folder / "data" / "2.csv.gz").write_bytes(b"this is no gzip")
    with pytest.raises(SourceError, match=r"the file cannot be decompressed: got .*2.csv.gz"):
        run(folder)
    kept = text.replace('DATA / "*.csv"', 'DATA / "*.csv*", format="csv"').replace(
        '"day": "date"}', '"day": "date"}, unreadable="quarantine"'
    )
    (folder / "feed.py").write_text(kept)

    steps = run(folder)

    flow = steps["sales" if stored else "big"].flow
    assert (flow.rows_in, flow.rows_out, flow.quarantined) == (5, 4, 1)
    [quarantined] = quarantined_rows(Workspace(load(folder)), "sales" if stored else "big").to_pylist()
    assert quarantined["reasons"] == "unreadable: the file cannot be decompressed"
    assert quarantined["row"] == quarantined["_source"]
    assert quarantined["row"].endswith("2.csv.gz")
    assert {step.decision for step in run(folder).values()} == {"skip"}
