"""Column names: incomplete headers, given names, and renamed columns."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import files
from pipeline.core.errors import SchemaError, SourceError
from pipeline.core.schema import Schema
from pipeline.core.sources import POSITION
from pipeline.core.splits import SourceSplit
from pipeline.kernel.engine import arrow, connect


def inferred(reader):
    source_object = reader.source_objects()[0]
    schema = reader.schema(source_object)
    return schema, reader.read(SourceSplit(source_object), schema)


def scanned(reader, schema):
    """The rows of the fast path, or `None` if it is not usable."""
    split = SourceSplit(reader.source_objects()[0])
    with connect() as con, reader.scan(con, split, schema) as flow:
        if flow is None:
            return None
        rows = arrow(con, flow.query)
        is_whole = rows.num_rows == flow.rows and not con.execute(flow.error_query).fetchall()[0][0]
        return rows.drop_columns(["_misfit"]).to_pylist() if is_whole else None


@pytest.mark.parametrize(
    ("text", "names", "unnamed"),
    [
        ('"","a","b"\n"1",x,2\n"2",y,3\n', ("column0", "a", "b"), {"column0"}),  # pandas, R's write.csv
        ('"a","b"\n"r1",x,2\n"r2",y,3\n', ("column0", "a", "b"), {"column0"}),  # R's write.table
        ("a,,b\n1,2,3\n", ("a", "column1", "b"), {"column1"}),
        (",,\n1,2,3\n", ("column0", "column1", "column2"), {"column0", "column1", "column2"}),
        (",column0,\n1,2,3\n", ("column0_1", "column0", "column2"), {"column0_1", "column2"}),
        ("COLUMN1,\n1,2\n", ("COLUMN1", "column1_1"), {"column1_1"}),
        ("a,b\n1,2\n", ("a", "b"), set()),
    ],
)
def test_unnamed_column_is_named_by_position_with_a_note(tmp_path, text, names, unnamed):
    (tmp_path / "a.csv").write_text(text)
    reader = files(tmp_path / "a.csv")

    schema, reading = inferred(reader)

    assert schema.names == names
    assert {c.name for c in schema.columns if c.note} == unnamed
    assert all(f"is named {c.name!r}" in c.note for c in schema.columns if c.note)
    assert reading.rejected.num_rows == 0
    assert reading.rows.num_rows == text.count("\n") - 1
    assert scanned(reader, schema) == reading.rows.to_pylist()


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2,3\n",  # a single row is not sufficient
        "a,b\n1,2,3\n1,3,4\n",  # row names are distinct
        "a,b\n1,2,3\n2,3\n",
    ],
)
def test_short_header_is_accepted_only_with_row_names(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)

    schema, reading = inferred(files(tmp_path / "a.csv"))

    assert schema.names == ("a", "b")
    assert set(reading.rejected["reason"].to_pylist()) == {"3 columns in place of 2"}


def test_trailing_delimiters_do_not_add_a_column(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2,\n2,3,\n")

    schema, reading = inferred(files(tmp_path / "a.csv"))

    assert schema.names == ("a", "b")
    assert reading.rows["a"].to_pylist() == [1, 2]


def test_file_with_short_header_is_not_split(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n" + "".join(f"r{i},{i},{i}\n" for i in range(5000)))
    reader = files(tmp_path / "a.csv")

    assert len(reader.splits(reader.source_objects()[0], 1000)) == 1


@pytest.mark.parametrize(
    ("options", "names", "rows"),
    [
        ({"header": False}, ("column0", "column1"), ["1", "2", "3"]),
        ({"header": False, "names": ["x", "y"]}, ("x", "y"), ["1", "2", "3"]),
        ({"header": True, "names": ["x", "y"]}, ("x", "y"), ["2", "3"]),
        ({"header": False, "names": ["x", "y"], "rename": {"x": "z"}}, ("z", "y"), ["1", "2", "3"]),
    ],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_names_without_or_instead_of_a_header(tmp_path, options, names, rows, mark):
    (tmp_path / "a.csv").write_text(mark + '1,"a\nb"\n2,c\n3,d\n')
    reader = files(tmp_path / "a.csv", **options)

    schema, reading = inferred(reader)

    assert schema.names == names
    assert [str(x) for x in reading.rows[names[0]].to_pylist()] == rows
    assert reading.rows[POSITION].to_pylist() == ([1, 3, 4] if len(rows) == 3 else [3, 4])
    assert not [c for c in schema.columns if c.note]  # no note
    assert scanned(reader, schema) is None  # for the line break
    (tmp_path / "a.csv").write_text(mark + "1,a\n2,b\n3,c\n")
    assert [str(row[names[0]]) for row in scanned(reader, Schema.of(dict.fromkeys(names, "varchar")))] == rows
    typed = Schema.of({names[0]: "bigint", names[1]: "varchar"})
    assert [str(row[names[0]]) for row in scanned(reader, typed)] == rows


def test_positions_in_a_split_without_header(tmp_path):
    lines = [f"{i},{'x' if i == 4000 else i}" for i in range(1, 5001)]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    reader = files(tmp_path / "a.csv", header=False, names=["id", "v"])
    schema = Schema.of({"id": "bigint", "v": "bigint"})

    splits = reader.splits(reader.source_objects()[0], 5000)
    readings = [reader.read(split, schema) for split in splits]

    assert len(splits) > 3
    assert all(r.rows["id"].to_pylist() == r.rows[POSITION].to_pylist() for r in readings)
    assert sum(r.rows.num_rows for r in readings) == 4999
    assert [p for r in readings for p in r.rejected[POSITION].to_pylist()] == [4000]


def test_small_files_without_header_share_a_scan(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.csv").write_text(f"{number},a\n{number},b\n")
    for options in ({"names": ["id", "v"]}, {"rename": {"column0": "id", "column1": "v"}}):
        reader = files(tmp_path / "*.csv", header=False, **options)
        splits = [SourceSplit(source_object) for source_object in reader.source_objects()]
        with connect() as con, reader.scan_together(con, splits, Schema.of({"id": "bigint", "v": "varchar"})) as flow:
            rows = arrow(con, flow.query).to_pylist()
        assert [(r["id"], r["v"], r[POSITION]) for r in rows] == [
            (n, v, p) for n in range(3) for v, p in (("a", 1), ("b", 2))
        ]


@pytest.mark.parametrize("format", ["csv", "json", "parquet"])
def test_rename_columns_in_every_format(tmp_path, format):  # noqa: A002 - the usual name of the option
    path = tmp_path / f"a.{format}"
    if format == "csv":
        path.write_text("p95,P95,Größe\n1,2.5,a\nq,3.5,b\n")
    elif format == "json":
        lines = [{"p95": 1, "P95": 2.5, "Größe": "a"}, {"p95": "q", "P95": 3.5, "Größe": "b"}]
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    else:
        pq.write_table(pa.table([["1", "q"], [2.5, 3.5], ["a", "b"]], names=["p95", "P95", "Größe"]), path)
    reader = files(path, rename={"P95": "p95_upper", "Größe": "size"})
    schema = Schema.of({"p95": "bigint", "size": "varchar", "p95_upper": "double"})

    reading = reader.read(SourceSplit(reader.source_objects()[0]), schema)

    row = {"p95": 1, "size": "a", "p95_upper": 2.5}
    assert [{k: v for k, v in r.items() if k != POSITION} for r in reading.rows.to_pylist()] == [row]
    assert reading.rejected["reason"].to_pylist() == ["column 'p95' is not BIGINT: q"]
    inferred_schema, read_part = inferred(reader)
    assert inferred_schema.as_dict() == {"p95": "VARCHAR", "p95_upper": "DOUBLE", "size": "VARCHAR"}
    assert (read_part.rows.num_rows, read_part.rejected.num_rows) == (2, 0)
    assert scanned(reader, inferred_schema) == read_part.rows.to_pylist()
    texts = Schema.of({"p95": "varchar", "size": "varchar", "p95_upper": "double"})
    again = reader.parse(reading.rejected["row"].to_pylist(), texts)
    assert [(r["p95"], r["size"], r["p95_upper"]) for r in again.rows.to_pylist()] == [("q", "b", 3.5)]


@pytest.mark.parametrize("format", ["csv", "json", "parquet"])
def test_files_that_have_the_new_name_already_are_read_too(tmp_path, format):  # noqa: A002 - the usual name of the option
    for number, name in enumerate(("old", "new"), start=1):
        table = pa.table([[number], [number / 10]], names=[name, "v"])
        path = tmp_path / f"{name}.{format}"
        if format == "parquet":
            pq.write_table(table, path)
        else:
            path.write_text(
                f"{name},v\n{number},{number / 10}\n" if format == "csv" else json.dumps(table.to_pylist()[0])
            )
    reader = files(tmp_path / f"*.{format}", rename={"old": "new"})
    schema = Schema.of({"new": "bigint", "v": "double"})
    read = {Path(each.uri).stem: reader.read(SourceSplit(each), schema).rows for each in reader.source_objects()}
    assert {name: rows["new"].to_pylist() for name, rows in read.items()} == {"old": [1], "new": [2]}
    for each in reader.source_objects():
        assert reader.schema(each).as_dict() == {"new": "BIGINT", "v": "DOUBLE"}


def test_lines_with_the_old_or_the_new_name_are_one_column_and_those_with_both_are_rejected(tmp_path):
    lines = [{"old": 1.5, "v": 1}, {"new": 2.25, "v": 2}, {"new": None, "old": 3, "v": 3}, {"old": 4, "new": 5, "v": 6}]
    path = tmp_path / "a.json"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    reader = files(path, rename={"old": "new"})
    inferred_schema, reading = inferred(reader)
    assert inferred_schema.as_dict() == {"new": "DOUBLE", "v": "BIGINT"}
    assert reading.rows["new"].to_pylist() == [1.5, 2.25, 3.0]
    assert reading.rejected["reason"].to_pylist() == ["has 'old' and 'new', which are one column by rename="]
    again = reader.parse(reading.rejected["row"].to_pylist(), inferred_schema)
    assert again.rejected["reason"].to_pylist() == reading.rejected["reason"].to_pylist()
    with connect() as con, reader.scan(con, SourceSplit(reader.source_objects()[0]), inferred_schema) as flow:
        assert arrow(con, flow.query)["_misfit"].to_pylist() == [False, False, False, True]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines[:3]))
    assert scanned(reader, inferred_schema) == reading.rows.to_pylist()
    only = Schema.of({"new": "varchar"})
    texts = reader.evolving("discard_value").read(SourceSplit(reader.source_objects()[0]), only)
    assert texts.rows["new"].to_pylist() == ["1.5", "2.25", "3"]


def test_names_can_be_exchanged(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1, "b": 2}\n{"a": 3}\n')
    reader = files(tmp_path / "a.json", rename={"a": "b", "b": "a"})
    rows = inferred(reader)[1].rows
    assert (rows["a"].to_pylist(), rows["b"].to_pylist()) == ([2, None], [1, 3])


def test_a_contract_with_a_renamed_column_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}\n')
    reader = files(tmp_path / "a.json", rename={"a": "b"})
    message = "the contract has the column 'a', to which rename= gives the name 'b'; remove the column from schema="
    with pytest.raises(SchemaError, match=message):
        reader.read(SourceSplit(reader.source_objects()[0]), Schema.of({"a": "bigint"}))


@pytest.mark.parametrize("format", ["csv", "json", "parquet"])
def test_error_on_case_insensitive_duplicates_names_the_option(tmp_path, format):  # noqa: A002 - the usual name of the option
    path = tmp_path / f"a.{format}"
    if format == "csv":
        path.write_text("p95,P95\n1,2\n")
    elif format == "json":
        path.write_text('{"p95": 1, "P95": 2}\n')
    else:
        pq.write_table(pa.table([[1], [2]], names=["p95", "P95"]), path)
    reader = files(path)

    with pytest.raises(SourceError, match=r"differ only in case; .*rename=\{'(P|p)95': '…'\}"):
        reader.schema(reader.source_objects()[0])

    assert set(inferred(files(path, rename={"P95": "upper"}))[0].names) == {"p95", "upper"}


def test_duplicate_name_is_replaced_by_position(tmp_path):
    (tmp_path / "a.csv").write_text("v,v\n1,2\n")
    reader = files(tmp_path / "a.csv")

    with pytest.raises(SourceError, match=r"two columns named 'v'; .*header=True, names="):
        reader.schema(reader.source_objects()[0])

    assert inferred(files(tmp_path / "a.csv", header=True, names=["v", "w"]))[1].rows.to_pylist() == [
        {"v": 1, "w": 2, POSITION: 2}
    ]


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("a.csv", {"names": ["a"]}, "names= requires header=.*pass header=False if the first line is a row"),
        ("a.csv", {"header": False, "names": ["a", "A"]}, "gives 'a' and 'A' to two columns"),
        ("a.csv", {"header": False, "names": ["a", ""]}, "names= contains an empty name"),
        ("a.csv", {"rename": {"a": "x", "b": "X"}}, "rename= gives 'x' and 'X' to two columns"),
        ("a.json", {"header": False}, "header= applies only to CSV, EXCEL and FIXED WIDTH: got json; remove header="),
        ("a.parquet", {"header": True, "names": ["a"]}, "header= applies only to CSV"),
        ("a.parquet", {"encoding": "latin-1"}, "encoding= applies only to CSV, JSON and FIXED WIDTH: got parquet"),
    ],
)
def test_contradictory_options_are_rejected(name, options, problem):
    with pytest.raises(SourceError, match=problem):
        files(name, **options)


def test_names_must_cover_every_column_of_the_header(tmp_path):
    (tmp_path / "a.csv").write_text("a,b,c\n1,2,3\n")
    reader = files(tmp_path / "a.csv", header=True, names=["x"])

    with pytest.raises(SourceError, match="got 1, and 3 columns in the first line; pass one name per column"):
        reader.schema(reader.source_objects()[0])


def test_fingerprint_depends_on_names_only_if_given():
    options = (
        {},
        {"header": False},
        {"header": False, "names": ["a"]},
        {"rename": {"a": "b"}},
        {"encoding": "latin-1"},
    )
    assert len({files("a.csv", **o).fingerprint for o in options}) == len(options)
    assert files("a.csv").fingerprint == files("a.csv", header=True, encoding="utf-8").fingerprint


@pytest.mark.parametrize(
    ("values", "advice"),
    [
        (["01/02/2024", "03/04/2024"], "strptime(d, '%d/%m/%Y') or '%m/%d/%Y'"),
        (["1.2.2024", "", "11.12.2024"], "strptime(d, '%d.%m.%Y') or '%m.%d.%Y'"),
        (["01-02-2024"], "strptime(d, '%d-%m-%Y') or '%m-%d-%Y'"),
        (["31/12/2024", "01/02/2024"], None),  # only day first
        (["01/31/2024"], None),
        (["2024-01-02"], None),
        (["01/02/2024", "x"], None),
        (["", ""], None),
    ],
)
@pytest.mark.parametrize("format", ["csv", "json"])
def test_ambiguous_dates_are_text_with_a_note(tmp_path, values, advice, format):  # noqa: A002
    lines = [json.dumps({"id": i, "d": v or None}) if format == "json" else f"{i},{v}" for i, v in enumerate(values)]
    head = [] if format == "json" else ["id,d"]
    (tmp_path / f"a.{format}").write_text("\n".join([*head, *lines]) + "\n")
    reader = files(tmp_path / f"a.{format}")

    (column,) = reader.schema(reader.source_objects()[0]).select(("d",)).columns

    assert advice is None or column.type == "VARCHAR"
    assert column.note == "" if advice is None else advice in column.note
