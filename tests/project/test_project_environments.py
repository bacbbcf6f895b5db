"""Environments that are created from another: what they have, what they share, and that they are apart."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path

import pytest

from pipeline.core import settings
from pipeline.core.errors import ConflictError, RequestError, StorageError
from pipeline.governance import Leases, this_process
from pipeline.lake import Storage
from pipeline.project.environments import create, created_from, require_apart
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from pipeline.streaming.runtime.job import StreamJob, StreamJobOptions
from pipeline.streaming.runtime.verify import verify
from tests.rigs.command import environment
from tests.streaming.runtime.conftest import FAST

TOML = """
[project]
name = "shop"
definitions = "shop.py"
[env.prod]
lake = {prod!r}
warehouse = "prod/warehouse.duckdb"
catalog = "sqlite:///prod/catalog.db"
models = "sqlite:///prod/mlflow.db"
{storage}
[env.dev]
lake = {dev!r}
warehouse = "dev/warehouse.duckdb"
catalog = "sqlite:///dev/catalog.db"
models = "sqlite:///dev/mlflow.db"
{storage_dev}
"""
SHOP = """
from pipeline import dimension, files, mart, quarantine, source, sql
raw = source(files("data/*.csv"), schema={"id": "bigint", "k": "varchar", "v": "bigint", "at": "timestamp"})
latest = sql("select id, k, v, at, v < 0 as is_gone from raw", key="id", sequence_by="at", apply_as_deletes="is_gone",
             expect=[quarantine("known", "k <> 'x'")], partition_by="k")
