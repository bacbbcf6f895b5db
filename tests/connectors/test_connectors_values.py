"""One rule for all formats: a value enters a typed column only if it is converted without loss."""

from __future__ import annotations

import csv
import json
import math
from unittest.mock import patch

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline import files
from pipeline.connectors import contract
from pipeline.connectors.kafka.decoding import Decoder
from pipeline.connectors.kafka.partitions import Partition
from pipeline.connectors.kafka.value_formats import Metadata
from pipeline.core.schema import Schema
from pipeline.core.sources import MISFIT as IS_MISFIT
from pipeline.core.sources import POSITION
from pipeline.core.splits import SourceSplit
from pipeline.kernel.engine import connect
from pipeline.kernel.pool import Limits
from tests.rigs.exact import EITHER, MISFIT, NUMBERS, TYPES, expected, texts
from tests.rigs.proofs import PROOFS, SEED

PAIRS = 10_000 if PROOFS else 2_000
EACH = PAIRS // len(TYPES) + 1
_ABSENT = object()


def values_of(reading, count, first):
    """The values at their positions in the input; `MISFIT` for a rejected row."""
    values = [_ABSENT] * count
    for value, position in zip(reading.rows["x"].to_pylist(), reading.rows[POSITION].to_pylist(), strict=True):
        values[position - first] = value
    for position in reading.rejected[POSITION].to_pylist():
        values[position - first] = MISFIT
    assert _ABSENT not in values
    return values


def same(got, want):
    if want is EITHER or got is want:
        return True
    if got is MISFIT or want is MISFIT:
        return False
    if isinstance(want, float) and math.isnan(want):
        return math.isnan(got)
    return got == want


def wrong(texts, kind, results):
    pairs = zip(texts, results, strict=True)
    return [(text, got) for text, got in pairs if not same(got, expected(text, kind))]


def scanned(flow, results, first):
    """Differences between the fast path and the validating pass, over the rows that the fast path accepts."""
    by_itself, passed = _scanned(flow, results, first)
    with patch.object(contract, "_LIST_TEST_COLUMNS", 1):
        in_lists, passed_in_lists = _scanned(flow, results, first)
    return by_itself + in_lists + [passed ^ passed_in_lists] * (passed != passed_in_lists)


def _scanned(flow, results, first):
    with connect(Limits(threads=1)) as con, flow(con) as scanned:
        try:
            rows = None if scanned is None else con.sql(scanned.query).to_arrow_table()
        except duckdb.Error:
            rows = None
        if rows is None or con.execute(scanned.error_query).fetchall()[0][0]:
            return [], set()  # a record is missing, so positions do not match: the fast path is not used
    kept = rows.filter(pc.invert(rows[IS_MISFIT])).to_pylist()
    return [row for row in kept if not same(row["x"], results[row[POSITION] - first])], {row[POSITION] for row in kept}


@pytest.fixture
def reads(tmp_path):
    def call(name, text, schema, **options):
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
        reader = files(tmp_path / name, **options)
        split = SourceSplit(reader.source_objects()[0])
        return reader.read(split, schema), lambda con: reader.scan(con, split, schema)

    return call


