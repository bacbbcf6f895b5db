from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from pipeline import files
from pipeline.batch.duplicate_keys import combine_outcomes
from pipeline.batch.row_producers import ArrowProducer, FunctionProducer, SqlProducer
from pipeline.batch.task import run_task
from pipeline.batch.work import Outcome, Split, TaskSpec
from pipeline.core.definitions import Table
from pipeline.core.errors import DefinitionError, ExpectationError, Place, SchemaError, StorageError
from pipeline.core.functions import table
from pipeline.core.schema import Schema
from pipeline.core.source_declaration import source
from pipeline.core.staging import RowCounts
from pipeline.kernel.checks import key_expectations
from pipeline.kernel.engine import connect
from pipeline.kernel.pool import Limits
from pipeline.kernel.scan import DataFile, Scan
from pipeline.kernel.sql import sql
from pipeline.lake import DeltaStager, Storage
from pipeline.quality import drop, fail, quarantine, warn

PLACE = Place("defs.py", 7)
NUMBERS = pa.table({"id": [1, 2, 3, 4], "v": ["a", "b", None, "d"]})


@pytest.fixture
def work(tmp_path):
    def make(producer, **fields) -> TaskSpec:
        stager, quarantined = (DeltaStager(Storage(str(tmp_path / name)), "run1") for name in ("out", "aside"))
        return TaskSpec("t", PLACE, producer, stager, quarantined, "run1", "2024-01-01T00:00:00+00:00", **fields)

    return make


def producer_of(rows: pa.Table) -> ArrowProducer:
    return ArrowProducer(rows, rows.num_rows)


def test_every_row_is_kept_quarantined_or_dropped_and_counted(step, scan):
    numbers = sql("select id, v from numbers", key="id", expect=[
        warn("has_v", "v is not null"), quarantine("small", "id < 4"), drop("not_two", "id <> 2"), fail("positive", "id > 0"),
    ]).named("t")  # fmt: skip

    outcome = step(numbers, {"numbers": scan(NUMBERS, NUMBERS.slice(0, 1))})

    assert outcome.rows == [{"id": 1, "v": "a"}, {"id": 3, "v": None}]
    assert outcome.outcome.flow == RowCounts(5, 5, 2, 2, 1, 0, outcome.outcome.flow.bytes_in)
    assert outcome.outcome.checks == {
        "has_v": 1, "small": 1, "not_two": 1, "positive": 0, "key_is_not_null": 0, "key_is_unique": 1,
    }  # fmt: skip
    assert sorted((row["reasons"], row["row"]) for row in outcome.quarantined) == [
        ("key_is_unique", '{"id":1,"v":"a"}'),
        ("small", '{"id":4,"v":"d"}'),
    ]


def test_a_failed_expectation_stages_nothing_and_shows_the_first_row(work, tmp_path):
    expectation = fail("has_v", "v is not null")

    with pytest.raises(ExpectationError, match=r"'t' violates 'has_v' \(v is not null\): got 1 row, the first id=3"):
        run_task(work(producer_of(NUMBERS), expectations=(expectation,)), Split(0))
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_source_stores_provenance_and_quarantines_rejected_rows(step, tmp_path):
    (tmp_path / "a.csv").write_text("id\n1\nx\n")
    (tmp_path / "b.csv").write_text("id\n2\n")
    raw = source(files(tmp_path / "*.csv"), schema={"id": "bigint"}).named("raw")

    outcome = step(raw, {})

    a, b = str(tmp_path / "a.csv"), str(tmp_path / "b.csv")
    assert [(r["id"], r["_source"], r["_position"]) for r in outcome.rows] == [(1, a, 2), (2, b, 2)]
    assert [(r["reasons"], r["_source"], r["_position"], r["row"]) for r in outcome.quarantined] == [
        ("column 'id' is not BIGINT: x", a, 3, "x")
    ]
    flow = outcome.outcome.flow
    assert (flow.rows_in, flow.rows_made, flow.rows_out, flow.quarantined) == (3, 3, 2, 1)


def frames() -> dict[str, Table]:
    @table()
    def arrow_table(numbers: pa.Table) -> pa.Table:
        return numbers.append_column("twice", pa.compute.multiply(numbers["id"], 2))

    @table()
    def polars_table(numbers: pl.DataFrame) -> pl.DataFrame:
        return numbers.with_columns(twice=pl.col("id") * 2)

    @table()
    def pandas_table(numbers: pd.DataFrame) -> pd.DataFrame:
        return numbers.assign(twice=numbers["id"] * 2)

    return {"arrow": arrow_table, "polars": polars_table, "pandas": pandas_table}


