"""Values that Arrow converts from CSV follow the common rule, or Arrow's result is not used."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline import files
from pipeline.connectors.files.csv import arrow_conversion
from pipeline.connectors.files.csv import byte_traits as module
from pipeline.connectors.files.csv.byte_traits import ByteTraits, byte_traits
from pipeline.connectors.files.csv.reader import Dialect
from pipeline.core.errors import SourceError
from pipeline.core.schema import Schema
from pipeline.core.sources import MISFIT as IS_MISFIT
from pipeline.core.splits import SourceSplit
from pipeline.kernel.engine import connect
from pipeline.kernel.pool import Limits
from tests.connectors.test_connectors_values import EACH, SEED, same
from tests.rigs.exact import MISFIT, expected, texts

KINDS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
KINDS += ("DOUBLE", "BOOLEAN", "DATE", "TIMESTAMP")
ODD = [
    "0x1F",
    "0XFFFF",
    "0xff",
    " 0x7f ",
    "1e-400",
    "-1e-324",
    f"0.{'0' * 330}1",
    f"0.{'0' * 250}1e-99",
    "1e400",
    "inf",
]
ODD += [
    "2024-01-01T10",
    "2024-01-01 10Z",
    "2024-02-30",
    "24:00",
    "2024-01-01T10+02",
    "9" * 400,
    "-0",
    "+5",
    "007",
    ".5",
]
SCHEMA = Schema.of(
    {"i": "bigint", "d": "double", "t": "varchar", "at": "timestamp", "m": "decimal(6,2)", "b": "boolean"}
)


@pytest.mark.parametrize("kind", KINDS)
def test_arrow_conversion_follows_the_rule(tmp_path, kind):
    path, wrong, converted, schema, con = tmp_path / "a.csv", [], 0, Schema.of({"x": kind}), duckdb.connect()
    for text in (*ODD, *texts(kind, EACH, SEED)):
        if not text or set(text) & set(',"\r\n'):
            continue
        path.write_text(f"x\n{text}\n", encoding="utf-8")
        form = arrow_conversion.conversion_spec(str(path), Dialect(), ["x"], schema, byte_traits(str(path)))
        if form is None:
            continue
        stream = arrow_conversion.ConvertedRows(str(path), form)
        (value,) = pa.RecordBatchReader.from_stream(stream).read_all()["x"]
        is_as_written = arrow_conversion.is_as_written(schema.columns[0], "x") or "true"
        con.register("came", pa.table([pa.array([value], form.types["x"])], ["x"]))
        if con.execute(f"select {is_as_written} from came").fetchall() == [(True,)]:
            converted += 1
            if not same(value.as_py(), expected(text, kind)):
                wrong.append((text, value))

    assert wrong == []
    assert converted > 0


def both_passes(path, schema, head_bytes, monkeypatch):
    """The rows of the fast path (`None` if not usable) and of the validating pass."""
    monkeypatch.setattr(arrow_conversion, "_HEAD_BYTES", head_bytes)
    monkeypatch.setattr(arrow_conversion, "_CHUNK_BYTES", 16)
    reader = files(path)
    split = SourceSplit(reader.source_objects()[0])
    try:
        reading = reader.read(split, schema)
    except SourceError:
        reading = None
    with connect(Limits(threads=1)) as con:
        try:
            with reader.scan(con, split, schema) as scanned:
                if scanned is None:
                    return None, reading
                rows = con.sql(scanned.query).to_arrow_table()
                is_usable = rows.num_rows == scanned.rows and not con.execute(scanned.error_query).fetchall()[0][0]
        except (duckdb.Error, SourceError):
            return None, reading
    return rows if is_usable and not pc.any(rows[IS_MISFIT]).as_py() else None, reading


@pytest.mark.parametrize(
    ("kind", "values", "value"),
    [
        ("TINYINT", ("1", "0xff"), MISFIT),
        ("BIGINT", ("1", "0x1F"), MISFIT),
        ("BIGINT", ("1", "5.0"), 5),
        ("DOUBLE", ("1.5", "1e-400"), MISFIT),
        ("DOUBLE", ("1.5", f"0.{'0' * 330}1"), MISFIT),
        ("DOUBLE", ("1.5", f"0.{'0' * 230}1e-99"), MISFIT),
        ("DOUBLE", ("1.5", "1e400"), MISFIT),
        ("DOUBLE", ("1.5", "inf"), float("inf")),
        ("DOUBLE", ("1.5", "0"), 0.0),
        ("DOUBLE", ("1.5", "nan(1)"), MISFIT),
        ("DATE", ("2024-01-01", "0000-01-01"), MISFIT),
        ("TIMESTAMP", ("2024-01-01", "0000-03-01 10:00:00"), MISFIT),
        ("TIMESTAMP", ("2024-01-01", "2024-01-01 10:00:00+02"), MISFIT),
        ("TIMESTAMP", ("2024-01-01", "2024-01-01 10:00:00.1234567"), MISFIT),
        ("BOOLEAN", ("true", "maybe"), MISFIT),
    ],
)
def test_late_deviating_value_is_not_converted_wrongly(tmp_path, monkeypatch, kind, values, value):
    path, (first, odd) = tmp_path / "a.csv", values
    path.write_text("x,y\n" + f"{first},a\n" * 50 + f"{odd},a\n" + f"{first},a\n")

    rows, reading = both_passes(path, Schema.of({"x": kind, "y": "varchar"}), 64, monkeypatch)

    validated = reading.rows["x"].to_pylist()
    assert (validated[50] if len(validated) == 52 else MISFIT) == value
    assert rows is None or rows["x"].to_pylist() == validated
    assert rows is not None or value is MISFIT or odd in {"5.0", "inf"}


FIELD = st.one_of(
    st.sampled_from(["", "1", "-7", "0", "1.5", "2.50", "true", "x", "é", "a b", "2024-01-01", "2024-01-01 10:00:00"]),
    st.sampled_from(['"1"', '"a,b"', '"a""b"', '""', '"a"b', 'a"b', '"', '"a\nb"', 'a""', '""b', "0x1", "1_0", "1e3"]),
    st.sampled_from(["\t1", " ", "\x00", "\ufeff", "NULL", "\u0663", "\xa0"]),
)
ROW = st.lists(FIELD, min_size=6, max_size=6).map(",".join)
FITS = st.sampled_from(["1,1.5,x,2024-01-01,2.50,true", "2,2.5,,2024-01-01 10:00:00,-1.00,no", '3,,"a,b",,,t'])
LINE = st.one_of(FITS, FITS, FITS, ROW, st.sampled_from(["", "1,2", "1,2,3,4,5,6,7", " "]))
ENDS = st.sampled_from(["\n", "\n", "\n", "\n", "\r\n", "\r", "\n\n"])


@settings(max_examples=EACH // 3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(LINE, ENDS), min_size=1, max_size=8), st.sampled_from(["\n", "\n", "\r\n"]), st.booleans())
@example([('3,,"a"b,,,t', "\n"), ('3,,"c"d,,,t', "\n")], "\n", True)  # noqa: FBT003 - drawn by Hypothesis
def test_fast_path_equals_validating_pass(tmp_path, monkeypatch, lines, first_end, ends):
    text = ",".join(SCHEMA.names) + first_end + "".join(line + end for line, end in lines)
    path = tmp_path / "a.csv"
    path.write_bytes((text if ends else text.rstrip("\r\n")).encode())

    rows, reading = both_passes(path, SCHEMA, 60, monkeypatch)

    if rows is not None:
        assert reading is not None
        assert reading.rejected.num_rows == 0
        names = [*SCHEMA.names, "_position"]
        assert rows.select(names).to_pylist() == reading.rows.select(names).to_pylist()


def test_file_with_quotes_and_crlf_is_converted(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'x,y\r\n"1","a, ""b"""\r\n2,"c"\r\n')
    form = arrow_conversion.conversion_spec(
        str(path), Dialect(), ["x", "y"], Schema.of({"x": "bigint", "y": "varchar"}), byte_traits(str(path))
    )

    rows = pa.RecordBatchReader.from_stream(arrow_conversion.ConvertedRows(str(path), form)).read_all()

    assert form.types == {"x": pa.int64(), "y": pa.string()}
    assert rows.to_pydict() == {"x": [1, 2], "y": ['a, "b"', "c"], arrow_conversion.IS_BAD: [False, False]}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3_000])
