"""Streams of a project: rows are read once and in order, rejected with a reason, and streams resume."""

from __future__ import annotations

import itertools
import shutil
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.core.errors import DefinitionError, RequestError, SourceError, StorageError
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.reprocessing.quarantine import quarantined_rows
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from pipeline.streaming.planning.plan import Planner
from pipeline.streaming.runtime.job import StreamJob, StreamJobOptions, catch_up
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from pipeline.streaming.runtime.stream import Stream
from pipeline.streaming.runtime.verify import verify

HEAD = """\
from pathlib import Path
import pyarrow as pa
from pipeline import deduplicate, fail, files, generate, mart, quarantine, replay, source, sql, table

DATA = Path(__file__).parent / "data"
AT = "timestamp '2026-01-01' + to_seconds(i)"


def generated(count, partitions=2, **columns):
    return generate({"id": "i * 10 + p", "k": "i % 3", "at": AT, "v": "i"} | columns, partitions=partitions, count=count)


def events(reader, **options):
    schema = {"id": "bigint", "k": "bigint", "at": "timestamp", "v": "integer"}
    return source(reader, schema=schema, event_time="at", **({"stored": False} | options))

"""
MINUTES = (
    "minutes = sql(\"select tumble(at, interval '1 minute') as minute, k, count(*) as n, sum(v) as total "
    'from ticks group by all")\n'
)
FAST = StreamOptions(intervals=Intervals(batch_s=0.01, commit_s=0.01, idle_commit_s=0.01))


def few(offsets):
    """Read at most this many offsets per partition and micro-batch, and commit after each micro-batch."""
    return replace(FAST, intervals=replace(FAST.intervals, batch_offsets=offsets))


