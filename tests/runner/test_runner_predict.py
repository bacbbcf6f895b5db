"""A plan predicts what the run does, for every kind of definition and of change."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from pipeline.batch import kept_states
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.runner.decide import DecisionKind
from pipeline.runner.dry_run import RunOptions, plan_run
from pipeline.runner.plan_changes import plan_changes
from pipeline.runner.predict import TakesChanges, decide_after
from pipeline.runner.runner import Runner
from tests.rigs.command import environment
from tests.runner.conftest import TOML

PROJECT = """
import pyarrow as pa
from pipeline import dimension, fact, files, lookup, mart, source, sql, table

SCHEMA = {"id": "bigint", "k": "varchar", "v": "double", "at": "timestamp"}
raw = source(files("data/raw*.csv"), schema=SCHEMA)
names = source(files("data/names*.csv"), schema={"k": "varchar", "name": "varchar"}, key="k")
log = source(files("data/log*.csv"), schema=SCHEMA, stored=False)

by_row = sql("select id, k, v, at from raw where v > 0", key="id")
by_row_again = sql("select id, k, v * 2 as w from by_row", key="id")
of_log = sql("select id, k, v from log", key="id")
of_log_and_names = sql("select id, name from log join names using (k)")
joined = sql("select id, name from by_row join names using (k)")
merged = sql("select id, k, v, at from raw", key="id", sequence_by="at")
of_merged = sql("select id, k, v from merged", key="id")
latest = sql("select k, max(v) as top from of_merged group by k", key="k")
grouped = sql("select k, sum(v) as total from by_row group by k", key="k")
of_grouped = sql("select k, total * 2 as twice from grouped", key="k")
ranked = sql("select id, row_number() over (partition by k order by v) as place from by_row")
dim_k = dimension("select distinct k from by_row", key="k")
dim_names = dimension("select k, name from names", key="k")
fact_v = fact("select id, k, v from by_row", key="id", lookups={"name_key": lookup("dim_names", "k")})
top = mart("select name_key, max(v) as top from fact_v group by name_key", key="name_key")


@table()
def doubled(by_row: pa.Table) -> pa.Table:
    return by_row


