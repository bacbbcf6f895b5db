"""`headwater doctor` reports the problems of a project and how to fix them; `headwater lake` removes old tables."""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
import subprocess

import pytest

from cluster.cli.doctor import _redis
from pipeline.core.settings import load as load_settings
from tests.rigs.command import BIN
from tests.rigs.refusing_store import Refusal, refusing_store
from tests.rigs.streams import VALKEY, started, valkey_program

DEFINITIONS = """\
from pathlib import Path

from pipeline import files, mart, source

rows = source(files(Path(__file__).parent / "data" / "*.csv"), schema={"id": "bigint"})
total = mart("select sum(id) as total from rows")
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "p"\ndefinitions = "p.py"\n')
    (tmp_path / "p.py").write_text(DEFINITIONS)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("id\n1\n2\n")
    return tmp_path


@pytest.fixture
def findings(headwater, project):
    """Run the doctor; return its findings as (what, state, detail), and its exit code."""

    def run(env=None):
        result = headwater("doctor", "--json", cwd=project, env=env)
        return [tuple(finding.values()) for finding in json.loads(result.stdout)], result.returncode

    return run


def of(results, what):
    return [(state, detail) for name, state, detail in results if name == what]


def test_project_without_problems(findings, headwater, project):
    headwater("run", cwd=project, check=0)
    results, code = findings()
    assert code == 0
    assert {state for name, state, _ in results if not name.startswith("extra")} == {"ok"}
    assert of(results, "source rows") == [("ok", f"{project}/data/*.csv: 1 file, 0.0 MB")]
    assert of(results, "tables") == [("ok", "2 of 2 exist and can be read")]
    assert of(results, "warehouse") == [("ok", f"{project}/.headwater/warehouse.duckdb: 1 table")]
    assert not (project / ".headwater" / "lake" / ".headwater-doctor").exists()


def test_missing_and_outdated_packages(project, tmp_path):
    """The package metadata on the path is read first."""
    for name, installed in (("polars", "0.1"), ("duckdb", "1.0")):
        folder = tmp_path / "site" / f"{name}-{installed}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {installed}\n")
    environ = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = [str(BIN / "headwater"), "doctor", "--json"]
    result = subprocess.run(command, cwd=project, env=environ, capture_output=True, text=True, check=False)
    details = {finding["what"]: (finding["state"], finding["detail"]) for finding in json.loads(result.stdout)}
    state, detail = details["packages"]
    assert (state, result.returncode) == ("bad", 1)
    assert re.search(r"^duckdb 1.0 is installed, <2.1,>=2.0 is required: .*pip install --upgrade headwater", detail)
    state, detail = details["extra polars"]
    assert state == "note"
    assert re.search(r"^polars 0.1 is installed, >=1.30 is required: pip install 'headwater\[polars\]'", detail)
    assert details["extra ml"] == ("ok", "installed")


@pytest.mark.proof
def test_ray_cluster_that_is_not_there(findings, project, headwater):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert of(findings({"RAY_ADDRESS": address})[0], "ray cluster") == [("ok", address)]
    results, code = findings({"RAY_ADDRESS": address})
    ((state, detail),) = of(results, "ray cluster")
    assert (state, code) == ("bad", 1)
    assert detail.startswith(f"the Ray cluster {address!r} cannot be reached: got ")
    environ = {"RAY_ADDRESS": address, "HEADWATER_EXECUTION": "ray"}
    result = headwater("run", cwd=project, env=environ, check=1)
    assert f"the Ray cluster {address!r} cannot be reached" in result.stderr
    assert "Traceback" not in result.stderr


def test_missing_empty_and_unreadable_data_files(findings, project):
    (project / "data" / "b.csv").write_text("")
    assert ("note", f"{project}/data/*.csv: empty: data/b.csv") in of(findings()[0], "source rows")
    (project / "data" / "a.csv").unlink()
    (project / "data" / "b.csv").unlink()
    results, code = findings()
    assert code == 1
    assert of(results, "source rows")[0][0] == "bad"
    assert "no file matches" in of(results, "source rows")[0][1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_data_file_without_read_permission(findings, project):
    (project / "data" / "a.csv").chmod(0)
    state, detail = of(findings()[0], "source rows")[1]
    assert (state, "cannot be read: data/a.csv" in detail) == ("bad", True)


@pytest.mark.proof
def test_outdated_warehouse_and_invalid_warehouse_file(findings, headwater, project):
    headwater("run", cwd=project, check=0)
    warehouse = project / ".headwater" / "warehouse.duckdb"
    before = warehouse.read_bytes()
    (project / "data" / "b.csv").write_text("id\n3\n")
    headwater("run", cwd=project, check=0)
    warehouse.write_bytes(before)
    detail = "older versions of total (0, the lake has 1): `headwater run` loads the newest"
    assert ("note", detail) in of(findings()[0], "warehouse")

    warehouse.write_bytes(b"no database " * 1000)
    results, code = findings()
    assert code == 1
    assert of(results, "warehouse")[0][0] == "bad"
    assert "cannot be used" in of(results, "warehouse")[0][1]
    assert "delete the file: the next run loads all tables from the lake again" in of(results, "warehouse")[0][1]
    assert of(results, "lake") == [("ok", f"{project}/.headwater/lake can be read and written")]


@pytest.mark.share(2)
@pytest.mark.parametrize(
    ("line", "what", "text"),
    [
        ('warehouse = "postgres://x"', "stores", "unsupported warehouse: got postgres://x"),
        ('warehouse = "/proc/none/x.duckdb"', "warehouse", "the folder of the warehouse .* cannot be written to"),
        ('models = "nothing://x"', "models", "the model store cannot be opened"),
        ('models = "http://127.0.0.1:1"', "models", "the model store cannot be reached"),
        ('models = "nothing://u@x:y"', "credentials", "'models' is not a URL"),
    ],
)
def test_unusable_stores(findings, project, line, what, text):
    with (project / "headwater.toml").open("a") as file:
        file.write(f"[env.dev]\n{line}\n")
    results, code = findings()
    assert code == 1
    assert any(state == "bad" and re.search(text, detail) for state, detail in of(results, what)), results


def test_model_store_of_a_project(findings, project):
    path = project / ".headwater" / "mlflow.db"
    assert of(findings()[0], "models") == [("ok", f"{path} does not exist yet: the first model creates it")]
    path.parent.mkdir(exist_ok=True)
    sqlite3.connect(path).close()
    path.touch()
    assert of(findings()[0], "models") == [("ok", "can be opened")]


def test_environments_that_share_a_store_are_found(findings, project):
    with (project / "headwater.toml").open("a") as file:
        file.write(
            '[env.dev]\n[env.alias]\ninline_bytes = 1\n[env.half]\nlake = "half/lake"\n'
            '[env.apart]\nlake = "a/lake"\nwarehouse = "a/w.duckdb"\ncatalog = "sqlite:///a/c.db"\n'
            'models = "sqlite:///a/m.db"\n[env.unset]\nlake = "${NOT_SET_HERE}"\n'
        )

    results, code = findings()

    assert code == 1
    (alias,), (half,), (unset,) = (of(results, f"environment {name}") for name in ("alias", "half", "unset"))
    assert alias[0] == "note"
    assert alias[1].startswith(
        "has the same lake, warehouse, catalog, models as dev, and each overwrites what the other"
    )
    assert half[0] == "bad"
    assert half[1].startswith("has the same warehouse, catalog, models as dev")
    assert unset[0] == "note"
    assert "NOT_SET_HERE" in unset[1]
    assert of(results, "environment apart") == []
    assert of(results, "environment dev") == []


def test_unwritable_temporary_folder(findings, project):
    (project / "file").write_text("no folder")
    results, code = findings({"HEADWATER_TMP": str(project / "file" / "tmp")})
    assert code == 1
    (finding,) = of(results, "temporary files")
    assert finding[0] == "bad"
    assert "set HEADWATER_TMP to a folder that can be written to" in finding[1]


def test_credentials_are_listed_without_their_values(findings, project):
    (project / "secret").write_text("hunter2")
    (project / "secret").chmod(0o644)
    with (project / "headwater.toml").open("a") as file:
        file.write('[env.dev]\nlake = "s3://nowhere/p"\n')
        file.write('catalog = "postgresql+psycopg://me:${file:secret}@127.0.0.1:1/db"\n')
        file.write('[env.dev.storage]\nAWS_ACCESS_KEY_ID = "${KEY}"\nAWS_SECRET_ACCESS_KEY = "${KEY}"\n')
        file.write('AWS_ENDPOINT_URL = "http://127.0.0.1:1"\nmax_retries = "0"\n')
    results, code = findings({"KEY": "AKIAPRIVATE"})
    assert code == 1
    assert of(results, "credentials of the lake") == [
        ("ok", "access key AKIA… of the options of the store, without a region")
    ]
    [(state, detail)] = of(results, "lake")
    assert state == "bad"
    assert re.search(r"the endpoint does not answer: got .*; check endpoint_url and the network", detail)
    assert of(results, "credentials of the catalog") == [("ok", "postgresql+psycopg://me:***@127.0.0.1:1/db")]
    assert of(results, "secret file") == [
        ("note", f"{project}/secret can be read by other users: chmod 600 {project}/secret")
    ]
    assert of(results, "lake")[0][0] == "bad"
    assert not any("hunter2" in detail or "PRIVATE" in detail for _, _, detail in results)


def test_renamed_table_is_reported_and_removed_on_request(findings, headwater, project):
    headwater("run", cwd=project, check=0)
    (project / "p.py").write_text(DEFINITIONS.replace("total =", "grand_total ="))
    headwater("run", cwd=project, check=0)
    ((state, detail),) = of(findings()[0], "table total")
    assert state == "note"
    assert detail.endswith("remove it with `headwater lake forget total`")

    refused = headwater("lake", "forget", "total", cwd=project)
    assert refused.returncode == 1
    assert "forgetting 'total' removes 1 row for good; confirm it with --yes" in refused.stderr
    headwater("lake", "forget", "total", "--yes", cwd=project, check=0)
    assert of(findings()[0], "table total") == []
    assert headwater("lake", "forgotten", cwd=project, check=0).stdout == "every table of the lake has a definition\n"


def test_the_cause_of_a_refusal_of_the_lake_is_named(findings, project):
    with refusing_store() as store, (project / "headwater.toml").open("a") as file:
        store.refusal = Refusal(400, "ExpiredToken", "The provided token has expired.")
        file.write('[env.dev]\nlake = "s3://acme/p"\n[env.dev.storage]\nregion = "eu-central-1"\n')
        file.write(f'AWS_ENDPOINT_URL = "{store.endpoint}"\nAWS_ALLOW_HTTP = "true"\nmax_retries = "0"\n')
        file.flush()
        results, code = findings({"AWS_ACCESS_KEY_ID": "ASIAPRIVATE", "AWS_SECRET_ACCESS_KEY": "s"})
    assert code == 1
    assert of(results, "credentials of the lake") == [("ok", "access key ASIA… of the environment, in eu-central-1")]
    [(state, detail)] = of(results, "lake")
    assert state == "bad"
    assert "the session token has expired; get new credentials" in detail


def test_the_server_that_replicas_share(findings, project):
    file = project / "headwater.toml"
    text = file.read_text()

    def settings(url, online=""):
        file.write_text(f'{text}[env.dev]\n{online}[env.dev.serve]\nredis_url = "{url}"\n')
        return load_settings(file)

    def check(*words):
        [found] = _redis(settings(*words))
        return found.state, re.split("[:,]", found.detail)[0]

    limited = ["--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru"]
    with started([valkey_program(), *VALKEY, *limited]) as server:
        url = f"redis://{server.host}:{server.port}"
        assert check(f"{url}/0") == ("ok", "answers; removes what is not needed by allkeys-lru")
        problem = "is that of the online store too"
        assert check(f"{url}/1", f'online = "{url}/0"\n') == ("note", problem)
    with started([valkey_program(), *VALKEY]) as server:
        assert check(f"redis://{server.host}:{server.port}/0") == ("note", "answers; set its maxmemory")
    settings("redis://127.0.0.1:1/0")
    results, code = findings()
    [(state, detail)] = of(results, "redis")
    assert (state, detail.partition(":")[0], code) == ("bad", "the Redis server does not answer", 1)
