"""One local split and many splits on Ray return the same result; errors on workers are raised in the driver unchanged."""

from __future__ import annotations

import os
import sys

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray
import ray.data
from ray.data.expressions import col

from pipeline import files
from pipeline.batch.ray_datasets import write_dataset
from pipeline.batch.ray_tasks import run_tasks
from pipeline.batch.retries import SplitTask
from pipeline.batch.scan_datasource import TableRead
from pipeline.batch.work import Split
from pipeline.core.errors import DefinitionError, ExpectationError, StorageError
from pipeline.core.functions import table
from pipeline.core.schema import Schema
from pipeline.core.source_declaration import source
from pipeline.kernel.pool import Limits
from pipeline.kernel.sql import sql
from pipeline.lake import Storage
from pipeline.quality import fail, quarantine, warn

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("cluster"),
    pytest.mark.timeout(120),
    # Ray's settings class sets options that Ray itself deprecates
    pytest.mark.filterwarnings("ignore:`use_.*` is deprecated:DeprecationWarning"),
]

PARTS = [
    pa.table(
        {"id": range(n * 10, n * 10 + 10), "g": [f"g{i % 3}" for i in range(10)], "x": [n + i / 4 for i in range(10)]}
    )
    for n in range(4)
]
NAMES = pa.table({"g": ["g0", "g1"], "name": ["zero", "one"]})


def same(left, other) -> None:
    """Assert that both outcomes have the same rows, quarantined rows, counts and columns."""
    assert other.rows == left.rows
    assert sorted((r["reasons"], r["row"]) for r in other.quarantined) == sorted(
        (r["reasons"], r["row"]) for r in left.quarantined
    )
    assert other.outcome.flow == left.outcome.flow
    assert other.outcome.checks == left.outcome.checks
    assert other.outcome.schema == left.outcome.schema


@pytest.fixture
def both(step, scan):
    """Execute a step in one local split and with one split per file on Ray, and compare; return the result on Ray."""

    def do(definition, **parts):
        scans = {name: scan(*tables) for name, tables in parts.items()}
        here, there = (step(definition, scans, execution) for execution in ("inline", "ray"))
        same(here, there)
        return there

    return do


def test_a_blockwise_statement_with_expectations(both):
    numbers = sql("select id, x * 2 as y from numbers where id <> 5", expect=[
        warn("whole", "y = floor(y)"), quarantine("small", "id < 35"),
    ]).named("t")  # fmt: skip

    outcome = both(numbers, numbers=PARTS)

    assert len(outcome.outcome.files) == 4
    assert (outcome.outcome.flow.rows_out, outcome.outcome.flow.quarantined) == (34, 5)


def test_a_broadcast_statement(both):
    named = sql("select n.id, m.name from numbers n left join names m on n.g = m.g").named("t")

    assert len(both(named, numbers=PARTS, names=[NAMES]).rows) == 40


def test_an_aggregate_of_states(both):
    totals = sql(
        "select g, count(*) as n, sum(id) as ids, avg(x) as mean, min(x) as low, max(id) as high from numbers "
        "group by g having count(*) > 1",
        key="g",
    ).named("t")

    outcome = both(totals, numbers=PARTS)

    assert [(row["g"], row["n"]) for row in outcome.rows] == [("g0", 16), ("g1", 12), ("g2", 12)]


def test_functions_on_blocks(both):
    @table()
    def arrow_table(numbers: pa.Table) -> pa.Table:
        return numbers.append_column("y", pc.add(numbers["id"], 1))

    @table()
    def polars_table(numbers: pl.DataFrame) -> pl.DataFrame:
        return numbers.filter(pl.col("g") == "g1")

    @table()
    def pandas_table(numbers: pd.DataFrame) -> pd.DataFrame:
        return numbers.assign(y=numbers["x"].round(1))

    assert [len(both(definition, numbers=PARTS).rows) for definition in (arrow_table, polars_table, pandas_table)] == [
        40,
        12,
        40,
    ]


