from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline import files
from pipeline.connectors import contract
from pipeline.core.errors import SourceError
from pipeline.core.schema import Schema
from pipeline.core.sources import POSITION
from pipeline.core.splits import SourceSplit
from pipeline.kernel.engine import connect
from pipeline.kernel.pool import Limits

SCHEMA = Schema.of({"id": "BIGINT", "name": "VARCHAR", "x": "DOUBLE"})
HEAD = "id,name,x\n"


@pytest.fixture
def read(tmp_path):
    def call(text: str | bytes, schema: Schema = SCHEMA, **options):
        path = tmp_path / "a.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        reader = files(path, **options)
        return reader.read(SourceSplit(reader.source_objects()[0]), schema)

    return call


@pytest.fixture
def infer(tmp_path):
    def call(text: str | bytes):
        path = tmp_path / "a.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        reader = files(path)
        return reader.schema(reader.source_objects()[0]).as_dict()

    return call


def places(reading):
    """Line numbers of the rows, and of the rejected rows with their reasons."""
    rejected = zip(
        reading.rejected.column(POSITION).to_pylist(), reading.rejected.column("reason").to_pylist(), strict=True
    )
    return reading.rows.column(POSITION).to_pylist(), dict(rejected)


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        # line 1     2          3        4        5
        ("id,name,x\n1,a,1.5\nq,b,z\n3,c,1\nr,d,1\n", [2, 4], [3, 5]),
        ("id,name,x\r\n1,a,1.5\r\nq,b,z\r\n3,c,1\r\nr,d,1\r\n", [2, 4], [3, 5]),
        ("id,name,x\n1,a,1.5\nq,b,z", [2], [3]),
        ("\ufeffid,name,x\n1,a,1.5\nq,b,1\n2,c,1\n", [2, 4], [3]),
        ("id,name,x\n\n1,a,1.5\n\nq,b,1\n\n\n3,c,1\nr,d,1\n", [3, 8], [5, 9]),
        ("id,name,x\r\n\r\n1,a,1.5\r\n\r\nq,b,1\r\n\r\n3,c,1\r\n", [3, 7], [5]),
        ('id,name,x\n1,"a\nb",1\n2,c,x\n3,"d\n\ne",x\n4,f,4\n', [2, 8], [4, 5]),
        ('id,name,x\n\n1,"a\n\nb",1\n\nq,"c\nd",1\n4,f,4\n', [3, 9], [7]),
    ],
    ids=["lf", "crlf", "no last line end", "bom", "blank", "blank crlf", "quoted breaks", "blank and quoted breaks"],
)
def test_position_is_the_first_line_of_the_record(read, text, good, bad):
    rows, rejected = places(read(text))

    assert rows == good
    assert list(rejected) == bad


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("q,b,1", "column 'id' is not BIGINT: q"),
        ('"a ""quoted"" one",b,1', "column 'id' is not BIGINT: a \"quoted\" one"),
        ("1,b,q", "column 'x' is not DOUBLE: q"),
        ("9223372036854775808,b,1", "column 'id' is not BIGINT: 9223372036854775808"),
        ("1.5,b,1", "column 'id' is not BIGINT: 1.5"),
        ("1,b,1,9,9", "5 columns in place of 3"),
        ("1,b", "2 columns in place of 3"),
        ("1", "1 column in place of 3"),
        ('1,"b"c,1', "a quote is not closed, or text follows it"),
        ('1,"b,1', "a quote is not closed, or text follows it"),
        (f"1,{'a' * 2_100_000},1", "longer than 2,000,000 bytes"),
    ],
    ids=[
        "integer",
        "quotes",
        "real",
        "too large",
        "fraction",
        "many",
        "few",
        "one",
        "after a quote",
        "open quote",
        "long",
    ],
)
def test_rejected_row_has_a_reason_and_its_text(read, line, reason):
    reading = read(f"{HEAD}0,ok,0\n{line}\n")

    assert places(reading) == ([2], {3: reason})
    assert reading.rejected.column("row").to_pylist() == [line]


def test_line_with_invalid_utf8_is_rejected_and_shown_with_replacement_characters(read):
    reading = read(HEAD.encode() + b"1,a,1\n2,caf\xe9,2\n3,c,3\n")

    assert places(reading) == ([2, 4], {3: 'not UTF-8 (maybe latin-1: files(…, encoding="latin-1"))'})
    assert reading.rejected.column("row").to_pylist() == ["2,caf\ufffd,2"]


def test_text_of_a_rejected_row_is_in_contract_order(read):
    reading = read('x,name,id\n1.5,"a\n, b",q\nz,b,2\n1\n')

    assert reading.rejected.column("row").to_pylist() == ['q,"a\n, b",1.5', "2,b,z", "1"]


def test_numeric_limits(read):
    low, high = -(2**63), 2**63 - 1
    rows = read(f"{HEAD}{high},a,nan\n{low},b,inf\n 5,c,-inf\n+6,d,-0.0\n1e3,e,\n").rows

    assert rows.column("id").to_pylist() == [high, low, 5, 6, 1000]
    assert [str(x) for x in rows.column("x").to_pylist()] == ["nan", "inf", "-inf", "-0.0", "None"]


