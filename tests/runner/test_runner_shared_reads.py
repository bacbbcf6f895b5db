"""Tables of a run that read the same source, which is not stored, share the read; the result is the same."""

from __future__ import annotations

import pytest

from pipeline.connectors.files import small_files
from pipeline.connectors.files.source import Files
from pipeline.project import Workspace, load
from pipeline.runner import Runner, shared_reads
from pipeline.runner.dry_run import RunOptions
from tests.batch.conftest import cluster as cluster  # noqa: PLC0414 - re-exported fixture
from tests.rigs.uncommitted import uncommitted
from tests.runner.conftest import rows_of

DEFINITIONS = """\
from pathlib import Path

import pyarrow as pa

from pipeline import files, mart, quarantine, source, sql, table

DATA = Path(__file__).parent / "data"
sales = source(files(DATA / "*.csv"), schema={"id": "bigint", "shop": "varchar", "n": "integer", "day": "date"}, stored=False)
big = sql("select id, shop, n from sales where n > 1", key="id", expect=[quarantine("named", "shop is not null")])
by_shop = mart("select shop, sum(n) as n, count(*) as sales from sales group by shop")
days = sql("select distinct day from sales")


@table()
def copied(sales: pa.Table) -> pa.Table:
    return sales.select(["id", "day"])
"""
TABLES = ("big", "by_shop", "days", "copied")


@pytest.fixture
def shops(tmp_path, monkeypatch):
    """A project whose four tables read one source; and the splits that were scanned or read."""
    monkeypatch.setattr(shared_reads, "LEAST_BYTES", 0)
    monkeypatch.setattr(small_files, "SMALL_BYTES", 0)
    (tmp_path / "headwater.toml").write_text('[project]\nname = "shops"\ndefinitions = "shops.py"\n')
    (tmp_path / "shops.py").write_text(DEFINITIONS)
    (tmp_path / "data").mkdir()
    read = []

    def noting(name):
        original = getattr(Files, name)

        def noted(self, *arguments):
            read.append(name)
            return original(self, *arguments)

        monkeypatch.setattr(Files, name, noted)

    for name in ("scan", "scan_together", "read"):
        noting(name)
    return tmp_path, read


def write(folder, name, *lines):
    (folder / "data" / name).write_text("\n".join(["id,shop,n,day", *lines, ""]))


def run(folder, **options):
    record = Runner(load(folder), RunOptions(**options)).run()
    return {step.name: step for step in record.steps}


def separately(folder, monkeypatch):
    """Return the rows of the tables in a copy of the project, without shared reads."""
    with monkeypatch.context() as patch:
        patch.setattr(shared_reads, "LEAST_BYTES", 1 << 60)
        run(folder, full=True)
    return rows_of(folder)


def test_files_are_read_once_for_all_tables(shops, monkeypatch):
    folder, read = shops
    for number in range(3):
        write(
            folder,
            f"{number}.csv",
            *(f"{n},{'abc'[n % 3]},{n % 5},2024-01-0{n % 9 + 1}" for n in range(number * 9, number * 9 + 9)),
        )

    steps = run(folder)

    assert len(read) == 3
    assert all(steps[name].flow.rows_in == 27 for name in TABLES)
    shared = rows_of(folder)
    assert shared == separately(folder, monkeypatch)
    assert uncommitted(folder) == []

    read.clear()
    write(folder, "3.csv", "100,d,7,2025-01-01")
    steps = run(folder)
    # two tables share the read of the new file, and two others, which are recomputed, that of all files
    assert {name: (steps[name].decision, steps[name].flow.rows_in) for name in TABLES} == {
        "big": ("append", 1),
        "by_shop": ("rebuild", 28),
        "days": ("rebuild", 28),
        "copied": ("append", 1),
    }
    assert rows_of(folder) == separately(folder, monkeypatch)
    workspace = Workspace(load(folder))
    assert workspace.query("select shop, n from big where id = 100").to_pylist() == [{"shop": "d", "n": 7}]
    assert workspace.query("select sum(sales) as n from by_shop").to_pylist() == [{"n": 28}]


