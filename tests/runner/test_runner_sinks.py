"""Sinks of a project receive new and changed rows once each, after runs and concurrently with streams."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from pipeline.connectors.online_store import OnlineStore
from pipeline.core.errors import DefinitionError, SchemaError, SinkError
from pipeline.lake import compact
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.runner.dry_run import RunOptions, plan_run
from pipeline.runner.runner import Runner
from pipeline.streaming.runtime.job import StreamJob, StreamJobOptions, catch_up
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from pipeline.streaming.runtime.sink_worker import sinks_of

HEAD = """\
import json
from pathlib import Path
from pipeline import files, generate, sink, source, sql, table, to_callback, to_kafka, to_online

HERE = Path(__file__).parent


def note(version, rows):
    if (HERE / "down").exists():
        raise OSError("down")
    with (HERE / "taken.jsonl").open("a") as file:
        for row in rows.to_pylist():
            file.write(json.dumps([version, row], default=str) + "\\n")


def went(version, rows):
    with (HERE / "gone.jsonl").open("a") as file:
        file.writelines(json.dumps([version, row["k"]]) + "\\n" for row in rows.to_pylist())

"""
BATCH = """
raw = source(files(HERE / "*.csv"), schema={"k": "bigint", "v": "varchar"})
"""
STREAM = """
ticks = source(
    generate({"id": "i", "k": "i % 3", "at": "timestamp '2026-01-01' + to_seconds(i)"}, partitions=1, count=200),
    schema={"id": "bigint", "k": "bigint", "at": "timestamp"}, event_time="at", stored=False,
)
"""
FAST = StreamOptions(intervals=Intervals(batch_s=0.01, commit_s=0.01, idle_commit_s=0.01, batch_offsets=20))


@pytest.fixture
def project(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "shop"\ndefinitions = "shop.py"\n')

    def write(text: str) -> Workspace:
        (tmp_path / "shop.py").write_text(HEAD + text)
        return Workspace(load(tmp_path))

    return write


def run(workspace, **options):
    return Runner(workspace.project, RunOptions(**options)).run()


def decisions_of(record):
    return {step.name: step.decision for step in record.steps}


def lines(folder: Path, name: str = "taken.jsonl"):
    file = folder / name
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_run_sends_only_new_rows(project, tmp_path):
    (tmp_path / "a.csv").write_text("k,v\n1,a\n2,b\n")
    workspace = project(BATCH + 'out = sink("raw", to=to_callback(note))\n')

    first = run(workspace)
    second = run(workspace)
    (tmp_path / "b.csv").write_text("k,v\n3,c\n")
    third = run(workspace, select=("raw",))

    assert [decisions_of(each)["out"] for each in (first, second, third)] == ["sent", "skip", "sent"]
    assert [(version, row["k"]) for version, row in lines(tmp_path)] == [(0, 1), (0, 2), (1, 3)]
    assert third.steps[-1].flow.rows_out == 1


def test_recomputed_table_sends_only_changes(project, tmp_path):
    (tmp_path / "a.csv").write_text("k,v\n1,a\n2,b\n3,c\n")
    text = BATCH + (
        "total = sql(\"select k, string_agg(v, '' order by v) as vs from raw group by k having max(v) <> 'z'\", key='k')\n"
        'out = sink("total", to=to_callback(note, gone=went))\nonline = sink("total", to=to_online(key="k"))\n'
    )
    run(project(text))
    (tmp_path / "b.csv").write_text("k,v\n2,d\n3,z\n4,e\n")

    run(project(text))

    assert sorted(row["k"] for _, row in lines(tmp_path)[3:]) == [2, 4]
    assert lines(tmp_path, "gone.jsonl") == [[1, 3]]
    store = OnlineStore(tmp_path / ".headwater" / "online.db", "online")
    assert [store.get(k) for k in (1, 2, 3, 4)] == [
        {"k": 1, "vs": "a"},
        {"k": 2, "vs": "bd"},
        None,
        {"k": 4, "vs": "e"},
    ]


def test_failing_sink_does_not_fail_the_run_and_catches_up(project, tmp_path):
    (tmp_path / "a.csv").write_text("k,v\n1,a\n")
    (tmp_path / "down").touch()
    workspace = project(BATCH + 'out = sink("raw", to=to_callback(note))\nafter = sql("select k from raw")\n')

    failed = Runner(workspace.project).attempt()

    assert failed.status == "failed"
    assert "OSError: down" in str(failed.error)
    assert {**decisions_of(failed), "raw": ""} == {"raw": "", "out": "failed", "after": "create"}
    (tmp_path / "down").unlink()
    assert run(workspace).status == "done"
    assert [row["k"] for _, row in lines(tmp_path)] == [1]


def test_compaction_sends_nothing(project, tmp_path):
    workspace = project(BATCH + 'out = sink("raw", to=to_callback(note))\n')
    for number in range(6):
        (tmp_path / f"{number}.csv").write_text(f"k,v\n{number},a\n")
        run(workspace)
    table = workspace.table("raw")

    assert compact(table, table.head()) is not None
    assert decisions_of(run(workspace))["out"] in {"sent", "skip"}
    (tmp_path / "9.csv").write_text("k,v\n9,a\n")
    run(workspace)

    assert [row["k"] for _, row in lines(tmp_path)] == [0, 1, 2, 3, 4, 5, 9]


def test_deleted_rows_are_rejected_by_an_append_only_sink(project, tmp_path):
    (tmp_path / "a.csv").write_text("k,v\n1,a\n")

    def text(most: str) -> str:
        return (
            BATCH + f"some = sql(\"select k from raw where v < '{most}'\")\nout = sink('some', to=to_callback(note))\n"
        )

    run(project(text("z")))

    workspace = project(text("0"))
    failed = Runner(workspace.project).attempt()

    assert "rows were deleted from the table" in str(failed.error)
    assert workspace.require("some").rows == 0


def test_streams_send_each_row_of_each_commit_once_to_all_sinks(project, tmp_path):
    workspace = project(
        STREAM + 'even = sql("select id, k from ticks where id % 2 = 0")\n'
        'out = sink("even", to=to_callback(note))\nonline = sink("even", to=to_online(key="id"))\n'
    )

    running = catch_up(workspace, stream_options=FAST)

    newest = workspace.table("even").number()
    assert newest > 3
    assert Counter(row["id"] for _, row in lines(tmp_path)) == Counter(range(0, 200, 2))
    assert {name: follower.status.version for name, follower in running.sinks.items()} == {
        "out": newest,
        "online": newest,
    }
    assert running.sinks["out"].status.rows == 100
    assert OnlineStore(tmp_path / ".headwater" / "online.db", "online").get(198) == {"id": 198, "k": 0}
    assert decisions_of(run(workspace))["out"] == "skip"


def test_stream_continues_while_its_sink_is_down_and_the_next_catches_up(project, tmp_path):
    workspace = project(
        STREAM + 'all_of = sql("select id, k from ticks")\nout = sink("all_of", to=to_callback(note))\n'
    )
    (tmp_path / "down").touch()

    with pytest.raises(SinkError, match="OSError: down"):
        catch_up(workspace, stream_options=FAST)

    assert workspace.require("all_of").rows == 200
    assert lines(tmp_path) == []
    (tmp_path / "down").unlink()
    catch_up(workspace, stream_options=FAST)
    assert Counter(row["id"] for _, row in lines(tmp_path)) == Counter(range(200))


def test_replaced_rows_are_sent_in_their_newest_version(project, tmp_path):
    workspace = project(
        STREAM + 'counts = sql("select k, count(*) as n from ticks group by k", key="k")\n'
        'online = sink("counts", to=to_online(key="k"))\n'
    )

    catch_up(workspace, stream_options=FAST)

    store = OnlineStore(tmp_path / ".headwater" / "online.db", "online")
    assert [store.get(k)["n"] for k in range(3)] == [67, 67, 66]


def test_row_that_cannot_be_written_stops_only_the_sink(project):
    workspace = project(
        STREAM + "bytes = sql(\"select id, 'x'::blob as b from ticks\")\n"
        'online = sink("bytes", to=to_online(key="id"))\n'
    )
    running = StreamJob(workspace, StreamJobOptions(until_caught_up=True, stream_options=FAST))

    with pytest.raises(SchemaError, match="column 'b' cannot be encoded as JSON"):
        running.run()

    assert workspace.require("bytes").rows == 200
    assert running.sinks["online"].status.status == "failed"
    assert running.sinks["online"].status.restarts == 0


def test_sink_is_part_of_the_graph(project):
    workspace = project(BATCH + 'out = sink("raw", to=to_kafka("alerts"), description="to the alarm")\n')

    assert workspace.project.graph.names == ("raw", "out")
    assert workspace.definition("out").kind == "sink"
    assert [step.decision.reason for step in plan_run(workspace, RunOptions(select=("out",)))] == [
        "delivers the changes of its table"
    ]
    assert sinks_of(workspace, ["raw"]) == (workspace.definition("out"),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (STREAM + 'out = sink("ticks", to=to_online(key="id"))\n', "a source with stored=False has no versions"),
        (BATCH + 'out = sink("row", to=to_online(key="id"))\n', "did you mean 'raw'"),
        (BATCH + 'out = sink(raw, to=to_online(key="id"))\n', "a sink requires the name of a table"),
        (
            BATCH + 'out = sink("raw", to=to_online(key="k"))\nx = sink("out", to=to_online(key="k"))\n',
            "is not a table",
        ),
    ],
)
def test_unsupported_columns_are_a_definition_error(project, text, words):
    with pytest.raises(DefinitionError, match=words):
        project(text)