@pytest.fixture
def project(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "ticks"\ndefinitions = "ticks.py"\n')

    def write(text: str) -> Workspace:
        (tmp_path / "ticks.py").write_text(HEAD + text)
        return Workspace(load(tmp_path))

    return write


def rows(workspace, query):
    return [tuple(row.values()) for row in workspace.query(query).to_pylist()]


def epochs(workspace, name):
    """The epoch numbers of the versions of a table that still have a manifest."""
    table = workspace.table(name)
    versions = [table.version(number) for number in range(table.number() + 1)]
    return [version.manifest.epoch.number for version in versions]


def test_windows_of_a_log_equal_those_of_batch(project):
    workspace = project("ticks = events(generated(200))\n" + MINUTES)

    catch_up(workspace)

    assert rows(workspace, "select count(*), sum(n), sum(total) from minutes") == [(12, 400, 39800)]
    result = verify(workspace, "minutes")
    assert result.holds
    assert (result.rows_read, result.rows_there, result.rows_remembered) == (400, 12, 0)


@pytest.mark.share(1)
@pytest.mark.parametrize("shards", [1, 3])
def test_a_stream_resumes_with_any_number_of_shards(project, shards):
    workspace = project("ticks = events(generated(2000))\n" + MINUTES)
    plan = Planner(workspace).plan("minutes")
    stream = Stream(workspace, plan, replace(few(300), shards=2))
    for _ in range(3):  # it does not reach the end
        stream.run_micro_batch()
    stream.save()
    stream.close()
    before = rows(workspace, "select count(*) from minutes")
    assert verify(workspace, "minutes").holds

    running = catch_up(workspace, stream_options=StreamOptions(intervals=FAST.intervals, shards=shards))

    assert rows(workspace, "select sum(n) from minutes") == [(4000,)]
    assert before != rows(workspace, "select count(*) from minutes")
    assert verify(workspace, "minutes").holds
    assert running.streams["minutes"].progress.totals["rows_in"] == 4000
    assert epochs(workspace, "minutes") == list(range(1, running.streams["minutes"].progress.epoch + 1))


def test_no_commit_without_new_rows(project):
    workspace = project("ticks = events(generated(100))\n" + MINUTES)
    catch_up(workspace)
    before = workspace.table("minutes").number()

    catch_up(workspace)

    assert workspace.table("minutes").number() == before


def test_rejected_rows_are_quarantined_with_the_reason(project):
    late = f"case when i = 90 then timestamp '2026-01-01' when i = 91 then null when i = 92 then timestamp '2226-01-01' else {'AT'} end"
    workspace = project(f'ticks = events(generated(100, 1, at=f"{late.replace("AT", "{AT}")}"))\n' + MINUTES)
    plan = Planner(workspace).plan("minutes")
    stream = Stream(workspace, plan, few(20))  # the first minute closes before row 90
    while not stream.last.has_ended:
        stream.run_micro_batch()
    stream.drain()
    stream.close()

    quarantined = {row["_position"]: row["reasons"] for row in quarantined_rows(workspace, "minutes").to_pylist()}

    assert set(quarantined) == {90, 91, 92}
    assert "late" in quarantined[90] or "closed" in quarantined[90]
    assert "no event time" in quarantined[91]
    assert "ahead" in quarantined[92]
    assert rows(workspace, "select sum(n) from minutes") == [(97,)]
    assert verify(workspace, "minutes").holds
    flow = workspace.require("minutes").manifest.epoch.totals
    assert (flow["rows_in"], flow["late"], flow["quarantined"]) == (100, 1, 3)


def test_rows_are_validated_as_in_batch(project):
    workspace = project(
        'ticks = events(generated(100, 1))\nodd = sql("select id, k, v from ticks where v % 2 = 1", '
        'expect=[quarantine("small", "v < 90")])\n'
    )

    catch_up(workspace)

    assert rows(workspace, "select count(*), max(v) from odd") == [(45, 89)]
    assert quarantined_rows(workspace, "odd").num_rows == 5
    assert verify(workspace, "odd").holds


def test_a_failed_expectation_stops_the_stream_without_a_commit(project):
    workspace = project(
        'ticks = events(generated(100, 1))\nodd = sql("select id, v from ticks", expect=[fail("small", "v < 90")])\n'
    )

    with pytest.raises(Exception, match="violates 'small'"):
        catch_up(workspace)

    assert workspace.version("odd") is None


def test_a_function_processes_rows_by_block(project):
    workspace = project(
        "ticks = events(generated(50))\n\n\n@table()\ndef twice(ticks: pa.Table) -> pa.Table:\n"
        '    return ticks.select(["id", "v"])\n'
    )

    catch_up(workspace)

    assert rows(workspace, "select count(*), sum(v) from twice") == [(100, 2450)]
    assert verify(workspace, "twice").holds


def test_updated_rows_replace_previous_ones(project):
    workspace = project(
        "ticks = events(generated(900))\n"
        'latest = sql("select k, count(*) as n, max(v) as v from ticks group by k", key="k")\n'
    )
    plan = Planner(workspace).plan("latest")
    stream = Stream(workspace, plan, few(100))
    while not stream.last.has_ended:
        stream.run_micro_batch()
    stream.drain()
    stream.close()

    assert stream.progress.epoch > 3
    assert rows(workspace, "select * from latest order by k") == [(0, 600, 897), (1, 600, 898), (2, 600, 899)]
    assert verify(workspace, "latest").holds


def test_a_table_below_another_follows_its_versions(project):
    workspace = project(
        "ticks = events(generated(300), stored=True)\n"
        'odd = sql("select id, k, at, v from ticks where v % 2 = 1", event_time="at")\n'
        "minutes = sql(\"select tumble(at, interval '1 minute') as minute, count(*) as n from odd group by all\")\n"
    )

    catch_up(workspace)

    assert rows(workspace, "select count(*), count(distinct _position) from ticks") == [(600, 300)]
    assert rows(workspace, "select count(*) from odd") == [(300,)]
    assert verify(workspace, "ticks").holds
    assert verify(workspace, "odd").holds
    assert verify(workspace, "minutes").holds


def test_a_lookup_uses_the_current_version(project, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "names1.csv").write_text("k,name\n0,zero\n1,one\n2,two\n")
    workspace = project(
        'names = source(files(DATA / "names*.csv"), key="k")\nticks = events(generated(30))\n'
        'named = sql("select id, name from ticks t left join names n on t.k = n.k")\n'
    )
    Runner(workspace.project).run()

    catch_up(workspace)

    assert rows(workspace, "select name, count(*) from named group by all order by 1") == [
        ("one", 20),
        ("two", 20),
        ("zero", 20),
    ]
    assert verify(workspace, "named").holds


def test_files_are_read_as_they_arrive(project, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "1.csv").write_text("id,k,at,v\n1,0,2026-01-01 00:00:00,1\n2,0,2026-01-01 00:00:30,2\n")
    workspace = project('ticks = events(files(DATA / "*.csv"))\n' + MINUTES)
    catch_up(workspace)
    assert rows(workspace, "from minutes") == []
    assert verify(workspace, "minutes").rows_remembered == 1

    (data / "2.csv").write_text("id,k,at,v\n3,0,2026-01-01 00:00:40,4\n5,0,2026-01-01,x\n4,0,2026-01-01 00:05:00,8\n")
    catch_up(workspace)

    assert [(n, total) for _, _, n, total in rows(workspace, "from minutes")] == [(3, 7)]
    assert [row["_position"] for row in quarantined_rows(workspace, "minutes").to_pylist()] == [3]
    assert verify(workspace, "minutes").holds


def test_a_table_is_replayed(project, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "1.csv").write_text("id,k,at,v\n1,0,2026-01-01 00:03:00,1\n2,0,2026-01-01 00:00:30,2\n3,1,2026-01-01,4\n")
    text = (
        'old = source(files(DATA / "*.csv"))\nticks = source(replay("old", by="at"), event_time="at", stored=False)\n'
    )
    workspace = project(text + MINUTES)
    Runner(workspace.project).run()

    catch_up(workspace)

    assert rows(workspace, "select minute::varchar, k, n, total from minutes order by all") == [
        ("2026-01-01 00:00:00", 0, 1, 2),
        ("2026-01-01 00:00:00", 1, 1, 4),
        ("2026-01-01 00:03:00", 0, 1, 1),
    ]
    (data / "2.csv").write_text("id,k,at,v\n9,0,2026-01-01 00:03:00,1\n")
    Runner(workspace.project).run()
    with pytest.raises(SourceError, match="was recreated since it was read"):
        catch_up(workspace)
    catch_up(workspace, stream_options=StreamOptions(begin="earliest"))
    assert rows(workspace, "select sum(n) from minutes") == [(4,)]


def test_a_run_skips_streams_and_reads_their_tables(project):
    workspace = project(
        "ticks = events(generated(100))\n" + MINUTES + 'all_time = mart("select sum(n) as n from minutes")\n'
    )
    with pytest.raises(StorageError, match="'minutes', which does not exist yet"):
        Runner(workspace.project).run()
    catch_up(workspace)

    steps = {step.name: step for step in Runner(workspace.project, RunOptions()).run().steps}

    assert steps["minutes"].reason == "written by `headwater stream`"
    assert rows(workspace, "from all_time") == [(200,)]


def test_a_changed_definition_resumes_only_with_compatible_state(project):
    workspace = project("ticks = events(generated(100))\n" + MINUTES)
    catch_up(workspace)

    changed = project("ticks = events(generated(100))\n" + MINUTES.replace("1 minute", "2 minutes"))
    with pytest.raises(StorageError, match="its window changed: 1 minute before, 2 minutes now"):
        catch_up(changed)
    judged = project(
        "ticks = events(generated(100))\n" + MINUTES.replace('all")', 'all", expect=[quarantine("n", "n > 0")])')
    )
    catch_up(judged)

    catch_up(changed, stream_options=StreamOptions(begin="earliest"))
    assert rows(changed, "select count(*), sum(n) from minutes") == [(3, 200)]


def test_unsupported_tables_are_rejected_with_the_reason(project):
    workspace = project(
        'ticks = events(generated(10))\nordered = sql("select *, row_number() over (order by at) as n from ticks")\n'
    )

    with pytest.raises(DefinitionError, match="'ordered' cannot be streamed"):
        Planner(workspace).plan("ordered")
    with pytest.raises(
        RequestError, match="no table of this project can be streamed: got ordered: it has no GROUP BY or aggregate"
    ):
        StreamJob(workspace, StreamJobOptions())


def test_offsets_are_rejected_for_a_stream_with_commits(project):
    workspace = project("ticks = events(generated(100))\n" + MINUTES)
    catch_up(workspace)

    with pytest.raises(RequestError, match="already has commits"):
        catch_up(workspace, stream_options=StreamOptions(begin={"x": 1}))


def test_a_missing_state_file_is_reported(project):
    workspace = project("ticks = events(generated(100))\n" + MINUTES)
    plan = Planner(workspace).plan("minutes")
    stream = Stream(workspace, plan, few(20))
    stream.run_micro_batch()
    stream.save()
    stream.close()
    shutil.rmtree(f"{workspace.table('minutes').storage.uri}/_headwater/state")

    with pytest.raises(StorageError, match="cannot read '_headwater/state"):
        Stream(workspace, plan, FAST)


def test_the_first_row_of_a_key_is_kept_across_epochs(project, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "1.csv").write_text("id,k,at,v\n1,0,2026-01-01,1\n2,0,2026-01-01,2\n")
    workspace = project('ticks = events(files(DATA / "*.csv"))\nfirst = sql("select id, v from ticks", key="id")\n')
    catch_up(workspace)
    (data / "2.csv").write_text("id,k,at,v\n1,0,2026-01-02,3\n3,0,2026-01-02,4\n3,0,2026-01-02,5\n,0,2026-01-02,6\n")
    catch_up(workspace)

    assert rows(workspace, "from first order by id") == [(1, 1), (2, 2), (3, 4)]
    assert [row["reasons"] for row in quarantined_rows(workspace, "first").sort_by("_position").to_pylist()] == [
        "key_is_unique",
        "key_is_unique",
        "key_is_not_null",
    ]
    assert verify(workspace, "first").holds


def test_verify_detects_duplicate_keys(project, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "1.csv").write_text("id,k,at,v\n1,0,2026-01-01,1\n1,0,2026-01-01,2\n")
    plain = 'ticks = events(files(DATA / "*.csv"))\nfirst = sql("select id, v from ticks")\n'
    catch_up(project(plain))

    result = verify(project(plain.replace('ticks")', 'ticks", key="id")')), "first")

    assert (result.missing, result.unexpected, result.doubled) == (0, 0, 1)
    assert not result.holds


def test_a_merged_table_is_streamed_and_verified(project):
    workspace = project(
        "ticks = events(generated(300))\n"
        'last = sql("select k, at, v from ticks", key="k", sequence_by="at", apply_as_deletes="k = 2")\n'
    )
    plan = Planner(workspace).plan("last")
    stream = Stream(workspace, plan, few(100))
    while not stream.last.has_ended:
        stream.run_micro_batch()
    stream.drain()
    stream.close()

    assert rows(workspace, "select k, v from last order by k") == [(0, 297), (1, 298)]
    assert verify(workspace, "last").holds


@pytest.mark.proof
def test_a_downstream_stream_waits_as_long_as_its_upstream(project):
    """The upstream stream pauses for an hour; rows that continue from there are not late."""
    workspace = project(
        "ticks = events(generated(120, 1))\n"
        'once = deduplicate("ticks", key="id", event_time="at")\n'
        "minutes = sql(\"select tumble(at, interval '1 minute') as minute, count(*) as n from once group by all\")\n"
    )
    hours = itertools.count()

    def clock():
        return datetime(2026, 6, 1, tzinfo=UTC) + timedelta(hours=next(hours))

    for _ in range(3):
        for name in ("once", "minutes"):
            with closing(Stream(workspace, Planner(workspace).plan(name), few(40), clock=clock)) as stream:
                stream.run_micro_batch()
                stream.run_micro_batch()
                stream.save()
    catch_up(workspace)

    assert rows(workspace, "select sum(n)::bigint from minutes") == [(120,)]
    assert quarantined_rows(workspace, "minutes").num_rows == 0


def test_a_row_that_cannot_be_converted_is_reported_with_its_position(project):
    workspace = project("ticks = events(generated(10, 1))\nbad = sql(\"select ('x' || v)::integer as n from ticks\")\n")

    with pytest.raises(DefinitionError, match=r"a row cannot be converted.*x0.*generator://.*ticks.py:\d+"):
        catch_up(workspace)
