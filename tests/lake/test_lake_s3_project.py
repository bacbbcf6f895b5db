"""An entire project on an object store: the same commands give the same rows as in a local folder.

run ── more files ── run ── fix ── replay ── backfill
stream ── savepoint ── stream ── restore ── verify
"""

from __future__ import annotations

import threading
import uuid
from pathlib import Path

import pytest

from pipeline.core.errors import ConflictError
from pipeline.project import Workspace, load
from pipeline.project.forgotten import forget, forgotten_tables, remains_of
from pipeline.reprocessing.quarantine import replay
from pipeline.runner import Runner
from pipeline.runner.backfill import BackfillOptions, backfill, plan_backfill
from pipeline.runner.dry_run import RunOptions
from pipeline.streaming.runtime.job import StreamJob, StreamJobOptions, catch_up
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from pipeline.streaming.runtime.savepoints import save, savepoints
from pipeline.streaming.runtime.verify import verify
from tests.rigs.weed import BUCKET, credentials
from tests.runner.conftest import rows_of

FAST = StreamOptions(intervals=Intervals(batch_s=0.01, commit_s=0.02, idle_commit_s=0.05), shards=2)
DEFINITIONS = '''\
from pathlib import Path

from pipeline import dimension, fact, fail, files, lookup, mart, quarantine, source, sql

DATA = Path(__file__).parent / "data"

raw_orders = source(
    files(DATA / "orders*.csv"),
    schema={"order_id": "bigint", "day": "date", "customer": "bigint", "quantity": "integer"},
)
raw_customers = source(
    files(DATA / "customers*.csv"),
    schema={"customer": "bigint", "seq": "bigint", "op": "varchar", "city": "varchar"},
)
clicks = source(
    files(DATA / "clicks*.csv"), schema={"at": "timestamp", "customer": "bigint"}, event_time="at", stored=False
)

orders = sql(
    "select order_id, day, customer, quantity from raw_orders",
    key="order_id",
    partition_by="day",
    expect=[fail("has_day", "day is not null"), quarantine("sold_something", "quantity > LEAST")],
)
customers = sql(
    "select customer, seq, op, city from raw_customers", key="customer", sequence_by="seq", apply_as_deletes="op = 'D'"
)
customer_history = sql(
    "select customer, seq, op, city from raw_customers",
    key="customer",
    sequence_by="seq",
    apply_as_deletes="op = 'D'",
    except_column_list=["seq", "op"],
    stored_as_scd_type=2,
)
dim_customer = dimension("select customer, city from customers", key="customer", unknown={"city": "?"})
dim_residence = dimension(
    "select customer, city, seq from raw_customers", key="customer", stored_as_scd_type=2, sequence_by="seq"
)
fact_order = fact(
    "select order_id, day, customer, quantity from orders",
    key="order_id",
    lookups={"customer_key": lookup("dim_customer", "customer")},
)
by_day = mart("select day, count(*) as orders, sum(quantity) as quantity from fact_order group by day", key="day")
by_minute = sql(
    """
    select tumble(at, interval '1 minute') as minute, customer, count(*) as clicks
    from clicks group by all
    """,
    key=("minute", "customer"),
    expect=[quarantine("is_possible", "clicks < 30")],
)
'''
RENAMED = 'sums = sql("select customer, count(*) as n from orders group by customer", key="customer")\n'
FILES = {
    "orders1.csv": "order_id,day,customer,quantity\n"
    + "".join(f"{n},2026-01-0{1 + n % 4},{n % 5},{n % 7}\n" for n in range(60))
    + "x,2026-01-01,1,1\n",
    "customers1.csv": "customer,seq,op,city\n" + "".join(f"{n},{n},I,Oslo\n" for n in range(5)),
}
MORE = {
    "orders2.csv": "order_id,day,customer,quantity\n60,2026-01-05,3,2\n61,2026-01-01,4,0\n",
    "customers2.csv": "customer,seq,op,city\n1,11,U,Bergen\n2,12,D,\n3,2,U,late\n1,13,U,Lund\n",
}


def project(folder: Path, lake: str = ".headwater/lake") -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "headwater.toml").write_text(f'[project]\nname = "p"\ndefinitions = "p.py"\n[env.dev]\nlake = "{lake}"\n')
    define(folder, 0)
    arrive(folder, FILES)
    return folder


def define(folder: Path, least: int, more: str = "") -> None:
    (folder / "p.py").write_text(DEFINITIONS.replace("LEAST", str(least)) + more)


