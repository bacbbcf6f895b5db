"""How far the warehouse is behind the lake is a question of rows, not of version numbers."""

from __future__ import annotations

from pipeline.lake.compaction import MIN_FILES
from pipeline.project.freshness import freshness
from pipeline.project.maintenance import compact_table
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner

SHOP = """
from pipeline import files, source, sql
raw = source(files("data/*.csv"), schema={"id": "bigint"}, stored=False)
shown = sql("select id from raw", layer="gold")
"""


def test_a_compaction_does_not_make_the_warehouse_old(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "shop"\ndefinitions = "shop.py"\n')
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "data").mkdir()
    for number in range(MIN_FILES):
        (tmp_path / "data" / f"{number}.csv").write_text(f"id\n{number}\n")
        Runner(load(tmp_path), RunOptions()).run()
    workspace = Workspace(load(tmp_path))
    assert compact_table(workspace, "shown") is not None

    [shown] = freshness(workspace)

    assert (shown.state, shown.lake_version, shown.loaded_version, shown.behind_s) == (
        "current",
        MIN_FILES,
        MIN_FILES - 1,
        0.0,
    )
    (tmp_path / "data" / "more.csv").write_text("id\n7\n")
    Runner(load(tmp_path), RunOptions()).run()
    [shown] = freshness(Workspace(load(tmp_path)))
    assert (shown.state, shown.lake_version, shown.loaded_version) == ("current", MIN_FILES + 1, MIN_FILES + 1)
