"""Added and removed columns under `new_columns=`, in incremental and full runs, for the source and its readers."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer
from deltalake import CommitProperties, DeltaTable, Field, Transaction
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import HeadwaterError, SchemaError
from pipeline.lake.head import ADDED_COLUMN
from pipeline.lake.log import APP
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from tests.rigs.proofs import examples
from tests.runner.conftest import TOML

EXAMPLES = int(os.environ.get("HEADWATER_EXAMPLES", examples(1, 20)))
OPTIONS: Any = {"phases": [Phase.generate]} if os.environ.get("HEADWATER_NO_SHRINK") else {}
HEAD = "import pyarrow as pa\nfrom pipeline import dimension, files, mart, quarantine, source, sql, table\n"
READERS = """
rows = sql("select * exclude (_ingested_at) from raw")
keyed = sql("select * exclude (_ingested_at) from raw", key="id")
named = sql("select id, v from raw")
filled = sql("select coalesce(columns(* exclude (id, _source, _position, _ingested_at))::varchar, 'none') from raw")
merged = sql("select * exclude (_ingested_at) from raw", key="id", sequence_by="v")
below = sql("select * from merged where v > 0")
counted = sql("select v, count(*) as n from raw group by v")
latest = mart("select * exclude (_ingested_at) from raw qualify row_number() over (partition by id order by v desc, _source, _position) = 1")


@table()
def passed(raw: pa.Table) -> pa.Table:
    return raw.drop_columns(["_ingested_at"])
