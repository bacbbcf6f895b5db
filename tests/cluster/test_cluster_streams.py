"""Streams run by a shell: until Ctrl-C, concurrently with other commands, on a terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import duckdb
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

from cluster.cli.app import app
from cluster.cli.live import line_of, span, table_of
from pipeline.core.errors import ConflictError, RequestError, StorageError
from pipeline.streaming.runtime.metrics import Histogram, StreamStatus

HEADWATER = str(Path(sys.executable).with_name("headwater"))

PLANT = """\
from pipeline import generate, quarantine, source, sql

readings = source(
    generate({"at": "timestamp '2024-01-01' + to_seconds(i)", "n": "i % 7"}, COUNT),
    schema={"at": "timestamp", "n": "integer"},
    event_time="at",
    expect=[quarantine("is_small", "n < 6")],
)
by_minute = sql("select tumble(at, interval '1 minute') as minute, count(*) as n from readings group by all", key="minute")
"""


@pytest.fixture
def plant(tmp_path):
    """A function that writes the project, with a number of readings or a rate per second."""

    def written(count):
        (tmp_path / "headwater.toml").write_text('[project]\nname = "plant"\ndefinitions = "plant.py"\n')
        (tmp_path / "plant.py").write_text(PLANT.replace("COUNT", count))
        return tmp_path

    return written


@contextmanager
def started(folder, *words):
    """Run `headwater stream` in the background, and end it after the test."""
    running = subprocess.Popen(
        [HEADWATER, "stream", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "160"},
    )
    try:
        yield running
    finally:
        with suppress(ProcessLookupError):
            running.kill()
        running.communicate()


def fetched(address):
    with urlopen(address) as answer:  # noqa: S310 - a loopback address
        return answer.read().decode()


def until(condition):
    give_up = time.monotonic() + 60
    while not (value := condition()):
        assert time.monotonic() < give_up
        time.sleep(0.05)
    return value


@pytest.fixture
def here(tmp_path):
    """A function that runs the command on the project in this process, which avoids its start-up time."""

    def run(*words):
        result = CliRunner().invoke(app, [*words, "-C", str(tmp_path)])
        if result.exception is not None:
            raise result.exception
        return result.stdout

    return run


def epoch_of(here):
    streams = json.loads(here("streams", "ls", "--json"))
    return {stream["name"]: stream for stream in streams}


def test_a_stream_runs_until_ctrl_c_and_commits_what_is_pending(here, plant):
    folder = plant("per_second=2000")
    with started(folder, "--metrics-port", "0", "by_minute", "readings") as running:
        address = until(running.stderr.readline).split()[-1]
        assert address.startswith("http://127.0.0.1:")
        until(lambda: 'headwater_stream_status{status="running",stream="by_minute"} 1.0' in fetched(address))
        until(lambda: (epoch_of(here)["readings"]["epoch"] or 0) > 1)
        with pytest.raises(ConflictError, match=f"stream 'readings' is already running: got process {running.pid} on"):
            here("stream", "readings")
        assert "by_minute has 3 shards, at epoch" in here("streams", "rescale", "by_minute", "--shards", "3")
        assert epoch_of(here)["by_minute"]["shards"] == 3
        assert "by_minute is paused, at epoch" in here("streams", "pause", "by_minute")
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "Traceback" not in err
    assert "committing pending rows" in err
    assert "readings: stopped at epoch" in out
    listed = epoch_of(here)
    assert (listed["readings"]["status"], listed["by_minute"]["status"]) == ("stopped", "stopped")


@pytest.mark.proof
def test_sigterm_ends_a_stream_like_ctrl_c(here, plant):
    folder = plant("per_second=2000")
    with started(folder, "readings") as running:
        until(lambda: epoch_of(here)["readings"]["status"] == "running")
        running.send_signal(signal.SIGTERM)
        until(lambda: "committing" in running.stderr.readline())
        running.wait(30)
    assert running.returncode == 143
    assert epoch_of(here)["readings"]["status"] == "stopped"


def from_a_file(folder, expectation="n < 6"):
    """Read the readings from a file. This log has no end, so the last window stays open."""
    statement = "select timestamp '2024-01-01' + to_seconds(i) as at, i % 7 as n from range(1000) as t(i)"
    duckdb.sql(statement).write_csv(str(folder / "readings.csv"))
    computed = """generate({"at": "timestamp '2024-01-01' + to_seconds(i)", "n": "i % 7"}, COUNT)"""
    text = PLANT.replace(computed, f"files({str(folder / 'readings.csv')!r})").replace(
        "import generate", "import files"
    )
    (folder / "plant.py").write_text(text.replace("n < 6", expectation))


def test_state_dead_letters_and_savepoints_between_runs(here, plant):
    folder = plant("count=1000")
    from_a_file(folder)
    summary = json.loads(here("stream", "--until-caught-up", "--json"))
    assert (summary["readings"]["rows_in"], summary["readings"]["quarantined"]) == (1000, 142)
    assert summary["by_minute"]["latency_p99_s"] > 0
    assert [row["name"] for row in json.loads(here("state", "ls", "--json"))] == ["by_minute"]
    (row,) = json.loads(here("state", "show", "by_minute", "--json"))
    assert row["minute"].startswith("2024-01-01T00:16")
    assert "readings" in here("deadletter", "ls")
    shown = here("deadletter", "show", "readings", "--reason", "small", "--limit", "1")
    assert "is_small" in shown
    assert "readings.csv" in shown
    assert "141 more rows" in shown
    from_a_file(folder, "n < 7")
    assert "142 replayed: 142 added to 'readings'" in here("deadletter", "replay", "readings")
    assert "savepoint mark at epoch" in here("streams", "savepoint", "by_minute", "mark")
    assert "mark" in here("streams", "savepoints", "by_minute")
    with pytest.raises(RequestError, match="--from cannot be parsed: got 'yesterday'"):
        here("stream", "--from", "yesterday")
    with pytest.raises(RequestError, match="--restore and --from cannot be combined"):
        here("stream", "--from", "earliest", "--restore", "mark")
    with pytest.raises(RequestError, match="--key must have the form COLUMN=VALUE: got 'n'"):
        here("state", "show", "by_minute", "--key", "n")
    assert "1 row in" in here("state", "export", "by_minute", str(folder / "open.parquet"))
    assert pq.read_table(folder / "open.parquet").column_names == ["minute", "n"]


STUBBORN = """
import signal, sys, time
from cluster.cli.stopping import stoppable
with stoppable(lambda: None, lambda: print("first", flush=True)):
    print("ready", flush=True)
    time.sleep(60)
