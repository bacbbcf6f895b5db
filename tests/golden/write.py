"""Writes the golden folders of the current formats: python tests/golden/write.py. Existing folders are never changed.

`<format>/<version>` contains a project or a file, as written by the Headwater release that introduced that version.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa

from ml import feature_view
from ml.experiments import states
from ml.experiments.states import ExperimentStates
from ml.features.online import row_versions
from ml.features.online.opening import open_store
from ml.features.online.target import FeatureTarget
from pipeline.core import epochs, staging
from pipeline.core.cursors import Cursor, Gap
from pipeline.core.definitions import Action, Verdict
from pipeline.core.schema import Schema
from pipeline.core.sinks import Delivery, SinkPosition
from pipeline.core.staging import Manifest, RowCounts, StagedFile
from pipeline.governance import (
    BackfillRecord,
    Catalog,
    CheckRecord,
    ColumnChange,
    LeaseHolder,
    Leases,
    RunRecord,
    StepRecord,
    SystemRecord,
    VersionRecord,
    audit_records,
    revisions,
)
from pipeline.governance.api_keys import ApiKeys
from pipeline.governance.sessions import SessionStore, StoredSession
from pipeline.lake import Storage, holds, versions
from pipeline.lake import quarantine as quarantine_format
from pipeline.lake.holds import Hold, place_hold
from pipeline.lake.versions import keep_times
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.schema_registry.registry import SchemaRegistry
from pipeline.schema_registry.schemas import SchemaText
from pipeline.streaming.planning.plan import Planner
from pipeline.streaming.runtime import savepoints
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from pipeline.streaming.runtime.savepoints import save
from pipeline.streaming.runtime.stream import Stream
from serve.predictions import log_owner as owners

HERE = Path(__file__).parent
TOML = """\
[project]
name = "plant"
definitions = "plant.py"

[env.dev]
lake = "lake"
"""
PLANT = """\
from pipeline import generate, quarantine, source, sql

