"""Where the rows of a source come from, as `headwater lineage` shows it."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from cluster.cli.app import app
from pipeline.project.origins import origins
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.runner.runner import Runner
from tests.runner.conftest import TOML


def test_lineage_begins_at_the_systems(tmp_path):
    (tmp_path / "headwater.toml").write_text(TOML)
    (tmp_path / "data").mkdir()
    for name in ("a", "b"):
        (tmp_path / "data" / f"{name}.csv").write_text("id,v\n1,2\n")
    (tmp_path / "shop.py").write_text(
        "from pipeline import files, generate, source, sql\n"
        'raw = source(files("data/*.csv"), owner="sales")\n'
        'made = source(generate({"id": "i"}, count=3), schema={"id": "bigint"})\n'
        'kept = sql("select raw.id from raw join made using (id)")\n'
    )
    workspace = Workspace(load(tmp_path))
    assert origins(workspace, workspace.project.graph["raw"]) == ()

    Runner(load(tmp_path)).run()

    words = ["-C", str(tmp_path)]
    found = json.loads(CliRunner().invoke(app, ["lineage", "kept", "--json", *words]).stdout)["origins"]
    (files,) = found["raw"]
    assert (files["columns"], files["owner"]) == (["id", "v"], "sales")
    assert [path.rpartition("/")[2] for path in files["objects"]] == ["a.csv", "b.csv"]
    assert found["made"][0]["system"] == "generator"
    shown = CliRunner().invoke(app, ["lineage", "kept", *words]).stdout.replace("\n", "")
    assert "owner sales" in shown
    assert json.loads(CliRunner().invoke(app, ["lineage", "raw", "--json", *words]).stdout)["origins"].keys() == {"raw"}