def test_null_values_with_and_without_quotes(read):
    rows = read(f'{HEAD}NA,"NA",NA\n1,"",1\n', null_values=["", "NA"]).rows

    assert rows.column("name").to_pylist() == [None, None]
    assert rows.column("id").to_pylist() == [None, 1]


def test_blank_line_is_null_in_a_single_column(read):
    reading = read("id\n1\n\nq\n", Schema.of({"id": "BIGINT"}))

    assert reading.rows.to_pylist() == [{"id": 1, POSITION: 2}, {"id": None, POSITION: 3}]
    assert places(reading)[1] == {4: "column 'id' is not BIGINT: q"}


def test_unusual_column_names(read):
    schema = Schema.of({'na"me': "VARCHAR", "it's": "BIGINT", "rowid": "BIGINT", "reason": "DOUBLE"})

    rows = read('"na""me",it\'s,rowid,reason\na,1,2,3\n', schema).rows

    assert rows.to_pylist() == [{'na"me': "a", "it's": 1, "rowid": 2, "reason": 3.0, POSITION: 2}]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the file is empty"),
        ("\n", "the first line is blank"),
        ("\n1,2,3\n", "the first line is blank"),
        ("id,id,x\n1,2,3\n", "two columns named 'id'"),
        ("id,ID,x\n1,2,3\n", "columns 'id' and 'ID', which differ only in case"),
        ("id,name,x\r1,a,1\r", "carriage returns only"),
        ("id,name\r,x\n1,a,1\n", "a carriage return inside a line"),
        (f"id,{'n' * 200_000}\n1,2\n", "the first line cannot be read"),
        (b"id,caf\xe9\n1,2\n", r'not UTF-8 \(maybe latin-1: files\(…, encoding="latin-1"\)'),
        ("id,name\n".encode("utf-16"), "not UTF-8 .maybe utf-16:"),
        (f"{HEAD}1,{'a' * 40_000_000},1\n2,b,2\n", "cannot be assigned to records"),
    ],
)
def test_inconsistent_file_is_rejected_completely(read, text, problem):
    with pytest.raises(SourceError, match=problem):
        read(text)


@pytest.mark.parametrize("ends", [*itertools.product(["\n", "\r\n"], repeat=4)])
def test_mixed_line_ends_change_no_row_and_no_line_number(read, ends):
    lines = ["id,name,x", "1,a,1", '2,"b\r\nc\nd",2', "3,e,bad"]

    reading = read("".join(line + end for line, end in zip(lines, ends, strict=True)))

    assert reading.rows.to_pylist() == [
        {"id": 1, "name": "a", "x": 1.0, POSITION: 2},
        {"id": 2, "name": "b\r\nc\nd", "x": 2.0, POSITION: 3},
    ]
    assert reading.rejected.select([POSITION, "row"]).to_pylist() == [{POSITION: 6, "row": "3,e,bad"}]