def test_a_key_in_two_splits_is_kept_once(both):
    numbers = sql("select id, g from numbers", key="id").named("t")

    outcome = both(numbers, numbers=[*PARTS, PARTS[0].slice(0, 3)])

    assert len(outcome.rows) == 40
    assert [row["reasons"] for row in outcome.quarantined] == ["key_is_unique"] * 3


def test_a_source_of_several_files(step, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.csv").write_text(f"id\n{number}\nx\n{number + 10}\n")
    raw = source(files(tmp_path / "*.csv"), schema={"id": "bigint"}).named("raw")

    here, there = (step(raw, {}, execution) for execution in ("inline", "ray"))

    same(here, there)
    assert there.outcome.flow.rows_out == 6
    assert sorted(row["_position"] for row in there.quarantined) == [3, 3, 3]


def test_a_dataset_has_row_counts_and_is_executed_once(step, scan, tmp_path):
    runs = tmp_path / "runs"

    @table()
    def doubled(numbers: ray.data.Dataset) -> ray.data.Dataset:
        assert numbers.count() == 40
        assert numbers.sum("id") == sum(range(40))
        assert len(numbers.limit(7).take_all()) == 7

        def double(block: pa.Table) -> pa.Table:
            with runs.open("a") as file:
                file.write(".")
            return block.append_column("twice", pc.multiply(block["id"], 2))

        return numbers.map_batches(double, batch_format="pyarrow", batch_size=None)

    outcome = step(doubled, {"numbers": scan(*PARTS)}, "ray")

    assert [row["twice"] for row in sorted(outcome.rows, key=lambda row: row["id"])] == list(range(0, 80, 2))
    assert outcome.outcome.flow.rows_out == 40
    assert runs.read_text() == "." * len(runs.read_text())
    assert len(runs.read_text()) <= 4


def blocks_of(*tables: pa.Table):
    def constant(numbers: ray.data.Dataset) -> ray.data.Dataset:
        del numbers
        return ray.data.from_arrow(list(tables))

    return constant


def test_blocks_of_a_dataset_may_differ_in_types_and_column_order(step, scan):
    blocks = blocks_of(pa.table({"a": [1], "b": pa.nulls(1)}), pa.table({"b": ["x"], "a": [1.5]}))

    outcome = step(
        table(key="a", expect=[quarantine("b_is_set", "b = 'x'")])(blocks), {"numbers": scan(PARTS[0])}, "ray"
    )

    assert outcome.outcome.schema == Schema.of({"a": "DOUBLE", "b": "VARCHAR"})
    assert outcome.rows == [{"a": 1.5, "b": "x"}]
    assert [row["row"] for row in outcome.quarantined] == ['{"a":1.0,"b":null}']


def test_an_empty_dataset_keeps_its_columns(step, scan):
    @table()
    def none(numbers: ray.data.Dataset) -> ray.data.Dataset:
        return numbers.filter(expr=col("id") < 0)

    outcome = step(none, {"numbers": scan(PARTS[0])}, "ray")

    assert (outcome.rows, outcome.outcome.schema.names) == ([], ("id", "g", "x"))


def test_a_key_in_two_blocks_of_a_dataset_is_kept_once(step, scan):
    @table(key="id")
    def twice(numbers: ray.data.Dataset) -> ray.data.Dataset:
        return numbers.union(numbers.limit(3))

    outcome = step(twice, {"numbers": scan(*PARTS)}, "ray")

    assert [row["id"] for row in sorted(outcome.rows, key=lambda row: row["id"])] == list(range(40))
    assert [row["reasons"] for row in outcome.quarantined] == ["key_is_unique"] * 3
    assert (outcome.outcome.flow.rows_in, outcome.outcome.flow.rows_made) == (40, 43)


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (
            blocks_of(pa.table({"a": [1]}), pa.table({"c": [1]})),
            "'constant' returned blocks with different columns: got a and c",
        ),
        (
            blocks_of(pa.table({"a": [1]}), pa.table({"a": ["x"]})),
            "'constant' returned blocks with incompatible types: got .*; cast them",
        ),
        (
            lambda numbers: numbers.flat_map(lambda _: []),
            "returned an empty dataset, whose columns are unknown",
        ),
        (lambda numbers: numbers.count(), "must return a dataset: got int; return a ray.data.Dataset"),
        (
            lambda numbers: numbers.nothing(),
            "raised AttributeError: got 'MaterializedDataset|raised AttributeError: got 'Dataset'",
        ),
        (lambda numbers: sys.exit(f"{numbers.count()} rows"), "raised SystemExit: got 10 rows"),
        (lambda numbers: numbers.map_batches(lambda block: block["none"]), "raised KeyError: got 'none'"),
    ],
    ids=["columns", "types", "empty", "no dataset", "raises here", "exits", "raises on a worker"],
)
def test_errors_of_dataset_functions_have_a_place(scan, function, problem, tmp_path):
    with pytest.raises(DefinitionError, match=problem) as error:
        write_dataset(function, {"numbers": TableRead("numbers", scan(PARTS[0]))}, Storage(str(tmp_path / "blocks")))
    assert error.value.place is not None
    assert error.value.place.file == __file__


