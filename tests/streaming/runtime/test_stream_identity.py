"""Whether state fits a changed definition: relevant changes are reported, irrelevant ones are accepted."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import replace

import pytest

from pipeline.core.epochs import epoch_of
from pipeline.core.errors import SourceError, StorageError
from pipeline.core.schema import Schema
from pipeline.core.staging import Manifest
from pipeline.core.state_identity import StateIdentity
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.streaming.planning.plan import Planner
from pipeline.streaming.runtime.job import catch_up
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from pipeline.streaming.runtime.start import StreamIdentity, decide_start
from pipeline.streaming.runtime.stream import Stream
from pipeline.streaming.runtime.verify import verify

SOURCES = """\
import pyarrow as pa
from pipeline import deduplicate, event, followed_by, generate, not_followed_by, pattern, source, sql, stateful, warn

COLUMNS = {"id": "i * 10 + p", "k": "(i * 7) % 5", "at": "timestamp '2026-01-01' + to_seconds(i)", "v": "i % 13"}
SCHEMA = {"id": "bigint", "k": "bigint", "at": "timestamp", "v": "bigint"}
ticks = source(generate(COLUMNS, partitions=2, count=200), schema=SCHEMA, event_time="at", lateness="1 second", stored=False)
others = source(generate(COLUMNS, count=100), schema=SCHEMA, event_time="at", lateness="1 second", stored=False)
"""
WINDOW = (
    "t = sql(\"select tumble(at, interval '1 minute') as m, k, sum(v) as total from ticks where v > 1 group by all\")"
)
HOP = "t = sql(\"select hop(at, interval '10 seconds', interval '1 minute') as m, count(*) as n from ticks group by all\")"
SESSION = "t = sql(\"select session(at, interval '3 seconds') as m, k, count(*) as n from ticks group by all\")"
GROUP = 't = sql("select k, count(*) as n from ticks group by k", key="k")'
JOIN = (
    't = sql("select a.id, b.v from ticks a {} join others b '
    'on a.k = b.k and b.at between a.at and a.at + interval 5 minutes where b.v > 2")'
)
FIRST = 't = deduplicate("ticks", key="k", event_time="at", within="1 hour")'
PATTERN = """t = pattern(event("low", "ticks", "v < 3"), followed_by("high", "ticks", "v > low.v"), by="k",
within="1 minute", event_time="at", select={"low": "low.id"})"""
STATEFUL = """
@stateful(key="k", event_time="at", state={"n": "bigint default 0"}, schema={"k": "bigint"}, ttl="1 hour")
def t(state: pa.Table, ticks: pa.Table) -> tuple[pa.Table, pa.Table]:
    \"\"\"Keys.\"\"\"
    return state, ticks.select(["k"])
