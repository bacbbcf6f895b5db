"""The modules that a command imports; unlike its start-up time, they do not depend on the machine."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pytest

import pipeline
from cluster.cli.commands import COMMANDS, load

SLOW = {"confluent_kafka", "fastapi", "mlflow", "pandas", "polars", "ray", "s3fs", "scipy", "sklearn"}
HEAVY = {*SLOW, "deltalake", "duckdb", "jinja2", "numpy", "pyarrow", "sqlalchemy", "sqlglot"}


def modules(*words, cwd=None):
    """Return the modules that a command imports."""
    code = (
        "import json, sys\nfrom cluster.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", code, *words], cwd=cwd, capture_output=True, text=True, check=True)
    return set(json.loads(process.stdout.splitlines()[-1]))


@pytest.mark.parametrize("words", [["--help"], ["-h"]])
def test_help_imports_no_engine(words, tmp_path):
    loaded = modules(*words, cwd=tmp_path)
    assert HEAVY & loaded == set()
    assert [name for name in loaded if name.startswith(("pipeline", "ml", "serve"))] == []
    assert len(loaded) < 600


@pytest.mark.parametrize(
    "words",
    [
        ["sources"],
        ["kafka", "status"],
        ["kafka", "stop"],
        *([name, "-h"] for name in ("experiment", "features", "monitor")),
    ],
)
def test_commands_that_read_no_data_import_no_engine(words, tmp_path):
    assert HEAVY & modules(*words, cwd=tmp_path) == set()


def test_run_with_nothing_to_do_imports_no_unused_library(headwater, teashop):
    headwater("run", cwd=teashop, check=0)
    loaded = modules("run", cwd=teashop)
    assert SLOW & loaded == set()
    assert [
        name
        for name in loaded
        if name.startswith(("pipeline.streaming.operators.", "pipeline.streaming.planning.plan", "serve", "ml"))
    ] == []
    assert len(loaded) < 1400


@pytest.mark.parametrize("name", COMMANDS)
def test_listed_help_equals_the_help_of_the_command(name):
    assert inspect.cleandoc(load(name).help).split("\n\n")[0].replace("\n", " ") == COMMANDS[name][1]


def test_every_name_of_the_package_can_be_imported():
    assert {name for name in pipeline.__all__ if not callable(getattr(pipeline, name))} == set()
    assert set(pipeline.__all__) <= set(dir(pipeline))
    with pytest.raises(AttributeError, match="has no attribute 'sauce'"):
        _ = pipeline.sauce
