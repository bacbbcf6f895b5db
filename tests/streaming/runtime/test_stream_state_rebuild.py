"""State rebuilt from the log equals that of a stream with the current definition, and no row changes."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from dataclasses import replace

import pytest

from pipeline.core.errors import RequestError, SourceError, StorageError
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.streaming.planning.plan import Planner
from pipeline.streaming.runtime.job import catch_up
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from pipeline.streaming.runtime.state_query import committed_state
from pipeline.streaming.runtime.stream import Stream
from pipeline.streaming.runtime.verify import verify

SOURCES = """\
import pyarrow as pa
import pyarrow.compute as pc
from pipeline import deduplicate, event, files, followed_by, generate, not_followed_by, pattern, source, sql, stateful

AT = "timestamp '2026-01-01' + to_seconds(i - case when i % 40 = 39 then 30 else 0 end)"  # every fortieth is late
COLUMNS = {"id": "i * 10 + p", "k": "(i * 7 + p) % 5", "at": AT, "v": "(i * 11 + p) % 13"}
SCHEMA = {"id": "bigint", "k": "bigint", "at": "timestamp", "v": "bigint"}
ticks = source(generate(COLUMNS, partitions=2, count=400), schema=SCHEMA, event_time="at", lateness="2 seconds", stored=False)
others = source(generate(COLUMNS, count=400), schema=SCHEMA, event_time="at", lateness="2 seconds", stored=False)
"""
STATEFUL = """
@stateful(key="k", event_time="at", state={"n": "bigint default 0"}, schema={"k": "bigint", "n": "bigint"}, ttl="1 hour")
def t(state: pa.Table, ticks: pa.Table) -> tuple[pa.Table, pa.Table]:
    both = state.join(ticks.group_by("k").aggregate([([], "count_all")]), "k")
    made = pa.table({"k": both["k"], "n": pc.add(both["n"], pc.fill_null(both["count_all"], 0))})
    return made, made
