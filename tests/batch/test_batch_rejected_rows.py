"""Rejected rows are set aside in the pass that streams the others, with the same result as in the validating pass."""

from __future__ import annotations

from contextlib import contextmanager

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, currently_in_test_context, event, given, settings
from hypothesis import strategies as st

from pipeline import files
from pipeline.batch import misfits, violations
from pipeline.batch.partial_task import run_states
from pipeline.batch.row_producers import ArrowProducer, SourceProducer, SqlProducer
from pipeline.batch.task import run_task
from pipeline.batch.work import Split, TaskSpec
from pipeline.connectors.files.csv import arrow_conversion
from pipeline.core.errors import ExpectationError, HeadwaterError, Place
from pipeline.core.schema import Schema
from pipeline.core.splits import SourceSplit
from pipeline.kernel.checks import key_expectations
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.pool import Limits
from pipeline.lake import DeltaStager, Storage
from pipeline.quality import drop, fail, quarantine, warn
from tests.connectors.files.test_files_csv_arrow_conversion import ENDS, FITS, LINE, SCHEMA
from tests.rigs.proofs import examples

PLACE = Place("defs.py", 7)
AT = "2024-01-01T00:00:00+00:00"
NUMBERS = Schema.of({"id": "bigint", "v": "varchar"})
PROPERTY = settings(
    max_examples=examples(12, 1000),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Validated:
    """A producer without a fast path."""

    def __init__(self, producer):
        self.for_validation = producer.for_validation

    @contextmanager
    def for_fast_path(self, *_):
        yield None


@pytest.fixture
def work(tmp_path):
    """Return a function that specifies a task with one thread."""

    def make(producer, name="out", threads=1, **fields) -> TaskSpec:
        stagers = (DeltaStager(Storage(str(tmp_path / each)), "run1") for each in (name, f"{name}-aside"))
        return TaskSpec("t", PLACE, producer, *stagers, "run1", AT, limits=Limits(threads=threads), **fields)

    return make


def result(spec, split):
    """Return the counts of a task's outcome, and its rows and quarantined rows ordered by value; or its error."""
    try:
        outcome = run_task(spec, split)
    except HeadwaterError as error:
        return str(error)
    with connect() as con:
        staged = [
            sorted(arrow(con, f"from {stager.scan(files)}").to_pylist(), key=repr) if files else []
            for stager, files in ((spec.stager, outcome.files), (spec.quarantined, outcome.quarantined))
        ]
    if currently_in_test_context():
        event(", ".join(outcome.fallbacks) or "one pass")
    return outcome.schema, outcome.flow, dict(outcome.checks), staged


def assert_same(work, producer, split, **fields):
    validated = result(work(Validated(producer), "validated", **fields), split)
    assert result(work(producer, **fields), split) == validated


CONDITIONS = st.sampled_from(["id > 1", "v is not null", "v <> 'b'", "length(v) < 3 or id = 2", "true", "x < 1.5"])
ACTIONS = st.sampled_from([warn, warn, drop, drop, quarantine, quarantine, fail])
ROWS = st.lists(
    st.tuples(st.one_of(st.none(), st.integers(0, 4)), st.sampled_from([None, "a", "b", 'ö"\n'])), max_size=9
)


@PROPERTY
@given(ROWS, st.lists(st.tuples(CONDITIONS, ACTIONS), max_size=4), st.booleans(), st.sampled_from([1, 2]))
def test_rows_that_violate_expectations(work, rows, expectations, is_keyed, threads):
    ids, texts = pa.array([number for number, _ in rows], pa.int64()), pa.array([text for _, text in rows], pa.string())
    infinite = pa.array([float("inf")] * len(rows))
    table = pa.table({"id": ids, "v": texts, "x": infinite, "_source": texts, "_position": ids})
    key = ("id",) if is_keyed else ()
    expect = (*(action(f"e{n}", test) for n, (test, action) in enumerate(expectations)), *key_expectations(key))
    producer = ArrowProducer(table, table.num_rows, hidden=("_source",))

    assert_same(work, producer, Split(0), expectations=expect, key=key, threads=threads)


STATEMENTS = [
    "select distinct id from g",
    "select distinct on (v) * from g order by v, id",
    "select id from g except select id from u",
    "select id from g intersect select id from u",
    "select id from g union select id from u",
    "select id from g union all select id from u",
    "select g.* from g join u using (id)",
    "select g.* from g left join u using (id)",
    "select u.id, g.v from g right join u using (id)",
    "select g.id, u.id as other from g, u",
    "select * from g semi join u using (id)",
    "select * from g anti join u using (id)",
    "select * from g where id in (select id from u)",
    "select g.id, l.v from g, lateral (select g.v || 'x' as v) as l",
    "with c as materialized (select * from g) select a.id from c a join c b using (id)",
    "select id, count(*) as n from g group by id",
    "select id, row_number() over (partition by v order by id) as n from g",
    "select id, unnest([1, 2]) as n from g",
    "select * from g qualify row_number() over (partition by id order by v) = 1",
    "select id from g order by id limit 2",
]


@pytest.mark.share(20)
@pytest.mark.parametrize("statement", STATEMENTS)
@pytest.mark.parametrize("action", [warn, drop, quarantine])
def test_rows_of_any_statement_that_violate_expectations(work, statement, action):
    table = pa.table({"id": [1, 1, 2, 3], "v": ["a", "b", "a", None]})
    producer = ArrowProducer(table, 4, views={"g": table, "u": pa.table({"id": [2, 2, 9]})}, query=statement)

    for condition in ("id > 1", "id <> 2", "id < 9", "id is null", "{'a': id}['a'] > 1"):
        assert_same(work, producer, Split(0), expectations=(action("e", condition),))
        assert run_task(work(producer, expectations=(action("e", condition),)), Split(0)).fallbacks == {}


@pytest.mark.parametrize(
    "name", ["_number", "_headwater_number", "_HEADWATER_BITS", "_headwater_keep", "row", "reasons"]
)
def test_columns_with_any_name(work, tmp_path, name):
    schema = Schema.of({"id": "bigint", name: "bigint"})
    path = write_lines(
        tmp_path / "a.csv", [("1,5", "\n"), ("2,0", "\n"), ("x,7", "\n"), ("4,-1", "\n")], f"id,{name}\n"
    )
    producer, split = source_of(path, schema=schema)

    assert_same(work, producer, split, expectations=(quarantine("large", f"{name} > -1"), drop("two", "id <> 2")))


def test_an_expectation_is_evaluated_once(work):
    producer = ArrowProducer(pa.table({"id": range(10_000)}), 10_000)

    outcome = run_task(work(producer, expectations=(quarantine("half", "random() < 0.5"),)), Split(0))

    assert 4_500 < outcome.flow.quarantined < 5_500


def source_of(*paths, schema=SCHEMA, target_bytes=None):
    """Return a producer of the rows of files, and one split of all their splits."""
    reader = files(paths[0].parent / f"*{paths[0].suffix}")
    splits = [
        part
        for file in reader.source_objects()
        for part in ([SourceSplit(file)] if target_bytes is None else reader.splits(file, target_bytes))
    ]
    return SourceProducer(reader, schema, AT), Split(0, source_splits=tuple(splits))


def write_lines(path, lines, head=""):
    path.write_bytes((head + "".join(line + end for line, end in lines)).encode())
    return path


LINES = st.lists(st.tuples(st.one_of(FITS, FITS, LINE), st.one_of(st.just("\n"), ENDS)), min_size=1, max_size=12)
OBJECTS = st.sampled_from(
    ['{"id":1,"v":"a"}', '{"id":2}', '{"v":"b","id":3}', '{"id":"x"}', '{"id":1.5,"v":"c"}', "{", "[1]", '{"z":1}', "é"]
)


@PROPERTY
@given(LINES, st.sampled_from([None, 40, 90]))
def test_rows_of_delimited_text_outside_the_contract(work, tmp_path, monkeypatch, lines, target_bytes):
    monkeypatch.setattr(arrow_conversion, "_HEAD_BYTES", 60)
    monkeypatch.setattr(arrow_conversion, "_BLOCK_BYTES", 200)
    path = write_lines(tmp_path / "a.csv", lines, ",".join(SCHEMA.names) + "\n")

    assert_same(work, *source_of(path, target_bytes=target_bytes))


@PROPERTY
@given(st.lists(LINES, min_size=1, max_size=3))
def test_rows_of_several_small_files(work, tmp_path, lines):
    head = ",".join(SCHEMA.names) + "\n"
    for old in tmp_path.glob("*.csv"):
        old.unlink()
    paths = [write_lines(tmp_path / f"{n}.csv", each, head) for n, each in enumerate(lines)]

    assert_same(work, *source_of(*paths))


@PROPERTY
@given(st.lists(st.tuples(OBJECTS, st.just("\n")), min_size=1, max_size=9), st.sampled_from([None, 40]))
def test_objects_outside_the_contract(work, tmp_path, lines, target_bytes):
    path = write_lines(tmp_path / "a.ndjson", lines)

    assert_same(work, *source_of(path, schema=NUMBERS, target_bytes=target_bytes))


def thousands(tmp_path, *bad):
    """Write a file with 200,000 records, and bad ones at some lines."""
    lines = ["id,v", *(f"{n},text {n}" for n in range(200_000))]
    for number, text in bad:
        lines[number - 1] = text
    path = tmp_path / "a.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_large_split_with_bad_rows_is_read_once(work, tmp_path):
    path = thousands(tmp_path, (2, "1,2,3"), (100_000, "x,a"), (150_000, "7"), (200_001, "y,"))
    producer, split = source_of(path, schema=NUMBERS, target_bytes=1 << 20)
    spec = work(producer, expectations=(quarantine("even", "id % 1000 <> 0"), warn("short", "id < 1000")))

    outcome = run_task(spec, split)

    assert outcome.fallbacks == {}
    assert (outcome.flow.rows_in, outcome.flow.rows_out, outcome.flow.quarantined) == (200_000, 199_797, 203)
    assert outcome.checks == {"even": 199, "short": 198_997}
    with connect() as con:
        aside = arrow(
            con, f"from {spec.quarantined.scan(outcome.quarantined)} where reasons <> 'even' order by _position"
        )
    assert list(zip(aside["_position"].to_pylist(), aside["reasons"].to_pylist(), strict=True)) == [
        (2, "3 columns in place of 2"),
        (100_000, "column 'id' is not BIGINT: x"),
        (150_000, "1 column in place of 2"),
        (200_001, "column 'id' is not BIGINT: y"),
    ]


def test_bad_rows_below_partial_states_are_quarantined_in_the_same_pass(work, tmp_path):
    producer, split = source_of(thousands(tmp_path, (100_000, "x,a")), schema=NUMBERS)
    spec = work(SqlProducer("select count(*) as n, sum(id) as ids from raw", "raw", {}, source=producer))

    states = run_states(spec, split)

    assert states.rows.to_pylist() == [{"n": 199_999, "ids": sum(range(200_000)) - 99_998}]
    assert (states.rows_in, states.rejected, len(states.quarantined)) == (200_000, 1, 1)


def test_many_bad_lines_are_not_found_one_by_one(work, tmp_path):
    path = thousands(tmp_path, *((n, "x,a") for n in range(50_000, 52_900, 2)))
    producer, split = source_of(path, schema=NUMBERS)

    outcome = run_task(work(producer), split)

    assert [reason.partition(":")[0] for reason in outcome.fallbacks] == ["the pass failed"]
    assert outcome.flow.quarantined == 1_450


@pytest.mark.parametrize("bad", ["too many", "too many bytes", "fail"])
def test_what_the_pass_refuses_is_validated(work, tmp_path, monkeypatch, bad):
    monkeypatch.setattr(misfits, "MOST", 2)
    monkeypatch.setattr(violations, "MOST_BYTES", 100)
    path = thousands(tmp_path, *((n, "x,a") for n in range(10, 13 if bad == "too many" else 10)))
    producer, split = source_of(path, schema=NUMBERS)
    test = {"too many bytes": quarantine("small", "id < 199990"), "fail": fail("small", "id < 199990")}.get(bad)
    spec = work(producer, expectations=() if test is None else (test,))

    if bad == "fail":
        with pytest.raises(ExpectationError, match=r"'t' violates 'small' \(id < 199990\): got 10 rows"):
            run_task(spec, split)
        return
    outcome = run_task(spec, split)

    assert sum(outcome.fallbacks.values()) == 1
    assert outcome.flow.quarantined == (3 if bad == "too many" else 10)


def test_a_row_that_only_arrow_rejects_is_kept(work, tmp_path):
    producer, split = source_of(thousands(tmp_path, (100_000, "5.0,a")), schema=NUMBERS)

    outcome = run_task(work(producer), split)

    assert outcome.fallbacks == {"a rejected record cannot be read alone": 1}
    assert (outcome.flow.rows_out, outcome.flow.quarantined) == (200_000, 0)