def test_lines_that_cannot_be_converted_are_marked(tmp_path, end, header, count):
    lines = [f"{n},text {n}" for n in range(count)]
    bad = dict(zip((0, count // 2, count - 1), ("x,y", "1", "1,2,3"), strict=True))
    for number, text in bad.items():
        lines[number] = text
    path = tmp_path / "a.csv"
    path.write_bytes(end.join([*(["x,y"] if header else []), *lines, ""]).encode())
    form = arrow_conversion.ConversionSpec(Dialect(has_header=header), {"x": pa.int64(), "y": pa.string()})
    stream = arrow_conversion.ConvertedRows(str(path), form)

    rows = pa.RecordBatchReader.from_stream(stream).read_all()

    assert (rows.num_rows, stream.rows) == (count, count)
    assert [n for n, is_bad in enumerate(rows[arrow_conversion.IS_BAD].to_pylist()) if is_bad] == sorted(bad)
    assert rows["x"].to_pylist() == [None if n in bad else n for n in range(count)]


@pytest.mark.parametrize("other", ["", '7,"two\nlines"'])
def test_a_file_with_records_of_several_lines_is_not_converted_in_parts(tmp_path, other):
    path = tmp_path / "a.csv"
    path.write_text(f"x,y\n1,a\n{other}\nx,b\n2,c\n")
    form = arrow_conversion.ConversionSpec(Dialect(), {"x": pa.int64(), "y": pa.string()})

    with pytest.raises(pa.ArrowInvalid, match="conversion error"):
        pa.RecordBatchReader.from_stream(arrow_conversion.ConvertedRows(str(path), form)).read_all()


def test_types_that_arrow_does_not_convert_are_read_as_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,b,c,d,e\n1.0,1,0,x,inf\n2.0,2,1.5,y,1\n")
    schema = Schema.of({"a": "bigint", "b": "bigint", "c": "double", "d": "varchar", "e": "double"})

    form = arrow_conversion.conversion_spec(str(path), Dialect(), schema.names, schema, byte_traits(str(path)))

    text = pa.string()
    assert form.types == {"a": text, "b": pa.int64(), "c": pa.float64(), "d": text, "e": text}


@pytest.mark.parametrize(
    ("number", "texts"),
    [
        ("0X1f", {"i"}),
        ("x0", set()),
        ("1e-400", {"d"}),
        ("2E-0012", {"d"}),
        ("e-12", set()),
        ("re-use", set()),
        ("4e-123a-41d4", set()),
        ("0" * 200, {"d"}),
        ("0" * 199, set()),
    ],
)
@pytest.mark.parametrize("place", [0, 90, 95, 99, 100, 101, 150, 199])
def test_numbers_that_arrow_misreads_are_detected_anywhere(tmp_path, monkeypatch, number, texts, place):
    monkeypatch.setattr(module, "_CHUNK_BYTES", 100)
    path, schema = tmp_path / "a.csv", Schema.of({"i": "bigint", "d": "double", "t": "varchar"})
    path.write_text("i,d,t\n" + "1,2.5,y\n" * 5 + f"3,4.5,{'-' * place}\n5,6.5,{number}\n7,8.5,z\n")

    form = arrow_conversion.conversion_spec(str(path), Dialect(), schema.names, schema, byte_traits(str(path)))

    kinds = {"i": pa.int64(), "d": pa.float64()}
    assert form.types == {"t": pa.string(), **{n: pa.string() if n in texts else kind for n, kind in kinds.items()}}


@pytest.mark.parametrize("place", [0, 1, 50, 98, 99, 100, 101, 250, 299, 300, 301, 700])
def test_bytes_of_a_file_are_found_anywhere(tmp_path, monkeypatch, place):
    monkeypatch.setattr(module, "_CHUNK_BYTES", 100)
    path = tmp_path / "a.csv"
    for byte, name in ((b"\r", "has_return"), (b'"', "has_quote"), (b"_", "has_underscore")):
        path.write_bytes(b"-" * place + byte + b"-" * 30)
        assert byte_traits(str(path)) == ByteTraits(**{name: True})
        assert byte_traits(str(path), place + 1).has_underscore is False
    path.write_bytes(b"-" * place)
    assert place == 0 or byte_traits(str(path)) == ByteTraits()