"""
Row = dict[str, Any]


def project(folder: Path, kind: str = "csv", options: str = 'new_columns="evolve"', below: str = READERS) -> Path:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "headwater.toml").write_text(TOML)
    (folder / "shop.py").write_text(f'{HEAD}raw = source(files("data/*.{kind}"), {options})\n{below}')
    return folder


def write(folder: Path, name: str, rows: list[Row], columns: tuple[str, ...]) -> None:
    path = folder / "data" / name
    if name.endswith("csv"):
        lines = [",".join(columns), *(",".join("" if r.get(c) is None else str(r[c]) for c in columns) for r in rows)]
        path.write_text("".join(f"{line}\n" for line in lines))
    elif name.endswith("json"):
        path.write_text("".join(json.dumps({c: r.get(c) for c in columns}) + "\n" for r in rows))
    else:
        kinds = {"id": pa.int64(), "v": pa.int64(), "b": pa.string(), "c": pa.string()}
        pq.write_table(pa.table({c: pa.array([r.get(c) for r in rows], kinds.get(c)) for c in columns}), path)


def run(folder: Path, **options: Any) -> None:
    Runner(load(folder), RunOptions(**options)).run()


def rows_of(folder: Path, name: str) -> list[str]:
    """The rows of a table independent of column order, or of a quarantine without the original text."""
    workspace = Workspace(load(folder))
    table = workspace.lake.quarantine(name) if name == "aside" else workspace.table(name)
    if table.version() is None:
        return []
    rows = workspace.lake.rows(table).to_pylist()
    return sorted(repr(sorted((k, str(v)) for k, v in row.items() if k != "_ingested_at")) for row in rows)


def everything(folder: Path) -> dict[str, list[str]]:
    return {name: rows_of(folder, name) for name in Workspace(load(folder)).table_names}


def quarantined(folder: Path, name: str = "raw") -> list[tuple[int, str, str]]:
    workspace = Workspace(load(folder))
    quarantined = workspace.lake.quarantine(name)
    if quarantined.version() is None:
        return []
    return sorted((r["_position"], r["reasons"], r["row"]) for r in workspace.lake.rows(quarantined).to_pylist())


COLUMNS = st.lists(st.sampled_from(["b", "c"]), unique=True, max_size=2).flatmap(
    lambda more: st.permutations(["id", "v", *more])
)
ROWS = st.lists(
    st.fixed_dictionaries({
        "id": st.integers(1, 3),
        "v": st.integers(0, 3),
        "b": st.sampled_from(["x", "y", None]),
        "c": st.sampled_from(["2026-01-01", "2026-01-02"]),
    }),
    min_size=1,
    max_size=3,
)  # fmt: skip
FILES = st.lists(
    st.tuples(st.integers(0, 9), COLUMNS, ROWS, st.booleans()),
    min_size=1,
    max_size=examples(3, 5),
    unique_by=lambda f: f[0],
)


@pytest.mark.proof
@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_incrementally_widened_table_equals_a_full_run(kind: str, tmp_path_factory: pytest.TempPathFactory):
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), **OPTIONS)
    @given(FILES)
    def check(written: list[tuple[int, tuple[str, ...], list[Row], bool]]) -> None:
        folder = tmp_path_factory.mktemp("grown")
        try:
            ours, other = project(folder / "ours", kind), project(folder / "other", kind)
            for number, columns, rows, runs_now in written:
                for each in (ours, other):
                    write(each, f"f{number}.{kind}", rows, tuple(columns))
                if runs_now:
                    run(ours)
            run(ours)
            run(other)
            assert everything(ours) == everything(other)
            run(ours, full=True)
            assert everything(ours) == everything(other)
        finally:
            shutil.rmtree(folder)

    check()


@pytest.mark.share(1)
@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_added_column_is_null_in_older_rows_and_part_of_a_star(tmp_path, kind):
    folder = project(tmp_path / "p", kind)
    write(folder, f"f1.{kind}", [{"id": 1, "v": 1}], ("id", "v"))
    run(folder)
    write(folder, f"f2.{kind}", [{"id": 2, "v": 2, "b": "x"}], ("v", "b", "id"))
    run(folder)
    write(folder, f"f3.{kind}", [{"id": 3, "v": 3}], ("id", "v"))
    run(folder)

    workspace = Workspace(load(folder))
    for name in ("raw", "rows", "keyed", "merged", "below", "latest", "passed"):
        assert workspace.query(f"select id, b from {name} order by id").to_pylist() == [
            {"id": 1, "b": None},
            {"id": 2, "b": "x"},
            {"id": 3, "b": None},
        ]
    assert workspace.version("named").schema.names == ("id", "v")
    assert workspace.query("select b from filled order by v, b").to_pylist() == [
        {"b": "none"},
        {"b": "x"},
        {"b": "none"},
    ]
    with workspace.warehouse.read() as con:
        assert con.sql("select id, b from latest order by id").fetchall() == [(1, None), (2, "x"), (3, None)]


def test_table_with_named_columns_only_appends_the_new_rows(tmp_path):
    folder = project(tmp_path / "p")
    write(folder, "f1.csv", [{"id": 1, "v": 1}], ("id", "v"))
    run(folder)
    write(folder, "f2.csv", [{"id": 2, "v": 2, "b": "x"}], ("id", "v", "b"))

    steps = {step.name: step for step in Runner(load(folder)).run().steps}

    assert (steps["raw"].decision, steps["named"].decision) == ("append", "append")
    assert (steps["rows"].decision, steps["rows"].reason) == ("rebuild", "new columns: 'b'")


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_declared_types_are_kept_and_other_columns_are_added(tmp_path, kind):
    options = 'schema={"v": "double", "z": "date"}, new_columns="evolve"'
    folder = project(tmp_path / "p", kind, options, "")
    write(folder, f"f1.{kind}", [{"id": 1, "v": 1}], ("id", "v"))
    run(folder)
    write(folder, f"f2.{kind}", [{"id": 2, "v": 2, "b": "x"}], ("id", "v", "b"))
    run(folder)

    workspace = Workspace(load(folder))
    kinds = workspace.version("raw").schema.as_dict()
    assert [kinds[name] for name in ("v", "z", "id", "b")] == ["DOUBLE", "DATE", "BIGINT", "VARCHAR"]
    assert workspace.query("select v, z, b from raw order by v").to_pylist() == [
        {"v": 1.0, "z": None, "b": None},
        {"v": 2.0, "z": None, "b": "x"},
    ]


def test_earlier_file_determines_the_type(tmp_path):
    folder = project(tmp_path / "p", options="", below="")
    write(folder, "f2.csv", [{"id": 1, "v": 1}], ("id", "v"))
    run(folder)
    write(folder, "f1.csv", [{"id": 1, "v": "x"}], ("id", "v"))

    (step,) = Runner(load(folder)).run().steps

    assert (step.decision, step.reason) == ("rebuild", "'v' is VARCHAR according to data that sorts first, not BIGINT")
    assert Workspace(load(folder)).query("select v from raw order by v").to_pylist() == [{"v": "1"}, {"v": "x"}]


@pytest.mark.share(2)
@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_row_with_a_value_in_an_undeclared_column_is_rejected(tmp_path, kind, stored):
    options = f'schema={{"id": "bigint", "v": "bigint"}}, new_columns="discard_row", stored={stored}'
    folder = project(tmp_path / "p", kind, options, 'kept = sql("select id from raw")')
    write(folder, f"f1.{kind}", [{"id": 1, "v": 1}], ("id", "v"))
    write(folder, f"f2.{kind}", [{"id": 2, "b": "x"}, {"id": 3, "v": 4}], ("b", "v", "id"))
    run(folder)

    assert [r["id"] for r in Workspace(load(folder)).query("select id from kept order by id").to_pylist()] == [1, 3]
    ((position, reason, row),) = quarantined(folder, "raw" if stored else "kept")
    assert (position, reason) == (2 if kind == "csv" else 1, "column 'b' is not in the contract: x")
    assert row == "2,,x" if kind == "csv" else json.loads(row) == {"id": 2, "v": None, "b": "x"}


def test_rejected_row_is_accepted_after_its_column_is_declared(tmp_path):
    folder = project(tmp_path / "p", options='schema={"id": "bigint"}, new_columns="discard_row"', below="")
    write(folder, "f1.csv", [{"b": "x", "id": 1}, {"b": None, "id": 2}], ("b", "id"))
    run(folder)
    assert len(quarantined(folder)) == 1

    project(folder, options='schema={"id": "bigint", "b": "varchar"}, new_columns="discard_row"', below="")
    run(folder)

    assert quarantined(folder) == []
    assert len(rows_of(folder, "raw")) == 2


@pytest.mark.share(6)
@pytest.mark.parametrize("policy", ["evolve", "discard_row", "freeze"])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        (
            ("V", "id"),
            r"got 'V', which differs only in case from 'v'; rename it where the data is read: rename=\{'V': 'v'\}",
        ),
        (("id",), "the columns do not match the contract: got no 'v'"),
        (("v", "id"), None),
    ],
)
def test_columns_removed_renamed_in_case_or_reordered(tmp_path, policy, kind, columns, problem):
    folder = project(tmp_path / "p", kind, f'schema={{"id": "bigint", "v": "bigint"}}, new_columns="{policy}"', "")
    write(folder, f"f1.{kind}", [{"id": 1, "v": 1, "V": 1}], columns)
    if problem is None or (columns == ("id",) and policy == "evolve"):
        run(folder)
        assert len(rows_of(folder, "raw")) == 1
    else:
        with pytest.raises(SchemaError, match=problem):
            run(folder)


@pytest.mark.proof
def test_run_killed_after_adding_the_column_is_completed_by_the_next(tmp_path):
    folder = project(tmp_path / "p")
    write(folder, "f1.csv", [{"id": 1, "v": 1}], ("id", "v"))
    run(folder)
    write(folder, "f2.csv", [{"id": 2, "v": 2, "b": "x"}], ("id", "v", "b"))
    workspace = Workspace(load(folder))
    raw = workspace.version("raw")
    marks = CommitProperties(app_transactions=[Transaction(APP, raw.manifest_id)])
    field = Field("b", "string", nullable=True, metadata={ADDED_COLUMN: "true"})
    DeltaTable(workspace.table("raw").storage.uri).alter.add_columns([field], commit_properties=marks)
    assert workspace.query("select id, b from raw").to_pylist() == [{"id": 1, "b": None}]

    run(folder)

    assert workspace.query("select id, b from rows order by id").to_pylist() == [
        {"id": 1, "b": None},
        {"id": 2, "b": "x"},
    ]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ('new_columns="evolves"', "unknown value of new_columns=: got 'evolves'; did you mean 'evolve'"),
        ('new_columns="evolve", schema={"id": "bigint"}, stored=False', "requires a stored source"),
    ],
)
def test_invalid_policy_is_rejected(tmp_path, options, problem):
    with pytest.raises(HeadwaterError, match=problem):
        load(project(tmp_path / "p", options=options, below="rows = sql('select id from raw')"))


def test_new_message_fields_widen_a_table_from_run_to_run(tmp_path, kafka):
    topic = f"columns-{uuid.uuid4().hex[:8]}"
    kafka.create_topic(topic)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "log_level": 0})

    def grown(name: str) -> Path:
        folder = project(tmp_path / name)
        text = (folder / "shop.py").read_text().replace("import dimension", "import kafka, dimension")
        reader = f"kafka({topic!r}, servers={kafka.bootstrap!r})"
        (folder / "shop.py").write_text(text.replace('files("data/*.csv")', reader))
        return folder

    ours = grown("ours")
    for row in ({"id": 1, "v": 1}, {"id": 2, "v": 2, "b": "x"}, {"id": 3, "v": 3}):
        producer.produce(topic, json.dumps(row))
        producer.flush()
        run(ours)

    assert Workspace(load(ours)).query("select id, b from rows order by id").to_pylist() == [
        {"id": 1, "b": None},
        {"id": 2, "b": "x"},
        {"id": 3, "b": None},
    ]
    other = grown("other")
    run(other)
    assert everything(ours) == everything(other)