after_function = sql("select id from doubled")
"""
ROWS = "id,k,v,at\n"


def rows(first: int, count: int) -> str:
    return ROWS + "".join(
        f"{i},{'abcde'[i % 5]},{i % 7 + 1},2026-01-01 00:00:{i % 60:02d}\n" for i in range(first, first + count)
    )


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(kept_states, "LEAST_ROWS", 50)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of the project after its first run."""
    folder = tmp_path_factory.mktemp("done") / "p"
    (folder / "data").mkdir(parents=True)
    (folder / "headwater.toml").write_text(TOML + '[env.dev]\n[env.other]\nlake = ".other/lake"\n')
    (folder / "shop.py").write_text(PROJECT)
    (folder / "data" / "raw1.csv").write_text(rows(0, 200))
    (folder / "data" / "log1.csv").write_text(rows(0, 50))
    (folder / "data" / "names1.csv").write_text("k,name\na,Ada\nb,Bo\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept_states, "LEAST_ROWS", 50)
        assert Runner(load(folder)).run().status == "done"
    return folder


@pytest.fixture
def project(done, tmp_path):
    """A copy of it."""
    return shutil.copytree(done, tmp_path / "p")


CHANGES = {
    "nothing": {},
    "a file more": {"raw2.csv": rows(200, 20)},
    "rows that are quarantined": {"raw2.csv": ROWS + "x,a,1,2026-01-01\n"},
    "a file more, of a source that is not stored": {"log2.csv": rows(50, 5)},
    "a file more, of the other input": {"names2.csv": "k,name\nc,Cy\n"},
    "all three": {"raw2.csv": rows(200, 20), "log2.csv": rows(50, 5), "names2.csv": "k,name\nc,Cy\n"},
    "a changed file": {"raw1.csv": rows(0, 201)},
    "a changed file of the other input": {"names1.csv": "k,name\na,Ada\n"},
}


@pytest.mark.share(3)
@pytest.mark.parametrize("change", CHANGES)
def test_a_run_does_what_was_predicted(project, change):
    for name, text in CHANGES[change].items():
        (project / "data" / name).write_text(text)
    steps = {step.definition.name: step for step in plan_run(Workspace(load(project)), RunOptions())}
    expected = {name: step.decision.kind.value for name, step in steps.items()}

    ran = {step.name: str(step.decision) for step in Runner(load(project)).run().steps}

    open_ones = {name for name, step in steps.items() if "would be merged" in step.decision.reason}
    assert open_ones <= {"of_merged", "latest"}
    certain = ran.keys() - open_ones
    assert {name: expected[name] for name in certain} == {name: ran[name] for name in certain}


TAKES = TakesChanges("raw", splits_alone=True, merges=False, by_key=True, has_states=False)
GROUPED = TakesChanges("raw", splits_alone=False, merges=False, by_key=False, has_states=True)
K = DecisionKind


@pytest.mark.parametrize(
    ("table", "changing", "kind"),
    [
        (TAKES, {"raw": K.APPEND}, K.APPEND),
        (replace(TAKES, merges=True), {"raw": K.APPEND}, K.MERGE),
        (TAKES, {"raw": K.MERGE}, K.MERGE),
        (replace(TAKES, by_key=False), {"raw": K.MERGE}, K.REBUILD),
        (TAKES, {"raw": K.REFRESH}, K.REBUILD),
        (TAKES, {"raw": K.REBUILD}, K.REBUILD),
        (TAKES, {"names": K.APPEND}, K.REBUILD),
        (TAKES, {"raw": K.APPEND, "names": K.APPEND}, K.REBUILD),
        (replace(TAKES, driving=""), {"names": K.APPEND}, K.REBUILD),
        (GROUPED, {"raw": K.APPEND}, K.REFRESH),
        (replace(GROUPED, has_states=False), {"raw": K.APPEND}, K.REBUILD),
        (GROUPED, {"raw": K.MERGE}, K.REBUILD),
    ],
)
def test_a_decision_follows_from_those_for_the_inputs(table, changing, kind):
    assert decide_after(table, changing).kind is kind


def test_a_first_plan_says_what_it_does_not_know(project, tmp_path, headwater_command):
    new = shutil.copytree(project, tmp_path / "new", ignore=shutil.ignore_patterns(".headwater"))

    first = headwater_command.run("plan", cwd=new, env=environment(), timeout=60)

    assert " ".join(first.stdout.split()).endswith(
        "19 tables to compute, 19 of them for the first time; 8.2 kB to read, and the rows that are computed first"
    )
    assert first.returncode == 0


def test_a_plan_tells_stored_rows_from_those_computed_first(project):
    (project / "data" / "raw2.csv").write_text(rows(200, 20))

    work = {change.name: change.work for change in plan_changes(Workspace(load(project)))}

    assert (work["raw"].is_all, work["by_row"].is_all, work["ranked"].is_all) == (True, False, False)
    assert work["by_row"].rows == 0
    assert work["ranked"].rows == 200  # a rebuild also reads those that are there already


def test_a_source_that_cannot_be_read_fails_the_plan(project, headwater_command):
    def shown(*words):
        done = headwater_command.run(*words, cwd=project, env=environment(), timeout=60)
        assert done.returncode == 1
        return " ".join((done.stdout + done.stderr).split())

    definitions = project / "shop.py"
    definitions.write_text(definitions.read_text().replace("data/names*", "no-such-folder/names*"))

    plan = shown("plan")
    assert "! names unreadable, fail: the folder of 'no-such-folder/names*.csv' does not exist" in plan
    assert "0 tables to compute; 'names' cannot be read" in plan
    assert "names fail the folder of" in shown("explain")
    assert "error: names: the folder of" in shown("explain", "joined")  # which reads it
    assert "decision skip: reads 'names', which failed" in shown("explain", "joined")
