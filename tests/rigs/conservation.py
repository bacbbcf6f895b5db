"""Conservation of rows, by count: each row that a stream read is in its table, in its quarantine, or in its state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pipeline.project.workspace import Workspace
from pipeline.reprocessing.quarantine import quarantined_rows
from pipeline.streaming.operators.operator import PARTLY
from pipeline.streaming.planning.plan import Planner
from pipeline.streaming.runtime.job import StreamJob
from pipeline.streaming.runtime.verify import VerifyResult, pending_output, verify


def conserved(workspace: Workspace, name: str, count: str | None = None) -> VerifyResult:
    """Assert conservation for the last commit of a stream, and that its table equals the batch result over the accepted rows.

    `count` is the column of a grouped table with the number of rows per group: rows in = counted + in state + quarantined.
    """
    counters_agree(workspace, name)
    epoch = workspace.require(name).manifest.epoch
    totals = epoch.totals
    verified = verify(workspace, name)
    assert verified.holds, verified
    assert verified.rows_read + verified.lost == totals["rows_in"]
    if not Planner(workspace).changes(name):
        assert verified.rows_there + verified.rows_remembered == verified.rows_expected
    if count is not None:
        counted = sum(workspace.query(f'select "{count}" as n from "{name}"').column("n").to_pylist())
        in_state = sum(pending_output(workspace, Planner(workspace).plan(name), epoch).column(count).to_pylist())
        assert totals["rows_in"] == counted + in_state + totals["quarantined"], (totals, counted, in_state)
    return verified


def counters_agree(workspace: Workspace, name: str) -> None:
    """Assert that the row counts of a stream equal the rows of its table and quarantine."""
    version = workspace.require(name)
    totals = version.manifest.epoch.totals
    quarantined = [
        r for r in quarantined_rows(workspace, name).column("reasons").to_pylist() if not r.startswith(PARTLY)
    ]
    assert totals["quarantined"] == len(quarantined), f"{name}: {totals}, {len(quarantined)} rows quarantined"
    assert totals["late"] <= totals["quarantined"]
    if Planner(workspace).changes(name):
        assert version.rows <= totals["rows_out"]
    else:
        assert version.rows == totals["rows_out"], f"{name}: {totals}, {version.rows} rows"


@contextmanager
def of_every_stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Check the row counts of all streams at the end of a test; for each project, those of the last job."""
    stopped: dict[str, StreamJob] = {}
    run = StreamJob.run

    def watched(running: StreamJob, *args: object, **options: object) -> None:
        try:
            run(running, *args, **options)
        finally:
            stopped[str(running.workspace.project.settings.root)] = running

    monkeypatch.setattr(StreamJob, "run", watched)
    yield
    for running in stopped.values():
        for name in running.names:
            version = running.workspace.version(name)
            if version is not None and version.manifest is not None and version.manifest.epoch is not None:
                counters_agree(running.workspace, name)


@pytest.fixture(autouse=True)
def conservation(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Check conservation of rows in every test that runs streams."""
    with of_every_stream(monkeypatch):
        yield
