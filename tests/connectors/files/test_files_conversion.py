"""Excel, XML and text of fixed width: values, positions, rejected rows, and hostile files."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import random
import zipfile
from pathlib import Path

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import files
from pipeline.core.errors import SchemaError, SourceError
from pipeline.core.schema import Schema
from pipeline.core.sources import MISFIT, POSITION
from pipeline.core.splits import SourceSplit
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.pool import Limits
from pipeline.testing import ReaderContract
from tests.rigs.proofs import examples


def read(path, schema: dict[str, str], **options: object):
    reader = files(path, **options)
    (split,) = reader.plan(None).splits
    reading = reader.read(split, Schema.of(schema))
    with connect(Limits(threads=1)) as con, reader.scan(con, split, Schema.of(schema)) as scan:
        if scan is not None and reading.rejected.num_rows == 0 and scan.rows == reading.rows.num_rows:
            columns = ", ".join(f'"{name}"' for name in (*schema, POSITION, MISFIT))
            rows = arrow(con, f"select {columns} from ({scan.query})")
            if not any(rows[MISFIT].to_pylist()):  # such a row is read on its own
                assert rows.drop_columns([MISFIT]).equals(reading.rows)
    return reading


def rows_of(reading) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in reading.rows.to_pylist()]


def workbook(path: Path, rows, *, title: str = "Orders", before: int = 0, **more) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = title
    for _ in range(before):
        sheet.append(["some title"])
    for row in rows:
        sheet.append(row)
    for name, others in more.items():
        added = book.create_sheet(name)
        for row in others:
            added.append(row)
    book.save(path)


MOMENT = dt.datetime(2026, 1, 31, 12, 30, 15)  # noqa: DTZ001


def test_values_of_excel(tmp_path):
    names = ["id", "name", "price", "day", "at", "ok", "clock"]
    rows = [
        names,
        [1, "ü\nx", 1.5, dt.date(2026, 1, 31), MOMENT, True, dt.time(1, 2)],
        [],
        [2.0, None, 3, None, MOMENT, False, None],
        [2**53 - 1, "=a", 0.1, None, None, None, None],
    ]
    workbook(tmp_path / "a.xlsx", rows[:3] + rows[3:4])
    schema = {
        "id": "bigint",
        "name": "varchar",
        "price": "double",
        "day": "date",
        "at": "timestamp",
        "ok": "boolean",
        "clock": "varchar",
    }

    found = read(tmp_path / "a.xlsx", schema)

    assert rows_of(found) == [
        (1, "ü\nx", 1.5, dt.date(2026, 1, 31), MOMENT, True, "01:02:00", 2),
        (2, None, 3.0, None, MOMENT, False, None, 4),
    ]
    assert found.rejected.num_rows == 0
    reader = files(tmp_path / "a.xlsx")
    inferred = reader.schema(reader.source_objects()[0]).as_dict()
    assert (inferred["id"], inferred["day"], inferred["at"], inferred["ok"]) == (
        "BIGINT",
        "DATE",
        "TIMESTAMP",
        "BOOLEAN",
    )


def test_error_cells_and_formulas_without_a_value_reject_their_rows(tmp_path):
    path = tmp_path / "a.xlsx"
    workbook(path, [["id", "x"], [1, "#N/A"], [2, "=1/0"], [3, "text"], ["zz", "y"], [5, "y", "more"]])

    found = read(path, {"id": "bigint", "x": "varchar"})

    assert rows_of(found) == [(3, "text", 4)]
    assert found.rejected[POSITION].to_pylist() == [2, 3, 5, 6]
    assert [json.loads(row)[0] if row.startswith("[") else row for row in found.rejected["row"].to_pylist()] == [
        "the error #N/A in 'x'",
        "the formula in 'x' has no stored value",
        '{"id": "zz", "x": "y"}',
        "a value beyond the last column",
    ]
    again = files(path).parse(found.rejected["row"].to_pylist(), Schema.of({"id": "varchar", "x": "varchar"}))
    assert rows_of(again) == [("zz", "y", 3)]


def test_sheets_headers_and_rows_above_them(tmp_path):
    path = tmp_path / "a.xlsx"
    workbook(path, [["id"], [1]], before=2, Other=[["x", "y"], [7, 8]])

    assert rows_of(read(path, {"id": "bigint"}, sheet="Orders", skip=2)) == [(1, 4)]
    assert rows_of(read(path, {"x": "bigint", "y": "bigint"}, sheet=2)) == [(7, 8, 2)]
    assert rows_of(read(path, {"a": "varchar", "b": "varchar"}, sheet=2, header=False, names=["a", "b"])) == [
        ("x", "y", 1),
        ("7", "8", 2),
    ]
    assert rows_of(
        read(path, {"a": "bigint", "z": "bigint"}, sheet=2, header=True, names=["a", "b"], rename={"b": "z"})
    ) == [(7, 8, 2)]
    with pytest.raises(
        SourceError, match=r"has several sheets: got 'Orders', 'Other'; choose one: files\(…, sheet=…\)"
    ):
        read(path, {"id": "bigint"})
    with pytest.raises(SourceError, match="no such sheet: got 'Orderz'; did you mean 'Orders'"):
        read(path, {"id": "bigint"}, sheet="Orderz")
    with pytest.raises(SourceError, match="no such sheet: got 3"):
        read(path, {"id": "bigint"}, sheet=3)
    with pytest.raises(SourceError, match="names= must name all columns of the sheet: got 1, and 2 columns"):
        read(path, {"a": "bigint"}, sheet=2, header=True, names=["a"])
    with pytest.raises(SourceError, match=r"first row of the sheet is empty; pass skip="):
        read(path, {"id": "bigint"}, sheet=2, skip=5)
    with pytest.raises(SchemaError, match="no 'id'"):
        read(path, {"id": "bigint"}, sheet=2)


def test_what_is_not_a_workbook(tmp_path):
    path = tmp_path / "a.xlsx"
    path.write_bytes(b"\xd0\xcf\x11\xe0old format")
    with pytest.raises(SourceError, match=r"cannot be read as EXCEL: got .*; save it as .xlsx"):
        read(path, {"id": "bigint"})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.txt", "no workbook")
    with pytest.raises(SourceError, match="cannot be read as EXCEL: got"):
        read(path, {"id": "bigint"})
    workbook(path, [["id"], [1]])
    content = {name: zipfile.ZipFile(path).read(name) for name in zipfile.ZipFile(path).namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in content.items():
            archive.writestr(name, b'<!DOCTYPE x [<!ENTITY a "b">]>' + part if "sheet1" in name else part)
    with pytest.raises(SourceError, match=r"the workbook contains a DTD: got xl/worksheets/sheet1\.xml"):
        read(path, {"id": "bigint"})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", b"0" * (300 << 20))
    with pytest.raises(SourceError, match="expands to more than 200 times its size"):
        read(path, {"id": "bigint"})


def _is_kept(number: float) -> bool:
    """Whether the library that writes the file keeps all digits."""
    return float(f"{number:.16g}") == number


CELLS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53) + 1, 2**53 - 1),
    st.floats(allow_nan=False, allow_infinity=False, min_value=-1e15, max_value=1e15).filter(_is_kept),
    st.text(
        st.characters(min_codepoint=32, max_codepoint=0xD7FF, blacklist_characters="="), min_size=1, max_size=9
    ).filter(lambda t: not t.startswith(("_x", "#")) and "_x" not in t),
)


@settings(max_examples=examples(25, 400), deadline=None)
@given(rows=st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=6))
def test_cells_survive_as_text(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("excel") / "a.xlsx"
    workbook(path, [["a", "b"], *rows])

    found = read(path, {"a": "varchar", "b": "varchar"})

    expected = [
        (*map(_shown, row), at) for at, row in enumerate(rows, start=2) if any(cell is not None for cell in row)
    ]
    assert found.rejected.num_rows == 0
    assert rows_of(found) == expected


def _shown(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if float(value).is_integer() else str(value)


XML = """<?xml version="1.0"?>
<feed xmlns="urn:x" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <order id="1"><name>ü &lt;b&gt;</name><tag>a</tag><tag>b</tag><price currency="EUR">1.50</price></order>
  <!-- <order/> -->
  <order id="zz"><name/><tag>c</tag></order>
  <order id="3"><name xsi:nil="true"/><sub><order>inner</order></sub></order>
