"""Values that the type of their column cannot represent under `new_types=`: rows, types, counts, and what reads the source."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cluster.cli.app import app
from pipeline import files
from pipeline.batch.executor import LocalExecutor
from pipeline.batch.type_changes import type_rule
from pipeline.core.errors import ConflictError, DefinitionError, ExpectationError, Place, SchemaError, WiderTypesError
from pipeline.core.schema import Schema
from pipeline.core.sources import NewTypes
from pipeline.core.splits import SourceSplit
from pipeline.core.type_policy import TypePolicy
from pipeline.kernel.engine import connect, one
from pipeline.kernel.type_widening import wider_types
from pipeline.lake.history import history
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


@pytest.mark.share(3)
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
    assert {c["column"] for c in json.loads(shown.stdout)["column_changes"]} == {"b", "v"}
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


@pytest.mark.parametrize("value", [2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)])
def test_a_type_that_would_change_a_stored_value_is_refused(tmp_path, value):
    folder = project(tmp_path / "p", "csv", 'schema={"id": "bigint", "v": "bigint"}, new_types="evolve"', "")
    write(folder, "f1.csv", [2**53, None, value])
    run(folder)
    write(folder, "f2.csv", [0.5])
    with pytest.raises(SchemaError, match=rf"would change a value of table 'raw': got {value}; declare the type"):
        run(folder)
    assert values_of(folder) == [None, *sorted([2**53, value])]
    assert type_of(folder) == "BIGINT"


def test_types_that_widen_twice_rewrite_the_table_once_and_the_first_type_is_recorded(tmp_path):
    folder = project(tmp_path / "p", "csv", 'schema={"id": "bigint", "v": "integer"}, new_types="evolve"')
    write(folder, "f1.csv", [1, 2])
    run(folder)
    write(folder, "f2.csv", [3_000_000_000])
    write(folder, "f3.csv", [2**70])

    step = run(folder)["raw"]

    workspace = Workspace(load(folder))
    assert step.reason == "2 new files; 'v' is DECIMAL(38,0) now, not INTEGER, read by copied, summed"
    changes = workspace.catalog.column_changes("raw")
    assert [(change.type_before, change.type) for change in changes] == [("INTEGER", "DECIMAL(38,0)")]
    facts = history(workspace.table("raw").storage, 10)
    assert [(each.mode, each.rows_in, each.rows_out) for each in facts] == [
        ("append", 2, 2),
        ("overwrite", 0, 0),  # no row was read or added
        ("overwrite", 2, 2),
    ]
    assert values_of(folder) == [1, 2, 3_000_000_000, 2**70] == values_of(folder, "copied")


def test_a_table_whose_new_rows_are_refused_is_not_widened(tmp_path):
    options = 'schema={"id": "bigint", "v": "integer"}, new_types="evolve", expect=[fail("few", "id < 5")]'
    folder = project(tmp_path / "p", "csv", options, READERS)
    (folder / "shop.py").write_text(f"from pipeline import fail\n{(folder / 'shop.py').read_text()}")
    write(folder, "f1.csv", [1, 2])
    run(folder)
    before = Workspace(load(folder)).require("raw").number
    (folder / "data" / "f2.csv").write_text("id,v\n4,3000000000\n5,3000000000\n")

    with pytest.raises(ExpectationError):
        run(folder)

    workspace = Workspace(load(folder))
    assert (workspace.require("raw").number, type_of(folder)) == (before, "INTEGER")
    assert workspace.catalog.column_changes("raw") == ()


def test_a_key_is_compared_with_existing_rows_when_it_widens(tmp_path):
    declared = 'schema={"id": "bigint", "v": "integer"}, new_types="evolve"'
    folder = project(tmp_path / "p", "csv", f'{declared}, key="v"', "")
    write(folder, "f1.csv", [1, 2, 3])
    run(folder)
    write(folder, "f2.csv", [1, 3_000_000_000, 7])

    step = run(folder)["raw"]

    assert (type_of(folder), step.decision, step.flow.rows_in) == ("BIGINT", "append", 3)
    assert (values_of(folder), quarantined(folder)) == ([1, 2, 3, 7, 3_000_000_000], 1)


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


FORMS = {
    "rows": 'copied = sql("select id, v from raw")',
    "grouped": 'copied = sql("select v, count(*) as n from raw group by v")',
    "gathered": 'copied = sql("select v, median(id) as n from raw group by v")',
    "ordered": 'copied = sql("select v, row_number() over (order by id) as n from raw")',
    "function": "from pipeline import table\n@table\ndef copied(raw: 'pyarrow.Table'):\n    return raw.select(['id', 'v'])",
    "key": 'copied = sql("select v, id from raw", key="id")',
    "dimension": 'from pipeline import dimension\ncopied = dimension("select id, v from raw", key="id")',
    "expectation": 'from pipeline import drop\ncopied = sql("select v, id from raw", expect=[drop("few", "id < 9")])',
}


@pytest.mark.parametrize("least_bytes", [1, 1 << 20])
@pytest.mark.parametrize("form", FORMS)
def test_discarded_values_are_counted_however_the_table_is_computed(tmp_path, monkeypatch, form, least_bytes):
    """In one split, and in one split per file."""
    monkeypatch.setattr(LocalExecutor, "least_bytes", least_bytes)
    options = 'schema={"id": "bigint", "v": "integer"}, new_types="discard_value", stored=False'
    folder = project(tmp_path / "p", "csv", options, FORMS[form] + "\n")
    (folder / "data" / "a.csv").write_text("id,v\n1,1\n2,x\n3,3\n")
    (folder / "data" / "b.csv").write_text("id,v\n4,y\n5,z\n")

    (step,) = run(folder).values()

    assert {check.expectation: check.violations for check in step.checks}["v_fits_its_type"] == 3
    assert step.flow.rows_in == 5
    assert quarantined(folder, "copied") == 0


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


BY_COLUMN = """schema={"id": "integer", "v": "integer", "note": "integer", "rest": "integer"}, new_types={"id": "freeze",
    "v": "evolve", "note": "discard_value"}, stored=True"""


def test_each_column_has_its_own_handling(tmp_path):
    folder = project(tmp_path / "p", "csv", BY_COLUMN, 'copied = sql("select id, v from raw")\n')
    rows = ["1,1,1,1", "2,3000000000,1,1", "3,1,x,1", "4,1,1,x", "5,1,x,x", "6,text,x,1"]
    (folder / "data" / "a.csv").write_text("\n".join(["id,v,note,rest", *rows, ""]))

    steps = run(folder)

    found = Workspace(load(folder)).query("select id, v, note, rest from raw order by id").to_pylist()
    assert [tuple(row.values()) for row in found] == [(1, 1, 1, 1), (2, 3_000_000_000, 1, 1), (3, 1, None, 1)]
    assert type_of(folder) == "BIGINT" == type_of(folder, "copied")
    assert quarantined(folder) == 3
    assert {check.expectation: check.violations for check in steps["raw"].checks} == {"note_fits_its_type": 1}

    (folder / "data" / "b.csv").write_text("id,v,note,rest\n7,1,x,1\ny,1,1,1\n")
    with pytest.raises(SchemaError, match="a row does not match the contract: got column 'id' is not INTEGER: y"):
        run(folder)
    assert values_of(folder) == [1, 1, 3_000_000_000]


@given(data=st.data())
@settings(max_examples=examples(20, 500), deadline=None)
def test_rows_are_handled_by_the_columns_that_do_not_fit(data):
    """Compare with a rule in Python: freeze first, then wider types, then null or the quarantine."""
    names = ("a", "b", "c")
    handling = {name: data.draw(st.sampled_from(get_args(NewTypes))) for name in names}
    values = st.sampled_from(["1", "3000000000", "x", ""])
    rows = data.draw(st.lists(st.tuples(*[values] * len(names)), min_size=1, max_size=6))
    schema = Schema.of(dict.fromkeys(names, "INTEGER"))
    is_misfit = [{n: value in {"3000000000", "x"} for n, value in zip(names, row, strict=True)} for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_text("\n".join([",".join(names), *map(",".join, rows), ""]))
        reader = files(path)
        reading = reader.read(SourceSplit(reader.source_objects()[0]), schema)
    rule = type_rule(TypePolicy.of(handling, Place("test")), reader)

    def is_wide(row: int, name: str) -> bool:
        return handling[name] == "evolve" and rows[row][names.index(name)] == "3000000000"

    rejected = [row for row, misfits in enumerate(is_misfit) if any(misfits.values())]
    if rule is None:
        assert set(handling.values()) == {"discard_row"}
    elif any(is_misfit[row][name] and handling[name] == "freeze" for row in rejected for name in names):
        with pytest.raises(SchemaError):
            rule.applied(reading, schema, "a.csv")
    elif any(is_wide(row, name) for row in rejected for name in names):
        with pytest.raises(WiderTypesError):
            rule.applied(reading, schema, "a.csv")
    else:
        kept = rule.applied(reading, schema, "a.csv")
        lost = [row for row in rejected if any(is_misfit[row][n] and handling[n] != "discard_value" for n in names)]
        assert kept.reading.rejected.num_rows == len(lost)
        expected = [
            tuple(None if is_misfit[row][n] or not v else int(v) for n, v in zip(names, each, strict=True))
            for row, each in enumerate(rows)
            if row not in lost
        ]
        assert [tuple(r[n] for n in names) for r in kept.reading.rows.to_pylist()] == expected
        nulls = sum(is_misfit[row][n] for row in rejected if row not in lost for n in names)
        assert sum(kept.discarded.values()) == nulls


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ('new_types={"v": "evolves"}', "unknown value of new_types=: got 'evolves'; did you mean 'evolve'"),
        (
            'schema={"id": "int"}, new_types={"ids": "evolve"}',
            "names a column that schema= lacks: got ids; did you mean 'id'",
        ),
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