def test_an_error_of_a_task_keeps_its_type_and_parts(step, scan):
    numbers = sql("select id from numbers", expect=[fail("small", "id < 35")]).named("t")

    with pytest.raises(ExpectationError) as error:
        step(numbers, {"numbers": scan(*PARTS)}, "ray")
    assert type(error.value) is ExpectationError
    assert error.value.problem == "table 't' violates 'small' (id < 35)"
    assert error.value.got == "5 rows, the first id=35"
    assert error.value.place == numbers.place
    assert str(error.value).endswith(f"nothing of this table was committed ({numbers.place})")


def test_other_errors_keep_their_type():
    def boom(split: Split) -> None:
        raise ZeroDivisionError(f"split {split.index}")

    with pytest.raises(ZeroDivisionError, match="split"):
        list(run_tasks("t", [SplitTask(boom, Split(n)) for n in range(2)], Limits(1 << 28, 1)))


def test_a_crashed_worker_is_replaced_without_duplicate_rows(step, scan, tmp_path):
    died = tmp_path / "died"

    @table()
    def fragile(numbers: pa.Table) -> pa.Table:
        if numbers["id"][0].as_py() == 20 and not died.exists():
            died.touch()
            os._exit(1)
        return numbers

    outcome = step(fragile, {"numbers": scan(*PARTS)}, "ray")

    assert died.exists()
    assert [row["id"] for row in sorted(outcome.rows, key=lambda row: row["id"])] == list(range(40))
    assert len({file.path for file in outcome.outcome.files}) == len(outcome.outcome.files) == 4


def test_each_of_many_tasks_returns_once(cluster):
    def index(split: Split) -> int:
        return split.index % 1_000_000  # another attempt of a split has another index

    answers = list(run_tasks("t", [SplitTask(index, Split(n)) for n in range(20)], Limits(1 << 28, 1)))

    assert sorted((split.index, answer) for split, answer in answers) == [(n, n) for n in range(20)]
    assert ray.get_runtime_context().gcs_address == cluster


@pytest.mark.proof
def test_a_split_that_crashes_every_worker_is_named(step, scan):
    @table()
    def deadly(numbers: pa.Table) -> pa.Table:
        if numbers["id"][0].as_py() == 20:
            os._exit(1)
        return numbers

    with pytest.raises(
        StorageError, match=r"'deadly' cannot be computed: one split crashes every worker.*: got .*in-2.parquet"
    ):
        step(deadly, {"numbers": scan(*PARTS)}, "ray")


def test_splits_on_ray_with_different_columns_are_rejected(step, scan):
    @table()
    def moody(numbers: pd.DataFrame) -> pd.DataFrame:
        return numbers.assign(y=1 if numbers["id"].min() == 0 else 1.5)

    with pytest.raises(Exception, match="splits of a step returned different columns: got column 'y' was"):
        step(moody, {"numbers": scan(*PARTS[:2])}, "ray")
