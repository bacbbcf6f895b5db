"""Extracts of Tableau: written by its engine, once for each version, and read back by the Hyper API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.errors import SourceError
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from serve.hyper_files import export_hyper
from tests.serve.conftest import open_cafe

HYPER = Path(__file__).parents[2] / ".peers-hyper"
TYPES = """
from pathlib import Path

from pipeline import files, mart, source

raw = source(files(Path(__file__).parent / "raw.csv"), schema={"id": "bigint"})
wide = mart(
    "select id, id::tinyint as a, id::smallint as b, 1.5::float as c, 12345678901234567890.1234567890::decimal(38,10) as d, 'x'::blob as e, "
    "timestamp '0001-01-01 00:00:00' as f, timestamptz '9999-12-31 23:59:59Z' as g, [id] as h, date '1582-10-04' as i, null::varchar as j from raw",
    key="id",
)
"""
READ = """
import json, sys
from tableauhyperapi import Connection, HyperProcess, Telemetry
with HyperProcess(Telemetry.DO_NOT_SEND_USAGE_DATA_TO_TABLEAU, parameters={"log_config": ""}) as process:
    with Connection(process.endpoint, sys.argv[1]) as connection:
        columns = connection.catalog.get_table_definition(connection.catalog.get_table_names("Extract")[0]).columns
        print(json.dumps({each.name.unescaped: str(each.type) for each in columns}))
        rows = connection.execute_list_query('select * from "Extract"."Extract" order by 1')
        print(json.dumps([[None if v is None else str(v) for v in row] for row in rows]))
"""


def test_a_version_is_written_once_and_without_the_extra_the_error_says_so(tmp_path):
    (root := tmp_path / "cafe").mkdir()
    cafe = open_cafe(root)
    workspace = Workspace(cafe.project())
    version = workspace.require("cafe_orders")
    with pytest.raises(SourceError, match=r"an export for Tableau needs an extra.*headwater\[tableau\]"):
        export_hyper(workspace.lake.storage, "cafe_orders", version, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def export(root: Path, name: str, out: Path) -> tuple[Path, str]:
    """Export a table by the command, with the libraries of the other environment; return its path and what it said."""
    libraries = next((HYPER / "lib").glob("python*")) / "site-packages"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), str(libraries)])}
    words = [
        sys.executable,
        "-c",
        "from cluster.cli import main; main()",
        "export",
        name,
        "--hyper",
        str(out),
        "--project",
        str(root),
    ]
    process = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, cwd=root.parent)
    assert process.returncode == 0, process.stderr
    return Path(process.stdout.strip()), process.stderr


def read(path: Path) -> tuple[dict[str, str], list[list[str | None]]]:
    """Return the types of the columns and the rows of an extract."""
    words = [HYPER / "bin" / "python", "-c", READ, path]
    process = subprocess.run(words, capture_output=True, text=True, check=False, cwd=path.parent)
    assert process.returncode == 0, process.stderr
    columns, rows = process.stdout.splitlines()
    return json.loads(columns), json.loads(rows)


@pytest.fixture
def root(tmp_path):
    if not HYPER.exists():
        pytest.skip("tableauhyperapi is not installed: run `make peers`")
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


@pytest.mark.proof
def test_extracts_are_read_back_by_the_hyper_api(root, tmp_path):
    cafe, out = open_cafe(root), tmp_path / "out"
    first, _ = export(root, "cafe_orders", out)
    columns, rows = read(first)
    assert columns == {
        "order_id": "BIG_INT", "day": "DATE", "paid_at": "TIMESTAMP_TZ", "guest": "TEXT", "cups": "INT", "price": "NUMERIC(10, 2)",
        "rating": "DOUBLE", "is_member": "BOOL",
    }  # fmt: skip
    assert [row[3:6] for row in rows][:3] == [["Ann", "1", "2.5"], ["Bo", "2", "5"], ['O\'Hara, "Kit"', "3", "7.5"]]
    assert [row[6] for row in rows] == ["4.5", None, None, "3.0", None]
    again, said = export(root, "cafe_orders", out)
    assert (again, "was exported before" in said) == (first, True)
    assert json.loads(read(export(root, "shapes", out)[0])[1][0][3])["guest"] == "Ann", "nested values are JSON"
    cafe.add("second", "6,2026-01-08,2026-01-08T08:00:00Z,Cy,0,1.00,1.0,true\n")
    cafe.run()
    newer, _ = export(root, "cafe_orders", out)
    assert newer != first
    assert len(read(newer)[1]) == 6
    assert sorted(path.suffix for path in out.iterdir()) == [".hyper"] * 3, "nothing is left over"
    assert not list(tmp_path.rglob("*.log"))


@pytest.mark.proof
def test_every_type_of_a_lake(root, tmp_path):
    (root / "headwater.toml").write_text('[project]\nname = "types"\ndefinitions = "wide.py"\n')
    (root / "raw.csv").write_text("id\n1\n")
    (root / "wide.py").write_text(TYPES)
    Runner(load(root), RunOptions()).run()
    columns, ((*values,),) = read(export(root, "wide", tmp_path / "out")[0])
    assert list(columns.values()) == [
        "BIG_INT", "SMALL_INT", "SMALL_INT", "DOUBLE", "NUMERIC(38, 10)", "BYTES", "TIMESTAMP", "TIMESTAMP_TZ", "TEXT", "DATE", "TEXT",
    ]  # fmt: skip
    assert values[4:] == [
        "12345678901234567890.1234567890", "b'x'", "1-01-01 00:00:00", "9999-12-31 23:59:59+00:00", "[1]", "1582-10-04", None,
    ]  # fmt: skip
