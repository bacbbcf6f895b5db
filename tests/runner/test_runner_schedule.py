"""Concurrent steps: after their inputs, within the memory budget; a failure skips only what is downstream of it."""

from __future__ import annotations

import json
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import DefinitionError, HeadwaterError, SourceError
from pipeline.kernel.budget import Budget, MemoryPool
from pipeline.kernel.engine import connect
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.report import write_report
from pipeline.runner.decide import RunOptions
from pipeline.runner.dry_run import plan_run
from pipeline.runner.runner import Runner
from pipeline.runner.schedule import BlockedStep, Schedule
from tests.rigs.command import environment
from tests.runner.conftest import MORE, rows_of

GRAPHS = st.integers(1, 9).flatmap(
    lambda count: st.tuples(
        st.lists(st.sets(st.integers(0, 8)), min_size=count, max_size=count),
        st.sets(st.integers(0, 8)),
        st.integers(1, 4),
    )
)


@given(GRAPHS)
def test_each_step_runs_once_after_its_inputs_and_not_downstream_of_a_failure(graph):
    reads_of, failing, threads = graph
    reads = {f"t{n}": [f"t{r}" for r in sorted(some) if r < n] for n, some in enumerate(reads_of)}
    started, ended, at_once = [], {}, []

    def do(name):
        started.append((name, frozenset(ended)))
        at_once.append(threading.active_count())
        if int(name[1:]) in failing:
            raise SourceError(name)
        return name

    def note(name, outcome):
        assert name not in ended
        ended[name] = outcome

    before = threading.active_count()
    Schedule(reads, do, note).run(threads)

    assert set(ended) == set(reads)
    assert max(at_once, default=0) - before <= threads
    assert all(set(reads[name]) <= finished for name, finished in started)
    for name, outcome in ended.items():
        bad = [read for read in reads[name] if not isinstance(ended[read], str)]
        assert isinstance(outcome, BlockedStep) == bool(bad)
        assert isinstance(outcome, SourceError) == (not bad and int(name[1:]) in failing)
        if isinstance(outcome, BlockedStep):
            assert outcome.reads == bad[0]
            assert isinstance(ended[outcome.failed], SourceError)


def test_independent_steps_run_concurrently():
    meet, ended = threading.Barrier(2, timeout=20), {}
    Schedule({"a": [], "b": []}, lambda _: meet.wait(), ended.__setitem__).run(2)
    assert sorted(ended.values()) == [0, 1]  # each was released by the other, and no barrier was broken


def test_one_thread_keeps_the_order_of_the_definitions():
    finished = []
    Schedule({name: [] for name in "cab"}, finished.append, lambda *_: None).run(1)
    assert finished == ["c", "a", "b"]