@pytest.mark.parametrize("kind", TYPES)
def test_csv_value_is_lossless_or_rejected(reads, tmp_path, kind):
    inputs = texts(kind, EACH, SEED)
    with (tmp_path / "text.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerows([["x"], *([text] for text in inputs)])
    text = (tmp_path / "text.csv").read_text(encoding="utf-8")

    reading, flow = reads("a.csv", text, Schema.of({"x": kind}), null_values=["NULL"])
    results = values_of(reading, len(inputs), 2)

    assert wrong(inputs, kind, results) == []
    assert scanned(flow, results, 2) == []


FORMS = [*((kind, "string") for kind in TYPES), *((kind, "number") for kind in NUMBERS)]


@pytest.mark.share(15)
@pytest.mark.parametrize(("kind", "form"), FORMS)
def test_json_value_is_lossless_or_rejected(reads, kind, form):
    inputs = [text for text in texts(kind, EACH, SEED) if form == "string" or _is_json_number(text)]
    written = [text if form == "number" else json.dumps(text) for text in inputs]
    lines = "".join(f'{{"x": {text}}}\n' for text in written)

    reading, flow = reads("a.json", lines, Schema.of({"x": kind}))
    results = values_of(reading, len(inputs), 1)

    assert wrong(inputs, kind, results) == []
    assert scanned(flow, results, 1) == []


@pytest.mark.share(6)
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    ("nested", "around", "inside"),
    [
        ("{}[]", "[null, {}]", lambda value: value[1]),
        ("STRUCT(a {}, b BIGINT)", '{{"a": {}}}', lambda value: value["a"]),
        ("MAP(VARCHAR, {}[])", '{{"k": [{}]}}', lambda value: value[0][1][0]),
    ],
    ids=["list", "struct", "map"],
)
def test_nested_json_value_is_lossless_or_rejected(reads, kind, nested, around, inside):
    inputs = texts(kind, EACH // 3, SEED)
    if kind in NUMBERS:
        inputs = [text for text in inputs if _is_json_number(text)]
    written = [text if kind in NUMBERS else json.dumps(text) for text in inputs]
    lines = "".join(f'{{"x": {around.format(text)}}}\n' for text in written)

    reading, flow = reads("a.json", lines, Schema.of({"x": nested.format(kind)}))
    outer = values_of(reading, len(inputs), 1)

    assert wrong(inputs, kind, [MISFIT if value is MISFIT else inside(value) for value in outer]) == []
    assert scanned(flow, outer, 1) == []


@pytest.mark.share(10)
@pytest.mark.parametrize(("kind", "form"), [*FORMS, *((kind, "text") for kind in TYPES)])
def test_message_value_is_lossless_or_rejected(kind, form):
    inputs = [text for text in texts(kind, EACH, SEED) if form != "number" or _is_json_number(text)]
    written = {
        "string": lambda text: json.dumps({"x": text}),
        "number": lambda text: f'{{"x":{text}}}',
        "text": lambda text: text,
    }[form]
    messages = [written(text).encode() for text in inputs]
    records = pa.table({"value": pa.array(messages, pa.binary()), POSITION: pa.array(range(len(messages)))})
    decoder = Decoder("text" if form == "text" else "json", Metadata())
    schema, partition = Schema.of({"x": kind}), Partition("t", 0)

    results = values_of(decoder.read(records, schema, partition), len(inputs), 0)

    assert wrong(inputs, kind, results) == []
    assert scanned(lambda con: decoder.scan(con, records, schema, partition), results, 0) == []


def _is_json_number(text):
    try:
        return isinstance(json.loads(text, parse_constant=lambda _: None), int | float) and text.strip() == text
    except ValueError:
        return False


CASES = [
    # text, type, value (None: rejected)
    ("01/02/25", "DATE", None),
    ("01/02/25", "TIMESTAMP", None),
    ("2025-01-01 10:00 PM", "TIMESTAMP", None),
    ("2025-01-01T10:00:00 EST", "TIMESTAMP", None),
    ("2025-03-30 02:30:00+02:00", "TIMESTAMP", None),
    ("1_000", "BIGINT", None),
    ("1_000.5", "DOUBLE", None),
    ("1e400", "DOUBLE", None),
    ("12.345", "DECIMAL(10,2)", None),
    ("1.1000", "DECIMAL(10,2)", "1.10"),
    ("infinity", "DATE", None),
    ("10000-01-01", "DATE", None),
    ("0044-03-15 (BC)", "DATE", None),
    ("2025-01-02x", "DATE", None),
    ("2024-02-29", "DATE", "2024-02-29"),
    ("2025-02-29", "DATE", None),
    ("2025-06-30 23:59:60", "TIMESTAMP", None),
    ("10:00:00.1234567", "TIME", None),
    ("1.5 months", "INTERVAL", None),
    ("1 day 02:03:04.5", "INTERVAL", "1 day 02:03:04.5"),
    ("c", "ENUM('a', 'b')", None),
    ("\u00e9", "BLOB", None),
    (" 12 ", "BIGINT", "12"),
    ("\uff11\uff12", "BIGINT", None),
]


@pytest.mark.share(10)
@pytest.mark.parametrize(("text", "kind", "value"), CASES)
@pytest.mark.parametrize("form", ["csv", "json"])
def test_text_that_would_lose_information_is_rejected(reads, text, kind, value, form):
    line = json.dumps({"x": text}) if form == "json" else f'x\n"{text}"'
    reading, flow = reads(f"a.{form}", f"{line}\n", Schema.of({"x": kind}))

    results = duckdb.sql("select x::varchar from rows", connection=_with(reading.rows)).fetchall()
    assert results == ([] if value is None else [(value,)])
    if value is None:
        assert (
            reading.rejected["reason"][0]
            .as_py()
            .startswith(f"column 'x' is not {Schema.of({'x': kind}).columns[0].type}: {text}")
        )
    assert scanned(flow, values_of(reading, 1, 1 if form == "json" else 2), 1 if form == "json" else 2) == []


def _with(rows):
    con = duckdb.connect()
    con.register("rows", rows)
    return con


JSON_CASES = [
    ("[1,2.7]", "BIGINT[]", None),
    ('{"n":1.5}', "STRUCT(n BIGINT)", None),
    ("1.5", "UBIGINT", None),
    ("1.5", "UTINYINT", None),
    ("0.4", "UBIGINT", None),
    ("9007199254740993.5", "BIGINT", None),
    ("9.007199254740993e15", "BIGINT", 9007199254740993),
    ("[9.007199254740993e15]", "BIGINT[]", [9007199254740993]),
    ("5.0", "BIGINT", 5),
    ("5.0000000000000000001", "BIGINT", None),
    ("0.1000000000000000000001", "DECIMAL(10,2)", None),
    ("1.50", "VARCHAR", "1.50"),
    ("0.12345678901234567890123", "VARCHAR", "0.12345678901234567890123"),
    ('{"a":1.50,"b":"1.50"}', "VARCHAR", '{"a":1.50,"b":"1.50"}'),
    ('{"a":1.50,"b":["1.50"]}', "JSON", '{"a":1.50,"b":["1.50"]}'),
    # a missing key is null; an undeclared or duplicate key is rejected
    ('{"x":1,"y":2}', "STRUCT(x BIGINT, y BIGINT, z BIGINT)", {"x": 1, "y": 2, "z": None}),
    ('{"z":3,"x":1}', "STRUCT(x BIGINT, y BIGINT, z BIGINT)", {"x": 1, "y": None, "z": 3}),
    ('{"z":null}', "STRUCT(x BIGINT, y BIGINT, z BIGINT)", {"x": None, "y": None, "z": None}),
    ("{}", "STRUCT(x BIGINT, y BIGINT, z BIGINT)", {"x": None, "y": None, "z": None}),
    ('[{"c":1},{"c":null},null,{}]', "STRUCT(c BIGINT)[]", [{"c": 1}, {"c": None}, None, {"c": None}]),
    ('{"x":1,"w":2}', "STRUCT(x BIGINT)", None),
    ('{"X":1}', "STRUCT(x BIGINT)", None),
    ('{"x":1,"x":2}', "STRUCT(x BIGINT)", None),
    ("5", "STRUCT(x BIGINT)", None),
    ("5", "BIGINT[]", None),
    ('{"x":[1]}', "STRUCT(x BIGINT)", None),
    ("[[1,2],[],null]", "BIGINT[][]", [[1, 2], [], None]),
    ('{"a":1,"b":null}', "MAP(VARCHAR, BIGINT)", [("a", 1), ("b", None)]),
]


@pytest.mark.share(10)
@pytest.mark.parametrize(("value", "kind", "right"), JSON_CASES)
@pytest.mark.parametrize("form", ["file", "message"])
def test_json_value_is_complete_or_rejected(reads, value, kind, right, form):
    line, schema = f'{{"x":{value}}}', Schema.of({"x": kind})
    if form == "file":
        reading, flow = reads("a.json", f"{line}\n", schema)
        first = 1
    else:
        records = pa.table({"value": pa.array([line.encode()], pa.binary()), POSITION: pa.array([0])})
        decoder, partition, first = Decoder("json", Metadata()), Partition("t", 0), 0
        reading = decoder.read(records, schema, partition)

        def flow(con):
            return decoder.scan(con, records, schema, partition)

    results = values_of(reading, 1, first)
    assert results == [MISFIT if right is None else right]
    assert scanned(flow, results, first) == []


@pytest.mark.parametrize("form", ["csv", "json"])
def test_numeric_type_is_not_inferred_if_text_would_change(reads, form):
    values = ["94107", "00501", "+49", "1e5", "5.0", " 7"]
    lines = [json.dumps({"x": value}) for value in values] if form == "json" else ["x", *(f'"{v}"' for v in values)]
    text = "\n".join(lines) + "\n"

    declared, _ = reads(f"a.{form}", text, Schema.of({"x": "BIGINT"}))
    inferred, _ = reads(f"a.{form}", text, Schema.of({"x": "BIGINT"}).inferred())

    assert declared.rows["x"].to_pylist() == [94107, 501, 49, 100000, 5, 7]
    assert inferred.rows["x"].to_pylist() == [94107]
    assert (
        inferred.rejected["reason"][0].as_py()
        == "column 'x' is not BIGINT: 00501 (the type was inferred; declare x as varchar)"
    )


INFERRED = [
    (["31/12/2025", "30/01/2025"], "VARCHAR"),
    (["12/31/2025"], "VARCHAR"),
    (["31-12-2025"], "VARCHAR"),
    (["31.12.2025"], "VARCHAR"),
    (["01/02/2025"], "VARCHAR"),
    (["2025-12-31"], "DATE"),
    (["2025-12-31 10:00:00", "2025-12-31"], "TIMESTAMP"),
    (["2025-12-31T10:00:00Z", "2025-12-31T10:00:00+02:00"], "TIMESTAMPTZ"),
    (["9007199254740993", "18446744073709551616"], "DECIMAL(38,0)"),
    (["1" * 40], "VARCHAR"),
    (["1.5", "9007199254740993"], "VARCHAR"),
    (["94107", "00501"], "VARCHAR"),
    (["01220"], "VARCHAR"),
    (["1.50", "0.25", "-3"], "DOUBLE"),
    (["+49123"], "VARCHAR"),
    (["yes", "no"], "BOOLEAN"),
    (["NA", "1"], "VARCHAR"),
    (["0x1F"], "VARCHAR"),
    (["1", "2"], "BIGINT"),
]


@pytest.mark.share(15)
@pytest.mark.parametrize(("values", "kind"), INFERRED)
@pytest.mark.parametrize("form", ["csv", "json"])
def test_inferred_type_can_read_its_sample(tmp_path, values, kind, form):
    numbers = all(_is_json_number(value) for value in values)
    lines = [f'{{"x":{value if numbers else json.dumps(value)}}}' for value in values]
    (tmp_path / f"a.{form}").write_text("\n".join(lines if form == "json" else ["x", *values]) + "\n")
    reader = files(tmp_path / f"a.{form}")
    source_object = reader.source_objects()[0]

    schema = reader.schema(source_object)

    if form == "csv" or numbers or kind in {"VARCHAR", "DATE", "TIMESTAMPTZ"}:
        assert schema.as_dict() == {"x": kind}
    assert reader.read(SourceSplit(source_object), schema).rejected.num_rows == 0


def test_integers_in_nested_json_are_never_floats(tmp_path):
    (tmp_path / "a.json").write_text('{"x":[9007199254740993]}\n{"x":[18446744073709551616]}\n')
    reader = files(tmp_path / "a.json")
    source_object = reader.source_objects()[0]

    assert reader.schema(source_object).as_dict() == {"x": "DECIMAL(38,0)[]"}


@pytest.mark.parametrize(
    ("column", "kind", "right"),
    [
        (pa.array([1.0, 2.7]), "BIGINT", [1]),
        (pa.array([1, 2**60 + 1]), "DOUBLE", [1.0]),
        (pa.array([0, 1001], pa.timestamp("ns")), "TIMESTAMP", 1),
        (pa.array([0], pa.timestamp("us", "UTC")), "TIMESTAMP", []),
        (pa.array([0, 3_000_000], pa.date32()), "DATE", 1),
        (pa.array(["1.5", "2"]), "BIGINT", [2]),
        (pa.array([[1.0], [1.5]]), "BIGINT[]", [[1]]),
    ],
    ids=["fraction", "integer", "nanoseconds", "zone", "year", "text", "nested"],
)
def test_narrowing_parquet_columns_is_lossless(tmp_path, column, kind, right):
    pq.write_table(pa.table({"x": column}), tmp_path / "a.parquet")
    reader = files(tmp_path / "a.parquet")

    reading = reader.read(SourceSplit(reader.source_objects()[0]), Schema.of({"x": kind}))

    assert reading.rows.num_rows == right if isinstance(right, int) else reading.rows["x"].to_pylist() == right
    assert reading.rows.num_rows + reading.rejected.num_rows == len(column)


@pytest.mark.share(10)
@pytest.mark.parametrize(
    "name", ["i", "j", "m", "s", "x", "y", "z", "line", "texts", "r0", "t0", "v0", "__t0", "___v0", "file_index"]
)
@pytest.mark.parametrize("form", ["csv", "json"])
def test_any_column_name_is_allowed(reads, name, form):
    schema = Schema.of({name: "decimal(6,2)"})
    text = f"{name}\n1.5e1\n1.234\n" if form == "csv" else f'{{"{name}": "1.5e1"}}\n{{"{name}": "1.234"}}\n'

    reading, _ = reads(f"a.{form}", text, schema)

    assert [float(value) for value in reading.rows[name].to_pylist()] == [15.0]
    assert reading.rejected.num_rows == 1