@pytest.mark.parametrize("ends", [("\n", "\n"), ("\r\n", "\r\n"), ("\n", "\r\n")])
@pytest.mark.parametrize("row", ["2,b\rc,2", "\r2,b,2", "2,b,2\r\r", '2,"b\nc",2\r3,"d",3', '2,"b\r",\r2'])
def test_a_carriage_return_inside_a_line_rejects_its_row_only(read, row, ends):
    text = f'id,name,x{ends[0]}1,a,1{ends[0]}{row}{ends[1]}3,"c\rd",3{ends[0]}4,d,no{ends[0]}'

    reading = read(text)

    after = 4 + row.count("\n")
    assert places(reading)[0] == [2, after]
    assert reading.rows.column("name").to_pylist() == ["a", "c\rd"]
    assert reading.rejected.select([POSITION, "reason"]).to_pylist()[0] == {
        POSITION: 3,
        "reason": "a carriage return inside a line",
    }
    assert reading.rejected.column("row").to_pylist() == [row.rstrip("\r"), "4,d,no"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("names", [("id", "name", "x"), ()])
def test_a_carriage_return_in_the_first_and_in_the_last_line(read, end, names):
    schema = (
        SCHEMA
        if names
        else Schema.of(dict(zip(("column0", "column1", "column2"), SCHEMA.as_dict().values(), strict=True)))
    )

    reading = read(f"1,a\rb,1{end}2,b,2{end}3,c,3\r", schema, header=False, names=names)

    why = "a carriage return inside a line"
    assert places(reading) == ([2], {1: why, 3: why})


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_positions_in_a_parallel_read(read, end):
    count = 600_000
    ids = np.arange(count)
    bad = np.sort(np.random.default_rng(7).choice(count, 400, replace=False))
    lines = [f"{i},a name of some length {i},{i}.5" for i in ids]
    for i in bad:
        lines[i] = f"{i},b,zz"
    for i in range(1000, count, 50_000):
        lines[i] = f'{i},"two{end}lines",1'

    reading = read(end.join(["id,name,x", *lines]) + end)

    spans = np.isin(ids, np.arange(1000, count, 50_000))
    line = ids + 2 + np.cumsum(spans) - spans
    assert reading.rejected.column(POSITION).to_pylist() == line[bad].tolist()
    assert np.array_equal(reading.rows.column(POSITION).to_numpy(), np.delete(line, bad))
    assert np.array_equal(reading.rows.column("id").to_numpy(), np.delete(ids, bad))


def test_unterminated_quote_in_a_large_file_names_its_line(read):
    lines = [f"{i},a name of some length {i},{i}.5" for i in range(400_000)]
    lines[200_000] = '200000,"never closed,1'

    with pytest.raises(SourceError, match="a quote may not be closed") as error:
        read("\n".join(["id,name,x", *lines]) + "\n")
    assert error.value.place is not None
    assert error.value.place.line == 200_002


@pytest.mark.parametrize(
    "body",
    ["1,a,1,9\n2,b,2\n", "1,a,1\n2,b,2,9\n", "1,a\n2,b,2\n", "1\n2\n3,b,2\n", '1,"a"b,1\n2,b,2\n', "\n1,a,1\n"],
)
def test_type_inference_with_unusual_lines(infer, body):
    assert infer(HEAD + body) == {"id": "BIGINT", "name": "VARCHAR", "x": "BIGINT"}


def test_inferred_types_fit_all_values(infer):
    text = "a,b,c,d,e\n1,1,2024-01-01,007,2024-01-01T01:02:03Z\n2,1.5,2024-12-31,08,2024-01-01T01:02:03Z\nx,2,,9,\n"

    assert infer(text) == {"a": "VARCHAR", "b": "DOUBLE", "c": "DATE", "d": "VARCHAR", "e": "TIMESTAMPTZ"}


def test_header_only_file_has_text_columns(infer):
    assert infer(HEAD) == {"id": "VARCHAR", "name": "VARCHAR", "x": "VARCHAR"}


def test_type_inference_fails_after_an_open_quote(infer):
    with pytest.raises(SourceError, match="unbalanced quotes"):
        infer(HEAD + '1,"a,1\n2,b,2\n')


def test_type_inference_in_groups_of_columns(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("a,b,c,d,e,f\n1,x,2.5,2024-01-01,7,\nx,,y,,8,new\n3,z,1,2024-13-01,9,\n4,w,5,,1,\n")
    reader = files(tmp_path / "a.csv").evolving("discard_row")
    split, schema = (
        SourceSplit(reader.source_objects()[0]),
        Schema.of({"a": "bigint", "b": "varchar", "c": "double", "d": "date", "e": "tinyint"}),
    )
    at_once = reader.read(split, schema)

    for number in (1, 2, 4):
        monkeypatch.setattr(contract, "COLUMNS_PER_STATEMENT", number)
        some = reader.read(split, schema)
        assert some.rows.equals(at_once.rows)
        assert some.rejected.equals(at_once.rejected)

    assert at_once.rejected["reason"].to_pylist()[0].count("; ") == 2


@pytest.mark.parametrize(
    ("column", "bad"), [("c3", "x"), ("c50", "2024-13-01"), ("c99", "1.5"), ("c137", ""), ("c137", "1_0"), ("c60", "é")]
)
def test_type_inference_over_lists_of_columns(tmp_path, monkeypatch, column, bad):
    names = [f"c{number}" for number in range(contract.COLUMNS_PER_STATEMENT + 10)]
    kinds = (
        dict.fromkeys(names, "bigint") | dict.fromkeys(names[:40], "decimal(6, 2)") | {"c50": "date", "c60": "varchar"}
    )
    fields = {name: "2024-01-01" if kind == "date" else "1.50" if "(" in kind else "7" for name, kind in kinds.items()}
    rows = [names, list(fields.values()), list((fields | {column: bad}).values()), list(fields.values())]
    (tmp_path / "a.csv").write_text("".join(",".join(row) + "\n" for row in rows), encoding="utf-8")
    reader, schema = files(tmp_path / "a.csv"), Schema.of(kinds)
    split = SourceSplit(reader.source_objects()[0])

    def misfits():
        with connect(Limits(threads=1)) as con, reader.scan(con, split, schema) as scan:
            return con.execute(f"select {POSITION} from ({scan.query}) where _misfit").fetchall()

    in_lists = misfits()
    monkeypatch.setattr(contract, "_LIST_TEST_COLUMNS", len(names) + 1)

    assert in_lists == misfits() == [(line,) for line in reader.read(split, schema).rejected[POSITION].to_pylist()]
    assert (in_lists == []) is (bad in {"", "é"})


@pytest.mark.parametrize(
    ("text", "has_zone"),
    [("2024-13-01", False), ("0000-01-01", False), ("2024-01-01 10:00:00+02", True), ("2024-01-01T10:00Z", True)],
)
def test_time_zone_is_inferred_only_if_present(read, text, has_zone):
    reading = read(f"at,b\n{text},1\n", Schema.of({"at": "timestamp", "b": "bigint"}))

    assert ("declare TIMESTAMPTZ" in reading.rejected["reason"][0].as_py()) is has_zone