readings = source(
    generate(
        {"at": "timestamp '2024-01-01' + to_seconds(i)", "sensor": "'s' || (i % 3)", "degrees": "(i * 13) % 100"},
        count=300,
    ),
    schema={"at": "timestamp", "sensor": "varchar", "degrees": "integer"},
    event_time="at",
    lateness="5 seconds",
    stored=False,
)
"""
BY_MINUTE = '''\
by_minute = sql(
    """
    select tumble(at, interval '1 minute') as minute, sensor, count(*) as readings, avg(degrees) as mean
    from readings group by all
    """,
    key=("minute", "sensor"),
)
'''
HOT = """\
hot = sql(
    "select at, sensor, degrees from readings where degrees > 80",
    expect=[quarantine("is_possible", "degrees < 99")],
)
"""
TURN = 130
"""The rows per micro-batch; the stream stops after the first."""
AT = datetime(2024, 1, 1, tzinfo=UTC).isoformat()


def stopped(folder: Path, definition: str, after_stop: Callable[[Workspace, str], object] = lambda _, __: None) -> None:
    """Write a project with a stopped stream, then call `after_stop` with its workspace."""
    folder.mkdir(parents=True)
    (folder / "headwater.toml").write_text(TOML)
    (folder / "plant.py").write_text(PLANT + definition)
    workspace, name = Workspace(load(folder)), definition.partition(" ")[0]
    options = StreamOptions(intervals=Intervals(batch_s=0.02, batch_offsets=TURN), shards=2)
    stream = Stream(workspace, Planner(workspace).plan(name), options)
    while not stream.run_micro_batch():
        pass
    stream.save()
    stream.close()
    after_stop(workspace, name)
    shutil.rmtree(folder / ".headwater", ignore_errors=True)
    for cache in folder.rglob("__pycache__"):
        shutil.rmtree(cache)
    for log in folder.rglob("_delta_log/*.json"):
        log.write_text(re.sub(r"file://[^\"]*/lake/", "file:///lake/", log.read_text()))


def epoch(folder: Path) -> None:
    """Write a stream with state."""
    stopped(folder, BY_MINUTE)


def savepoint(folder: Path) -> None:
    """Write a stream with state that has a savepoint."""
    stopped(folder, BY_MINUTE, lambda workspace, name: save(workspace, name, "kept"))


def quarantine(folder: Path) -> None:
    """Write a stream that quarantined rows."""
    stopped(folder, HOT)


def manifest(folder: Path) -> None:
    """Write a manifest with all fields except the epoch."""
    folder.mkdir(parents=True)
    staged = StagedFile("part-0.parquet", 812, 3, {"day": "2024-01-01", "shop": None}, '{"numRecords": 3}')
    kept = Manifest(
        table="orders",
        run_id="r1",
        fingerprint="f1",
        mode="merge",
        inputs={"raw_orders": 7},
        manifest_ids={"raw_orders": 1 << 62, "shops": None},
        cursor=Cursor("files", {"files": {"data/a.csv": [120, 1_704_067_200_000_000_000, ""]}}),
        gaps=(Gap("kafka://b/orders/0", 5, 9),),
        flow=RowCounts(10, 10, 7, 2, 1, 0, 120, 0, 0),
        checks={"has_time": 2},
        quarantined=(staged,),
        quarantine_mode="overwrite",
        tombstones=(staged,),
        backfill="b1",
        backfilled=("2024-01-01", None),
        seconds=0.5,
        at=AT,
    )
    (folder / "manifest.json").write_text(kept.to_json())


def cursor(folder: Path) -> None:
    """Write the cursors of files and of logs."""
    folder.mkdir(parents=True)
    kept = (
        Cursor("files", {"files": {"data/a.csv": [120, 1_704_067_200_000_000_000, "0f"]}}),
        Cursor("offsets", {"partitions": {"kafka://b/orders/0": [0, 1200, "topic-id"]}}),
    )
    for each in kept:
        (folder / f"{each.kind}.json").write_text(json.dumps(asdict(each), sort_keys=True))


def catalog(folder: Path) -> None:
    """Write the SQL dump of a catalog with a row in every table."""
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as place:
        record(Catalog(f"sqlite:///{place}/catalog.db"))
        connection = sqlite3.connect(f"{place}/catalog.db")
        (folder / "catalog.sql").write_text("\n".join(connection.iterdump()) + "\n")
        connection.close()


def record(kept: Catalog) -> None:
    """Record a run with a step, a version, a partition of a backfill and a lease."""
    kept.begin(RunRecord("r1", "plant", "dev", AT, None, "running", None))
    check = CheckRecord("is_possible", "degrees < 99", Action.QUARANTINE, 10, 3)
    verdict = Verdict(accepted=True, reason="better", metrics={"auc": 0.7}, uri="models:/m/1", version="1", rows=7)
    flow = RowCounts(10, 10, 7, 3, 0, 0, 120)
    step = StepRecord("orders", 0, "table", "silver", "append", "2 new files", "blockwise", "inline", 3, 1.5, 99, flow)
    kept.record("r1", StepRecord(**{**vars(step), "checks": (check,), "verdict": verdict}))
    kept.keep(VersionRecord("orders", 3, "silver", "r1", AT, 99, 120, Schema.of({"id": "BIGINT"}), {"raw_orders": 7}))
    kept.fill(BackfillRecord("orders", "2024-01-01", "b1", "r1", AT, 4, 0.5))
    registry = SchemaRegistry(kept)
    registry.register(
        "orders-value", SchemaText('{"type": "string"}', "JSON", metadata={"properties": {"owner": "us"}})
    )
    registry.set_level("orders-value", "FULL")
    kept.record_column_changes("r1", AT, [ColumnChange("raw_orders", "v", "BIGINT", "DOUBLE", ("orders",))])
    kept.record_systems([SystemRecord("api.example.com", "closed", 0.0, 12, 2, "r1", AT)])
    ApiKeys(kept, "dev", clock=lambda: 0.0).create("app", roles=["sales"], claims={"region": ("EU", "US")})
    SessionStore(kept, "dev", clock=lambda: 0.0).begin(StoredSession("5e55", "a1b2c3d4", "", 0.0, 9.0, 0.0), 9.0)
    Leases(kept, clock=lambda: 0.0).acquire("by_minute", LeaseHolder("holder", "host", "", 1))


def experiment(folder: Path) -> None:
    """Write the state of an experiment that was stopped."""
    ExperimentStates(Storage(str(folder)), lambda: datetime.fromisoformat(AT)).stop("checkout", "it is better", "new")


def experiment_weights(folder: Path) -> None:
    """Write the weights of a bandit."""
    kept = ExperimentStates(Storage(str(folder)), lambda: datetime.fromisoformat(AT))
    kept.set_weights("checkout", {"control": 0.05, "new": 0.95})


def log_owner(folder: Path) -> None:
    """Write whose log a folder of served predictions is."""
    folder.mkdir(parents=True)
    (folder / owners.FILE).write_text(owners.LogOwner("shop", "dev", "returns").text())


def hold(folder: Path) -> None:
    """Write a hold with all fields."""
    place_hold(Storage(str(folder)), Hold("model-m-1", 7, "model m 1", "a run", AT))


def kept_versions(folder: Path) -> None:
    """Write the times of two versions."""
    keep_times(Storage(str(folder)), {100: 1_704_067_200_000, 200: 1_704_067_800_000})


def audit(folder: Path) -> None:
    """Write an audit log of two records."""
    (folder / "2024-01-01").mkdir(parents=True)
    first, digest = audit_records.sealed({"at": 1_704_067_200.0, "caller": "k1", "status": 200}, audit_records.FIRST)
    second, _ = audit_records.sealed({"at": 1_704_067_201.0, "caller": "anonymous", "status": 401}, digest)
    (folder / "2024-01-01" / "000000000000-r1.jsonl").write_text(first + second)


def online_store(folder: Path) -> None:
    """Write a feature view as an online store has it: its state, and the value of an entity with two versions."""
    folder.mkdir(parents=True)
    at = datetime(2024, 1, 1)  # noqa: DTZ001 - a column without a zone
    rows = pa.table(
        {
            "e": ["a", "a"],
            "t": [at, at + timedelta(days=1)],
            "n": [1, None],
            "x": pa.array([Decimal("0.10"), Decimal("2.00")], pa.decimal128(9, 2)),
            "s": ["é", ""],
            "v": [[0.5, 1.5], None],
        }
    )
    view = feature_view("select e, t, n, x, s, v from rows", entity="e", event_time="t").named("shown")
    with tempfile.TemporaryDirectory() as place:
        store = open_store(f"sqlite:///{place}/features.db", "plant", "dev")
        clock = round(datetime(2024, 1, 1, 12, tzinfo=UTC).timestamp() * 1e6)
        delivery = Delivery(SinkPosition(3, 7), None, rows.to_reader(), rows.slice(0, 0), view.key, is_whole=True)
        FeatureTarget(store, view, lambda: clock).write(delivery)
        stored = store.read({"shown": [b"a"]})["shown"]
        store.close()
    (folder / "state.json").write_text("" if stored.state is None else stored.state.to_json())
    (folder / "values.json").write_text(json.dumps({"a": (stored.values[0] or b"").hex()}))


WRITERS: dict[str, tuple[int, int, Callable[[Path], None]]] = {
    "manifest": (1, staging.FORMAT_VERSION, manifest),
    "cursor": (1, 1, cursor),
    "epoch": (1, epochs.FORMAT_VERSION, epoch),
    "savepoint": (1, savepoints.FORMAT_VERSION, savepoint),
    "quarantine": (1, quarantine_format.FORMAT_VERSION, quarantine),
    "experiment": (1, states.FORMAT_VERSION, experiment),
    "experiment_weights": (1, states.WEIGHTS_FORMAT_VERSION, experiment_weights),
    "log_owner": (1, owners.FORMAT_VERSION, log_owner),
    "hold": (1, holds.FORMAT_VERSION, hold),
    "kept_versions": (1, versions.FORMAT_VERSION, kept_versions),
    "online_store": (1, row_versions.FORMAT_VERSION, online_store),
    "audit": (1, audit_records.FORMAT_VERSION, audit),
    "catalog": (0, revisions.FORMAT_VERSION, catalog),
}
"""By format: the oldest readable version, the newest version, and its writer."""


def main() -> None:
    """Write the missing folders of the newest version of each format."""
    for name, (_, newest, write) in WRITERS.items():
        folder = HERE / name / str(newest)
        if not folder.exists():
            write(folder)


if __name__ == "__main__":
    main()
