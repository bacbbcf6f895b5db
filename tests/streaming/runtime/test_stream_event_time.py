"""Event times that are numbers in the source: they are converted to times, and invalid numbers are quarantined."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest

from pipeline import files, source, sql
from pipeline.core.errors import DefinitionError, RequestError
from pipeline.project import Workspace, load
from pipeline.reprocessing.quarantine import quarantined_rows
from pipeline.runner import Runner
from pipeline.streaming.runtime.job import StreamJob, StreamJobOptions
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from tests.rigs.conservation import conserved
from tests.streaming.runtime.test_stream_logs import Topic, kafka_of

SECONDS = 1_767_225_600
"""The first second of 2026, in UTC."""
BEYOND = 9_223_372_036_854_775_807
FACTORS = {"to_timestamp": 1, "epoch_ms": 1000, "make_timestamp": 1_000_000}
MINUTES = (
    "minutes = sql(\"select tumble(at, interval '1 minute') as minute, count(*) as n from events group by all\", "
    'key="minute")\n'
)


def project(folder: Path, reader: str, time: str, text: str = MINUTES, *, stored: bool = False) -> Path:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "headwater.toml").write_text('[project]\nname = "p"\ndefinitions = "p.py"\n')
    schema = (
        'schema={"id": "bigint", "at": "bigint", "_key": "varchar"}'
        if "metadata" in reader
        else ('schema={"id": "bigint", "at": "bigint"}')
    )
    (folder / "p.py").write_text(
        "from pipeline import deduplicate, files, kafka, mart, source, sql\n"
        f'events = source({reader}, {schema}, event_time="{time}", stored={stored})\n{text}'
    )
    return folder


def stream(folder: Path) -> Workspace:
    options = StreamOptions(intervals=Intervals(batch_s=0.02, commit_s=0.05, idle_commit_s=0.1), shards=2)
    StreamJob(
        Workspace(load(folder)), StreamJobOptions((), until_caught_up=True, drain=True, stream_options=options)
    ).run()
    return Workspace(load(folder))


def write(path: Path, factor: int) -> None:
    """Write three rows, two of them in the same minute, one without a time, and one with a number out of range."""
    rows = [(1, SECONDS * factor), (2, (SECONDS + 59) * factor), (3, (SECONDS + 60) * factor), (4, None), (5, BEYOND)]
    con = duckdb.connect()
    values = ", ".join(f"({i}, {'null' if at is None else at}::bigint)" for i, at in rows)
    con.execute(
        f"copy (from (values {values}) as t(id, \"at\")) to '{path}' {'(format json)' if path.suffix == '.ndjson' else ''}"
    )


@pytest.mark.share(4)
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("kind", ["csv", "ndjson", "parquet"])
@pytest.mark.parametrize("function", FACTORS)
def test_numbers_are_converted_to_times_and_invalid_ones_are_quarantined(tmp_path, function, kind, stored):
    folder = project(tmp_path, f'files("data/*.{kind}")', f"{function}(at)", stored=stored)
    write(tmp_path / "data" / f"a.{kind}", FACTORS[function])
    workspace = stream(folder)

    rows = workspace.query("select epoch(minute)::bigint as minute, n from minutes order by 1").to_pylist()
    assert [tuple(row.values()) for row in rows] == [(SECONDS, 2), (SECONDS + 60, 1)]
    quarantined = quarantined_rows(workspace, "events" if stored else "minutes")
    assert sorted(quarantined["reasons"].to_pylist()) == ["no event time", f"not a time: {function}(at)"]
    assert any(str(BEYOND) in row for row in quarantined["row"].to_pylist())
    for name in ("events", "minutes") if stored else ("minutes",):
        conserved(workspace, name)


def test_batch_computes_the_same_times(tmp_path):
    folder = project(
        tmp_path, 'files("data/*.csv")', "epoch_ms(at)", 'last = sql("select max(at) as at from events")\n'
    )
    write(tmp_path / "data" / "a.csv", 1000)
    Runner(load(folder)).run()
    workspace = Workspace(load(folder))
    assert workspace.query('select epoch("at")::bigint as second from last').column("second").to_pylist() == [
        SECONDS + 60
    ]
    assert quarantined_rows(workspace, "last")["reasons"].to_pylist() == ["not a time: epoch_ms(at)"]


@pytest.mark.share(1)
@pytest.mark.parametrize("function", FACTORS)
def test_a_tombstone_has_the_timestamp_of_its_message_as_a_number(kafka, tmp_path, function):
    topic = Topic(kafka)
    text = (
        'accounts = sql("select coalesce(id, try_cast(_key as bigint)) as id, at, id is null as gone from events", '
        'key="id", sequence_by="at", apply_as_deletes="gone")\n'
    )
    reader = kafka_of(topic, ', metadata=["key"], tombstones="keep"')
    folder = project(tmp_path, reader, f"{function}(at)", text)
    for number in (1, 2, 3):
        at = SECONDS * FACTORS[function]
        topic.send([number], key=str(number), value=lambda i, at=at: json.dumps({"id": i, "at": at}))
    topic.send([2], key="2", value=lambda _: None)
    workspace = stream(folder)

    assert workspace.query("select id from accounts order by id").column("id").to_pylist() == [1, 3]
    assert quarantined_rows(workspace, "accounts").num_rows == 0
    conserved(workspace, "accounts")


def test_an_invalid_event_time_is_reported_with_a_working_alternative(tmp_path):
    schema = {"id": "bigint", "at": "varchar"}
    with pytest.raises(
        DefinitionError, match=r"event_time='epoch_ms\(at\)' requires an integer column, but 'at' is VARCHAR"
    ):
        source(files("*.csv"), schema=schema, event_time="epoch_ms(at)")
    with pytest.raises(DefinitionError, match=r"one of its columns: got 'epoch_ms\(ms\)'; select epoch_ms\(ms\) as ms"):
        sql("select ms from events", event_time="epoch_ms(ms)")

    below = (
        'ticks = sql("select id, epoch_ms(at) as ms from events", event_time="{}")\n'
        "minutes = sql(\"select ms, count(*) as n from ticks group by all\", key='ms')\n"
    )
    write(tmp_path / "a.csv", 1000)
    folder = project(tmp_path, 'files("*.csv")', "epoch_ms(at)", below.format("ms"))
    with pytest.raises(DefinitionError, match=r"the event time 'ms' of table 'ticks' is BIGINT.* in a SELECT"):
        stream(folder)
    folder = project(tmp_path, 'files("*.csv")', "epoch_ms(at)", below.format("mss"))
    with pytest.raises(DefinitionError, match=r"table 'ticks' has no event time column 'mss'; did you mean 'ms'\?"):
        stream(folder)


def test_a_source_without_an_event_time_is_named(tmp_path):
    text = 'ticks = sql("select id, epoch_ms(at) as t from events", event_time="t")\n'
    folder = project(tmp_path, 'files("*.csv")', "epoch_ms(at)", text)
    page = (folder / "p.py").read_text().replace('event_time="epoch_ms(at)", ', "")
    (folder / "p.py").write_text(page)
    with pytest.raises(
        RequestError, match=r"got ticks: its first input 'events' has no event time; set event_time= of a source"
    ):
        stream(folder)


@pytest.mark.parametrize("statement", ["select id, at from events", "select id, count(*) as n from events group by id"])
def test_a_key_that_is_not_a_column_is_named(tmp_path, statement):
    folder = project(tmp_path, 'files("*.csv")', "epoch_ms(at)", f'rows = sql("{statement}", key="idd")\n')
    write(tmp_path / "a.csv", 1000)
    with pytest.raises(DefinitionError, match=r"table 'rows' has no column 'idd' of key=; did you mean 'id'\?"):
        stream(folder)
