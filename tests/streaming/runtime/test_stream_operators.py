"""Patterns, deduplication and custom state as streams: stopped, resumed with other shards, and compared with batch."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.streaming.planning.plan import Planner
from pipeline.streaming.runtime.job import catch_up
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from pipeline.streaming.runtime.stream import Stream
from pipeline.streaming.runtime.verify import verify

PROJECT = '''\
import pyarrow as pa
import pyarrow.compute as pc
from pipeline import deduplicate, event, followed_by, generate, not_followed_by, pattern, source, sql, stateful

AT = "timestamp '2026-01-01' + to_seconds(i)"
SCHEMA = {"id": "bigint", "k": "bigint", "at": "timestamp", "v": "bigint", "w": "bigint"}
COLUMNS = {"id": "i * 10 + p", "k": "(i * 7 + p) % 5", "at": AT, "v": "(i * 11 + p) % 13", "w": "(i * 7 + p) % 60"}
ticks = source(
    generate(COLUMNS, partitions=2, count=600), schema=SCHEMA, event_time="at", lateness="5 seconds", stored=False
)

firsts = deduplicate("ticks", key="k", event_time="at", within="20 seconds")
rises = pattern(
    event("low", "ticks", "v < 3"),
    not_followed_by("null_", "ticks", "v = 6"),
    followed_by("high", "ticks", "v > low.v + 5", times=2),
    by="k",
    within="1 minute",
    event_time="at",
    select={"low": "low.id", "high": "high[-1].id"},
)

others = source(generate(COLUMNS, partitions=1, count=300), schema=SCHEMA, event_time="at")
pairs = sql("""
    select t.id, o.v from ticks t left join others o on t.k = o.k and o.at between t.at and t.at + interval 4 seconds
""")


@stateful(key="w", event_time="at", state={"n": "bigint default 0"}, schema={"w": "bigint", "n": "bigint"}, ttl="1 hour")
def counts(state: pa.Table, ticks: pa.Table) -> tuple[pa.Table, pa.Table]:
    """How often each key came so far."""
    both = state.join(ticks.group_by("w").aggregate([([], "count_all")]), "w")
    n = pc.add(both["n"], pc.fill_null(both["count_all"], 0))
    made = pa.table({"w": both["w"], "n": n})
    return made, made
'''
FAST = StreamOptions(intervals=Intervals(batch_s=0.01, commit_s=0.01, idle_commit_s=0.01))


@pytest.mark.share(1)
@pytest.mark.parametrize("name", ["firsts", "rises", "pairs", "counts"])
def test_a_resumed_stream_with_state_equals_batch(tmp_path, name):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "ticks"\ndefinitions = "ticks.py"\n')
    (tmp_path / "ticks.py").write_text(PROJECT)
    workspace = Workspace(load(tmp_path))
    catch_up(workspace, ("others",), stream_options=FAST)  # it is stored and read from the lake
    plan = Planner(workspace).plan(name)
    stream = Stream(workspace, plan, replace(FAST, intervals=replace(FAST.intervals, batch_offsets=150), shards=2))
    for _ in range(2):
        stream.run_micro_batch()
    stream.save()
    stream.close()

    catch_up(workspace, (name,), stream_options=StreamOptions(intervals=FAST.intervals, shards=3))

    result = verify(workspace, name)
    assert result.holds, result
    assert result.rows_there > 10


@pytest.mark.proof
@pytest.mark.parametrize("shards", [2, 3])
def test_a_changed_state_declaration_keeps_the_state(tmp_path, shards):
    """A column with a default is added, one is dropped, and one gets wider: the counts are kept."""
    before = PROJECT.replace('"n": "bigint default 0"}', '"n": "integer default 0", "old": "varchar"}').replace(
        'pa.table({"w": both["w"], "n": n})\n    return made, made',
        'pa.table({"w": both["w"], "n": n})\n    return made.append_column("old", pc.cast(n, pa.string())), made',
    )
    after = PROJECT.replace('"n": "bigint default 0"}', '"n": "bigint default 0", "new": "bigint default 7"}').replace(
        "return made, made", 'return made.append_column("new", pc.add(both["new"], 0)), made'
    )
    (tmp_path / "headwater.toml").write_text('[project]\nname = "ticks"\ndefinitions = "ticks.py"\n')
    (tmp_path / "ticks.py").write_text(before)
    workspace = Workspace(load(tmp_path))
    few = replace(FAST, intervals=replace(FAST.intervals, batch_offsets=150), shards=2)
    stream = Stream(workspace, Planner(workspace).plan("counts"), few)
    for _ in range(2):
        stream.run_micro_batch()
    stream.save()
    stream.close()

    (tmp_path / "ticks.py").write_text(after)
    workspace = Workspace(load(tmp_path))
    stream = Stream(workspace, Planner(workspace).plan("counts"), replace(few, shards=shards, state="keep"))
    assert set(stream.state_tables("states")["states"].column("c_new").to_pylist()) == {7}
    stream.run_micro_batch()
    stream.save()
    stream.close()
    catch_up(workspace, ("counts",), stream_options=StreamOptions(intervals=FAST.intervals, shards=2))

    assert verify(workspace, "counts").holds
    assert workspace.query("select max(n)::bigint as n from counts group by w order by w limit 1").to_pylist() == [
        {"n": 20}
    ]