</feed>
"""


def test_values_of_xml(tmp_path):
    (tmp_path / "a.xml").write_text(XML)
    schema = {"@id": "bigint", "name": "varchar", "tag": "varchar[]", "price": "json", "sub": "json"}

    found = read(tmp_path / "a.xml", schema, rows="order", lists=["tag"])

    assert rows_of(found) == [
        (1, "ü <b>", ["a", "b"], '{"@currency":"EUR","#text":"1.50"}', None, 1),
        (3, None, None, None, '{"order":"inner"}', 3),
    ]
    assert found.rejected["reason"].to_pylist() == ["column '@id' is not BIGINT: zz"]
    assert found.rejected[POSITION].to_pylist() == [2]
    reader = files(tmp_path / "a.xml", rows="order", rename={"@id": "id"})
    assert "id" in reader.schema(reader.source_objects()[0]).names
    assert rows_of(read(tmp_path / "a.xml", {"#text": "varchar"}, rows="tag")) == [("a", 1), ("b", 2), ("c", 3)]


def test_elements_without_values_are_rows_of_nulls(tmp_path):
    (tmp_path / "a.xml").write_text("<r><o><id/></o><o/><o><id>1</id></o></r>")

    assert rows_of(read(tmp_path / "a.xml", {"id": "bigint"}, rows="o")) == [(None, 1), (None, 2), (1, 3)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('<!DOCTYPE feed [<!ENTITY a "b">]><feed><order>&a;</order></feed>', r"contains a DTD; remove it"),
        ('<!DOCTYPE feed SYSTEM "file:///etc/passwd"><feed><order/></feed>', r"contains a DTD; remove it"),
        ("<feed><order>&nope;</order></feed>", r"not valid XML"),
        ('<!DOCTYPE feed [<!ENTITY a "b">]><feed>&a;</feed>', r"contains a DTD; remove it"),
        ("<feed>\n<order>\n</feed>", r"not valid XML: got .*mismatch.*\(.*a\.xml:3\)"),
        ("<feed><other/></feed>", r"the file has no element 'order'; correct rows="),
        ("no xml", r"not valid XML"),
        ("<a>" * 300 + "<order/>" + "</a>" * 300, r"not valid XML: got .*depth"),
    ],
)
def test_hostile_and_invalid_xml(content, reason, tmp_path):
    (tmp_path / "a.xml").write_text(content)
    with pytest.raises(SourceError, match=reason):
        read(tmp_path / "a.xml", {"x": "varchar"}, rows="order")


@settings(max_examples=examples(30, 1000), deadline=None)
@given(seed=st.integers(0, 10**9))
def test_damaged_xml_is_an_error_or_rows(tmp_path_factory, seed):
    drawn = random.Random(seed)  # noqa: S311 - a reproducible seed
    path = tmp_path_factory.mktemp("xml") / "a.xml"
    content = bytearray(XML.encode())
    for _ in range(drawn.randint(1, 3)):
        content[drawn.randrange(len(content))] = drawn.randrange(256)
    path.write_bytes(content)
    try:
        found = read(
            path,
            {"@id": "bigint", "name": "varchar", "tag": "varchar[]", "price": "json", "sub": "json"},
            rows="order",
            lists=["tag"],
        )
    except (SourceError, SchemaError):
        return
    assert found.rows.num_rows + found.rejected.num_rows <= 3


WIDTHS = {"id": 5, "name": 6, "price": 7}


def test_values_of_fixed_width(tmp_path):
    lines = [
        "00001ann      1.50",
        "",
        "    2üb        -3",
        "3    x",
        "zz   q        1  ",
        "4    toolong12345 x",
        "5    end        0\r",
    ]
    (tmp_path / "a.txt").write_text("\n".join(lines) + "\n", newline="")

    found = read(tmp_path / "a.txt", {"id": "bigint", "name": "varchar", "price": "decimal(9,2)"}, widths=WIDTHS)

    assert [(i, n, str(p), at) for i, n, p, at in rows_of(found)] == [
        (1, "ann", "1.50", 1),
        (2, "üb", "-3.00", 3),
        (3, "x", "None", 4),
        (5, "end", "0.00", 7),
    ]
    assert found.rejected[POSITION].to_pylist() == [5, 6]
    assert found.rejected["reason"].to_pylist() == ["column 'id' is not BIGINT: zz", "not a JSON object"]
    assert "the line is longer than its columns" in found.rejected["row"].to_pylist()[1]


def test_widths_in_bytes_and_encodings(tmp_path):
    text = "1    üb    7      \n2    xy    8      \n"
    (tmp_path / "latin.txt").write_bytes(text.encode("latin-1"))
    (tmp_path / "utf8.txt").write_bytes("1    üb   7      \n".encode() + b"2    \xffy   8      \n")
    (tmp_path / "jis.txt").write_bytes("1    日本  7      \n".encode("shift-jis") + b"2    \x81\xff    8      \n")
    schema = {"id": "bigint", "name": "varchar", "price": "bigint"}

    assert rows_of(read(tmp_path / "latin.txt", schema, widths=WIDTHS, encoding="latin-1")) == [
        (1, "üb", 7, 1),
        (2, "xy", 8, 2),
    ]
    in_bytes = read(tmp_path / "utf8.txt", schema, widths=WIDTHS, widths_in="bytes")
    assert (rows_of(in_bytes), in_bytes.rejected[POSITION].to_pylist()) == ([(1, "üb", 7, 1)], [2])
    found = read(tmp_path / "jis.txt", schema, widths=WIDTHS, widths_in="bytes", encoding="shift-jis")
    assert (rows_of(found), found.rejected[POSITION].to_pylist()) == ([(1, "日本", 7, 1)], [2])
    assert "not shift_jis" in found.rejected["row"].to_pylist()[0]
    assert rows_of(read(tmp_path / "latin.txt", schema, widths=WIDTHS, encoding="latin-1", header=True)) == [
        (2, "xy", 8, 2)
    ]


@settings(max_examples=examples(30, 600), deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            *[st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), max_size=w) for w in WIDTHS.values()]
        ),
        min_size=1,
        max_size=8,
    )
)
def test_any_text_survives_fixed_width(tmp_path_factory, rows):
    rows = [tuple(value.strip("\x85\xa0\x1c") for value in row) for row in rows]
    path = tmp_path_factory.mktemp("fixed") / "a.txt"
    path.write_text(
        "".join("".join(v.ljust(w) for v, w in zip(row, WIDTHS.values(), strict=True)) + "\n" for row in rows),
        encoding="utf-8",
    )

    found = read(path, dict.fromkeys(WIDTHS, "varchar"), widths=WIDTHS)

    expected = [(*(value or None for value in row), at) for at, row in enumerate(rows, start=1) if any(row)]
    assert rows_of(found) == expected


def test_definition_errors():
    with pytest.raises(SourceError, match=r"XML files need rows=; pass the name"):
        files("a.xml")
    with pytest.raises(SourceError, match="sheet= applies only to EXCEL: got csv"):
        files("a.csv", sheet="x")
    with pytest.raises(SourceError, match="widths= applies only to FIXED WIDTH: got csv"):
        files("a.csv", format="csv", widths={"a": 1})
    with pytest.raises(SourceError, match=r"positive widths: got \{'a': 0\}"):
        files("a.txt", widths={"a": 0})
    with pytest.raises(SourceError, match=r"positive widths: got \{\}"):
        files("a.fwf")
    with pytest.raises(SourceError, match="widths_in= has an unknown value: got 'byte'"):
        files("a.txt", widths={"a": 1}, widths_in="byte")
    with pytest.raises(SourceError, match="skip= must not be negative, and sheets are numbered from 1: got -1, None"):
        files("a.xlsx", skip=-1)
    with pytest.raises(SourceError, match="lists= must be a list of texts"):
        files("a.xml", rows="a", lists="tag")
    plain = files("a.txt", widths={"a": 1}).fingerprint
    assert files("a.txt", widths={"a": 2}).fingerprint != plain
    assert files("a.xlsx").fingerprint == files("a.xlsx", most_expansion=5).fingerprint


def write_excel(path: Path, ids) -> None:
    workbook(path, [["id", "name"], *([each, "n"] for each in ids)])


def write_xml(path: Path, ids) -> None:
    path.write_text(f"<r>{''.join(f'<o><id>{each}</id><name>n</name></o>' for each in ids)}</r>")


def write_fixed(path: Path, ids) -> None:
    path.write_text("".join(f"{each!s:5}n\n" for each in ids))


KINDS = {
    ".xlsx": (write_excel, {}),
    ".xml": (write_xml, {"rows": "o"}),
    ".fwf": (write_fixed, {"widths": {"id": 5, "name": 3}}),
}
COLUMNS = {"id": "bigint", "name": "varchar"}


class ConvertedWorld:
    """A folder that receives files; every third row is invalid."""

    schema = COLUMNS

    def __init__(self, folder: Path, suffix: str) -> None:
        self._write, options = KINDS[suffix]
        self.reader = files(folder / f"f*{suffix}", **options)
        self._folder, self._suffix, self._numbers = folder, suffix, itertools.count()

    def produce(self) -> int:
        for _ in range(2):
            number = next(self._numbers)
            self._write(self._folder / f"f{number:03}{self._suffix}", (number, "zz", number + 1))
        return 6


class TestConverted(ReaderContract):
    @pytest.fixture(params=KINDS)
    def world(self, request, tmp_path: Path) -> ConvertedWorld:
        return ConvertedWorld(tmp_path, request.param)


def test_a_whole_split_of_a_stream_is_read(tmp_path):
    write_fixed(tmp_path / "a.fwf", (1, 2))
    reader = files(tmp_path / "a.fwf", widths={"id": 5, "name": 3})
    (listed,) = reader.source_objects()
    assert reader.read(SourceSplit(listed, 0, listed.size_bytes), Schema.of(COLUMNS)).rows.num_rows == 2
