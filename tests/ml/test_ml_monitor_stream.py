"""A stream counts the windows of a monitor: the same as batch, exactly once, and late rows are kept apart."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from pipeline.core.errors import StorageError
from pipeline.project import Workspace, load
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from tests.streaming.runtime.conftest import streams as streams  # noqa: PLC0414 - re-exported fixture

PROJECT = """
from ml import monitor, trailing
from pipeline import files, source

requests = source(
    files("requests/*.csv"), schema={"at": "timestamp", "place": "varchar", "x": "double"}, event_time="at", lateness="1 hour"
)
options = dict(of="requests", time="at", numerical=["x"], categorical=["place"], segment="place", window="1 hour")
streamed = monitor(reference=trailing("6 hours"), streamed=True, **options)
batch = monitor(reference=trailing("6 hours"), **options)
"""


@pytest.fixture
def project(tmp_path):
    def write():
        (tmp_path / "headwater.toml").write_text('[project]\ndefinitions = "shop.py"\n')
        (tmp_path / "shop.py").write_text(PROJECT)
        (tmp_path / "requests").mkdir(exist_ok=True)
        put(tmp_path, "1", datetime(2026, 1, 1), rows=10 * 500)  # noqa: DTZ001 - naive, as in the file
        return tmp_path

    return write


def put(folder, name, start, rows):
    rng = np.random.default_rng(int(name))
    at = [start + timedelta(seconds=7.2 * i) for i in range(rows)]
    places = np.array(["a", "b"])[rng.integers(0, 2, rows)]
    table = pa.table({"at": pa.array(at, pa.timestamp("us")), "place": places, "x": rng.normal(0, 1, rows)})
    pa.csv.write_csv(table, folder / "requests" / f"{name}.csv")


def run(folder, *select):
    return {s.name: s.decision for s in Runner(load(folder), RunOptions(select=select)).run().steps}


def counts(folder, name):
    workspace = Workspace(load(folder))
    rows = workspace.lake.rows(workspace.table(f"{name}_counts"))
    columns = ["window_start", "segment", "feature", "bin", "rows", "low", "high"]
    return sorted((tuple(row.values()) for row in rows.select(columns).to_pylist()), key=repr)


def test_a_stream_counts_closed_windows_as_batch_does(project, streams):
    folder = project()
    streams.start(folder, "requests", until_caught_up=True).run()
    run(folder, "streamed_bins", "batch_bins")
    streams.start(folder, "streamed_counts", until_caught_up=True).run()
    run(folder, "batch", "streamed")
    every, closed = counts(folder, "batch"), counts(folder, "streamed")
    assert (
        len({row[0] for row in every}) - len({row[0] for row in closed}) == 2
    )  # of ten hours, with an hour of lateness
    assert closed == [row for row in every if row[0] in {r[0] for r in closed}]

    put(folder, "2", datetime(2026, 1, 1, 10), rows=2 * 500)  # noqa: DTZ001 - naive, as in the file
    streams.start(folder, "requests", until_caught_up=True).run()
    streams.start(folder, "streamed_counts", until_caught_up=True, drain=True).run()
    decided = run(folder, "batch", "streamed")
    assert decided["streamed"] == "rebuild"
    assert counts(folder, "streamed") == counts(folder, "batch")


def test_a_stream_needs_the_bins(project, streams):
    with pytest.raises(StorageError, match=r"headwater run --select \+streamed_bins"):
        streams.start(project(), "streamed_counts", until_caught_up=True).run()