def test_interrupt_cancels_the_statements_of_other_steps():
    begun, seconds = threading.Event(), []

    def do(name):
        if name == "stops":
            begun.wait(20)
            raise KeyboardInterrupt
        since = time.monotonic()
        try:
            with connect() as con:
                begun.set()
                con.execute("select count(*) from range(1000000000) a, range(1000000) b")
        finally:
            seconds.append(time.monotonic() - since)

    with pytest.raises(KeyboardInterrupt):
        Schedule({"long": [], "stops": []}, do, lambda *_: None).run(2)
    assert len(seconds) == 1


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=12), st.integers(1, 4))
def test_steps_stay_within_the_memory_budget(needs, steps):
    pool = MemoryPool(Budget(1 << 30, 1), steps)
    taken, most, lock = [0], [0], threading.Lock()

    def work(megabytes):
        with pool.reserve(megabytes << 20) as granted:
            with lock:
                taken[0] += granted
                most[0] = max(most[0], taken[0])
            with lock:
                taken[0] -= granted

    threads = [threading.Thread(target=work, args=(need,)) for need in needs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert most[0] <= 1 << 30


BROKEN = """\
from pathlib import Path

from pipeline import files, mart, source, sql

DATA = Path(__file__).parent / "data"

raw = source(files(DATA / "raw.csv"), schema={"k": "bigint", "v": "varchar"})
gone = source(files(DATA / "gone*.csv"), schema={"k": "bigint"})
a = sql("select k, v::integer as v from raw")
b = sql("select k from raw where k > 1")
c = sql("select sum(v) as v from a")
d = mart("select v from c", key="v")
e = sql("select k from gone")
"""


@pytest.fixture
def broken(tmp_path):
    """A table with a failing cast, a source without files, and tables that read these and others."""
    folder = tmp_path / "broken"
    (folder / "data").mkdir(parents=True)
    (folder / "headwater.toml").write_text('[project]\nname = "broken"\ndefinitions = "broken.py"\n')
    (folder / "broken.py").write_text(BROKEN)
    (folder / "data" / "raw.csv").write_text("k,v\n1,10\n2,twenty\n")
    return folder


def test_dry_run_shows_failures_and_skipped_steps(broken):
    planned = {step.definition.name: step.decision for step in plan_run(Workspace(load(broken)), RunOptions())}

    assert {name: decision.kind for name, decision in planned.items()} == {
        "raw": "create",
        "gone": "fail",
        "a": "create",
        "b": "create",
        "c": "create",
        "d": "create",
        "e": "skip",
    }
    assert planned["gone"].reason.startswith("no file matches")
    assert planned["e"].reason == "reads 'gone', which failed"


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_failing_table_or_source_skips_only_its_readers(broken, threads):
    runner = Runner(load(broken), RunOptions(threads=threads))
    run = runner.attempt()

    did = {step.name: step.decision for step in run.steps}
    assert did == {
        "raw": "create",
        "gone": "failed",
        "a": "failed",
        "b": "create",
        "c": "upstream_failed",
        "d": "upstream_failed",
        "e": "upstream_failed",
    }
    reasons = {step.name: step.reason for step in run.steps}
    assert reasons["c"] == "skipped: reads 'a', which failed"
    assert reasons["d"] == "skipped: reads 'c', which was skipped because 'a' failed"
    assert list(runner.errors) == ["gone", "a"]
    assert isinstance(runner.errors["gone"], SourceError)
    assert (run.status, [step.number for step in run.steps]) == ("failed", list(range(7)))
    assert str(run.error).startswith("gone: no file matches")
    assert Workspace(load(broken)).catalog.run(run.run_id) == run
    assert rows_of(broken)["b"] == ["{'k': 2}"]


def test_after_a_fix_only_missing_tables_are_computed(broken):
    with pytest.raises(HeadwaterError, match="no file matches"):
        Runner(load(broken)).run()
    (broken / "data" / "gone.csv").write_text("k\n1\n")
    (broken / "broken.py").write_text(BROKEN.replace("v::integer", "try_cast(v as integer)"))

    run = Runner(load(broken)).run()

    assert {step.name: step.decision for step in run.steps if step.decision == "skip"} == {"raw": "skip", "b": "skip"}
    assert run.status == "done"


def test_failed_table_keeps_its_rows_and_the_report_shows_the_failure(broken):
    (broken / "data" / "gone.csv").write_text("k\n1\n")
    (broken / "data" / "raw.csv").write_text("k,v\n1,10\n")
    Runner(load(broken)).run()
    (broken / "data" / "raw.csv").write_text("k,v\n1,10\n2,twenty\n")
    with pytest.raises(DefinitionError, match="twenty"):
        Runner(load(broken)).run()

    workspace = Workspace(load(broken))
    assert rows_of(broken)["c"] == ["{'v': Decimal('10')}"] or rows_of(broken)["c"] == ["{'v': 10}"]
    assert workspace.catalog.last_step("a").decision == "create"
    page = broken / "report.html"
    write_report(workspace.project, workspace.catalog, page)
    assert "skipped: reads &#39;a&#39;, which failed" in page.read_text()


def test_command_reports_failed_and_skipped_steps_and_exits_with_1(broken, headwater_command):
    def headwater(*words):
        return headwater_command.run(*words, cwd=broken, env=environment(), timeout=240)

    process = headwater("run")
    assert process.returncode == 1
    assert "2 done, 2 failed, 3 skipped, 0 up to date" in process.stdout
    assert "c skipped: reads 'a', which failed" in process.stdout
    assert "error: gone: no file matches" in process.stderr
    assert "error: a: " in process.stderr
    assert "twenty" in process.stderr
    assert "Traceback" not in process.stderr
    report = json.loads(headwater("run", "--json").stdout)
    assert {step["name"]: step["decision"] for step in report["steps"]}["b"] == "skip"
    assert report["status"] == "failed"


@pytest.mark.share(1)
@pytest.mark.parametrize("code", ["0", "4", "''"])
def test_sys_exit_in_a_function_fails_its_table_only(tmp_path, headwater_command, code):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "p"\ndefinitions = "p.py"\n')
    (tmp_path / "a.csv").write_text("id\n1\n")
    (tmp_path / "p.py").write_text(
        "import sys\nimport pyarrow as pa\nfrom pipeline import files, source, sql, table\n"
        'raw = source(files("a.csv"), schema={"id": "bigint"})\n'
        f"@table()\ndef ends(raw: pa.Table) -> pa.Table:\n    sys.exit({code})\n"
        'after = sql("select * from ends")\nother = sql("select id + 1 as id from raw")\n'
    )
    result = headwater_command.run("run", cwd=tmp_path, env=environment(), timeout=240)
    assert result.returncode == 1
    assert "table 'ends' raised SystemExit" in result.stderr + result.stdout
    workspace = Workspace(load(tmp_path))
    assert (workspace.version("ends"), workspace.version("after")) == (None, None)
    assert workspace.query("select id from other").to_pylist() == [{"id": 2}]


def test_concurrent_run_equals_a_sequential_run(shop):
    for threads in (1, 4):
        Runner(load(shop), RunOptions(full=True, threads=threads)).run()
        (shop / "data" / "orders2.csv").write_text(MORE)
        Runner(load(shop), RunOptions(threads=threads)).run()
        rows, manifests = rows_of(shop), _manifests(shop)
        if threads == 1:
            expected = rows, manifests
        (shop / "data" / "orders2.csv").unlink()
    assert (rows, manifests) == expected


def _manifests(folder):
    """Return the contents of the manifests, except times, run ids and versions."""
    workspace = Workspace(load(folder))
    manifests = {}
    for name in workspace.table_names:
        manifest = workspace.version(name).manifest
        manifests[name] = (
            manifest.mode,
            manifest.fingerprint,
            manifest.flow,
            manifest.checks,
            None if manifest.cursor is None else sorted(manifest.cursor.value["files"]),
        )
    return manifests
