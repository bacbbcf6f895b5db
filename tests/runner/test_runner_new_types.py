"""Values that the type of their column cannot represent under `new_types=`: rows, types, counts, and what reads the source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cluster.cli.app import app
from pipeline.batch.type_changes import wider_types
from pipeline.core.errors import ConflictError, DefinitionError, SchemaError
from pipeline.kernel.engine import connect, one
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.handlers import source as module
from pipeline.runner.runner import Runner
from tests.rigs.proofs import examples
from tests.runner.conftest import TOML

HEAD = "from pipeline import files, mart, source, sql\n"
READERS = 'copied = sql("select v from raw")\nsummed = mart("select sum(v) as total from raw")\nnamed = sql("select id from raw")\n'
KINDS = ("csv", "json", "parquet")


def project(folder: Path, kind: str, options: str, below: str = READERS) -> Path:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "headwater.toml").write_text(TOML)
    (folder / "shop.py").write_text(f'{HEAD}raw = source(files("data/*.{kind}"), {options})\n{below}')
    return folder


def write(folder: Path, name: str, values: list[Any], kind: pa.DataType | None = None) -> None:
    path = folder / "data" / name
    rows = [{"id": number, "v": value} for number, value in enumerate(values)]
    if name.endswith("csv"):
        path.write_text("id,v\n" + "".join(f"{r['id']},{'' if r['v'] is None else r['v']}\n" for r in rows))
    elif name.endswith("json"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.table({"id": [r["id"] for r in rows], "v": pa.array([r["v"] for r in rows], kind)}), path)


def run(folder: Path, *, full: bool = False) -> dict[str, Any]:
    return {step.name: step for step in Runner(load(folder), RunOptions(full=full)).run().steps}


def values_of(folder: Path, name: str = "raw") -> list[Any]:
    return [
        row["v"] for row in Workspace(load(folder)).query(f"select v from {name} order by v nulls first").to_pylist()
    ]


def type_of(folder: Path, name: str = "raw", column: str = "v") -> str:
    return Workspace(load(folder)).version(name).schema.as_dict()[column]


def quarantined(folder: Path, name: str = "raw") -> int:
    workspace = Workspace(load(folder))
    table = workspace.lake.quarantine(name)
    return 0 if table.version() is None else workspace.lake.rows(table).num_rows


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("declared", ['schema={"id": "bigint", "v": "bigint"}, ', ""])
def test_a_wider_type_is_taken_and_older_rows_keep_their_values(tmp_path, kind, declared):
    folder = project(tmp_path / "p", kind, f'{declared}new_types="evolve"')
    write(folder, f"f1.{kind}", [5, None])
    run(folder)
    write(folder, f"f2.{kind}", [3.5, 2])
    steps = run(folder)

    assert type_of(folder) == "DOUBLE"
    assert values_of(folder) == [None, 2.0, 3.5, 5.0]
    assert steps["raw"].decision == "append"
    assert steps["raw"].reason.endswith("'v' is DOUBLE now, not BIGINT, read by copied, summed")
    assert quarantined(folder) == 0
    assert values_of(folder, "copied") == [None, 2.0, 3.5, 5.0]
    assert Workspace(load(folder)).query("select total from summed").to_pylist() == [{"total": 10.5}]
    assert run(folder)["raw"].decision == "skip"

    write(folder, f"f3.{kind}", [7, 0.25])
    assert run(folder)["raw"].reason == "1 new file"
    everything = values_of(folder)
    run(folder, full=True)
    assert values_of(folder) == everything
    assert type_of(folder) == "DOUBLE"


def test_changes_of_columns_are_recorded_with_what_reads_them(tmp_path):
    below = READERS + "further = sql('select v from copied where v > 0')\nother = sql('select id from copied_all')\n"
    below += "copied_all = sql('select * from raw')\nrenamed = sql('select v as w, id from raw')\n"
    below += "of_renamed = sql('select w from renamed')\nbeside = sql('select id from renamed')\n"
    below += "filtered = sql('select id from raw where v > 0')\nof_filtered = sql('select id from filtered')\n"
    folder = project(tmp_path / "p", "csv", 'new_columns="evolve", new_types="evolve"', below)
    write(folder, "f1.csv", [1])
    run(folder)
    (folder / "data" / "f2.csv").write_text("id,v,b\n1,0.5,x\n")
    steps = run(folder)
    changes = {change.column: change for change in Workspace(load(folder)).catalog.column_changes("raw")}
    assert {(name, c.type_before, c.type) for name, c in changes.items()} == {
        ("b", "", "VARCHAR"),
        ("v", "BIGINT", "DOUBLE"),
    }
    assert set(changes["v"].read_by) == {
        *("copied", "summed", "further", "copied_all", "renamed", "of_renamed", "filtered", "of_filtered")
    }
    assert set(changes["b"].read_by) == {"copied_all"}
    assert "'b' (VARCHAR) is new, read by copied_all" in steps["raw"].reason
    shown = CliRunner().invoke(app, ["show", "raw", "--json", "-C", str(folder)])
    assert [c["column"] for c in json.loads(shown.stdout)["column_changes"]] == ["b", "v"]
    assert "Changed columns" in CliRunner().invoke(app, ["show", "raw", "-C", str(folder)]).stdout


@pytest.mark.parametrize(
    ("declared", "values", "kind"),
    [
        ("tinyint", [1, 300], "SMALLINT"),
        ("integer", [1, 3_000_000_000], "BIGINT"),
        ("bigint", [1, 2**70], "DECIMAL(38,0)"),
        ("decimal(6,2)", ["1.25", "123456.125"], "DECIMAL(38,3)"),
        ("date", ["2026-01-01", "2026-01-01 10:00:00"], "TIMESTAMP"),
    ],
)
def test_the_narrowest_type_is_taken(tmp_path, declared, values, kind):
    folder = project(tmp_path / "p", "csv", f'schema={{"id": "bigint", "v": "{declared}"}}, new_types="evolve"', "")
    write(folder, "f1.csv", values)
    run(folder)
    assert type_of(folder) == kind
    assert len(values_of(folder)) == 2
    assert quarantined(folder) == 0


def test_values_of_no_wider_type_are_quarantined(tmp_path):
    folder = project(tmp_path / "p", "csv", 'schema={"id": "bigint", "v": "integer"}, new_types="evolve"', "")
    write(folder, "f1.csv", [1, "n/a", 3_000_000_000])
    run(folder)
    assert type_of(folder) == "BIGINT"
    assert values_of(folder) == [1, 3_000_000_000]
    assert quarantined(folder) == 1


def test_a_type_that_would_change_a_stored_value_is_refused(tmp_path):
    folder = project(tmp_path / "p", "csv", 'schema={"id": "bigint", "v": "bigint"}, new_types="evolve"', "")
    write(folder, "f1.csv", [2**53 + 1])
    run(folder)
    write(folder, "f2.csv", [0.5])
    with pytest.raises(
        SchemaError, match=r"would change a value of table 'raw': got 9007199254740993; declare the type"
    ):
        run(folder)
    assert values_of(folder) == [2**53 + 1]
    assert type_of(folder) == "BIGINT"


def test_partitioned_and_keyed_rows_are_widened(tmp_path):
    options = 'schema={"id": "bigint", "v": "integer"}, key="id", partition_by="id", new_types="evolve"'
    folder = project(tmp_path / "p", "csv", options, "")
    write(folder, "f1.csv", [1, 2, 3])
    run(folder)
    (folder / "data" / "f2.csv").write_text("id,v\n7,3000000000\n")
    run(folder)
    assert values_of(folder) == [1, 2, 3, 3_000_000_000]
    assert type_of(folder) == "BIGINT"


def test_a_run_that_ends_after_the_types_were_widened_loses_and_repeats_nothing(tmp_path, monkeypatch):
    folder = project(tmp_path / "p", "csv", 'schema={"id": "bigint", "v": "integer"}, new_types="evolve"')
    write(folder, "f1.csv", [1])
    run(folder)
    write(folder, "f2.csv", [3_000_000_000])
    real = module.widen_table

    def then_fail(*arguments: Any) -> None:
        real(*arguments)
        raise ConflictError("stopped here")

    monkeypatch.setattr(module, "widen_table", then_fail)
    with pytest.raises(ConflictError):
        run(folder)
    monkeypatch.undo()
    assert (values_of(folder), type_of(folder)) == ([1], "BIGINT")
    run(folder)
    assert values_of(folder) == [1, 3_000_000_000] == values_of(folder, "copied")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "stored"), [("raw", True), ("copied", False)])
def test_a_value_is_stored_as_null_and_counted(tmp_path, kind, name, stored):
    options = f'schema={{"id": "bigint", "v": "integer"}}, new_types="discard_value", stored={stored}'
    below = "" if stored else 'copied = sql("select id, v from raw")\n'
    folder = project(tmp_path / "p", kind, options, below)
    write(folder, f"f1.{kind}", [1, 3.5, 2], pa.float64() if kind == "parquet" else None)
    (step,) = run(folder).values()
    assert values_of(folder, name) == [None, 1, 2]
    assert Workspace(load(folder)).query(f"select id from {name} where v is null").to_pylist() == [{"id": 1}]
    assert quarantined(folder, name) == 0
    assert {check.expectation: check.violations for check in step.checks} == {"v_fits_its_type": 1}
    assert (step.flow.rows_in, step.flow.rows_out, step.flow.quarantined) == (3, 3, 0)


def test_a_record_that_cannot_be_read_is_still_quarantined(tmp_path):
    folder = project(tmp_path / "p", "json", 'schema={"id": "bigint", "v": "integer"}, new_types="discard_value"', "")
    (folder / "data" / "f1.json").write_text('{"id": 1, "v": "x"}\nnot JSON\n{"id": 2, "v": 2}\n')
    run(folder)
    assert values_of(folder) == [None, 2]
    assert quarantined(folder) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stored", [True, False])
def test_a_frozen_contract_fails_the_run(tmp_path, kind, stored):
    options = f'schema={{"id": "bigint", "v": "integer"}}, new_types="freeze", stored={stored}'
    folder = project(tmp_path / "p", kind, options, 'copied = sql("select v from raw")\n')
    write(folder, f"f1.{kind}", [1, 3.5], pa.float64() if kind == "parquet" else None)
    with pytest.raises(SchemaError, match=r"a row does not match the contract: got column 'v' is not INTEGER: 3.5"):
        run(folder)
    assert Workspace(load(folder)).version("raw" if stored else "copied") is None


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ('new_types="evolves"', "unknown value of new_types=: got 'evolves'; did you mean 'evolve'"),
        ('schema={"v": "int"}, new_types="evolve", stored=False', "new_types='evolve' requires a stored source"),
    ],
)
def test_policies_that_a_source_cannot_have(tmp_path, options, problem):
    with pytest.raises(DefinitionError, match=problem):
        load(project(tmp_path / "p", "csv", options, "rows = sql('select v from raw')\n"))


@settings(max_examples=examples(20, 200), deadline=None)
@given(st.sampled_from(["TINYINT", "SMALLINT", "INTEGER", "BIGINT", "FLOAT", "DATE", "DECIMAL(9,2)"]), st.data())
def test_each_wider_type_represents_every_value(kind, data):
    """The value is the same after it is cast to the wider type and back; integers as `DOUBLE` only up to 2^53."""
    wider = data.draw(st.sampled_from(wider_types(kind)))
    with connect() as con:
        if kind == "DATE":
            value = f"date '{data.draw(st.dates())}'"
        elif kind == "FLOAT":
            value = f"'{data.draw(st.floats(width=32, allow_nan=False, allow_infinity=False))}'::float"
        elif kind.startswith("DECIMAL"):
            value = f"'{data.draw(st.decimals(-9999999, 9999999, places=2))}'::{kind}"
        else:
            bits = {"TINYINT": 7, "SMALLINT": 15, "INTEGER": 31, "BIGINT": 63}[kind]
            bits = min(bits, 53) if wider == "DOUBLE" else bits
            value = f"{data.draw(st.integers(-(2**bits) + 1, 2**bits - 1))}::{kind}"
        assert one(con, f"select ({value})::{wider}::{kind} = {value}")[0]