def arrive(folder: Path, contents: dict[str, str]) -> None:
    for name, content in contents.items():
        (folder / "data" / name).write_text(content)


def click(folder: Path, *hours: int) -> None:
    for hour in hours:
        rows = [f"2026-01-01 {hour:02}:{n // 60:02}:{n % 60:02},{n % (2 + hour % 3)}" for n in range(240)]
        arrive(folder, {f"clicks{hour:02}.csv": "at,customer\n" + "\n".join(rows) + "\n"})


def run(folder: Path) -> Workspace:
    report = Runner(load(folder), RunOptions()).run()
    assert [step.name for step in report.steps if step.has_failed] == []
    return Workspace(load(folder))


@pytest.fixture
def there(s3, tmp_path, monkeypatch) -> Path:
    """The project on the store, whose address and credentials are in the environment."""
    for name, value in credentials(s3.endpoint).items():
        monkeypatch.setenv(name, value)
    return project(tmp_path / "s3" / "p", f"s3://{BUCKET}/{uuid.uuid4().hex}")


@pytest.fixture
def here(tmp_path) -> Path:
    return project(tmp_path / "local" / "p")


def texts(rows: dict[str, list[str]], folder: Path) -> dict[str, list[str]]:
    """Return rows without the path of the project, which is in their provenance."""
    return {name: sorted(row.replace(str(folder), "") for row in found) for name, found in rows.items()}


def same(here: Path, there: Path) -> dict[str, list[str]]:
    local = texts(rows_of(here), here)
    assert texts(rows_of(there), there) == local
    return local


def test_runs_replay_and_backfill(here, there):
    first = [run(folder).version("orders").rows for folder in (here, there)]
    for folder in (here, there):
        arrive(folder, MORE)
        run(folder)
    before = same(here, there)
    assert len(before["orders"]) == first[0] + 1 == first[1] + 1
    assert len(before["quarantine/orders"]) == 10
    assert len(before["quarantine/raw_orders"]) == 1

    for folder in (here, there):
        define(folder, -1)
        assert replay(Workspace(load(folder)), "orders").rows_out == 10
        run(folder)
        workspace = Workspace(load(folder))
        report = backfill(workspace, plan_backfill(workspace, "orders", BackfillOptions(partitions="2026-01-01..")))
        assert {filled.error for filled in report} == {None}
    after = same(here, there)
    assert len(after["orders"]) == 62

    assert not (there / ".headwater" / "lake").exists()
    assert Workspace(load(there)).lake.storage.names("_headwater/") == ()


def test_a_second_run_does_nothing_and_a_forgotten_table_is_removed(there):
    define(there, 0, RENAMED)
    run(there)
    report = Runner(load(there), RunOptions()).run()
    assert all(step.is_unchanged for step in report.steps)

    define(there, 0)
    workspace = Workspace(load(there))
    [forgotten] = forgotten_tables(workspace)
    assert (forgotten.name, forgotten.rows) == ("sums", 5)
    forget(workspace, "sums", remains_of(workspace, "sums"))
    assert forgotten_tables(workspace) == ()
    assert workspace.lake.storage.names(f"{forgotten.layer}/sums/") == ()


def test_a_stream_is_restored_from_a_savepoint(there):
    click(there, 0, 1)
    workspace = Workspace(load(there))
    catch_up(workspace, ("by_minute",), FAST)
    saved = save(workspace, "by_minute", "before")
    assert saved.rows == len(rows_of(there)["by_minute"])
    click(there, 2, 3)
    catch_up(Workspace(load(there)), ("by_minute",), FAST)
    uninterrupted = rows_of(there)

    options = StreamJobOptions(("by_minute",), until_caught_up=True, stream_options=FAST, restore="before")
    StreamJob(Workspace(load(there)), options).run()

    assert [each.label for each in savepoints(workspace, "by_minute")] == ["before"]
    assert rows_of(there) == uninterrupted
    assert uninterrupted["quarantine/by_minute"]
    assert verify(workspace, "by_minute").holds


@pytest.mark.parametrize("writers", [2])
def test_runs_beside_each_other_commit_each_row_once(here, there, writers):
    """Both see the same new files: a table is committed by one of them, and the other one reports a conflict or skips it."""
    run(here)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            Runner(load(there), RunOptions()).run()
        except ConflictError as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run(there)
    assert all("concurrently" in str(error) for error in errors)
    same(here, there)
