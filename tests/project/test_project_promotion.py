"""Tables that were built in one environment are taken over by another, and equal what it would have computed."""

from __future__ import annotations

import json

import pytest

from pipeline.commit.moments import Moment
from pipeline.core.errors import ConflictError, RequestError, StorageError
from pipeline.lake import Storage, vacuum
from pipeline.lake.maintenance_claims import FOLDER as CLAIMS
from pipeline.project.environments import create
from pipeline.reprocessing.promotion import plan_promotion, promote
from tests.project.test_project_environments import FIRST, SECOND, SHOP, Project
from tests.project.test_project_environments import project as project  # noqa: PLC0414 - a fixture
from tests.rigs.command import environment

CHANGED = SHOP.replace("select id, k, v, at, v < 0", "select id, k, v * 10 as v, at, v < 0") + (
    'bigger = mart("select k, max(v) as v from latest group by k")\n'
)


def actions(project: Project) -> dict[str, tuple[str, str]]:
    return {each.table: (each.action, each.reason) for each in plan_promotion(project.at("dev"), project.at("prod"))}


@pytest.fixture
def changed(project):
    """A project whose changed definitions were run in dev, but not in prod."""
    project.put("a", FIRST)
    project.run("prod")
    create(project.at("dev"), project.at("prod"))
    (project.folder / "shop.py").write_text(CHANGED)
    project.run("dev")
    return project


def test_what_was_built_is_taken_over(changed):
    assert actions(changed) == {
        "latest": ("promote", "version 1 has the same inputs"),
        "dim_k": ("unchanged", "the current definition built it"),
        "total": ("promote", "version 1 has the same inputs"),
        "bigger": ("promote", "version 0 has the same inputs"),
    }
    promote(changed.at("dev"), changed.at("prod"), plan_promotion(changed.at("dev"), changed.at("prod")))

    assert {action for action, _ in actions(changed).values()} == {"unchanged"}
    assert set(changed.run("prod").values()) == {"skip"}
    assert changed.rows("prod") == changed.rows("dev")
    prod = changed.at("prod")
    quarantined = prod.lake.rows(prod.lake.quarantine("latest")).num_rows
    assert quarantined == 1
    with prod.warehouse.read() as con:
        assert con.execute("select count(*) from bigger").fetchone() == (2,)


def test_later_runs_go_on_and_equal_a_recomputation(changed):
    promote(changed.at("dev"), changed.at("prod"), plan_promotion(changed.at("dev"), changed.at("prod")))
    changed.put("b", SECOND + "4,a,9,2025-12-31\n")  # older than its delete

    changed.run("prod")

    grown = changed.rows("prod")
    changed.run("prod", full=True)
    assert changed.rows("prod") == grown
    assert len(grown["latest"]) == 3


def test_tables_with_other_inputs_are_left_to_a_run(changed):
    changed.put("b", SECOND)
    changed.run("prod", select=("raw",))

    assert actions(changed) == {
        "latest": ("build", "its input 'raw' has other rows here"),
        "dim_k": ("unchanged", "the current definition built it"),
        "total": ("unchanged", "the current definition built it"),
        "bigger": ("build", "its input 'latest' has other rows here"),
    }


def test_tables_of_other_definitions_are_left_to_a_run(changed):
    (changed.folder / "shop.py").write_text(CHANGED.replace("* 10", "* 11"))

    assert actions(changed)["latest"] == ("build", "another definition built it there")
    changed.at("dev").table("bigger").storage.clear()
    assert actions(changed)["bigger"] == ("build", "it was not built there")


def test_an_interrupted_promotion_is_completed_by_the_next(changed, monkeypatch):
    copy, calls = Storage.copy, []

    def failing(self, source, name, target=None):
        calls.append(name)
        if len(calls) > 2:
            raise StorageError("the disk is full")
        copy(self, source, name, target)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "copy", failing)
        with pytest.raises(StorageError, match="the disk is full"):
            promote(changed.at("dev"), changed.at("prod"), plan_promotion(changed.at("dev"), changed.at("prod")))

    promote(changed.at("dev"), changed.at("prod"), plan_promotion(changed.at("dev"), changed.at("prod")))
    assert set(changed.run("prod").values()) == {"skip"}
    assert changed.rows("prod") == changed.rows("dev")


