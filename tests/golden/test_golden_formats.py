"""Every earlier format can be read, or is rejected with its name; the golden folders are never changed."""

from __future__ import annotations

import importlib.util
import itertools
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from ml.features.online.row_versions import version_at
from ml.features.online.store import ViewState
from pipeline.core.cursors import Cursor
from pipeline.core.errors import SettingsError, StorageError
from pipeline.core.sinks import SinkPosition
from pipeline.core.staging import Manifest
from pipeline.governance import Catalog, Leases
from pipeline.lake import Storage
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.reprocessing.quarantine import quarantined_rows
from pipeline.streaming.runtime.job import StreamJob, StreamJobOptions
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from pipeline.streaming.runtime.savepoints import savepoints
from pipeline.streaming.runtime.state_query import committed_state
from pipeline.streaming.runtime.verify import verify

HERE = Path(__file__).parent
ASKED = StreamOptions(intervals=Intervals(batch_s=0.02, commit_s=0.05, idle_commit_s=0.1), shards=3)
"""A number of shards that no golden stream has, so that its state is redistributed."""

_spec = importlib.util.spec_from_file_location("write", HERE / "write.py")
assert _spec is not None
assert _spec.loader is not None
write = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(write)


def every(name: str):
    """Run a test with each version of a format."""
    oldest, newest, _ = write.WRITERS[name]
    return pytest.mark.parametrize("version", range(oldest, newest + 1))


@pytest.fixture
def project(tmp_path):
    """Return a function that copies the project of a golden folder and returns its path."""

    def copied(name: str, version: int) -> Path:
        return Path(shutil.copytree(HERE / name / str(version), tmp_path / name))

    return copied


def opened(folder: Path) -> Workspace:
    return Workspace(load(folder))


def go_on(folder: Path, name: str, **wanted: object) -> None:
    """Run a stream to the end of its log."""
    StreamJob(
        opened(folder), StreamJobOptions((), stream_options=ASKED, until_caught_up=True, drain=True, **wanted)
    ).run()
    assert verify(opened(folder), name).holds


def changed(path: Path, text: str, new: str) -> None:
    before = path.read_text()
    assert text in before
    path.write_text(before.replace(text, new))


@pytest.mark.parametrize("name", write.WRITERS)
def test_every_version_has_its_folder_and_a_form_that_changed_has_a_new_one(name, tmp_path):
    """Any change of the fields requires a new format version."""
    oldest, newest, written = write.WRITERS[name]
    assert {each.name for each in (HERE / name).iterdir()} == {str(version) for version in range(oldest, newest + 1)}
    written(tmp_path / name)
    assert form(name, tmp_path / name) == form(name, HERE / name / str(newest))


def form(name: str, folder: Path) -> set[str]:
    """Return the names in a format: fields at any depth, columns, or the SQL of its tables."""
    if name == "catalog":
        lines = (folder / "catalog.sql").read_text().splitlines()
        return {line for line in lines if not line.startswith("INSERT")}
    if name == "quarantine":
        return {
            f"{column.name} {column.type}" for column in opened(folder).lake.quarantine("hot").version().schema.columns
        }
    if name == "epoch":
        manifests = folder.glob("lake/silver/by_minute/_headwater/*.json")
        return {field for file in manifests for field in fields(json.loads(file.read_text())["epoch"])}
    files = folder.rglob("savepoint.json") if name == "savepoint" else folder.rglob("*.json")
    return {field for file in files for field in fields(json.loads(file.read_text()))}