dim_k = dimension("select k, v as last, at from raw", key="k", stored_as_scd_type=2, sequence_by="at")
total = mart("select k, sum(v) as v from latest group by k")
"""
FIRST = "id,k,v,at\n1,a,1,2026-01-01\n2,b,2,2026-01-01\n3,x,3,2026-01-01\n4,a,-1,2026-01-01\n"
SECOND = "id,k,v,at\n1,a,5,2026-01-02\n5,b,7,2026-01-02\n"


class Project:
    def __init__(self, folder: Path, prod: str, dev: str, storage: str = "") -> None:
        self.folder = folder
        (folder / "data").mkdir(parents=True)
        section = {name: f"[env.{name}.storage]\n{storage}" if storage else "" for name in ("prod", "dev")}
        text = TOML.format(prod=prod, dev=dev, storage=section["prod"], storage_dev=section["dev"])
        (folder / "headwater.toml").write_text(text)
        (folder / "shop.py").write_text(SHOP)

    def at(self, env: str) -> Workspace:
        return Workspace(load(self.folder, env=env))

    def put(self, name: str, text: str) -> None:
        (self.folder / "data" / f"{name}.csv").write_text(text)

    def run(self, env: str, **options) -> dict[str, str]:
        outcome = Runner(load(self.folder, env=env), RunOptions(**options)).run()
        assert outcome.status == "done"
        return {step.name: step.decision for step in outcome.steps}

    def rows(self, env: str) -> dict[str, list[str]]:
        workspace = self.at(env)
        return {
            name: sorted(map(str, workspace.query(f"select * exclude (_ingested_at) from {name}").to_pylist()))
            if name == "raw"
            else sorted(map(str, workspace.query(f"select * from {name}").to_pylist()))
            for name in workspace.table_names
        }


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.proof)])
def project(request, tmp_path):
    if request.param == "local":
        return Project(tmp_path / "p", "prod/lake", "dev/lake")
    s3 = request.getfixturevalue("s3")
    place, storage = uuid.uuid4().hex, s3.storage("")
    options = "\n".join(
        f"{name} = {json.dumps(value)}" for name, value in storage.options.items() if "SECRET" not in name
    )
    request.getfixturevalue("monkeypatch").setenv("S3_SECRET", storage.options["AWS_SECRET_ACCESS_KEY"])
    options += '\nAWS_SECRET_ACCESS_KEY = "${S3_SECRET}"'
    return Project(tmp_path / "p", f"{s3.storage(place).uri}/prod", f"{s3.storage(place).uri}/dev", options)


def test_an_environment_goes_on_where_the_other_was(project):
    project.put("a", FIRST)
    project.run("prod")

    made = create(project.at("dev"), project.at("prod"))

    assert (made.base, list(made.tables)) == ("prod", ["raw", "latest", "dim_k", "total"])
    assert created_from(project.at("dev")) == made
    assert set(project.run("dev").values()) == {"skip"}
    before = project.rows("prod")
    assert project.rows("dev") == before
    project.put("b", SECOND)
    assert project.run("dev")["raw"] == "append"
    assert project.run("dev")["latest"] == "skip"
    assert project.rows("prod") == before
    grown = project.rows("dev")
    project.run("dev", full=True)
    assert project.rows("dev") == grown
    project.run("prod")
    assert project.rows("prod") == grown


def test_files_are_shared_on_one_disk(tmp_path):
    project = Project(tmp_path / "p", "prod/lake", "dev/lake")
    project.put("a", FIRST)
    project.run("prod")
    create(project.at("dev"), project.at("prod"))

    files = {path.name: path for path in (project.folder / "prod" / "lake" / "silver").rglob("part-*.parquet")}
    clones = {path.name: path for path in (project.folder / "dev" / "lake" / "silver").rglob("part-*.parquet")}

    assert files.keys() == clones.keys()
    assert all(path.samefile(clones[name]) for name, path in files.items())


def test_what_one_removes_the_other_keeps(tmp_path):
    project = Project(tmp_path / "p", "prod/lake", "dev/lake")
    project.put("a", FIRST)
    project.run("prod")
    create(project.at("dev"), project.at("prod"))
    expected = project.rows("dev")

    for path in sorted((project.folder / "prod").rglob("*.parquet")):
        path.unlink()

    assert project.rows("dev") == expected


@pytest.mark.share(1)
@pytest.mark.parametrize("limit", [1, 5, 9, 14, 20])
def test_an_interrupted_clone_cannot_be_read_and_is_completed(tmp_path, monkeypatch, limit):
    project = Project(tmp_path / "p", "prod/lake", "dev/lake")
    for number in range(3):
        project.put(f"f{number}", f"id,k,v,at\n{number},a,1,2026-01-0{number + 1}\n")
        project.run("prod")
    expected, copy, calls = project.rows("prod"), Storage.copy, []

    def failing(self, source, name):
        calls.append(name)
        if len(calls) > limit:
            raise StorageError("the disk is full")
        copy(self, source, name)

    monkeypatch.setattr(Storage, "copy", failing)
    with pytest.raises(StorageError, match="the disk is full"):
        create(project.at("dev"), project.at("prod"))
    monkeypatch.undo()
    assert created_from(project.at("dev")) is None
    workspace = project.at("dev")
    for name in workspace.table_names:
        try:
            version = workspace.version(name)
        except StorageError:
            continue
        assert version is None or version.number == project.at("prod").version(name).number

    with pytest.raises(
        RequestError, match=r"environment 'dev' has tables already: got .*; replace them with --replace"
    ):
        create(project.at("dev"), project.at("prod"))
    create(project.at("dev"), project.at("prod"), replace=True)
    assert project.rows("dev") == expected


SHARED = {
    # the settings of prod and of dev, and what the error names
    "the defaults": ("", 'lake = "dev"', "warehouse, catalog, models"),
    "one lake inside the other": (
        'lake = "lake"',
        'lake = "lake/dev"\nwarehouse = "d/w"\ncatalog = "sqlite:///d/c"\nmodels = "sqlite:///d/m"',
        "lake",
    ),
    "written in two ways": (
        'warehouse = "p/w.duckdb"\ncatalog = "sqlite:///p/c"\nmodels = "http://host/m"',
        'lake = "dev"\nwarehouse = "duckdb://{root}/p/../p/w.duckdb"\ncatalog = "sqlite:///{root}/p/c"\nmodels = "http://HOST/m/"',
        "warehouse, catalog, models",
    ),
    "by another user": (
        'catalog = "postgresql+psycopg://a@db/h"\nmodels = "sqlite:///p/m"',
        'lake = "dev"\nwarehouse = "d/w"\ncatalog = "postgresql://b@db/h"\nmodels = "sqlite:///d/m"',
        "catalog",
    ),
    "one schema of an account": (
        'warehouse = "snowflake://a@x/DB/S?role=A"\ncatalog = "postgresql://db/h?options=-csearch_path=p"\nmodels = "sqlite:///p/m"',
        'lake = "dev"\nwarehouse = "snowflake://b@x/DB/S?role=B"\ncatalog = "postgresql://db/h?options=-csearch_path=d"',
        "warehouse",
    ),
}


@pytest.mark.parametrize("case", SHARED)
def test_environments_share_nothing_that_they_write(tmp_path, case):
    """A run of dev would replace the tables in prod's warehouse, and the champions of its models."""
    prod, dev, names = SHARED[case]
    text = f'[project]\nname = "p"\ndefinitions = "shop.py"\n[env.prod]\n{prod}\n[env.dev]\n{dev}\n'
    (tmp_path / "headwater.toml").write_text(text.replace("{root}", str(tmp_path)))
    own, base = (settings.load(tmp_path / "headwater.toml", env=env, environ={}) for env in ("dev", "prod"))

    with pytest.raises(
        RequestError, match="environments 'dev' and 'prod' would overwrite what the other writes"
    ) as raised:
        require_apart(own, base)

    assert tuple(re.findall(r"`(\w+)`", raised.value.do)) == tuple(names.split(", "))
    assert not {"a@", "b@", "role"} & set(re.findall(r"a@|b@|role", str(raised.value)))