def test_no_vacuum_removes_what_is_being_taken_over(changed):
    """A file that is here already, of a version that nobody can read any more, would be missing after the commit."""
    prod, refused = changed.at("prod"), []

    def vacuum_beside(moment: Moment, name: str) -> None:
        if moment is Moment.STAGED:
            for table in (prod.table(name), prod.lake.quarantine(name)):
                try:
                    vacuum(table)
                except ConflictError:
                    refused.append((name, table.is_quarantine))

    promote(changed.at("dev"), prod, plan_promotion(changed.at("dev"), prod), reached=vacuum_beside)
    assert refused == [("latest", False), ("latest", True), ("total", False)]
    for name in ("latest", "total"):
        assert prod.table(name).storage.names(CLAIMS) == ()
    assert changed.rows("prod") == changed.rows("dev")


SINCE_THE_PLAN = {
    # what happens between plan and promotion: the environment and tables of the run, and what the error names
    "an input here grew": ("prod", ("raw",), "'raw' in environment 'prod'"),
    "the table here was computed": ("prod", ("raw", "latest"), "'latest' in environment 'prod'"),
    "the table there goes on": ("dev", ("raw", "latest"), "'latest' in environment 'dev'"),
}


@pytest.mark.parametrize("beside", [*SINCE_THE_PLAN, "during"])
def test_only_what_was_planned_is_promoted(tmp_path, beside):
    """Otherwise the consumed versions would not be those that the rows were computed from, and no run would notice."""
    changed = Project(tmp_path / "p", "prod/lake", "dev/lake")
    changed.put("a", FIRST)
    changed.run("prod")
    create(changed.at("dev"), changed.at("prod"))
    (changed.folder / "shop.py").write_text(CHANGED)
    changed.run("dev")
    built, to = changed.at("dev"), changed.at("prod")
    plan = plan_promotion(built, to)
    env, select, where = SINCE_THE_PLAN.get(beside, ("dev", ("raw", "latest"), "'latest' in environment 'dev'"))

    def run_beside(moment: Moment | None = None, name: str = "latest") -> None:
        if (moment, name) == (Moment.STAGED if beside == "during" else None, "latest"):
            changed.put("b", SECOND)
            changed.run(env, select=select)

    if beside != "during":
        run_beside()
    before = changed.at("prod").require("latest").manifest_id
    with pytest.raises(ConflictError, match=f"another process has committed {where} since the promotion was planned"):
        promote(built, to, plan, reached=run_beside)

    assert changed.at("prod").require("latest").manifest_id == before
    promote(changed.at("dev"), changed.at("prod"), plan_promotion(changed.at("dev"), changed.at("prod")))
    changed.run("prod")
    rows = changed.rows("prod")
    changed.run("prod", full=True)
    assert changed.rows("prod") == rows


def test_a_commit_since_the_plan_is_a_conflict(tmp_path):
    project = Project(tmp_path / "p", "prod/lake", "dev/lake")
    project.put("a", FIRST)
    project.run("prod")
    create(project.at("dev"), project.at("prod"))
    (project.folder / "shop.py").write_text(CHANGED)
    project.run("dev")
    plan = plan_promotion(project.at("dev"), project.at("prod"))

    def run_beside(moment: Moment, name: str) -> None:
        if (moment, name) == (Moment.STAGED, "latest"):
            project.run("prod")

    with pytest.raises(ConflictError, match="another process has committed 'latest' in environment 'prod'"):
        promote(project.at("dev"), project.at("prod"), plan, reached=run_beside)
    assert project.rows("prod") == project.rows("dev")  # what the run computed


def test_an_environment_is_not_promoted_to_itself(tmp_path):
    project = Project(tmp_path / "p", "lake", "dev/lake")
    with pytest.raises(RequestError, match="an environment cannot be promoted to itself: got prod; name another one"):
        plan_promotion(project.at("prod"), project.at("prod"))


def test_the_command_shows_first_and_promotes_with_yes(tmp_path, headwater_command):
    project = Project(tmp_path / "p", "prod/lake", "dev/lake")
    project.put("a", FIRST)
    project.run("prod")
    create(project.at("dev"), project.at("prod"))
    (project.folder / "shop.py").write_text(CHANGED)
    project.run("dev")

    def promote_(*words: str) -> str:
        words = ("env", "promote", "dev", "--to", "prod", *words)
        return headwater_command.run(*words, cwd=project.folder, env=environment(), timeout=60).stdout

    assert promote_().splitlines()[-1] == "nothing was changed; promote 3 tables with --yes"
    assert {each["action"] for each in json.loads(promote_("--json"))} == {"promote", "unchanged"}
    assert "promoted 3 tables" in promote_("--yes")
    assert {each["action"] for each in json.loads(promote_("--json"))} == {"unchanged"}