@pytest.mark.parametrize("kind", ["arrow", "polars", "pandas"])
def test_a_function_is_called_on_blocks_of_its_kind(step, scan, kind):
    outcome = step(frames()[kind], {"numbers": scan(NUMBERS, NUMBERS)})

    assert [row["twice"] for row in outcome.rows] == [2, 2, 4, 4, 6, 6, 8, 8]


def test_other_inputs_of_a_function_are_complete(step, scan):
    @table()
    def joined(numbers: pa.Table, names: pa.Table) -> pa.Table:
        assert names.num_rows == 8
        return numbers.join(names.slice(0, 4), "id", right_suffix="_name").sort_by("id")

    outcome = step(joined, {"numbers": scan(NUMBERS), "names": scan(NUMBERS, NUMBERS)})

    assert len(outcome.rows) == 4


def test_a_function_over_an_empty_input_returns_its_columns(step):
    outcome = step(frames()["arrow"], {"numbers": Scan(Schema.of({"id": "BIGINT", "v": "VARCHAR"}))})

    assert (outcome.rows, outcome.outcome.files) == ([], ())
    assert outcome.outcome.schema == Schema.of({"id": "BIGINT", "v": "VARCHAR", "twice": "BIGINT"})


def test_blocks_with_different_types_are_rejected(work, scan):
    @table()
    def moody(numbers: pd.DataFrame) -> pd.DataFrame:
        return numbers.assign(x=1 if numbers["id"].min() == 1 else 1.5)

    later = pa.table({"id": [7], "v": ["z"]})
    with pytest.raises(
        DefinitionError,
        match="'moody' returned blocks with different columns: got column 'x' was BIGINT, now DOUBLE",
    ):
        run_task(work(FunctionProducer(moody.transform, {}, PLACE)), Split(0, scan(NUMBERS, later)))


def test_outcomes_with_different_columns_cannot_be_added():
    first, other = (Outcome(Schema.of({"x": kind}), RowCounts()) for kind in ("BIGINT", "DOUBLE"))

    with pytest.raises(
        SchemaError, match="the splits of a step returned different columns: got column 'x' was BIGINT, now DOUBLE"
    ):
        _ = first + other


def test_outcomes_can_be_added():
    schema = Schema.of({"x": "BIGINT"})
    first = Outcome(schema, RowCounts(rows_in=1, rows_out=1), checks={"a": 1, "b": 0})
    other = Outcome(schema, RowCounts(rows_in=2, quarantined=2), checks={"a": 2, "b": 5})

    assert first + other == Outcome(schema, RowCounts(rows_in=3, rows_out=1, quarantined=2), checks={"a": 3, "b": 5})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("select nothing from numbers", "'t' is not valid for its inputs: got Binder Error"),
        ("select id from elsewhere", "'t' is not valid for its inputs: got Catalog Error"),
        ("select v::integer as n from numbers", "'t' cannot convert a value: got Conversion Error"),
        ("select (9223372036854775807::hugeint + id) as n from numbers", "'t' cannot convert a value: got"),
        ("select error('no ' || id) as n from numbers", "'t' cannot convert a value: got Invalid Input Error: no 1"),
    ],
)
def test_failed_statement_has_reason_and_place(work, scan, text, problem):
    producer = SqlProducer(text, "numbers", {})

    with pytest.raises(DefinitionError, match=problem) as error:
        run_task(work(producer), Split(0, scan(NUMBERS)))
    assert error.value.place == PLACE


def test_error_of_a_function_has_its_place(work, scan):
    def boom(numbers: pa.Table) -> pa.Table:  # noqa: ARG001 - it raises
        raise KeyError("no such thing")

    transform = table()(boom).transform

    with pytest.raises(DefinitionError, match=r"'boom' raised KeyError: got 'no such thing'") as error:
        run_task(work(FunctionProducer(transform, {}, Place(__file__, 1))), Split(0, scan(NUMBERS)))
    assert error.value.place is not None
    assert error.value.place.line == boom.__code__.co_firstlineno + 1