def test_a_clone_replaces_no_tables_that_a_stream_writes(tmp_path):
    project = Project(tmp_path / "p", "prod/lake", "dev/lake")
    (project.folder / "shop.py").write_text(STREAM)
    (project.folder / "clicks").mkdir()
    (project.folder / "clicks" / "a.csv").write_text("at,k\n2026-01-01,a\n")
    stream(project.at("prod"))
    create(project.at("dev"), project.at("prod"))
    leases, me = Leases(project.at("dev").catalog), this_process()
    leases.acquire("counts", me)

    with pytest.raises(ConflictError, match="stream 'counts' is already running"):
        create(project.at("dev"), project.at("prod"), replace=True)

    assert project.rows("dev") == project.rows("prod")
    leases.release("counts", me, {})
    create(project.at("dev"), project.at("prod"), replace=True)
    assert project.rows("dev") == project.rows("prod")
    stream(project.at("dev"))


def test_commands_create_and_list(tmp_path, headwater_command):
    project = Project(tmp_path / "p", "prod/lake", "dev/lake")
    project.put("a", FIRST)
    project.run("prod")

    def env(*words: str):
        return headwater_command.run("env", *words, cwd=project.folder, env=environment(), timeout=60)

    done = env("create", "dev", "--from", "prod")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "dev has 4 tables of prod")
    listed = json.loads(env("ls", "--json").stdout)
    assert [(row["environment"], row["base"], row["tables"]) for row in listed] == [
        ("prod", "", None),
        ("dev", "prod", 4),
    ]
    assert "environment 'dev' has tables already" in env("create", "dev", "--from", "prod").stderr
    assert "there is no environment 'test'" in env("create", "test", "--from", "prod").stderr


STREAM = """
from pipeline import files, source, sql
clicks = source(files("clicks/*.csv"), schema={"at": "timestamp", "k": "varchar"}, event_time="at", stored=False)
counts = sql("select k, count(*) as n from clicks group by k", key="k")
"""


def stream(workspace: Workspace) -> None:
    StreamJob(workspace, StreamJobOptions(until_caught_up=True, stream_options=FAST)).run()


def test_a_stream_goes_on_with_its_state(tmp_path):
    project = Project(tmp_path / "p", "prod/lake", "dev/lake")
    (project.folder / "shop.py").write_text(STREAM)
    (project.folder / "clicks").mkdir()
    (project.folder / "clicks" / "a.csv").write_text("at,k\n2026-01-01,a\n2026-01-01,b\n2026-01-01,a\n")
    stream(project.at("prod"))
    create(project.at("dev"), project.at("prod"))
    (project.folder / "clicks" / "b.csv").write_text("at,k\n2026-01-02,a\n")

    stream(project.at("dev"))

    counts = "select k, n from counts order by k"
    assert [tuple(row.values()) for row in project.at("dev").query(counts).to_pylist()] == [("a", 3), ("b", 1)]
    assert [tuple(row.values()) for row in project.at("prod").query(counts).to_pylist()] == [("a", 2), ("b", 1)]
    assert verify(project.at("dev"), "counts").holds