def test_a_split_with_a_bad_row_is_read_by_each_table_with_its_own_columns(shops, monkeypatch):
    folder, _ = shops
    write(folder, "0.csv", "1,a,2,2024-01-01", "2,b,x,2024-01-02")
    write(folder, "1.csv", "3,a,3,2024-01-03")

    steps = run(folder)

    assert {name: steps[name].flow.quarantined for name in TABLES} == {"big": 1, "by_shop": 1, "days": 0, "copied": 1}
    assert rows_of(folder) == separately(folder, monkeypatch)


def test_a_table_that_reads_alone_shares_nothing(shops):
    folder, read = shops
    write(folder, "0.csv", "1,a,2,2024-01-01")
    run(folder)
    read.clear()
    (folder / "shops.py").write_text(DEFINITIONS.replace("n > 1", "n > 0"))

    steps = run(folder)

    assert [name for name in TABLES if steps[name].decision != "skip"] == ["big"]
    assert len(read) == 1
    assert uncommitted(folder) == []


TYPED = """\
from pathlib import Path

from pipeline import files, mart, source, sql

DATA = Path(__file__).parent / "data"
rows = source(files(DATA / "*.csv"), schema={"id": "bigint", "x": "TYPE"}, stored=False)
first = sql("select id, x, typeof(x) as kind, x::varchar as text from rows")
second = mart("select count(distinct x) as values, min(x::varchar) as least, max(x) as largest from rows")
"""


@pytest.mark.share(5)
@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("hugeint", ["9007199254740993", "-9223372036854775807"]),
        ("decimal(38,10)", ["1234567890123456789012345678.0123456789", "0"]),
        ("double", ["0.1", "nan", "-0.0"]),
        ("float", ["0.1", "1e-40"]),
        ("timestamp", ["2024-01-01 00:00:00.000001", "0001-01-01"]),
        ("timestamptz", ["2024-01-01 00:00:00+02", "2024-06-01"]),
        ("date", ["0001-01-01", "9999-12-31"]),
        ("time", ["23:59:59.999999", "00:00"]),
        ("boolean", ["true", "no"]),
        ("varchar", ["", "é"]),
        ("uuid", ["123e4567-e89b-12d3-a456-426614174000"]),
        ("ubigint", ["18446744073709551615"]),
    ],
)
def test_values_of_any_type_are_the_same(shops, monkeypatch, kind, values):
    folder, _ = shops
    (folder / "shops.py").write_text(TYPED.replace("TYPE", kind))
    lines = "".join(f"{n},{value}\n" for n, value in enumerate(values))
    (folder / "data" / "0.csv").write_text(f"id,x\n{lines}")

    run(folder)

    assert rows_of(folder) == separately(folder, monkeypatch)


@pytest.mark.ray
@pytest.mark.timeout(280)
def test_the_workers_of_a_cluster_share_the_read(shops, cluster):
    assert cluster
    folder, _ = shops
    (folder / "headwater.toml").write_text(
        '[project]\nname = "shops"\ndefinitions = "shops.py"\n[env.dev]\nexecution = "ray"\n'
    )
    for number in range(3):
        write(
            folder, f"{number}.csv", *(f"{n},{'abc'[n % 3]},{n},2024-01-01" for n in range(number * 9, number * 9 + 9))
        )
    stages = set()

    record = Runner(load(folder), observer=lambda event: stages.add(event.work and event.work.stage)).run()

    assert "read sales for several tables" in stages
    assert {step.name: step.executor for step in record.steps} == dict.fromkeys(TABLES, "ray")
    assert {step.name: step.flow.rows_in for step in record.steps} == dict.fromkeys(TABLES, 27)
    workspace = Workspace(load(folder))
    assert workspace.query("select count(*) as n, sum(n) as total from big").to_pylist() == [{"n": 25, "total": 350}]
    assert uncommitted(folder) == []
