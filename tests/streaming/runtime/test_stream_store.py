"""A lake on an object store with an outage: the stream waits, reports it, and each row counts once."""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.project import Workspace, load
from pipeline.streaming.runtime.job import StreamJob, StreamJobOptions
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from pipeline.streaming.runtime.restart_policy import RestartPolicy
from tests.rigs.conservation import conserved
from tests.rigs.gate import Gate, gated
from tests.rigs.weed import S3
from tests.streaming.runtime.test_stream_operations import until

FAST = StreamOptions(intervals=Intervals(batch_s=0.02, commit_s=0.05, idle_commit_s=0.1), shards=2)
QUICK = {"timeout": "1s", "max_retries": "1"}
"""The retry settings of the client, which otherwise retries for three minutes."""
MINUTES = 'minutes = sql("select tumble(at, interval \'1 minute\') as minute, count(*) as n from ticks group by all", key="minute")\n'


def project(folder: Path, s3: S3, port: int) -> Path:
    (folder / "data").mkdir(parents=True)
    lake = s3.environment(folder, uuid.uuid4().hex, port=port, **QUICK)
    (folder / "headwater.toml").write_text(f'[project]\nname = "p"\ndefinitions = "p.py"\n{lake}')
    (folder / "p.py").write_text(
        "from pipeline import files, source, sql\n"
        'ticks = source(files("data/*.csv"), schema={"at": "timestamp", "k": "bigint"}, event_time="at", stored=False)\n'
        f'rows = sql("select k, at from ticks")\n{MINUTES}'
    )
    return folder


def put(folder: Path, number: int) -> None:
    """Write ten rows, one per minute."""
    draft = folder / "data" / f".{number}"
    draft.write_text("at,k\n" + "".join(f"2026-01-01 {number:02}:{m:02}:00,{10 * number + m}\n" for m in range(10)))
    draft.rename(folder / "data" / f"{number}.csv")


@pytest.fixture(scope="module")
def gate(s3) -> Iterator[Gate]:
    """A gate in front of the store, which is opened again before the counters are read at the end of the test."""
    with gated(s3.port) as s3_gate:
        yield s3_gate


@pytest.mark.proof
def test_a_stream_waits_for_an_unavailable_store(s3, gate, tmp_path):
    folder = project(tmp_path, s3, gate.port)
    put(folder, 0)
    heard: list[str] = []
    running = StreamJob(
        Workspace(load(folder)),
        StreamJobOptions(
            stream_options=FAST, restart_policy=RestartPolicy(most=1, first_wait_s=0.05, longest_wait_s=0.1)
        ),
        on_restart=lambda name, words: heard.append(f"{name}: {words}"),
    )
    thread = threading.Thread(target=running.run)
    thread.start()
    until(lambda: running.statuses["rows"].totals.get("rows_out") == 10, "rows")
    until(lambda: running.statuses["minutes"].totals.get("rows_out") == 9, "minutes")
    gate.close()
    put(folder, 1)
    for name in ("rows", "minutes"):
        until(lambda name=name: running.statuses[name].status == "waiting", f"{name} to wait")
        until(lambda name=name: running.statuses[name].restarts > 2, f"more tries of {name} than there are restarts")
        assert not running.is_ready
        assert re.match(r"since ..:..:.. UTC: .*S3 error", running.statuses[name].error), running.statuses[name].error
    put(folder, 2)
    gate.open()
    until(lambda: running.statuses["rows"].totals.get("rows_out") == 30, "all rows")
    until(lambda: running.statuses["minutes"].totals.get("rows_out") == 29, "all minutes")
    until(lambda: running.is_ready, "readiness")
    running.stop()
    thread.join()
    assert not running.errors
    workspace = Workspace(load(folder))
    assert workspace.query("select k from rows order by k").column("k").to_pylist() == [
        10 * file + minute for file in range(3) for minute in range(10)
    ]
    for name in ("rows", "minutes"):
        conserved(workspace, name)
    assert any("Could not connect to the endpoint" in words and "Traceback" not in words for words in heard), heard
