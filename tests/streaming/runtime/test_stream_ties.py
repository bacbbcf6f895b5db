"""Rows with equal event times are processed in log order by a stream, by `headwater run` and by `headwater verify`."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from pipeline.project import Workspace, load
from pipeline.runner import Runner
from pipeline.streaming.runtime.job import StreamJob, StreamJobOptions
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from tests.rigs.conservation import conserved
from tests.streaming.runtime.test_stream_logs import Topic, kafka_of

NAMES = ("firsts", "lasts", "steps", "numbered", "tied")
DEFINITIONS = '''
firsts = deduplicate("{events}", key="k", event_time="at")
lasts = deduplicate("{events}", key="k", event_time="at", keep="last")
steps = pattern(
    event("one", "{events}"), directly_followed_by("two", "{events}"), by="k", within="1 hour", event_time="at",
    select={{"v": "one.v", "w": "two.v"}}, after_match="skip to next event",
)

tied = sql("""
    select tumble(at, interval '1 hour') as hour, mode(v) as often, arg_min(v, at) as low, arg_max(v, at) as high,
           first(v order by at) as one, any_value(v) as least
    from {events} group by all
""")


@stateful(key="k", event_time="at", state={{"n": "bigint default 0"}}, schema={{"v": "bigint", "n": "bigint"}}, ttl="1 day")
def numbered(state: pa.Table, {events}: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Number the rows of each key."""
    counts = dict(zip(state["k"].to_pylist(), state["n"].to_pylist(), strict=True))
    out = []
    for row in {events}.to_pylist():
        counts[row["k"]] += 1
        out.append({{"v": row["v"], "n": counts[row["k"]]}})
    given = pa.schema([("v", pa.int64()), ("n", pa.int64())])
    return pa.table({{"k": list(counts), "n": list(counts.values())}}), pa.Table.from_pylist(out, given)
'''
VALUES = (5, 9, 1, 8, 3, 7, 2, 6, 4, 0, 13, 11)
"""In log order, which differs from the order by value for the first, the last and the next row."""


def project(folder: Path, reader: str, *, stored: bool, between: str = "", streamed: bool = True) -> Path:
    time = 'event_time="at", lateness="1 hour", ' if streamed else ""
    folder.mkdir(parents=True)
    (folder / "headwater.toml").write_text('[project]\nname = "p"\ndefinitions = "p.py"\n')
    (folder / "p.py").write_text(
        "import pyarrow as pa\n"
        "from pipeline import deduplicate, directly_followed_by, event, files, kafka, pattern, source, sql, stateful\n"
        f'ticks = source({reader}, schema={{"at": "timestamp", "k": "varchar", "v": "bigint"}}, {time}'
        f"stored={stored})\n" + between + DEFINITIONS.format(events="placed" if between else "ticks")
    )
    return folder


def stream(folder: Path, shards: int, *, drain: bool = False) -> None:
    options = StreamOptions(intervals=Intervals(batch_s=0.02, commit_s=0.05, idle_commit_s=0.1), shards=shards)
    StreamJob(
        Workspace(load(folder)), StreamJobOptions((), until_caught_up=True, drain=drain, stream_options=options)
    ).run()


def rows(folder: Path) -> dict[str, list[tuple[object, ...]]]:
    columns = {"firsts": "v", "lasts": "v", "steps": "v, w", "numbered": "v, n", "tied": "often, low, high, one, least"}
    workspace = Workspace(load(folder))
    return {
        name: [
            tuple(row.values())
            for row in workspace.query(f"select {columns[name]} from {name} order by all").to_pylist()
        ]
        for name in NAMES
    }


RIGHT = {
    "firsts": [(5,)],
    "lasts": [(11,)],
    "steps": sorted(itertools.pairwise(VALUES)),
    "numbered": sorted((v, n) for n, v in enumerate(VALUES, 1)),
    "tied": [(0, 0, 13, 0, 0)],  # aggregates order ties by value, because mergeable states have no order
}


def test_a_stateful_function_receives_only_the_columns_of_the_contract(tmp_path):
    """In a stream, in batch and in verify, the position orders rows but is not a column of an unstored source."""
    function = (
        '@stateful(key="k", event_time="at", ttl="1 day", state={"n": "bigint"}, '
        'schema={"at": "timestamp", "k": "varchar", "v": "bigint"})\n'
        "def same(state: pa.Table, ticks: pa.Table) -> tuple[pa.Table, pa.Table]:\n    return state, ticks\n"
    )
    for clock in ("stream", "batch"):
        folder = project(tmp_path / clock, 'files("in-*.csv")', stored=False, streamed=clock == "stream")
        page = (folder / "p.py").read_text().partition("\nfirsts")[0]
        (folder / "p.py").write_text(f"{page}\n{function}")
        put(folder, "in-1", VALUES)
        if clock == "stream":
            stream(folder, 1, drain=True)
            conserved(Workspace(load(folder)), "same")
        else:
            Runner(load(folder)).run()
        values = Workspace(load(folder)).query("select v from same order by v").column("v").to_pylist()
        assert values == sorted(VALUES)


def put(folder: Path, file: str, values: tuple[int, ...], *, at: str = "2026-01-01 00:00:00") -> None:
    draft = folder / f".{file}"
    draft.write_text("at,k,v\n" + "".join(f"{at},a,{v}\n" for v in values))
    draft.rename(folder / f"{file}.csv")


@pytest.mark.proof
@pytest.mark.parametrize(
    ("stored", "between"),
    [
        (False, ""),
        (True, ""),
        (False, 'placed = sql("select k, v, at, _source, _position from ticks")\n'),
    ],
    ids=["source", "stored", "passed on"],
)
def test_files_with_equal_times_after_restarts_with_other_shards(tmp_path, stored, between):
    folder = project(tmp_path / "stream", 'files("in-*.csv")', stored=stored, between=between)
    put(folder, "in-1", VALUES[:7])
    stream(folder, 1)
    put(folder, "in-2", VALUES[7:])  # within a file, positions are ordered as numbers
    stream(folder, 3)
    stream(folder, 2, drain=True)
    assert rows(folder) == RIGHT
    for name in NAMES:
        conserved(Workspace(load(folder)), name)

    batch = project(tmp_path / "batch", 'files("in-*.csv")', stored=stored, between=between, streamed=False)
    put(batch, "in-1", VALUES[:7])
    put(batch, "in-2", VALUES[7:])
    Runner(load(batch)).run()
    assert rows(batch) == RIGHT


@pytest.mark.proof
def test_offsets_of_a_topic_order_rows_with_equal_times(kafka, tmp_path):
    topic = Topic(kafka, partitions=1)
    folder = project(tmp_path / "stream", kafka_of(topic), stored=False)

    def value(v: int) -> str:
        return json.dumps({"at": "2026-01-01T00:00:00", "k": "a", "v": v})

    topic.send(VALUES[:5], value=value)
    stream(folder, 2)
    topic.send(VALUES[5:], value=value)
    stream(folder, 1, drain=True)
    assert rows(folder) == RIGHT
    for name in NAMES:
        conserved(Workspace(load(folder)), name)

    batch = project(tmp_path / "batch", kafka_of(topic), stored=False, streamed=False)
    Runner(load(batch)).run()
    assert rows(batch) == RIGHT
