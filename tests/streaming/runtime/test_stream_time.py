"""Event time of complete streams: nightly drains, repeated catch-up, silent inputs, and initially empty folders."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.epochs import END
from pipeline.project import Workspace, load
from pipeline.reprocessing.quarantine import quarantined_rows
from pipeline.streaming.runtime.job import StreamJob, StreamJobOptions
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from tests.rigs.conservation import conserved
from tests.rigs.proofs import examples
from tests.streaming.runtime.test_stream_logs import Topic, kafka_of
from tests.streaming.runtime.test_stream_operations import until

FAST = StreamOptions(intervals=Intervals(batch_s=0.02, commit_s=0.05, idle_commit_s=0.1), shards=2)
FILES = 'files("{name}/*.csv")'


def project(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "headwater.toml").write_text('[project]\nname = "p"\ndefinitions = "p.py"\n')
    (folder / "p.py").write_text("from pipeline import deduplicate, files, kafka, source, sql\n" + text)
    return folder


def events(name: str, reader: str = FILES, options: str = "") -> str:
    return (
        f'{name} = source({reader.replace("{name}", name)}, schema={{"at": "timestamp", "k": "varchar"}}, '
        f'event_time="at", stored=False{options})\n'
    )


def put(folder: Path, name: str, file: str, rows: list[tuple[str, str]]) -> None:
    (folder / name).mkdir(exist_ok=True)
    draft = folder / f".{file}"
    draft.write_text("at,k\n" + "".join(f"{at},{k}\n" for at, k in rows))
    draft.rename(folder / name / f"{file}.csv")


def stream(folder: Path, *names: str, **wanted: object) -> StreamJob:
    running = StreamJob(
        Workspace(load(folder)), StreamJobOptions(names, until_caught_up=True, stream_options=FAST, **wanted)
    )
    running.run()
    return running


def rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in Workspace(load(folder)).query(query).to_pylist()]


HOURS = 'hours = sql("select tumble(at, interval \'1 hour\') as hour, k, count(*) as n from ticks group by all", key=["hour", "k"])\n'


@pytest.mark.proof
@pytest.mark.parametrize("window", ["tumble(at, interval '1 hour')", "session(at, interval '10 minutes')"])
def test_a_file_a_day_drained_every_night(tmp_path, window):
    text = f'hours = sql("select {window} as hour, k, count(*) as n from ticks group by all", key=["hour", "k"])\n'
    folder = project(tmp_path, events("ticks") + text)
    for day in range(1, 4):
        put(folder, "ticks", f"d{day}", [(f"2026-01-{day:02} {hour:02}:30:00", "a") for hour in range(0, 24, 6)])
        stream(folder, drain=True)
        counts = rows(folder, "select count(*), sum(n) from hours")
        assert counts == [(4 * day, 4 * day)]
        assert quarantined_rows(Workspace(load(folder)), "hours").num_rows == 0
        assert conserved(Workspace(load(folder)), "hours", "n").rows_remembered == 0


def test_a_row_for_a_drained_window_is_late_and_counted(tmp_path):
    folder = project(tmp_path, events("ticks") + HOURS)
    put(folder, "ticks", "d1", [("2026-01-01 10:10:00", "a")])
    stream(folder, drain=True)
    put(folder, "ticks", "d2", [("2026-01-01 10:40:00", "a"), ("2026-01-01 11:00:00", "a")])
    stream(folder, drain=True)

    assert rows(folder, "select hour::varchar, n from hours order by 1") == [
        ("2026-01-01 10:00:00", 1),
        ("2026-01-01 11:00:00", 1),
    ]
    assert quarantined_rows(Workspace(load(folder)), "hours").column("reasons").to_pylist() == [
        "all its windows have closed"
    ]
    assert conserved(Workspace(load(folder)), "hours", "n").rows_remembered == 0


@pytest.mark.share(1)
@pytest.mark.parametrize(("minute", "is_late"), [(39, True), (40, False), (41, False)])
def test_a_row_within_the_gap_of_a_drained_session_is_late(tmp_path, minute, is_late):
    #   a    20    30 |--- gap 10 ---| 40        drained: the session ends at 40, and so does the watermark
    #   next                       39 | 40 41    before it: late; from it on: a separate session
    text = (
        "visits = sql(\"select session(at, interval '10 minutes') as began, session_end(at, interval '10 minutes') as over, k, "
        'count(*) as n from ticks group by all", key=["began", "k"])\n'
    )
    folder = project(tmp_path, events("ticks") + text)
    put(
        folder,
        "ticks",
        "d1",
        [("2026-01-01 10:25:00", "a"), ("2026-01-01 10:30:00", "a"), ("2026-01-01 10:05:00", "b")],
    )
    stream(folder, drain=True)
    put(folder, "ticks", "d2", [(f"2026-01-01 10:{minute}:00", "a"), (f"2026-01-01 10:{minute}:00", "b")])
    stream(folder, drain=True)

    sessions = rows(folder, "select minute(began), minute(over), n from visits where k = 'a' order by began")
    assert sessions == [(25, 40, 2), *([] if is_late else [(minute, minute + 10, 1)])]
    reasons = quarantined_rows(Workspace(load(folder)), "visits").column("reasons").to_pylist()
    assert reasons == ["its session may have closed"] * (2 * is_late)
    conserved(Workspace(load(folder)), "visits", "n")


VISITS = (
    "visits = sql(\"select session(at, interval '5 seconds') as began, session_end(at, interval '5 seconds') as over, k, "
    'count(*) as n from ticks group by all", key=["began", "k"])\n'
)


@pytest.mark.proof
@pytest.mark.parametrize(
    ("first", "then", "sessions"),
    [
        #    watermark 8, 13, 15, 8 when the row of `then` arrives: a row before it is late, whatever its session
        pytest.param((0, 3), 4, [(0, 8, 2)], id="of an emitted session"),
        pytest.param((0, 8), 4, [(0, 5, 1), (8, 13, 1)], id="between two emitted sessions"),
        pytest.param((10,), 2, [(10, 15, 1)], id="before the first"),
        pytest.param((0, 3), 8, [(0, 8, 2), (8, 13, 1)], id="equal to the bound"),
    ],
)
def test_a_late_row_of_a_session_is_quarantined_and_sessions_never_overlap(tmp_path, first, then, sessions):
    folder = project(tmp_path, events("ticks") + VISITS)
    batches = ([*((at, "a") for at in first), (first[-1] + 5, "other")], [(then, "a")], [(60, "other")])
    for number, batch in enumerate(batches):
        put(folder, "ticks", f"d{number}", [(f"2026-01-01 00:{at // 60:02}:{at % 60:02}", k) for at, k in batch])
        stream(folder)
    workspace = Workspace(load(folder))

    assert rows(folder, "select second(began), second(over), n from visits where k = 'a' order by 1") == sessions
    assert conserved(workspace, "visits", "n").rows_remembered == 1
    assert workspace.require("visits").manifest.epoch.totals["late"] == len(first) + 1 - sum(n for *_, n in sessions)


@pytest.mark.proof
def test_a_stream_downstream_of_a_drained_one_continues(tmp_path):
    below = 'per_day = sql("select tumble(at, interval \'1 day\') as day, count(*) as n from kept group by all", key="day")\n'
    folder = project(
        tmp_path, events("ticks") + 'kept = sql("select at, k from ticks where k <> \'x\'", event_time="at")\n' + below
    )
    for day in (1, 2, 3):
        put(folder, "ticks", f"d{day}", [(f"2026-01-{day:02} 12:00:00", "a"), (f"2026-01-{day:02} 13:00:00", "b")])
        stream(folder, drain=True)
        assert rows(folder, "select count(*), sum(n) from per_day") == [(day, 2 * day)]
    assert Workspace(load(folder)).require("per_day").manifest.epoch.watermark < END


@pytest.mark.proof
def test_repeated_catch_up_closes_windows_of_idle_partitions(kafka, tmp_path):
    topic = Topic(kafka, partitions=3)
    minutes = 'minutes = sql("select tumble(at, interval \'1 minute\') as minute, count(*) as n from ticks group by all", key="minute")\n'
    folder = project(tmp_path, events("ticks", kafka_of(topic), ', idle_after="1 second"') + minutes)
    start = datetime(2026, 1, 1)  # noqa: DTZ001 - event time without a zone
    for run in range(4):
        if run:
            threading.Event().wait(1.1)  # the idle time, by the clock of the stream
        times = [start + timedelta(seconds=15 * (4 * run + number)) for number in range(4)]
        topic.send(times, value=lambda at: json.dumps({"at": at.isoformat(), "k": "a"}))
        stream(folder)
    assert rows(folder, "select count(*) from minutes")[0][0] >= 2


def test_partitions_that_hold_event_time_back_are_reported(kafka, tmp_path):
    topic = Topic(kafka, partitions=2)
    minutes = 'minutes = sql("select tumble(at, interval \'1 minute\') as minute, count(*) as n from ticks group by all", key="minute")\n'
    folder = project(tmp_path, events("ticks", kafka_of(topic)) + minutes)
    topic.send([0, 5], value=lambda i: json.dumps({"at": f"2026-01-01T00:{i:02}:00", "k": "a"}))
    running = stream(folder)

    assert running.statuses["minutes"].waits_for == (f"kafka://{topic.name}/1",)
    assert rows(folder, "select count(*) from minutes") == [(0,)]


LEFT = (
    'joined = sql("select l.k, l.at, r.at as other from lefts l left join rights r on l.k = r.k and '
    "r.at between l.at - interval '1 minute' and l.at + interval '1 minute'\")\n"
)
HOUR = [(f"2026-01-01 00:{minute:02}:00", f"k{minute}") for minute in range(30)]


@pytest.mark.proof
def test_a_left_join_with_an_empty_right_side_continues_after_idle_after(tmp_path):
    idle = ', idle_after="1 second"'
    folder = project(tmp_path, events("lefts", options=idle) + events("rights", options=idle) + LEFT)
    (folder / "rights").mkdir()
    put(folder, "lefts", "a", HOUR)
    running = StreamJob(Workspace(load(folder)), StreamJobOptions(stream_options=FAST))
    thread = threading.Thread(target=running.run)
    thread.start()
    until(lambda: running.statuses["joined"].totals.get("rows_in", 0) == 30, "rows in")
    put(folder, "lefts", "b", [("2026-01-01 01:00:00", "late")])
    until(lambda: running.statuses["joined"].totals.get("rows_out", 0) >= 30, "rows out")
    running.stop()
    thread.join()

    assert rows(folder, "select count(*), count(other) from joined") == [(30, 0)]
    conserved(Workspace(load(folder)), "joined")


def test_a_left_join_with_an_empty_right_side_waits_and_reports_it(tmp_path):
    folder = project(tmp_path, events("lefts") + events("rights") + LEFT)
    (folder / "rights").mkdir()
    put(folder, "lefts", "a", HOUR)
    running = stream(folder)

    assert running.statuses["joined"].waits_for == ("rights",)
    put(folder, "rights", "a", [("2026-01-01 00:05:30", "k5")])
    stream(folder)
    put(folder, "rights", "b", [("2026-01-01 02:00:00", "none")])
    stream(folder)

    assert rows(folder, "select count(*), count(other) from joined") == [(28, 1)]  # the last minute is still open
    conserved(Workspace(load(folder)), "joined")


def test_a_stream_on_an_empty_folder_waits(tmp_path):
    folder = project(tmp_path, events("ticks") + 'kept = sql("select at, k from ticks", event_time="at")\n')
    (folder / "ticks").mkdir()
    running = StreamJob(Workspace(load(folder)), StreamJobOptions(stream_options=FAST))
    thread = threading.Thread(target=running.run)
    thread.start()
    until(lambda: running.statuses["kept"].status == "running", "running")
    put(folder, "ticks", "a", [("2026-01-01 00:00:00", "a")])
    until(lambda: running.statuses["kept"].totals.get("rows_out") == 1, "the row")
    assert thread.is_alive()
    running.stop()
    thread.join()


HOPS = "hops = sql(\"select hop(at, interval '5 minutes', interval '10 minutes') as w, count(*) as n from ticks group by all\", key=\"w\")\n"


@pytest.mark.proof
def test_verify_handles_rows_that_are_late_for_some_windows(tmp_path):
    #            55   0    5    10   15   20        watermark 12 when 8 arrives
    #   w(0)          |---------|                   closed
    #   w(5)               |---------|              open: 8 counts
    folder = project(tmp_path, events("ticks") + HOPS)
    for number, minute in enumerate((2, 12, 8, 40)):
        put(folder, "ticks", f"d{number}", [(f"2026-01-01 00:{minute:02}:00", "a")])
        stream(folder)
    workspace = Workspace(load(folder))

    assert rows(folder, "select minute(w), n from hops where n > 0 and hour(w) = 0 order by 1") == [
        (0, 1),
        (5, 2),
        (10, 1),
    ]
    reasons = quarantined_rows(workspace, "hops").column("reasons").to_pylist()
    assert reasons == ["late for its windows that end by 2026-01-01 00:12:00.000000"]
    assert workspace.require("hops").manifest.epoch.totals["quarantined"] == 0
    conserved(workspace, "hops")
    stream(folder, drain=True)
    conserved(workspace, "hops")
    put(folder, "ticks", "d9", [("2026-01-01 00:47:00", "a")])
    stream(folder, drain=True)
    conserved(workspace, "hops")


@settings(max_examples=examples(2, 10), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=st.lists(
        st.tuples(st.lists(st.integers(0, 50), min_size=1, max_size=4), st.booleans()), min_size=1, max_size=5
    )
)
def test_verify_holds_for_hops_with_late_rows_and_drains(tmp_path_factory, batches):
    folder = project(tmp_path_factory.mktemp("hops"), events("ticks") + HOPS)
    for number, (minutes, drain) in enumerate(batches):
        put(folder, "ticks", f"d{number}", [(f"2026-01-01 00:{minute:02}:00", "a") for minute in minutes])
        stream(folder, drain=drain)
    conserved(Workspace(load(folder)), "hops")