"""
JOIN = (
    't = sql("select a.id, b.v from ticks a left join others b '
    'on a.k = b.k and b.at between a.at and a.at + interval 5 seconds")'
)
PATTERN = """t = pattern(event("low", "ticks", "v < 3"), not_followed_by("no", "ticks", "v = 6"),
followed_by("high", "ticks", "v > low.v + 5"), by="k", within="1 minute", event_time="at",
select={"low": "low.id", "high": "high.id"})"""
DEFINITIONS = {
    "tumble": (
        "t = sql(\"select tumble(at, interval '1 minute') as m, k, sum(v) as n from ticks where v > 1 group by all\")",
        ("v > 1", "v > 5"),
    ),
    "hop": (
        "t = sql(\"select hop(at, interval '20 seconds', interval '1 minute') as m, count(*) as n from ticks group by all\")",
        ("20 seconds", "30 seconds"),
    ),
    "session": (
        "t = sql(\"select session(at, interval '3 seconds') as m, id % 9 as g, max(v) as n from ticks group by all\")",
        ("3 seconds", "4 seconds"),
    ),
    "join": (JOIN, ("5 seconds", "9 seconds")),
    "deduplicate": ('t = deduplicate("ticks", key="k", event_time="at", within="20 seconds")', ("20 seconds", "50 seconds")),
    "pattern": (PATTERN, ("v = 6", "v = 99"), ("low.v + 5", "low.v + 11")),
    "stateful": (STATEFUL, ("pc.fill_null", "pc.add(1, pc.fill_null"), ("0))})", "0)))})")),
}  # fmt: skip
PACE = Intervals(batch_s=0.01, commit_s=1000, idle_commit_s=1000, batch_offsets=150)
FAST = StreamOptions(intervals=replace(PACE, commit_s=0.01), shards=2, source_tasks=1)


def project(folder, text, sources=SOURCES):
    folder.mkdir(exist_ok=True)
    (folder / "headwater.toml").write_text('[project]\nname = "ticks"\ndefinitions = "ticks.py"\n')
    (folder / "ticks.py").write_text(sources + text)
    return Workspace(load(folder))


def partly_read(workspace, micro_batches=2):
    """Read and commit a part of the log."""
    with closing(Stream(workspace, Planner(workspace).plan("t"), replace(FAST, intervals=PACE))) as stream:
        for _ in range(micro_batches):
            stream.run_micro_batch()
        stream.save()
    return workspace


def rebuilt(workspace, **how):
    with closing(Stream(workspace, Planner(workspace).plan("t"), replace(FAST, state="rebuild", shards=3), **how)):
        pass


def rows(workspace):
    return sorted(json.dumps(row, default=str) for row in workspace.query("from t").to_pylist())


def pending(workspace):
    """The rows that would be emitted if the input ended, and the other state, as text."""
    tables = committed_state(workspace, "t").tables
    kept = {name: table for name, table in tables.items() if name != "states" or "n" in table.column_names}
    return {n: sorted(json.dumps(row, default=str) for row in table.to_pylist()) for n, table in kept.items()}


@pytest.mark.share(1)
@pytest.mark.parametrize("name", DEFINITIONS)
def test_rebuilt_state_equals_the_committed_state(tmp_path, name):
    workspace = partly_read(project(tmp_path / "p", DEFINITIONS[name][0]))
    before, remembers = rows(workspace), pending(workspace)
    assert any(remembers.values())
    shutil.rmtree(f"{workspace.table('t').storage.uri}/_headwater/state")

    rebuilt(workspace)

    assert (rows(workspace), pending(workspace)) == (before, remembers)
    catch_up(workspace, ("t",), stream_options=FAST)
    assert verify(workspace, "t").holds


@pytest.mark.proof
@pytest.mark.parametrize("name", ["tumble", "join", "deduplicate", "pattern", "stateful"])
def test_rebuilt_state_equals_that_of_a_stream_with_the_new_definition(tmp_path, name):
    text, *changes = DEFINITIONS[name]
    changed = text
    for old, new in changes:
        assert old in changed
        changed = changed.replace(old, new)
    always = pending(partly_read(project(tmp_path / "always", changed)))
    workspace = partly_read(project(tmp_path / "p", text))
    before, old = rows(workspace), pending(workspace)
    workspace = project(tmp_path / "p", changed)
    with pytest.raises(StorageError, match="--rebuild-state"):
        catch_up(workspace, ("t",), stream_options=FAST)

    rebuilt(workspace)

    assert rows(workspace) == before
    assert pending(workspace) == always != old


@pytest.mark.proof
def test_groups_are_rebuilt_only_without_a_ttl(tmp_path):
    text = 't = sql("select k, count(*) as n from ticks group by k", key="k")'
    workspace = partly_read(project(tmp_path / "p", text))
    rebuilt(workspace)
    catch_up(workspace, ("t",), stream_options=FAST)
    assert verify(workspace, "t").holds

    workspace = project(tmp_path / "p", text[:-1] + ', ttl="1 hour")')
    with pytest.raises(RequestError, match=r"cannot be rebuilt: .* ttl= depends on arrival order.*--from earliest"):
        rebuilt(workspace)


class Crash(Exception):  # noqa: N818
    """Simulates a crash of the process."""


@pytest.mark.proof
@pytest.mark.parametrize("step", ["staged", "saved"])
def test_a_killed_rebuild_keeps_the_last_commit(tmp_path, step):
    workspace = partly_read(project(tmp_path / "p", DEFINITIONS["join"][0]))
    number, remembers = workspace.require("t").number, pending(workspace)

    def reached(at):
        if at == step:
            raise Crash

    with pytest.raises(Crash):
        rebuilt(workspace, on_step=reached)

    assert (workspace.require("t").number, pending(workspace)) == (number, remembers)
    catch_up(workspace, ("t",), stream_options=FAST)
    assert verify(workspace, "t").holds


def test_state_of_another_duckdb_version_is_rebuilt(tmp_path):
    workspace = partly_read(project(tmp_path / "p", DEFINITIONS["tumble"][0]))
    version, remembers = workspace.require("t"), pending(workspace)
    other = replace(version.manifest, run_id="x", epoch=replace(version.manifest.epoch, engine="1.0.0"))
    workspace.table("t").commit(other, (), version.schema, version)

    with pytest.raises(StorageError, match=r"written by DuckDB 1.0.0, .*--rebuild-state,"):
        catch_up(workspace, ("t",), stream_options=FAST)
    rebuilt(workspace)

    assert pending(workspace) == remembers


FILES = """\
ticks = source(files("in/*.csv"), schema=SCHEMA, event_time="at", lateness="2 seconds", stored=False)
"""


@pytest.mark.proof
def test_missing_rows_of_the_log_are_reported_and_can_be_ignored(tmp_path):
    text = FILES + "t = sql(\"select tumble(at, interval '1 hour') as m, sum(v) as n from ticks group by all\")"
    folder = tmp_path / "p" / "in"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.csv").write_text(f"id,k,at,v\n1,1,2026-01-01 00:0{number}:00,{number + 1}\n")
    workspace = project(tmp_path / "p", text)
    catch_up(workspace, ("t",), stream_options=FAST)
    (folder / "1.csv").unlink()

    with pytest.raises(
        SourceError, match=r"no longer contains all rows that were read: got 2 of 3 rows; .*--accept-gaps"
    ):
        rebuilt(workspace)
    with closing(Stream(workspace, Planner(workspace).plan("t"), replace(FAST, state="rebuild", accept_gaps=True))):
        pass

    assert committed_state(workspace, "t").table().column("n").to_pylist() == [4]
