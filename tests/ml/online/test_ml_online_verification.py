"""`headwater features verify` finds planted differences and names their cause."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from cluster.cli.app import app
from ml.features.materialization import store_of
from ml.features.online.row_versions import pack, unpack
from ml.features.online.store import StoredValue
from ml.features.verification import verify
from pipeline.core.errors import RequestError, StorageError
from pipeline.project import Workspace, load
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner

SHOP = """
from ml import feature_view, features, training_set
from pipeline import files, source

raw = source(files("rows/*.csv"), schema={"e": "bigint", "t": "timestamp", "known": "timestamp", "x": "double", "gone": "boolean"})
shown = feature_view("select e, t, known, x, gone from raw", entity="e", event_time="t", known_at="known",
                     deleted_when="gone", ttl="30000 days", online=True)
days = feature_view("select e, t::date as day, max(x) as most from raw group by all", entity="e", event_time="day",
                    ttl="30000 days", online=True)
other = feature_view("select e, t, x as y from raw", entity="e", event_time="t")
examples = training_set("select e as id, e, t, x as label from raw where gone is null", key="id", event_time="t",
                        features=[features("shown", strict=True), features("other")])
"""
HEAD = "e,t,known,x,gone\n"


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "shop"\ndefinitions = "shop.py"\n')
    (tmp_path / "shop.py").write_text(SHOP)
    put(
        tmp_path,
        "1",
        *(f"{e},2024-01-0{1 + e % 5},2024-01-0{1 + e % 5} 12:00,{e / 7},{'true' if e == 3 else ''}" for e in range(40)),
    )
    return tmp_path


def put(folder, name, *lines):
    (folder / "rows").mkdir(exist_ok=True)
    (folder / "rows" / f"{name}.csv").write_text(HEAD + "\n".join(lines) + "\n")


def run(folder, **options):
    Runner(load(folder), RunOptions(**options)).run()
    return Workspace(load(folder))


def change(workspace, key, edit):
    """Replace the versions of an entity in the store, as a defect would."""
    store = store_of(workspace.settings)
    state = store.states()["shown"]
    with closing(store), closing(store.begin("shown", state, state.generation)) as writer:
        stored = unpack([key], writer.get([key]))
        changed = edit(stored)
        writer.put({key: None if changed is None else StoredValue(pack(changed).values[0])})
        writer.commit(replace(state, written_at=state.written_at + 1))


def test_online_equals_offline_after_runs(shop):
    workspace = run(shop)
    assert [(v.view, v.entities, v.holds) for v in verify(workspace)] == [("shown", 40, True), ("days", 40, True)]
    assert [(v.view, v.entities, v.holds) for v in verify(workspace, ["examples"], 7)] == [("shown", 7, True)]
    put(
        shop,
        "2",
        "1,2023-12-31,2024-02-01,9,",
        "2,2024-02-01,2024-02-01,8,",
        "3,2024-02-01,2024-02-01,,",
        "90,2024-01-01,2024-01-01,nan,",
    )
    assert [(v.entities, v.holds, v.online_version) for v in verify(run(shop))] == [(41, True, 1), (41, True, 1)]


@pytest.mark.parametrize(
    ("cause", "edit"),
    [
        ("missing", lambda _: None),
        ("late", lambda s: s.set_column(2, "time", [[s["time"][0].as_py() - 1]])),
        ("value", lambda s: s.set_column(5, "row", [[s["row"][0].as_py()[:-8] + b"\1" * 8]])),
        ("missing", lambda s: s.set_column(4, "deleted", [[True]])),
        ("missing", lambda s: s.set_column(1, "available", [[1 << 60]])),
    ],
)
def test_planted_differences_are_found_with_their_cause(shop, cause, edit):
    workspace = run(shop)
    change(workspace, b"5", edit)
    (view,) = verify(workspace, ["shown"])
    assert (view.causes, view.examples[0].cause, view.examples[0].entity) == ({cause: 1}, cause, {"e": 5})
    assert view.examples[0].offline["x"] == pytest.approx(5 / 7)


def test_what_the_lake_does_not_show_is_extra(shop):
    workspace = run(shop)
    change(workspace, b"3", lambda s: s.set_column(4, "deleted", [[False]]).set_column(5, "row", [[b"\0" * 10]]))
    assert verify(workspace, ["shown"])[0].causes == {"extra": 1}


def test_a_store_that_is_behind_differs_by_version(shop):
    run(shop)
    put(shop, "2", "1,2024-02-01,2024-02-01,9,")
    workspace = run(shop, select=("raw", "shown"))
    with closing(sqlite3.connect(shop / ".headwater" / "features.db")) as con:
        count = con.execute("select count(*) from views").fetchone()
    assert count == (2,)
    (view,) = verify(workspace, ["shown"])
    assert view.holds
    put(shop, "3", "1,2024-03-01,2024-03-01,10,")
    text = SHOP.replace('ttl="30000 days", online=True)\ndays', 'ttl="30000 days")\ndays')
    (shop / "shop.py").write_text(text)
    run(shop)
    (shop / "shop.py").write_text(SHOP)
    (view,) = verify(Workspace(load(shop)), ["shown"])
    assert (view.causes, view.online_version, view.lake_version) == ({"version": 1}, 1, 2)


def test_the_command_exits_with_3_if_they_differ(shop):
    workspace = run(shop)
    words = ["features", "verify", "-C", str(shop)]
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, "shown: 40 entities, 0 differ; version 0 online, 0 in the lake" in result.output) == (
        0,
        True,
    )
    change(workspace, b"5", lambda _: None)
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 3
    (shown, _) = json.loads(result.output)
    assert (shown["holds"], shown["causes"], shown["examples"][0]["entity"]) == (False, {"missing": 1}, {"e": 5})
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, "1 missing" in result.output, "e=5" in result.output) == (3, True, True)


def test_what_cannot_be_compared_is_an_error(shop):
    workspace = run(shop)
    with pytest.raises(RequestError, match="'other' is neither an online feature view nor a training set"):
        verify(workspace, ["other"])
    (shop / ".headwater" / "features.db").unlink()
    with pytest.raises(StorageError, match="feature view 'shown' is not in the online store"):
        verify(workspace)
