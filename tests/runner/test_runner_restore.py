"""A restored table goes on exactly once: after the next run, everything equals what is computed from nothing."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from pipeline.commit.moments import Moment
from pipeline.core.as_of import AsOf
from pipeline.core.errors import ConflictError, RequestError, StorageError
from pipeline.governance import Leases
from pipeline.lake import compact
from pipeline.lake.history import history
from pipeline.lake.holds import holds
from pipeline.lake.manifests import manifest_name
from pipeline.project import Workspace, load
from pipeline.reprocessing.quarantine import quarantined_rows
from pipeline.reprocessing.restore import plan_restore, restore
from pipeline.runner import Runner
from pipeline.streaming.runtime.control import stream_summaries
from pipeline.streaming.runtime.job import catch_up
from pipeline.streaming.runtime.options import Intervals, StreamOptions

DEFINITIONS = """\
from pathlib import Path

from pipeline import files, mart, quarantine, source, sql

DATA = Path(__file__).parent / "data"
raw = source(files(DATA / "orders*.csv"), schema={"id": "bigint", "product": "varchar", "amount": "double"})
orders = sql("select id, product, amount EXTRA from raw", key="id", expect=[quarantine("positive", "amount > 0")])
dear = sql("select * from orders where amount > 4")
by_product = mart("select product, count(*) as n, sum(amount) as amount from orders group by product", key="product")
events = source(files(DATA / "events*.csv"), schema={"id": "bigint", "seq": "bigint", "op": "varchar", "v": "varchar"})
current = sql(
    "select id, seq, op, v from events", key="id", sequence_by="seq", apply_as_deletes="op = 'D'", partition_by="v"
)
"""
TABLES = ("raw", "orders", "dear", "by_product", "events", "current")
PROVENANCE = {"_source", "_position", "_ingested_at"}


def define(folder: Path, extra: str = "") -> None:
    (folder / "p.py").write_text(DEFINITIONS.replace("EXTRA", extra))


def arrive(folder: Path, number: int) -> None:
    """Add a file of 12 orders, of which two are rejected, and one of changes that insert, update and delete."""
    (folder / "data").mkdir(exist_ok=True)
    ids = range(number * 12, number * 12 + 12)
    rows = [f"{i},p{i % 3},{-1 if i % 6 == 5 else i % 7 + 1}" for i in ids]
    (folder / "data" / f"orders{number}.csv").write_text("\n".join(["id,product,amount", *rows]) + "\n")
    changes = [f"{i},{number * 10 + i},{'D' if (i + number) % 4 == 0 else 'U'},v{i % 2}" for i in range(8)]
    (folder / "data" / f"events{number}.csv").write_text("\n".join(["id,seq,op,v", *changes]) + "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project whose tables have been computed from three files, one after the other."""
    folder = tmp_path / "p"
    folder.mkdir()
    (folder / "headwater.toml").write_text('[project]\nname = "p"\ndefinitions = "p.py"\n')
    define(folder)
    for number in range(3):
        arrive(folder, number)
        run(folder)
    return folder


def run(folder: Path) -> dict[str, str]:
    return {step.name: step.decision for step in Runner(load(folder)).run().steps}


def opened(folder: Path) -> Workspace:
    return Workspace(load(folder))


def rows_of(workspace: Workspace, name: str) -> Counter:
    rows = workspace.query(f"select * from {name}")
    return Counter(tuple(v for n, v in row.items() if n not in PROVENANCE) for row in rows.to_pylist())


def everything(folder: Path) -> dict[str, Counter]:
    """The rows of all tables, of their quarantines and of the warehouse."""
    workspace = opened(folder)
    rows = {name: rows_of(workspace, name) for name in TABLES}
    rows |= {f"{name} quarantine": Counter(quarantined_rows(workspace, name)["row"].to_pylist()) for name in TABLES}
    with workspace.warehouse.read() as con:
        loaded = con.execute("select * from by_product").fetchall()
    return rows | {"warehouse": Counter(loaded)}


def recomputed(folder: Path) -> dict[str, Counter]:
    """The same from nothing."""
    shutil.rmtree(folder / ".headwater")
    run(folder)
    return everything(folder)


def restored(folder: Path, name: str, number: int, reached=lambda _: None):
    workspace = opened(folder)
    return restore(workspace, plan_restore(workspace, name, AsOf(versions={name: number})), reached=reached)


