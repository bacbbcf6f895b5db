"""The command: output, exit codes and usage errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from importlib.metadata import version

import pytest

from tests.rigs.command import BIN


def test_new_project_runs_and_then_has_nothing_to_do(headwater, teashop):
    process = headwater("run", cwd=teashop, check=0)
    assert "rows in" in process.stdout
    assert "late" in process.stdout
    assert "3 done, 0 up to date" in process.stdout
    assert (teashop / ".headwater" / "report.html").exists()
    assert "nothing new: all 3 are up to date" in headwater("run", cwd=teashop, check=0).stdout


def test_new_project_has_a_passing_test(teashop):
    subprocess.run([str(BIN / "python"), "-m", "pytest", "-q"], cwd=teashop, check=True)


def test_every_command_prints_json(headwater, teashop):
    run = json.loads(headwater("run", "--json", cwd=teashop, check=0).stdout)
    assert [step["name"] for step in run["steps"]] == ["raw_orders", "orders", "sales_by_day"]
    assert run["steps"][1]["flow"]["quarantined"] == 1
    for words in (
        ["ls"],
        ["show"],
        ["show", "orders"],
        ["explain"],
        ["quality"],
        ["lineage", "orders"],
        ["query", "from orders"],
        ["quarantine", "ls"],
        ["quarantine", "show", "orders"],
        ["doctor"],
        ["run", "--dry-run"],
    ):
        assert json.loads(headwater(*words, "--json", cwd=teashop, check=0).stdout), words


def test_the_version_is_printed_without_a_project(headwater, tmp_path):
    process = headwater("--version", cwd=tmp_path, check=0)
    assert process.stdout.startswith(f"headwater {version('headwater')} (Python 3.")


def test_errors_are_json_too(headwater, teashop):
    process = headwater("show", "order", "--json", cwd=teashop, check=1)
    assert json.loads(process.stdout)["error"] == {
        "kind": "RequestError",
        "problem": "'order' is not defined",
        "got": None,
        "do": "did you mean 'orders'?",
        "place": None,
    }


@pytest.mark.share(4)
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["rum"], 2, "Did you mean 'run'?"),
        (["run", "--ful"], 2, "--full"),
        (["run", "--select", "order"], 1, "error: 'order' is not defined; did you mean 'orders'?"),
        (["show", "orders"], 1, "error: table 'orders' does not exist yet; run `headwater run --select +orders`"),
        (["query", "select * from order_"], 1, "error: there is no table 'order_'; did you mean 'orders'?"),
        (["query", "selec 1"], 1, "error: "),
        (["query", "drop table orders"], 1, "error: a query must be one SELECT statement"),
        (["quality"], 1, "error: no computed tables are recorded in the catalog"),
        (["quarantine", "replay", "orders"], 1, "error: table 'orders' does not exist yet"),
        (["run", "--env", "prod"], 1, "error: there is no environment 'prod'; known: 'dev'"),
        (["init", "class"], 1, "error: 'class' is not a valid project name"),
        (["init", "."], 1, "error: "),
    ],
)
def test_usage_error_is_a_single_message(headwater, teashop, words, code, message):
    process = headwater(*words, cwd=teashop, check=code)
    assert message in process.stderr
    assert "Traceback" not in process.stderr


def test_message_outside_a_project_shows_how_to_create_one(headwater, tmp_path):
    assert "create one with `headwater init NAME`" in headwater("run", cwd=tmp_path, check=1).stderr


def test_broken_settings_and_definitions_name_file_and_line(headwater, teashop):
    toml = teashop / "headwater.toml"
    good = toml.read_text()
    toml.write_text(good + "\nlake = [broken\n")
    assert f"{toml}:8" in headwater("ls", cwd=teashop, check=1).stderr
    toml.write_text(good.replace("lake =", "lakes ="))
    assert "unknown key 'lakes'; did you mean 'lake'?" in headwater("ls", cwd=teashop, check=1).stderr
    toml.write_text(good)
    code = teashop / "teashop.py"
    text = code.read_text()
    code.write_text(text.replace("from raw_orders", "from raw_order"))
    stderr = headwater("run", cwd=teashop, check=1).stderr
    assert "reads 'raw_order', which is neither a table nor a source; did you mean 'raw_orders'?" in stderr
    assert "teashop.py:" in stderr
    code.write_text(text + "\nx = 1 / 0\n")
    assert "ZeroDivisionError: got division by zero" in headwater("run", cwd=teashop, check=1).stderr
    code.write_text(text.replace("from raw_orders", "from sales_by_day"))
    assert "form a cycle: orders -> sales_by_day -> orders" in headwater("run", cwd=teashop, check=1).stderr


@pytest.mark.proof
def test_unwritable_lake_is_a_single_message(headwater, teashop):
    (teashop / "file").write_text("not a folder")
    stderr = headwater("run", cwd=teashop, env={"HEADWATER_LAKE": str(teashop / "file")}, check=1).stderr
    assert "error: raw_orders: cannot create the folder" in stderr
    assert "Traceback" not in stderr


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("by", "code_of_exit", "execution"),
    [(signal.SIGINT, 130, "inline"), (signal.SIGTERM, 143, "inline"), (signal.SIGTERM, 143, "ray")],
)
def test_interrupted_run_is_reported_and_completed_later(headwater, teashop, by, code_of_exit, execution):
    code = teashop / "teashop.py"
    begun = teashop / "begun"
    slow = f"""

import time
from pathlib import Path
import pyarrow as pa
from pipeline import table


@table()
def slow(orders: pa.Table) -> pa.Table:
    Path({str(begun)!r}).touch()
    time.sleep(60)
    return orders
"""
    code.write_text(code.read_text() + slow)
    process = subprocess.Popen(
        [str(BIN / "headwater"), "run"],
        cwd=teashop,
        env={**os.environ, "HEADWATER_EXECUTION": execution},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not begun.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(by)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == code_of_exit
    assert "interrupted; committed tables are kept" in stderr
    assert "Traceback" not in stderr
    assert "SIGTERM received" not in stderr
    code.write_text(code.read_text().replace("time.sleep(60)", "pass"))
    later = headwater("run", cwd=teashop, check=0)
    assert "2 up to date" in later.stdout or "orders        up to date" in later.stdout


@pytest.mark.proof
def test_several_queries_run_in_order(headwater, teashop):
    headwater("run", cwd=teashop, check=0)
    process = headwater(
        "query", "select 1 as a from orders limit 1", "select 2 as b from orders limit 1", "--json", cwd=teashop
    )
    assert json.loads(process.stdout) == [[{"a": 1}], [{"b": 2}]]


@pytest.mark.proof
@pytest.mark.parametrize("how", ["before the command", "after the command", "environment"])
def test_project_can_be_run_from_any_folder(headwater, teashop, tmp_path, how):
    words = {"before the command": ["-C", str(teashop), "run"], "after the command": ["run", "--project", str(teashop)]}
    env = {"HEADWATER_PROJECT": str(teashop)} if how == "environment" else {}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    assert "3 done" in headwater(*words.get(how, ["run"]), cwd=elsewhere, env=env, check=0).stdout
    assert "nothing new" in headwater("run", cwd=teashop, check=0).stdout


def test_project_option_overrides_the_environment_variable(headwater, teashop, tmp_path):
    process = headwater("ls", "-C", str(teashop), cwd=tmp_path, env={"HEADWATER_PROJECT": str(tmp_path)}, check=0)
    assert "raw_orders" in process.stdout
