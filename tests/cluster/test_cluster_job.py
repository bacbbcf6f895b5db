"""Jobs on a local cluster with a token: `ray job submit`, `headwater submit`, and nodes that come and go with the work."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
import zipfile
from dataclasses import asdict

import pytest
from ray._private.runtime_env.packaging import create_package, get_uri_for_directory

from cluster.jobs import NOT_SENT, JobRequest, require_startable, special_files
from cluster.local.head import LocalNodes, start, stop
from cluster.local.nodes import temporary
from pipeline.core.settings import load
from tests.rigs.command import BIN
from tests.rigs.command import environment as command_environment

pytestmark = [pytest.mark.ray, pytest.mark.timeout(280)]

SLOW = """
import time
from pathlib import Path
import pyarrow as pa
from pipeline import files, source, table

raw = source(files("raw.csv"), schema={"id": "bigint"})


def _slowly(rows: pa.Table) -> pa.Table:
    until = time.monotonic() + 120
    while not Path("GO").exists() and time.monotonic() < until:
        time.sleep(0.1)
    return rows


@table()
def first(raw: pa.Table) -> pa.Table:
    return _slowly(raw)


@table()
def second(raw: pa.Table) -> pa.Table:
    return _slowly(raw)


@table()
def third(raw: pa.Table) -> pa.Table:
    return _slowly(raw)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A local cluster of one to three nodes with one core each, on loopback."""
    folder = tmp_path_factory.mktemp("cluster")
    yield start(folder, LocalNodes(least=1, most=3, idle_s=15.0))
    assert stop(folder)


def test_a_project_runs_as_a_job(headwater, teashop, cluster, tmp_path):
    lake, catalog = tmp_path / "lake", f"sqlite:///{tmp_path}/catalog.db"
    variables = {
        "HEADWATER_LAKE": str(lake),
        "HEADWATER_CATALOG": catalog,
        "HEADWATER_WAREHOUSE": str(tmp_path / "warehouse.duckdb"),
        "HEADWATER_EXECUTION": "ray",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    environment = json.dumps({"env_vars": variables})
    process = submit(teashop, cluster, "--runtime-env-json", environment, "--", "headwater", "run")
    assert process.returncode == 0, process.stdout + process.stderr
    assert "3 done, 0 up to date" in process.stdout
    run = json.loads(headwater("show", "--json", cwd=teashop, env=variables, check=0).stdout)
    assert {step["name"]: step["executor"] for step in run["steps"]} == dict.fromkeys(
        ("raw_orders", "orders", "sales_by_day"), "ray"
    )
    rows = json.loads(headwater("query", "from sales_by_day order by day", "--json", cwd=teashop, env=variables).stdout)
    assert [row["orders"] for row in rows] == [2, 2, 1]

    words = [word for name, value in variables.items() for word in ("--var", f"{name}={value}")]
    again = headwater("submit", "--wait", *words, "run", cwd=teashop, env=cluster.environ, check=0)
    assert "nothing new: all 3 are up to date" in again.stdout
    assert "job teashop-run-" in again.stderr
    failed = headwater("submit", "--wait", *words, "query", "from nothing", cwd=teashop, env=cluster.environ)
    assert failed.returncode == 1
    assert "there is no table 'nothing'" in failed.stdout
    assert failed.stderr.strip().endswith("failed: Job entrypoint command failed with exit code 1")


def test_usage_errors_of_submit_are_a_single_message(headwater, teashop):
    for words, message in (
        (("submit", "rum"), "there is no command 'rum'; did you mean 'run'?"),
        (("submit", "run"), "the address of the cluster is not known; pass --address http://HOST:8265, or set"),
        (("submit", "--address", "127.0.0.1:8265", "run"), "not an address of the Jobs API: got 127.0.0.1:8265"),
        (("submit", "--address", "http://[::1", "run"), "not an address of the Jobs API: got http://[::1"),
        (("submit", "--address", "http://head:nonsense", "run"), "not an address of the Jobs API"),
        (
            ("cluster", "status", "--address", "nonsense"),
            "not the address of a cluster: got 'nonsense'; pass --address",
        ),
        (
            ("cluster", "status", "--address", "http://127.0.0.1:1"),
            "not the address of a cluster: got 'http://127.0.0.1:1'",
        ),
        (("submit", "--address", "http://127.0.0.1:1", "run"), "the cluster http://127.0.0.1:1 cannot be reached"),
        (("submit", "--address", "http://127.0.0.1:1", "--var", "x", "run"), "--var needs NAME=VALUE: got 'x'"),
        (("submit", "--address", "http://127.0.0.1:1", "--var", "PATH=/x", "run"), "a job cannot start with this PATH"),
        (("submit", "--address", "http://127.0.0.1:1", "--var", "PYTHONHOME=/x", "run"), "a job cannot set PYTHONHOME"),
        (("submit", "--address", "http://10.0.0.1:8265", "run"), "cannot be used by a cluster on other machines"),
    ):
        process = headwater(*words, cwd=teashop, env={"RAY_API_SERVER_ADDRESS": ""})
        assert process.returncode == 1, words
        assert message in " ".join(process.stderr.split()), process.stderr


def test_a_project_that_is_too_large_for_a_job_names_its_largest_files(headwater, teashop, cluster):
    with (teashop / "large.bin").open("wb") as file:
        file.truncate(101 << 20)
    process = headwater("submit", "ls", cwd=teashop, env=cluster.environ, check=1)
    assert process.stderr.startswith("error: the files of the project are too large for the cluster")
    assert "got 105.9 MB, with large.bin (105.9 MB), " in process.stderr
    assert "exclude files with a .rayignore" in process.stderr
    (teashop / ".rayignore").write_text("large.bin\n")
    assert headwater("submit", "ls", cwd=teashop, env=cluster.environ, check=0).stdout.startswith("submitted")


@pytest.mark.proof
def test_the_commands_that_are_printed_for_a_job_work(headwater, teashop, cluster):
    folder = teashop / ".headwater" / "cluster"
    folder.mkdir(parents=True)
    (folder / "cluster.json").write_text(json.dumps(asdict(cluster)))
    environment = {"RAY_ADDRESS": "", "RAY_API_SERVER_ADDRESS": ""}
    process = headwater("submit", "ls", cwd=teashop, env=environment, check=0)
    job = process.stdout.removeprefix("submitted ").strip()
    commands = [line.partition(":")[2].strip() for line in process.stderr.splitlines()]
    assert [line.partition(":")[0] for line in process.stderr.splitlines()] == [
        *("before Ray's commands", "output", "status", "stop")
    ]
    script = "\n".join(["set -e", *commands])
    ran = subprocess.run(
        ["bash", "-c", script],
        cwd=teashop,
        env=command_environment(environment),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "sales_by_day" in ran.stdout
    assert f"Job '{job}' succeeded" in ran.stdout + ran.stderr


def test_a_missing_token_is_named(headwater, teashop, cluster):
    environment = {"RAY_ADDRESS": cluster.address, "RAY_AUTH_MODE": "disabled", "HEADWATER_EXECUTION": "ray"}
    for words in (("run",), ("cluster", "status"), ("submit", "--address", cluster.jobs, "run")):
        start = time.monotonic()
        process = headwater(*words, cwd=teashop, env=environment, check=1)
        assert "did not accept the token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN" in process.stderr
        assert time.monotonic() - start < 15


def test_the_command_is_checked_before_it_is_submitted(headwater, teashop):
    for words, message in (
        (("run", "--var"), "No such option: --var"),
        (("show", "a", "b"), "Got unexpected extra argument"),
        (("streams", "savepoint", "clicks", "--nonsense"), "No such option: --nonsense"),
        (("streams", "nonsense"), "No such command 'nonsense'"),
    ):
        process = headwater("submit", "--address", "http://127.0.0.1:1", *words, cwd=teashop, check=2)
        assert message in process.stderr, process.stderr
    for words in (("run", "--full", "--select", "a"), ("streams", "savepoint", "clicks"), ("streams",)):
        process = headwater("submit", "--address", "http://127.0.0.1:1", *words, cwd=teashop, check=1)
        assert "cannot be reached" in process.stderr, process.stderr


def test_a_job_that_is_waited_for_prints_json(headwater, teashop, cluster):
    process = headwater("submit", "--wait", "--json", "ls", cwd=teashop, env=cluster.environ, check=0)
    assert json.loads(process.stdout)["status"] == "SUCCEEDED"
    assert "sales_by_day" in process.stderr


@pytest.mark.timeout(20)
def test_special_files_of_a_project_are_not_sent(tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("pipe", "data/a [1]*.pipe"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "broken").symlink_to("missing")
    (tmp_path / "kept.csv").write_text("id\n1\n")
    excludes = [*NOT_SENT, *special_files(tmp_path)]
    get_uri_for_directory(str(tmp_path), include_gitignore=True, excludes=excludes)  # reads all files
    create_package(str(tmp_path), tmp_path.parent / "package.zip", include_gitignore=True, excludes=excludes)
    with zipfile.ZipFile(tmp_path.parent / "package.zip") as package:
        assert package.namelist() == ["kept.csv"]


@pytest.mark.parametrize("path", ["/x:${PATH}", "/x:/usr/bin", "$PATH"])
def test_a_path_with_the_commands_of_the_system_is_accepted(path):
    assert require_startable({"PATH": path}) is None


def test_the_report_of_a_job_is_in_the_folder_of_the_project(headwater, teashop, tmp_path):
    copy = tmp_path / "_ray_pkg_0123456789abcdef"
    shutil.copytree(teashop, copy)
    request = JobRequest(load(teashop / "headwater.toml"), ["run"])
    variables = request.runtime_env("http://127.0.0.1:8265")["env_vars"]
    shown = headwater("run", cwd=copy, env=variables, check=0).stdout
    assert f"report  file://{teashop}/.headwater/report.html" in shown
    assert (teashop / ".headwater" / "report.html").exists()
    assert not (copy / ".headwater" / "report.html").exists()


def test_a_job_does_not_write_stores_that_are_removed_after_it(headwater, teashop, tmp_path):
    copy = teashop.rename(tmp_path / "_ray_pkg_0123456789abcdef")
    for command in ("run", "ls", "stream"):
        process = headwater(command, cwd=copy, check=1)
        assert "this job runs in a temporary copy of the project" in process.stderr
        assert f"got lake = {copy}/.headwater/lake, warehouse = {copy}/.headwater/warehouse.duckdb" in process.stderr
        assert f"catalog = sqlite:///{copy}/.headwater/catalog.db; set shared storage" in process.stderr
        assert "headwater submit" in process.stderr
    kept = {"HEADWATER_LAKE": f"{tmp_path}/lake", "HEADWATER_CATALOG": f"sqlite:///{tmp_path}/catalog.db"}
    assert "got warehouse = " in headwater("run", cwd=copy, env=kept, check=1).stderr
    kept["HEADWATER_WAREHOUSE"] = f"{tmp_path}/warehouse.duckdb"
    assert "3 done" in headwater("run", cwd=copy, env=kept, check=0).stdout


@pytest.mark.proof
@pytest.mark.timeout(600)
def test_packages_of_a_job_are_installed_for_it(headwater, cluster, tmp_path):
    with zipfile.ZipFile(tmp_path / "tealeaf-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tealeaf.py", "FACTOR = 3\n")
        wheel.writestr("tealeaf-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tealeaf\nVersion: 1.0\n")
        wheel.writestr("tealeaf-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tealeaf-1.0.dist-info/RECORD", "")
    (tmp_path / "packages.txt").write_text(f"{tmp_path}/tealeaf-1.0-py3-none-any.whl\n")
    (tmp_path / "headwater.toml").write_text(
        '[project]\nname = "tea"\ndefinitions = "tea.py"\n[env.dev]\nexecution = "ray"\n'
    )
    (tmp_path / "raw.csv").write_text("id\n1\n2\n")
    (tmp_path / "tea.py").write_text(
        "import pyarrow as pa\nimport pyarrow.compute as pc\nimport tealeaf\n\nfrom pipeline import files, source, table\n\n"
        'raw = source(files("raw.csv"), schema={"id": "bigint"})\n\n\n@table()\ndef tripled(raw: pa.Table) -> pa.Table:\n'
        '    return pa.table({"id": pc.multiply(raw["id"], tealeaf.FACTOR)})\n'
    )
    words = ("submit", "--wait", "--pip", "packages.txt", "run")

    process = headwater(*words, env=cluster.environ, timeout=500)

    assert process.returncode == 0, process.stdout + process.stderr
    assert "2 done, 0 up to date" in process.stdout
    (tmp_path / "packages.txt").write_text(f"{tmp_path}/missing-1.0-py3-none-any.whl\n")
    process = headwater(*words, env=cluster.environ, timeout=500)
    assert process.returncode == 1
    message = process.stderr.strip().splitlines()[-1]
    assert "runtime_env setup failed" in message
    assert "missing-1.0-py3-none-any.whl" in message


def steps_in_metrics(cluster):
    """Return the steps in the metrics of a cluster, at the addresses that Ray lists for Prometheus."""
    (listed,) = temporary(cluster.name).glob("prom_metrics_service_discovery.json")
    steps = set()
    for target in (target for group in json.loads(listed.read_text()) for target in group["targets"]):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{target}/metrics", timeout=5) as answer:
            steps |= set(
                re.findall(
                    r'^ray_headwater_step_slots{.*\bstep="([^"]+)".*} [1-9]', answer.read().decode(), re.MULTILINE
                )
            )
    return steps


@pytest.mark.proof
def test_nodes_come_and_go_with_the_work_of_a_run(headwater, cluster, tmp_path):
    (tmp_path / "headwater.toml").write_text(
        '[project]\ndefinitions = "slow.py"\n[env.dev]\nexecution = "ray"\n'
        '[env.dev.cluster]\ndeadline = "1min"\ncost_per_hour = { worker = 0.5 }\n'
    )
    (tmp_path / "slow.py").write_text(SLOW.replace("GO", str(tmp_path / "go")))
    (tmp_path / "raw.csv").write_text("id\n1\n2\n")
    wait_for_workers(headwater, cluster, 1)

    command = [str(BIN / "headwater"), "submit", "--wait", "run", "--threads", "3"]
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, **cluster.environ}, stdout=sys.stderr)
    asked, measured, most, cost = set(), set(), 0, 0.0
    while process.poll() is None:
        state = status(headwater, cluster)
        asked |= {each["name"] for each in state["asked"]}
        measured |= steps_in_metrics(cluster)
        nodes = [node for node in state["nodes"] if node["type"] == "worker" and node["state"] != "starting"]
        most = max(most, len(nodes))
        if len(nodes) == 3:
            cost = state["cost_per_hour"]
            (tmp_path / "go").touch()
        time.sleep(0.5)

    assert process.returncode == 0
    assert asked >= {f"{tmp_path.name}.{name}" for name in ("first", "second", "third")}
    assert measured <= asked
    assert measured
    assert (most, cost) == (3, 1.5)
    rows = headwater("query", "select count(*) n from first, second, third", "--json", check=0).stdout
    assert json.loads(rows) == [{"n": 8}]
    wait_for_workers(headwater, cluster, 1)


def test_status_of_a_cluster_for_people(headwater, teashop, cluster):
    shown = headwater("cluster", "status", cwd=teashop, env=cluster.environ, check=0).stdout
    assert "head" in shown
    assert "no step asks for cores" in shown
    for env, message in (
        ({"RAY_ADDRESS": ""}, "the address of the cluster is not known; pass --address HOST:PORT, or set RAY_ADDRESS"),
        ({**cluster.environ, "RAY_AUTH_MODE": "disabled"}, "did not accept the token"),
        ({"RAY_ADDRESS": "127.0.0.1:1"}, "the Ray cluster '127.0.0.1:1' cannot be reached"),
    ):
        process = headwater("cluster", "status", cwd=teashop, env=env)
        assert process.returncode == 1
        assert message in " ".join(process.stderr.split()), process.stderr
    for words, message in (
        (("environment",), "no local cluster is running; start one: headwater cluster start"),
        (("start", "--min-nodes", "4"), "--min-nodes is larger than --nodes: got 4 and 3"),
    ):
        process = headwater("cluster", *words, cwd=teashop)
        assert process.returncode == 1
        assert message in " ".join(process.stderr.split()), process.stderr
    assert "no local cluster is running" in headwater("cluster", "stop", cwd=teashop, check=0).stdout


def submit(folder, cluster, *words):
    """Submit a job; retry while the cluster, which has just started, has no agent yet."""
    deadline = time.monotonic() + 90
    while True:
        process = subprocess.run(
            [str(BIN / "ray"), "job", "submit", "--address", cluster.jobs, "--working-dir", ".", *words],
            cwd=folder,
            env={**os.environ, **cluster.environ},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        if "No available agent" not in process.stderr or time.monotonic() > deadline:
            return process
        time.sleep(1)


def status(headwater, cluster, **options):
    """The state of a cluster; the current folder must be that of a project."""
    return json.loads(headwater("cluster", "status", "--json", env=cluster.environ, check=0, **options).stdout)


def wait_for_workers(headwater, cluster, count, **options):
    """Wait until a cluster has this number of nodes, apart from its head."""
    until = time.monotonic() + 60
    while True:
        nodes = status(headwater, cluster, **options)["nodes"]
        found = [node for node in nodes if node["type"] == "worker" and node["state"] != "starting"]
        if len(found) == count:
            return
        assert time.monotonic() < until, nodes
        time.sleep(1)