@pytest.mark.share(2)
@pytest.mark.parametrize("name", ["raw", "orders", "current", "by_product"])
@pytest.mark.parametrize("number", [0, 1])
def test_runs_go_on_from_a_restored_version(folder, name, number):
    workspace = opened(folder)
    kept, kept_quarantine = rows_of_version(workspace, name, number), quarantined_until(folder, name, number)
    whole = everything(folder)

    version = restored(folder, name, number)

    assert rows_of(workspace, name) == kept != whole[name]
    assert Counter(quarantined_rows(workspace, name)["row"].to_pylist()) == kept_quarantine
    assert version.manifest.inputs == workspace.table(name).version(number).manifest.inputs
    assert holds(workspace.table(name).storage) == ()
    first = history(workspace.table(name).storage, 1)[0]
    assert (first.mode, first.run_id) == (f"restore of {number}", version.manifest.run_id)
    assert run(folder)[name] != "skip"
    assert everything(folder) == whole == recomputed(folder)


def rows_of_version(workspace: Workspace, name: str, number: int) -> Counter:
    rows = workspace.query(f"select * from {name}", at={name: number}).to_pylist()
    return Counter(tuple(v for n, v in row.items() if n not in PROVENANCE) for row in rows)


def quarantined_until(folder: Path, name: str, number: int) -> Counter:
    """The rejected rows of the first files: of `orders`, ids that are 5 modulo 6."""
    if name != "orders":
        return Counter()
    rows = quarantined_rows(opened(folder), name)["row"].to_pylist()
    return Counter(row for row in rows if int(json.loads(row)["id"]) < (number + 1) * 12)


@pytest.mark.share(1)
@pytest.mark.parametrize("moment", [Moment.STAGED, Moment.COMMITTED, Moment.SETTLED])
def test_a_restore_that_is_killed_has_happened_or_not(folder, moment):
    whole, kept = everything(folder), rows_of_version(opened(folder), "orders", 0)
    before = opened(folder).require("orders").number

    def kill(reached: Moment) -> None:
        if reached is moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restored(folder, "orders", 0, kill)

    is_committed = moment is not Moment.STAGED
    assert rows_of(opened(folder), "orders") == (kept if is_committed else whole["orders"])
    assert opened(folder).require("orders").number == before + is_committed
    run(folder)
    assert everything(folder) == whole == recomputed(folder)


def test_a_restore_after_a_compaction_and_of_a_restore(folder):
    whole = everything(folder)
    workspace = opened(folder)
    table = workspace.table("current")
    for number in (3, 4):
        arrive(folder, number)
        run(folder)
    compact(table, table.head())
    later = everything(folder)
    restored(folder, "current", 2)
    assert rows_of(workspace, "current") == whole["current"]
    back = table.number() - 1
    restored(folder, "current", back)
    assert rows_of(workspace, "current") == later["current"]
    assert set(run(folder).values()) <= {"skip", "rebuild", "merge", "append"}
    assert everything(folder) == later == recomputed(folder)


def test_the_schema_goes_back_too(folder):
    define(folder, extra=", 'x' as note")
    run(folder)
    whole = everything(folder)
    workspace = opened(folder)
    assert "note" in workspace.require("orders").schema.names
    plan = plan_restore(workspace, "orders", AsOf(versions={"orders": 1}))
    assert plan.redefined
    assert plan.read_by == ("dear", "by_product")
    restore(workspace, plan)
    version = workspace.require("orders")
    assert version.schema.names == workspace.table("orders").version(1).schema.names
    assert version.rows == 20
    assert workspace.query("select count(*) as n from orders where id >= 0").to_pylist() == [{"n": 20}]
    run(folder)
    assert everything(folder) == whole == recomputed(folder)


EVOLVING = """\
from pathlib import Path

from pipeline import files, source, sql

raw = source(files(Path(__file__).parent / "data/*.csv"), schema={"id": "bigint"}, new_columns="evolve")
kept = sql("select * from raw", key="id")
"""


