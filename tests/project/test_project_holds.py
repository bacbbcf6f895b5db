"""Whoever vacuums a table, holds that nothing needs any more are released first; all others stay."""

from __future__ import annotations

from pipeline.lake.holds import Hold, holds, place_hold
from pipeline.project.maintenance import plan_vacuums, vacuum_table
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner

SHOP = """
from pipeline import generate, sink, source, to_online
raw = source(generate({"id": "i"}, count=3), schema={"id": "bigint"}, key="id")
newest = sink("raw", to=to_online(key="id"))
"""


def test_a_vacuum_releases_the_holds_of_what_is_gone(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "shop"\ndefinitions = "shop.py"\n')
    (tmp_path / "shop.py").write_text(SHOP)
    Runner(load(tmp_path), RunOptions()).run()
    workspace = Workspace(load(tmp_path))
    storage = workspace.table("raw").storage
    for act in (vacuum_table, plan_vacuums):
        for name in ("sink-gone", "sink-newest", "savepoint-gone", "restore-1", "model-late-1"):
            place_hold(storage, Hold(name, 0, "test"))

        act(workspace, "raw")

        # nothing in this project can tell which models are registered
        assert {hold.id for hold in holds(storage)} == {"sink-newest", "restore-1", "model-late-1"}
