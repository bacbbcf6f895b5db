from __future__ import annotations

import json

import pytest

from pipeline import files
from pipeline.core.errors import SourceError
from pipeline.core.schema import Schema
from pipeline.core.sources import POSITION
from pipeline.core.splits import SourceSplit
from pipeline.kernel.engine import connect

SCHEMA = Schema.of({"id": "BIGINT", "name": "VARCHAR"})


@pytest.fixture
def json_source(tmp_path):
    def call(text: str | bytes):
        path = tmp_path / "a.ndjson"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        reader = files(path)
        return reader, reader.source_objects()[0]

    return call


@pytest.fixture
def read(json_source):
    def call(text: str | bytes, schema: Schema = SCHEMA):
        reader, source_object = json_source(text)
        return reader.read(SourceSplit(source_object), schema)

    return call


def test_blank_lines_are_skipped_but_counted_in_positions(read):
    reading = read('\ufeff{"id":1,"name":"a"}\r\n\r\n  \t\r\n{"id":2,"name":"b"}')

    assert reading.rows.to_pylist() == [{"id": 1, "name": "a", POSITION: 1}, {"id": 2, "name": "b", POSITION: 4}]
    assert reading.rejected.num_rows == 0


@pytest.mark.parametrize(
    "line", ["{bad", "[1, 2]", "5", "null", '"text"', '{"id": 1} {"id": 2}', '{"name": "\\ud800"}']
)
def test_line_without_an_object_is_rejected(read, line):
    reading = read(f'{{"id":1}}\n{line}\n{{"id":3}}\n')

    assert reading.rows.column(POSITION).to_pylist() == [1, 3]
    assert reading.rejected.to_pylist() == [{POSITION: 2, "reason": "not a JSON object", "row": line}]


@pytest.mark.parametrize(
    "line", ['{"id": 1, "id": 2}', '{"id": 1, "name": "b", "name": "b"}', '{"name": "", "id": null, "id": 3}']
)
def test_object_with_duplicate_key_is_rejected(read, json_source, line):
    text = f'{{"id":1}}\n{line}\n{{"id":3}}\n'
    reading = read(text)
    reader, source_object = json_source(text)
    with connect() as con, reader.scan(con, SourceSplit(source_object), SCHEMA) as scanned:
        flags = con.sql(f"select _misfit from ({scanned.query})").fetchall()

    assert reading.rejected.to_pylist() == [{POSITION: 2, "reason": "duplicate key", "row": line}]
    assert [flag for (flag,) in flags] == [False, True, False]


def test_json_line_with_invalid_utf8_is_rejected(read):
    reading = read(b'{"id":1}\n{"id":2,"name":"\xff"}\n')

    assert reading.rejected.to_pylist() == [
        {
            POSITION: 2,
            "reason": 'not UTF-8 (maybe latin-1: files(…, encoding="latin-1"))',
            "row": '\ufffd{"id":2,"name":"?"}',
        }
    ]


def test_missing_field_is_null_and_text_column_accepts_every_value(read):
    text = '{"id":1}\n{"name":5}\n{"name":true,"id":null}\n{"name":{"k":[1]}}\n{"name":"\\u00e9\\n\\"q\\u0000"}\n'
    rows = read(text).rows

    assert rows.column("id").to_pylist() == [1, None, None, None, None]
    assert rows.column("name").to_pylist() == [None, "5", "true", '{"k":[1]}', 'é\n"q\0']


def test_value_of_a_different_type_is_rejected(read):
    reading = read('{"id":"7"}\n{"id":true}\n{"id":2.5}\n{"id":[1]}\n{"id":1e2}\n')

    assert reading.rows.column("id").to_pylist() == [7, 100]
    assert reading.rejected.column("reason").to_pylist() == [
        "column 'id' is not BIGINT: true",
        "column 'id' is not BIGINT: 2.5",
        "column 'id' is not BIGINT: [1]",
    ]


def test_invalid_nested_value_is_never_lost(read):
    schema = Schema.of({"l": "BIGINT[]", "s": 'STRUCT("p" BIGINT, "q" VARCHAR[])'})
    reading = read(
        '{"l":[1,2],"s":{"p":1,"q":["a"]}}\n{"l":[1,"b"]}\n{"s":{"p":"z","q":[]}}\n{"s":{"p":1,"q":null,"r":2}}\n'
        '{"l":null,"s":{"p":null,"q":null}}\n',
        schema,
    )

    assert reading.rows.to_pylist() == [
        {"l": [1, 2], "s": {"p": 1, "q": ["a"]}, POSITION: 1},
        {"l": None, "s": {"p": None, "q": None}, POSITION: 5},
    ]
    assert reading.rejected.column(POSITION).to_pylist() == [2, 3, 4]


def test_unusual_field_names(read):
    schema = Schema.of(dict.fromkeys(['i"d', "a.b", "$x", "a'b", "a/b", "t~x", "0", "*", " "], "BIGINT"))
    text = '{"i\\"d":1,"a.b":2,"$x":3,"a\'b":4,"a/b":5,"t~x":6,"0":7,"*":8," ":9}\n'

    assert list(read(text, schema).rows.to_pylist()[0].values()) == [1, 2, 3, 4, 5, 6, 7, 8, 9, 1]


def test_line_of_40_mb(read):
    rows = read(f'{{"id":1,"name":"{"a" * 40_000_000}"}}\n{{"id":2}}\n').rows

    assert rows.column(POSITION).to_pylist() == [1, 2]
    assert len(rows.column("name")[0].as_py()) == 40_000_000


def test_type_inference_uses_only_objects(json_source):
    reader, source_object = json_source('{"id":1,"x":1}\n[1]\n{bad\n{"id":2,"x":1.5,"t":"2024-01-01"}\n')

    assert reader.schema(source_object).as_dict() == {"id": "BIGINT", "x": "DOUBLE", "t": "DATE"}


@pytest.mark.parametrize(("objects", "keys"), [(30, 1), (250, 1), (2, 250)])
def test_rare_and_numerous_keys_become_columns(json_source, objects, keys):
    rows = [{f"k{number}": number for number in range(n * keys, n * keys + keys)} for n in range(objects)]
    reader, source_object = json_source("".join(json.dumps(row) + "\n" for row in rows))

    schema = reader.schema(source_object)

    assert schema.as_dict() == dict.fromkeys((f"k{number}" for number in range(objects * keys)), "BIGINT")
    read = reader.read(SourceSplit(source_object), schema).rows.drop_columns(POSITION).to_pylist()
    assert [{key: value for key, value in row.items() if value is not None} for row in read] == rows


def test_nested_object_with_many_keys_becomes_a_map(json_source):
    reader, source_object = json_source(
        json.dumps({"id": 1, "of": {f"k{number}": number for number in range(250)}}) + "\n"
    )

    assert reader.schema(source_object).as_dict() == {"id": "BIGINT", "of": "MAP(VARCHAR, BIGINT)"}


@pytest.mark.parametrize("text", ["[1, 2]", "[]", "\n", "{bad\n"])
def test_type_inference_fails_without_objects(json_source, text):
    reader, source_object = json_source(text)

    with pytest.raises(SourceError, match="no line contains a JSON object; write one object per line"):
        reader.schema(source_object)


def test_fields_that_differ_only_in_case_are_rejected(json_source):
    reader, source_object = json_source('{"id":1,"ID":2}\n')

    with pytest.raises(SourceError, match="columns 'ID' and 'id', which differ only in case"):
        reader.schema(source_object)