def test_columns_that_were_added_stay_readable(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "p"\ndefinitions = "p.py"\n')
    (tmp_path / "p.py").write_text(EVOLVING)
    (tmp_path / "data").mkdir()
    for number, text in enumerate(["id\n1\n", "id,a\n2,x\n", "id,a\n3,y\n", "id,a,b\n4,z,5\n"]):
        (tmp_path / "data" / f"{number}.csv").write_text(text)
        run(tmp_path)
    workspace = opened(tmp_path)
    number = next(n for n in range(9) if workspace.table("raw").version(n).rows == 3)
    ids = workspace.table("raw").version(number).schema
    restored(tmp_path, "raw", number)
    assert workspace.require("raw").schema.as_dict() == ids.as_dict()
    rows = workspace.query("select id, a from raw order by id").to_pylist()
    assert rows == [{"id": 1, "a": None}, {"id": 2, "a": "x"}, {"id": 3, "a": "y"}]
    run(tmp_path)
    assert workspace.query("select id, a, b from kept order by id").to_pylist()[3] == {"id": 4, "a": "z", "b": 5}
    assert workspace.query("select count(*) as n from raw").to_pylist() == [{"n": 4}]


STREAM = """\
from pipeline import generate, source, sql

clicks = source(generate({"id": "i", "at": "timestamp '2026-01-01' + to_seconds(i)"}, count=300, partitions=1),
                schema={"id": "bigint", "at": "timestamp"}, event_time="at", stored=False)
seen = sql("select id, at from clicks")
"""


def test_no_stream_starts_while_its_table_is_restored_however_long_that_takes(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "p"\ndefinitions = "p.py"\n')
    (tmp_path / "p.py").write_text(STREAM)
    workspace = opened(tmp_path)
    every = Intervals(batch_s=0.01, commit_s=0.01, idle_commit_s=0.01, batch_offsets=100)
    options = StreamOptions(intervals=every)
    catch_up(workspace, ("seen",), options)
    leases, statuses = Leases(workspace.catalog), []

    def is_renewed() -> bool:
        lease = leases.get("seen")
        return lease is not None and lease.is_living(time.time())

    def expire(moment: Moment) -> None:
        if moment is not Moment.STAGED:
            return
        with workspace.catalog.transaction() as connection:
            connection.execute(sa.text("update leases set until = 0"))
        deadline = time.monotonic() + 20
        while not is_renewed() and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(ConflictError, match="stream 'seen' is already running"):
            catch_up(workspace, ("seen",), options)
        statuses.append(stream_summaries(workspace)[0].status)

    assert restored(tmp_path, "seen", 0, expire).rows < 300
    statuses.append(stream_summaries(workspace)[0].status)
    assert statuses == ["restoring", "stopped"]
    catch_up(workspace, ("seen",), options)
    assert sorted(workspace.query("select id from seen")["id"].to_pylist()) == list(range(300))


def test_what_cannot_be_restored_is_refused(folder):
    workspace = opened(folder)
    table = workspace.table("current")

    def plan(number: int, name: str = "current"):
        return plan_restore(opened(folder), name, AsOf(versions={name: number}))

    with pytest.raises(
        RequestError, match=r"'current' already has the rows of this version: got version 2; choose an e"
    ):
        plan(2)
    late = plan(0)
    restored(folder, "current", 1)
    with pytest.raises(ConflictError, match="another process committed 'current' concurrently"):
        restore(opened(folder), late)
    assert holds(table.storage) == ()
    manifest = manifest_name(table.version(0).manifest_id)
    text = table.storage.read_text(manifest)
    table.storage.remove([manifest])
    with pytest.raises(StorageError, match="'current' cannot be restored to version 0: its manifest is no longer"):
        plan(0)
    table.storage.write_text(manifest, text)
    gone = table.version(0).files[0].uri.removeprefix(f"{table.storage.uri}/")
    table.storage.remove([gone])
    with pytest.raises(
        StorageError, match=r"1 of its files are no longer there, the first .*; restore a later version"
    ):
        plan(0)


def test_a_quarantine_that_is_not_known_any_more_is_refused(folder):
    storage = opened(folder).lake.quarantine("orders").storage
    log = [name for name in storage.names("_delta_log/") if name.endswith(f"{0:020}.json")]
    from deltalake import DeltaTable  # noqa: PLC0415 - the log is cut as another engine would

    DeltaTable(storage.uri).create_checkpoint()
    earlier = [name for name in storage.names("_delta_log/") if name.endswith(".json") and "checkpoint" not in name]
    storage.remove([name for name in earlier if name != max(earlier) and "_last" not in name])
    assert log
    with pytest.raises(
        StorageError, match="the quarantine of table 'orders' as of version 0 is no longer known; restore"
    ):
        plan_restore(opened(folder), "orders", AsOf(versions={"orders": 0}))
