"""Labels that come late, and are corrected, in a project."""

from __future__ import annotations

import pytest

from pipeline.project import Workspace, load
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner

PROJECT = """
from ml import performance
from pipeline import files, source, sql

scores = source(files("scores/*.csv"), schema={"id": "bigint", "at": "timestamp", "score": "double"})
labels = source(files("labels/*.csv"), schema={"id": "bigint", "known_at": "timestamp", "late": "boolean"})
last_labels = sql("select * from labels", key="id", sequence_by="known_at")
labelled = sql("select s.*, l.late from scores s left join last_labels l using (id)")
quality = performance(
    of="labelled", time="at", prediction="score", label="late", metric="accuracy", at_least=0.7, maturity=0.8
)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\ndefinitions = "shop.py"\n')
    (tmp_path / "shop.py").write_text(PROJECT)
    rows = "".join(f"{i},2026-01-01 10:00,{0.9 if i % 2 else 0.1}\n" for i in range(1000))
    put(tmp_path, "scores", "1", f"id,at,score\n{rows}")
    return tmp_path


def put(folder, kind, name, text):
    (folder / kind).mkdir(exist_ok=True)
    (folder / kind / f"{name}.csv").write_text(text)


def label(folder, name, ids, late, at="2026-01-02 00:00"):
    put(folder, "labels", name, "id,known_at,late\n" + "".join(f"{i},{at},{i in late}\n" for i in ids))


def measured(folder, version=None):
    """Run the project, and return the window's share of labels, accuracy and state; or those of an older version."""
    if version is None:
        Runner(load(folder), RunOptions()).run()
    workspace = Workspace(load(folder))
    at = None if version is None else workspace.as_of([f"quality={version}"])
    (row,) = workspace.query(
        "select labelled_share, accuracy, state, expected_accuracy from quality", at=at
    ).to_pylist()
    return row["labelled_share"], row["accuracy"], row["state"], row["expected_accuracy"]


def test_a_window_is_judged_when_its_labels_are_there_and_again_when_they_are_corrected(folder):
    label(folder, "1", range(0, 1000, 2), [])  # the negative ones come first
    assert measured(folder)[:3] == (0.5, 1.0, "not judged")
    assert measured(folder)[3] == pytest.approx(0.9)  # by the scores

    label(folder, "2", range(1, 1000, 2), range(1, 1000, 4))
    assert measured(folder)[:3] == (1.0, 0.75, "quiet")

    label(folder, "3", range(1, 400, 2), [], at="2026-01-03 00:00")
    label(folder, "4", range(1, 400, 2), range(1, 400), at="2026-01-01 00:00")  # older than what is known
    share, accuracy, state, _ = measured(folder)
    assert (share, state) == (1.0, "suspected")
    assert accuracy == pytest.approx(0.65)
    workspace = Workspace(load(folder))
    versions = [m.version for m in workspace.catalog.versions("quality")]
    assert [measured(folder, v)[1] for v in sorted(versions)] == [1.0, 0.75, pytest.approx(0.65)]