"""


def test_second_ctrl_c_ends_immediately():
    words = [sys.executable, "-c", STUBBORN]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGINT)
        assert running.stdout.readline() == "first\n"
        while running.poll() is None:  # a signal too soon after the first one is ignored
            running.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                running.wait(0.05)
        assert running.returncode == 130
        assert "ended immediately; the next start reads uncommitted rows again" in running.stderr.read()


def test_live_table_is_redrawn_in_place_and_removed_at_the_end(plant):
    folder = plant("per_second=2000")
    reader, terminal = pty.openpty()
    environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "170", "LINES": "20"}
    running = subprocess.Popen(
        [HEADWATER, "stream", "readings"], cwd=folder, stdout=terminal, stderr=terminal, env=environ
    )
    os.close(terminal)
    shown = b""
    while b"running" not in shown:
        shown += os.read(reader, 65536)
    running.send_signal(signal.SIGINT)
    with suppress(OSError):  # the terminal closes with its last writer
        while part := os.read(reader, 65536):
            shown += part
    assert running.wait(30) == 130
    os.close(reader)
    text = shown.decode()
    assert "rows/s" in text
    assert "Ctrl-C commits and ends" in text
    assert "readings: stopped at epoch" in text.rpartition("\x1b[2K")[2]


def test_live_table_fits_the_width_of_the_terminal():
    latency = Histogram()
    latency.add(0.4, 10)
    facts = StreamStatus(
        "by_minute", "running", 12, 50_000.0, 5e6, {"a": 3}, 90.0, {"quarantined": 3, "late": 2}, 70, 100
    )
    broken = StreamStatus("hot", "failed", error="the store is away")
    texts = {}
    for width in (80, 120, 200):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(table_of([facts, broken], {"by_minute": [1.0, 2.0]}, "", width))
        texts[width] = console.export_text()
        assert max(map(len, texts[width].splitlines())) <= width
        assert "50,000" in texts[width]
        assert "hot: the store is away" in texts[width]
    assert "3 (2 late)" in texts[200]
    assert "time spent" in texts[200]
    assert "time spent" not in texts[120]
    assert line_of(facts) == (
        "by_minute: running, epoch 12, 50,000 rows/s, 3 behind, latency -, event time 90.0 s behind"
    )
    assert [span(s) for s in (0.0123, 1.5, 150, 10_000, 1e6)] == ["12 ms", "1.5 s", "2 min", "3 h", "12 d"]


def test_explain_shows_how_a_table_is_streamed(here, plant):
    plant("count=100")

    shown = here("explain", "by_minute")

    assert "streamed: written by `headwater stream`" in shown
    assert "streams   readings by at, up to 0 seconds late; the watermark of its stream" in shown
    assert "state     panes: states" in shown


def test_run_reports_skipped_streams_and_query_how_to_start_them(here, plant):
    plant("count=10")

    assert "0 done, 0 up to date, 2 updated by headwater stream" in here("run")
    with pytest.raises(StorageError, match="'by_minute' does not exist yet; run `headwater stream by_minute`"):
        here("query", "from by_minute")
    here("stream", "--until-caught-up")
    assert "10" in here("query", "select sum(n)::int as n from by_minute union all select 10")
    assert ":x:" in here("query", "select ':x:' as emoji")


def test_the_report_is_written_after_a_stream_and_shows_its_tables(here, plant):
    page = plant("count=100") / ".headwater" / "report.html"
    with pytest.raises(StorageError, match="there is no run of 'plant' to report"):
        here("report")

    here("stream", "--until-caught-up", "--drain")
    rows = in_report(page, "by_minute")
    assert rows == "2 rows, streamed"
    assert "Started" not in page.read_text()

    here("run")
    assert in_report(page, "by_minute") == rows
    assert 'class="of-silver' in page.read_text()
    assert 'class="of-model' not in page.read_text()
    assert in_report(page, "readings") == "86 rows, streamed"


def in_report(page, name):
    """Return the second line of a definition's box in the row-flow diagram."""
    return re.search(rf'class="node">{name}</text><text[^>]*class="note">([^<]*)<', page.read_text())[1]


def test_streams_are_listed_while_a_replayed_table_does_not_exist(here, plant):
    folder = plant("count=10")
    with (folder / "plant.py").open("a") as file:
        file.write("from pipeline import replay\n")
        file.write('again = source(replay("by_minute", by="minute"), event_time="minute", stored=False)\n')
        file.write('late = sql("select minute, n from again")\n')

    assert {name: stream["status"] for name, stream in epoch_of(here).items()} == {
        "readings": "never run",
        "by_minute": "never run",
        "late": "not ready",
    }
    assert "run `headwater stream by_minute`, which creates it" in " ".join(here("streams").split())
