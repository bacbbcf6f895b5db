"""Estimates for a table; and a dry run of it has the measurements of a run and leaves nothing behind."""

from __future__ import annotations

from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.estimate import estimate, full_spec, trial
from pipeline.runner.runner import Runner

MERGED = """
from pathlib import Path
from pipeline import files, quarantine, source, sql
DATA = Path(__file__).parent / "data"
changes = source(files(DATA / "*.csv"), schema={"k": "bigint", "at": "bigint", "v": "double", "op": "varchar"}, stored=False)
state = sql("select * from changes", key="k", sequence_by="at", apply_as_deletes="op = 'D'", partition_by="op",
            expect=[quarantine("positive", "v > 0")])
"""
CHANGES = "k,at,v,op\n1,1,1,U\n1,2,2,U\n2,1,1,U\n2,2,,D\n3,1,-1,U\n4,x,1,U\n"


def files_below(folder):
    return sorted(
        str(path) for path in (folder / ".headwater").rglob("*") if path.is_dir() or path.suffix == ".parquet"
    )


def test_dry_run_of_a_merged_table_equals_its_run_and_leaves_nothing(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "m"\ndefinitions = "m.py"\n')
    (tmp_path / "m.py").write_text(MERGED)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "1.csv").write_text(CHANGES)
    workspace = Workspace(load(tmp_path))

    _, commit = trial(workspace, full_spec(workspace, workspace.stored("state")))

    assert not [path for path in files_below(tmp_path) if "state" in path]
    [step] = Runner(load(tmp_path)).run().steps
    assert commit.flow == step.flow
    assert (step.flow.rows_out, step.flow.superseded, step.flow.deletes, step.flow.quarantined) == (1, 2, 1, 2)
    before = files_below(tmp_path)
    trial(workspace, full_spec(workspace, workspace.stored("state")))
    assert files_below(tmp_path) == before
    assert {step.decision for step in Runner(load(tmp_path)).run().steps} == {"skip"}


def test_estimate_contains_input_size_and_expected_rows(shop):
    Runner(load(shop), RunOptions()).run()
    workspace = Workspace(load(shop))

    expected = estimate(workspace, full_spec(workspace, workspace.stored("sales")))

    assert (expected.rows_in, expected.files, expected.files_in_all, expected.splits) == (4, 1, 1, 1)
    assert expected.rows_out is not None
    assert 0 < expected.task_bytes <= expected.memory_bytes