"""
SAME = None
NEIGHBOURS = {
    # irrelevant for the state
    "layout and case": (WINDOW, WINDOW.replace("select tumble", "SELECT  tumble").replace("v > 1", "V  > 1"), SAME),
    "a comment": (WINDOW, WINDOW.replace("select tumble", "/* sums */ select tumble"), SAME),
    "an alias of a table": (WINDOW, WINDOW.replace("v > 1", "x.v > 1").replace("ticks", "ticks as x"), SAME),
    "an interval in other words": (WINDOW, WINDOW.replace("1 minute", "60 seconds"), SAME),
    "an expectation": (WINDOW, WINDOW[:-1] + ', expect=[warn("some", "total > 1")])', SAME),
    "a description": (WINDOW, WINDOW[:-1] + ', description="sums")', SAME),
    "having": (WINDOW, WINDOW.replace("group by all", "group by all having sum(v) > 7"), SAME),
    "an expression over an aggregate": (WINDOW, WINDOW.replace("sum(v) as", "sum(v) + 1 as"), SAME),
    "lateness of the source": (WINDOW, 'SOURCES.replace("1 second", "1 hour")', SAME),
    "a column of the source that is not read": (WINDOW, 'SOURCES.replace(\'"id": "bigint"\', \'"id": "integer"\')', SAME),
    "the order of conditions of a join": (
        JOIN.format(""), JOIN.format("").replace("a.k = b.k and ", "").replace("5 minutes", "5 minutes and a.k = b.k"), SAME
    ),
    "a condition of an inner join after WHERE": (
        JOIN.format(""), JOIN.format("").replace(" where b.v > 2", "").replace("a.k = b.k", "a.k = b.k and b.v > 2"), SAME
    ),
    "what a join selects": (JOIN.format(""), JOIN.format("").replace("b.v from", "a.id + b.v as v from"), SAME),
    "what a pattern selects": (PATTERN, PATTERN.replace('"low.id"', '"high.id"'), SAME),
    "comments in a function": (STATEFUL, STATEFUL.replace("    return", "    # all\n    return").replace("Keys.", "All."), SAME),
    # relevant for the state
    "size of a window": (WINDOW, WINDOW.replace("1 minute", "2 minutes"), "window changed: 1 minute before, 2 minutes now"),
    "kind of a window": (WINDOW, WINDOW.replace("tumble(at, ", "hop(at, interval '10 seconds', "), "operator changed: tumble"),
    "slide of a hop": (HOP, HOP.replace("10 seconds", "20 seconds"), "window changed: 1 minute every 10 seconds before"),
    "gap of a session": (SESSION, SESSION.replace("3 seconds", "4 seconds"), "window changed: 3 seconds before, 4 seconds now"),
    "where": (WINDOW, WINDOW.replace("v > 1", "v > 2"), 'rows changed: .*"v" > 1 before, .*"v" > 2 now'),
    "a group key": (WINDOW, WINDOW.replace("k, sum", "k % 2 as k, sum"), "group keys changed"),
    "an expression under the same name": (WINDOW, WINDOW.replace("sum(v)", "sum(v * 2)"), "aggregates changed: SUM"),
    "an aggregate that is added": (WINDOW, WINDOW.replace("as total", "as total, max(v) as top"), "aggregates changed"),
    "when windows come out": (WINDOW, WINDOW[:-1] + ', emit="change", key=("m", "k"))', "emit changed: close before, change now"),
    "ttl of a group": (GROUP, GROUP[:-1] + ', ttl="1 hour")', "ttl changed: for ever before, 1 hour now"),
    "type of a column": (WINDOW, 'SOURCES.replace(\'"v": "bigint"\', \'"v": "integer"\')', "columns of 'ticks' changed"),
    "bounds of a join": (
        JOIN.format(""), JOIN.format("").replace("5 minutes", "10 minutes"),
        "join bounds changed: 0 seconds to 5 minutes after before, 0 seconds to 10 minutes after now",
    ),
    "condition of an inner join": (JOIN.format(""), JOIN.format("").replace("b.v > 2", "b.v > 3"), "join condition changed"),
    "condition of an outer join": (
        JOIN.format("left"), JOIN.format("left").replace("a.k = b.k", "a.k = b.k and b.v < 9"), "join condition changed"
    ),
    "side of a join": (JOIN.format(""), JOIN.format("left"), "join changed: inner before, left now"),
    "keys of a join": (JOIN.format(""), JOIN.format("").replace("a.k = b.k", "a.k = b.k % 3"), "join keys changed"),
    "within of a deduplication": (FIRST, FIRST.replace("1 hour", "2 hours"), "within changed: 1 hour before, 2 hours now"),
    "key of a deduplication": (FIRST, FIRST.replace('key="k"', 'key="v"'), "key changed: k before, v now"),
    "which row stays": (
        FIRST.replace(', within="1 hour"', ""), FIRST.replace('within="1 hour"', 'keep="last"'), "operator changed: deduplicate"
    ),
    "within of a pattern": (PATTERN, PATTERN.replace("1 minute", "2 minutes"), "within changed: 1 minute before"),
    "condition of a pattern": (PATTERN, PATTERN.replace("v < 3", "v < 4"), "condition of 'low' changed: .*< 3 before, .*< 4 now"),
    "steps of a pattern": (PATTERN, PATTERN.replace('"v > low.v"', '"v > low.v", times=2'), "steps changed: .* 2 times now"),
    "a step that is added": (
        PATTERN, PATTERN.replace('followed_by("high"', 'not_followed_by("no", "ticks", "v = 6"), followed_by("high"'),
        "steps changed: .*not followed by no of ticks",
    ),
    "matches that overlap": (
        PATTERN, PATTERN.replace("select=", 'after_match="skip to next event", select='), "after_match changed: skip past"
    ),
    "code of a function": (STATEFUL, STATEFUL.replace("return state,", "return state.slice(0),"), "code of 't' changed"),
    "ttl of a state": (STATEFUL, STATEFUL.replace("1 hour", "2 hours"), "ttl changed: 1 hour before, 2 hours now"),
    "a column of a state": (
        STATEFUL, STATEFUL.replace("default 0", "default 1"), "state columns changed: n BIGINT default 0 before"
    ),
}  # fmt: skip


@pytest.fixture
def project(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "ticks"\ndefinitions = "ticks.py"\n')

    def write(text: str, sources: str = SOURCES) -> Workspace:
        (tmp_path / "ticks.py").write_text(sources + text)
        return Workspace(load(tmp_path))

    return write


def written(project, before, after):
    """Two workspaces: of a definition, and of a changed one or one with changed sources."""
    if after.startswith("SOURCES."):
        changed = eval(after, {"SOURCES": SOURCES})  # noqa: S307 - from the table above
        assert changed != SOURCES
        return project(before), lambda: project(before, changed)
    assert after != before
    return project(before), lambda: project(after)


@pytest.mark.share(12)
@pytest.mark.parametrize("what", NEIGHBOURS)
def test_only_semantic_changes_are_reported(project, what):
    before, after, reason = NEIGHBOURS[what]
    first, second = written(project, before, after)
    old = Planner(first).plan("t").identity

    change = Planner(second()).plan("t").identity.change(old)

    if reason is SAME:
        assert change is None
    else:
        assert re.search(f"^its {reason}", change), change


FAST = StreamOptions(intervals=Intervals(batch_s=0.01, commit_s=0.01, idle_commit_s=0.01))


@pytest.mark.share(1)
@pytest.mark.parametrize("what", ["lateness of the source", "having", "an expectation"])
def test_a_stream_resumes_after_an_irrelevant_change(project, what):
    before, after, _ = NEIGHBOURS[what]
    first, second = written(project, before, after)
    catch_up(first, ("t",), stream_options=FAST)
    changed = second()
    catch_up(changed, ("t",), stream_options=FAST)

    assert what == "having" or verify(changed, "t").holds


@pytest.mark.share(1)
@pytest.mark.parametrize(
    "what", ["bounds of a join", "within of a deduplication", "condition of a pattern", "code of a function"]
)
def test_a_change_is_rejected_with_the_options(project, what):
    before, after, reason = NEIGHBOURS[what]
    first, second = written(project, before, after)
    catch_up(first, ("t",), stream_options=FAST)
    changed = second()

    ways = "revert the change, define a table with another name, recompute .* --rebuild-state, keep .* --keep-state, .*--from earliest"
    with pytest.raises(StorageError, match=f"its {reason}.*{ways}"):
        catch_up(changed, ("t",), stream_options=FAST)
    catch_up(changed, ("t",), stream_options=replace(FAST, state="keep"))
    catch_up(changed, ("t",), stream_options=FAST)  # keep is needed only once


def test_state_cannot_be_kept_if_its_columns_change(project):
    before, after, reason = NEIGHBOURS["an aggregate that is added"]
    first, second = written(project, before.replace("as total", "as total, 0::bigint as top"), after)
    catch_up(first, ("t",), stream_options=FAST)

    with pytest.raises(StorageError, match=f"its {reason}.*--rebuild-state, or rebuild the table"):
        catch_up(second(), ("t",), stream_options=replace(FAST, state="keep"))


STATE = StateIdentity("tumble", 1, {"window": "1 minute"}, {"rows": "SELECT * FROM t"})
NOW = StreamIdentity("t", STATE, "2.0.0", Schema(()), None, first_fingerprint="abc")
FIRST_FORMAT = {"number": 1, "inputs": {}, "state": [], "engine": "2.0.0"}


def manifest(**parts):
    return Manifest("t", "r", "f", "append", epoch=epoch_of({**FIRST_FORMAT, **parts}))


def test_an_epoch_of_format_1_resumes_if_its_hash_is_unchanged():
    assert decide_start(manifest(definition="abc"), "committed", NOW).epoch is not None
    with pytest.raises(StorageError, match=r"changed since an earlier version of Headwater.*--rebuild-state"):
        decide_start(manifest(definition="abd"), "committed", NOW)
    assert decide_start(manifest(definition="abd"), "committed", NOW, state="rebuild").epoch is not None


def test_newer_state_versions_and_formats_are_rejected():
    later = {"kind": "tumble", "version": 2, "layout": {}, "rules": {}}
    with pytest.raises(StorageError, match=r"the format of the state of a tumble changed: 2 before, 1 now"):
        decide_start(manifest(identity=later, format_version=2), "committed", NOW)
    with pytest.raises(StorageError, match=r"later version of Headwater: got format 99; .*upgrade Headwater"):
        manifest(format_version=99)


def test_an_identity_survives_the_manifest():
    before = manifest(identity={"kind": "tumble", "version": 1, "layout": {"a": "b"}, "rules": {}}, format_version=2)
    assert Manifest.from_json(before.to_json()) == before
    assert before.epoch.identity.change(STATE) == "its a changed: none before, b now"


def test_a_stream_with_internal_column_names_equals_batch(project):
    late = "case when i % 40 = 39 then 30 else 0 end"
    sources = SOURCES.replace('"at": ', '"_at": ').replace("to_seconds(i)", f"to_seconds(i - {late})")
    sources = sources.replace('"k": ', '"_key": ').replace('"v": ', '"_why": ').replace('"id": ', '"_id": ')
    workspace = project(
        't = deduplicate("ticks", key="_key", event_time="_at", within="20 seconds")', sources.replace('"at"', '"_at"')
    )
    few = replace(FAST, intervals=replace(FAST.intervals, batch_offsets=60), shards=2)
    with closing(Stream(workspace, Planner(workspace).plan("t"), few)) as stream:
        for _ in range(2):
            stream.run_micro_batch()
        stream.save()
    catch_up(workspace, ("t",), stream_options=replace(FAST, shards=3))

    result = verify(workspace, "t")
    assert result.holds, result
    assert result.rows_aside > 0
    assert result.rows_there > 10


ABOVE = 'a = sql("select id, k, at, v from ticks")\n'
BELOW = "t = sql(\"select tumble(at, interval '1 minute') as m, k, sum(v) as total from a group by all\")\n"


def begun(workspace):
    """Let both streams read a part of the input."""
    few = replace(FAST, intervals=replace(FAST.intervals, batch_offsets=30))
    for name in ("a", "t"):
        with closing(Stream(workspace, Planner(workspace).plan(name), few)) as stream:
            stream.run_micro_batch()
            stream.save()


@pytest.mark.proof
def test_rows_read_from_an_upstream_table_are_not_changed_later(project):
    first = project(ABOVE + BELOW)
    begun(first)
    old = first.require("a").rows
    changed = project(ABOVE.replace("v from", "v + 100 as v from") + BELOW)
    catch_up(changed, ("a", "t"), stream_options=FAST)

    assert verify(changed, "t").holds  # computed from the rows of table `a`, whichever definition they are from
    assert changed.query("select sum(total) as total from t") == changed.query("select sum(v) as total from a")
    result = verify(changed, "a")
    assert (result.missing, result.unexpected) == (old, old)
    assert 0 < old < result.rows_there
    catch_up(changed, ("a",), stream_options=replace(FAST, begin="earliest"))
    assert verify(changed, "a").holds
    with pytest.raises(SourceError, match=r"table 'a' was changed other than by appending rows.*--from earliest"):
        catch_up(changed, ("t",), stream_options=FAST)


def test_changed_types_of_an_upstream_table_are_rejected(project):
    begun(project(ABOVE + BELOW))
    changed = project(ABOVE.replace("v from", "v::integer as v from") + BELOW)

    with pytest.raises(
        StorageError, match=r"columns of 'a' changed: .*v BIGINT before, .*v INTEGER now; revert the change"
    ):
        catch_up(changed, ("t",), stream_options=FAST)
    with pytest.raises(StorageError, match=r"stream 'a' cannot resume .* 'v' was BIGINT, now INTEGER"):
        catch_up(changed, ("a",), stream_options=FAST)