def test_a_missing_key_column_is_rejected(work):
    key = ("k",)
    with pytest.raises(
        DefinitionError, match=r"table 't': key= does not fit the rows .*\"k\" not found.*columns: id, v"
    ):
        run_task(work(producer_of(NUMBERS), key=key, expectations=key_expectations(key)), Split(0))


def test_a_missing_lake_file_is_a_storage_error(work):
    missing = Scan(Schema.of({"id": "BIGINT"}), (DataFile("/nowhere/x.parquet", 1, 1),))

    with pytest.raises(StorageError, match="'t' cannot read its inputs: got IO Error: No files found"):
        run_task(work(SqlProducer("select id from numbers", "numbers", {})), Split(0, missing))


def test_exceeding_the_memory_limit_is_an_error_with_advice(work, scan):
    producer = SqlProducer("select list(i) as l from range(20000000) t(i), numbers", "numbers", {})
    small = Limits(memory_bytes=30_000_000, threads=1)

    with pytest.raises(StorageError, match=r"'t' exceeds the memory limit: got .*; raise memory_bytes"):
        run_task(work(producer, limits=small), Split(0, scan(NUMBERS)))


def test_a_row_with_an_existing_key_is_quarantined(step, scan):
    before = scan(pa.table({"id": [2, 9]}))
    numbers = sql("select id, v from numbers", key="id").named("t")

    outcome = step(numbers, {"numbers": scan(NUMBERS)}, existing=SimpleNamespace(scan=lambda: before))

    assert [row["id"] for row in outcome.rows] == [1, 3, 4]
    assert [row["reasons"] for row in outcome.quarantined] == ["key_is_unique"]


def test_the_first_row_of_a_key_in_several_splits_is_kept(work):
    unranked = work(producer_of(NUMBERS), key=("id",), expectations=key_expectations(("id",)))
    keyed = replace(unranked, are_splits_ranked=True)
    later = replace(keyed, producer=producer_of(pa.table({"id": [4, 5, 1], "v": ["x", "y", "z"]})))
    outcomes = [run_task(keyed, Split(0)), run_task(later, Split(1)), run_task(later, Split(2))]

    assert combine_outcomes(unranked, outcomes) is None
    combined = combine_outcomes(keyed, outcomes)
    assert combined is not None

    assert combined.flow == RowCounts(rows_in=10, rows_made=10, rows_out=5, quarantined=5)
    assert combined.checks == {"key_is_not_null": 0, "key_is_unique": 5}
    with connect() as con:
        rows = con.execute(f"select * from {keyed.stager.scan(combined.files)} order by id").fetchall()
        quarantined = con.execute(
            f"select reasons, row from {keyed.quarantined.scan(combined.quarantined)} order by row"
        ).fetchall()
    assert rows == [(1, "a"), (2, "b"), (3, None), (4, "d"), (5, "y")]
    assert {reason for reason, _ in quarantined} == {"key_is_unique"}
    assert quarantined[0][1] == '{"id":1,"v":"z"}'


def test_splits_with_disjoint_keys_are_not_reread(work):
    keyed = work(producer_of(NUMBERS), key=("id",), expectations=key_expectations(("id",)))
    later = replace(keyed, producer=producer_of(pa.table({"id": [5, 9], "v": ["x", "y"]})))
    outcomes = [run_task(keyed, Split(0)), run_task(later, Split(1))]
    for file in (file for outcome in outcomes for file in outcome.files):
        Path(keyed.stager.storage.uri, file.path).unlink()

    assert combine_outcomes(keyed, outcomes).flow.rows_out == 6


def test_a_retried_split_stages_the_same_files(work, tmp_path):
    once = run_task(work(producer_of(NUMBERS)), Split(3))
    before = Path(tmp_path, "out", once.files[0].path).read_bytes()

    again = run_task(work(producer_of(NUMBERS)), Split(3))

    assert replace(again, profile=once.profile) == once
    assert Path(tmp_path, "out", again.files[0].path).read_bytes() == before


def test_the_errors_of_a_task_survive_pickling():
    for kind in (DefinitionError, ExpectationError, SchemaError, StorageError):
        copy = pickle.loads(pickle.dumps(kind("p", got="g", do="d", place=PLACE)))  # noqa: S301 - pickled by this test
        assert (type(copy), copy.problem, copy.got, copy.do, copy.place) == (kind, "p", "g", "d", PLACE)