def fields(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
    if isinstance(value, dict | list):
        yield from itertools.chain.from_iterable(map(fields, value.values() if isinstance(value, dict) else value))


# -- manifests and cursors


@every("manifest")
def test_manifests(version):
    text = (HERE / "manifest" / str(version) / "manifest.json").read_text()
    manifest = Manifest.from_json(text)
    assert json.loads(text).get("format_version", 1) == version
    assert (manifest.format_version, manifest.table, manifest.mode) == (2, "orders", "merge")
    assert manifest.cursor == Cursor("files", {"files": {"data/a.csv": [120, 1_704_067_200_000_000_000, ""]}})
    assert (manifest.flow.rows_out, manifest.backfilled, manifest.quarantined) == (
        7,
        ("2024-01-01", None),
        manifest.tombstones,
    )


@every("cursor")
def test_cursors(version):
    for kind, inside in (("files", "files"), ("offsets", "partitions")):
        cursor = Cursor(**json.loads((HERE / "cursor" / str(version) / f"{kind}.json").read_text()))
        assert cursor.format_version == version
        assert list(cursor.of_kind(kind)) == [inside]


# -- streams


@every("epoch")
def test_epochs_and_their_state(project, version):
    folder = project("epoch", version)
    manifest = opened(folder).require("by_minute").manifest
    assert manifest.epoch.state
    assert committed_state(opened(folder), "by_minute").tables["states"].num_rows > 0
    if manifest.epoch.engine == duckdb.__version__:
        go_on(folder, "by_minute")
        rows_in = opened(folder).require("by_minute").manifest.epoch.totals["rows_in"]
        assert opened(folder).query("select sum(readings)::int as n from by_minute").to_pylist() == [{"n": rows_in}]


@pytest.mark.share(1)
@every("epoch")
def test_states_of_another_engine_are_refused_with_the_way_out(project, version):
    folder = project("epoch", version)
    workspace = opened(folder)
    seen = workspace.require("by_minute")
    other = replace(seen.manifest, run_id="x", epoch=replace(seen.manifest.epoch, engine="1.0.0"))
    workspace.table("by_minute").commit(other, (), seen.schema, seen)
    with pytest.raises(StorageError, match=r"written by DuckDB 1.0.0, and this is .*--from earliest"):
        go_on(folder, "by_minute")
    assert list(committed_state(workspace, "by_minute").tables) == ["states"], "it can be looked at"
    go_on(folder, "by_minute", begin="earliest")


@pytest.mark.share(1)
@every("savepoint")
def test_savepoints(project, version):
    folder = project("savepoint", version)
    go_on(folder, "by_minute")
    assert [(each.label, each.epoch) for each in savepoints(opened(folder), "by_minute")] == [("kept", 1)]
    rows = opened(folder).query("from by_minute order by all")
    go_on(folder, "by_minute", restore="kept")
    assert opened(folder).query("from by_minute order by all") == rows


# -- quarantines


@pytest.mark.share(2)
@every("quarantine")
@pytest.mark.parametrize("is_settled", [True, False])
def test_quarantines(project, version, is_settled):
    """Rows are added to a quarantine of an earlier format, including those that a killed process did not commit."""
    folder = project("quarantine", version)
    if is_settled:
        assert quarantined_rows(opened(folder), "hot").num_rows == 2
    else:
        shutil.rmtree(folder / "lake" / "quarantine" / "hot" / "_delta_log")
    go_on(folder, "hot")
    rows = quarantined_rows(opened(folder), "hot").to_pylist()
    assert [row["_position"] for row in rows] == [23, 123, 223]
    assert {row["reasons"] for row in rows} == {"is_possible"}


# -- the catalog


@every("catalog")
def test_catalogs(tmp_path, version):
    with closing(sqlite3.connect(tmp_path / "catalog.db")) as connection:
        connection.executescript((HERE / "catalog" / str(version) / "catalog.sql").read_text())
    catalog, today = Catalog(f"sqlite:///{tmp_path}/catalog.db"), Catalog(f"sqlite:///{tmp_path}/today.db")
    write.record(today)
    assert catalog.run("r1") == today.run("r1")
    assert catalog.versions("orders") == today.versions("orders")
    assert catalog.filled("orders") == today.filled("orders")
    assert Leases(catalog).all() == Leases(today).all()
    if version >= 3:  # earlier catalogs have no such tables
        assert catalog.column_changes("raw_orders") == today.column_changes("raw_orders")
        assert catalog.systems() == today.systems()


@every("experiment")
def test_states_of_experiments(version):
    state = write.ExperimentStates(Storage(str(HERE / "experiment" / str(version)))).state("checkout")
    assert state == write.states.ExperimentState("stopped", write.AT, "it is better", "new")


@every("experiment_weights")
def test_weights_of_bandits(version):
    kept = write.ExperimentStates(Storage(str(HERE / "experiment_weights" / str(version))))
    assert kept.state_and_weights("checkout") == (None, {"control": 0.05, "new": 0.95})


@every("log_owner")
def test_owners_of_logs(version):
    folder = str(HERE / "log_owner" / str(version))
    assert write.owners.LogOwner("shop", "dev", "returns").require(folder)
    with pytest.raises(SettingsError, match="the log of model 'returns' of project 'shop', environment 'dev'"):
        write.owners.LogOwner("shop", "prod", "returns").require(folder)


@every("hold")
def test_holds(version):
    storage = Storage(str(HERE / "hold" / str(version)))
    early = lambda: datetime(2023, 1, 1, tzinfo=UTC)  # noqa: E731 - a clock
    assert write.holds.holds(storage, early) == (write.Hold("model-m-1", 7, "model m 1", "a run", write.AT),)


@every("kept_versions")
def test_times_of_kept_versions(version):
    storage = Storage(str(HERE / "kept_versions" / str(version)))
    assert write.versions.kept_times(storage) == {100: 1_704_067_200_000, 200: 1_704_067_800_000}


@every("audit")
def test_audit_logs(version):
    folder = HERE / "audit" / str(version)
    found = [(each["caller"], each["status"]) for each in write.audit_records.records(folder)]
    assert found == [("k1", 200), ("anonymous", 401)]
    assert write.audit_records.verify(folder) == (2, [])


@every("online_store")
def test_online_stores(version):
    """What an earlier release stored is read; its rows are those that are shown before and from the second version on."""
    folder = HERE / "online_store" / str(version)
    state = ViewState.from_json((folder / "state.json").read_text())
    value = bytes.fromhex(json.loads((folder / "values.json").read_text())["a"])
    assert (state.view, state.entity, state.reached) == ("shown", ("e",), SinkPosition(3, 7))
    shown = [version_at(value, state.horizon + hours * 3_600_000_000, strict=False) for hours in (0, 11, 12)]
    decoded = state.rows.decode([version and version.row for version in shown])
    assert pa.RecordBatch.from_arrays(decoded, schema=state.rows.schema).to_pylist() == [
        *[{"n": 1, "x": Decimal("0.10"), "s": "é", "v": [0.5, 1.5]}] * 2,
        {"n": None, "x": Decimal("2.00"), "s": "", "v": None},
    ]


# -- formats of later versions of Headwater; for the catalog, see tests/governance

LATER = r"{} was written by a later version of Headwater: got format 9; this version reads formats up to \d+; upgrade"


def test_a_later_manifest_is_refused():
    text = (HERE / "manifest" / "2" / "manifest.json").read_text()
    with pytest.raises(StorageError, match=LATER.format("the manifest of table 'orders'")):
        Manifest.from_json(json.dumps({**json.loads(text), "format_version": 9}))


def test_a_later_cursor_is_refused():
    with pytest.raises(StorageError, match=r"cannot read the cursor of a source: got kind 'files', version 9"):
        Cursor("files", {}, 9).of_kind("files")


def test_a_later_savepoint_is_refused_and_the_others_are_not(project):
    folder = project("savepoint", write.savepoints.FORMAT_VERSION)
    workspace = opened(folder)
    write.save(workspace, "by_minute", "later")
    path = folder / "lake/silver/by_minute/_headwater/savepoints/later/savepoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 9, "layout": "unknown"}))
    with pytest.raises(StorageError, match=LATER.format("savepoint 'later' of stream 'by_minute'")):
        go_on(folder, "by_minute", restore="later")
    with pytest.raises(StorageError, match=r"upgrade Headwater, or restore another savepoint"):
        savepoints(workspace, "by_minute")
    go_on(folder, "by_minute", restore="kept")


def test_a_later_quarantine_is_refused_before_anything_is_committed(project):
    folder = project("quarantine", write.quarantine_format.FORMAT_VERSION)
    log = folder / "lake/quarantine/hot/_delta_log/00000000000000000000.json"
    changed(log, '"headwater.formatVersion":"2"', '"headwater.formatVersion":"9"')
    version = opened(folder).require("hot").number
    with pytest.raises(StorageError, match=LATER.format("the quarantine of table 'hot'")):
        go_on(folder, "hot")
    with pytest.raises(StorageError, match=LATER.format("the quarantine of table 'hot'")):
        quarantined_rows(opened(folder), "hot")
    assert opened(folder).require("hot").number == version


@pytest.mark.parametrize("version", [0, -1, "2", 1.5, None, [2]])
def test_what_is_no_version_is_refused(version):
    text = (HERE / "manifest" / "2" / "manifest.json").read_text()
    with pytest.raises(StorageError, match=r"the manifest of table 'orders' was written by a later version"):
        Manifest.from_json(json.dumps({**json.loads(text), "format_version": version}))
