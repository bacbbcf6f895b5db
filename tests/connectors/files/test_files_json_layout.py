"""JSON arrays and pretty-printed objects; the position of an object is its number."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pipeline import files
from pipeline.core.errors import SourceError
from pipeline.core.schema import Schema
from pipeline.core.sources import POSITION
from pipeline.core.splits import SourceSplit

SCHEMA = Schema.of({"a": "BIGINT", "b": "VARCHAR"})
ROWS = [{"a": 1, "b": "x\n[{,"}, {"a": 2, "b": None}, {"a": "three", "b": ""}, {"a": 4, "b": "\u00e9"}]


@pytest.fixture
def opened(tmp_path):
    def call(text):
        (tmp_path / "a.json").write_text(text, encoding="utf-8")
        reader = files(tmp_path / "a.json")
        return reader, reader.source_objects()[0]

    return call


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        "\ufeff \n" + json.dumps(ROWS, indent=1),
        "".join(json.dumps(row, indent=2) + "\n" for row in ROWS),
        "".join(json.dumps(row) + "\n" for row in ROWS),
    ],
    ids=["array", "pretty array", "after a mark", "pretty objects", "lines"],
)
def test_objects_in_any_layout(opened, text):
    reader, source_object = opened(text)

    (split,) = reader.splits(source_object, 10)[:1] if "\n{" not in text else (SourceSplit(source_object),)
    reading = reader.read(split, SCHEMA)

    assert [(row[POSITION], row["a"], row["b"]) for row in reading.rows.to_pylist()] == [
        (1, 1, "x\n[{,"),
        (2, 2, None),
        (4, 4, "\u00e9"),
    ]
    assert reading.rejected[POSITION].to_pylist() == [3]


@pytest.mark.parametrize("line", ["{bad", '{"a":1} {"a":2}', '{"a":"x', "{1", '{"a":1e}', "{" + "[" * 50_000])
@pytest.mark.parametrize("second", ["[1]", "5", '"x"', '{"a":2}', "bad"])
def test_invalid_first_line_is_rejected_and_does_not_change_the_layout(opened, line, second):
    reader, source_object = opened(f'{line}\n{second}\n{{"a":7}}\n')

    reading = reader.read(SourceSplit(source_object), SCHEMA)

    assert reading.rows["a"].to_pylist() == ([2, 7] if second.startswith("{") else [7])
    assert reading.rejected[POSITION].to_pylist() == ([1] if second.startswith("{") else [1, 2])


@pytest.mark.parametrize("text", ["[]", "[ ]\n"])
def test_empty_array_has_no_rows(opened, text):
    reader, source_object = opened(text)

    assert reader.read(SourceSplit(source_object), SCHEMA).rows.num_rows == 0


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ('[{"a":1},\n{"a":2}]\n{"a":3}\n', 3, "text after the end of the array at column 1"),
        ('[{"a":1}]\n[{"a":2}]\n', 2, "text after the end of the array at column 1"),
        ('[{"a":1}]]\n', 1, "text after the end of the array at column 10"),
        ('[{"a":1},', 1, "no closing bracket at the end of the array"),
        ('[{"a":1}', 1, "no closing bracket at the end of the array"),
        ('[{"a":1},\n{"a":', 2, "the file ends inside a value"),
        ('[\n{"a":1}\n{"a":2}\n]', 3, "no comma between two values at column 1"),
        ('[{"a":1},{"a":}]', 1, "expecting value at column 15"),
        ('[{"a":1},\n{"a":"x\x01y"}]', 2, "invalid control character at column 8"),
        ('{\n"a":"x\x01y"}\n{"a":2}\n', 2, "invalid control character at column 7"),
        ('{\n"a":1}\n{"a":', 3, "the file ends inside a value"),
        ('{\n"a":1\n},\n{\n"a":2\n}\n', 3, "expecting value at column 2"),
        ('{"a":\n1 "b":2}\n{"a":2}', 2, "expecting ',' delimiter at column 3"),
    ],
)
def test_invalid_json_that_is_not_in_lines_is_named_with_its_line(opened, text, line, problem):
    reader, source_object = opened(text)

    with pytest.raises(SourceError, match=rf"begins as .*, but is not valid JSON: {problem};.*a\.json:{line}\)"):
        reader.read(SourceSplit(source_object), SCHEMA)


@pytest.mark.parametrize("cut", ['"', "[tr", '["\\u00'])
def test_an_error_beyond_the_examined_text_has_no_line(opened, cut):
    """The value that crosses the end of the examined 32 MB is not reported as an error."""
    long = "x" * (4 << 20)
    text = "[" + f'{{"a":1,"b":"{long}"}},\n' * 7
    text += f'{{"a":1,"b":"{"x" * ((32 << 20) - len(text) - 18 - len(cut))}","c":'
    whole = {'"': f'"{long}"', "[tr": "[true]", '["\\u00': '["\\u0041"]'}[cut]
    assert len(text) + len(cut) in range((32 << 20) - 8, (32 << 20) + 1)
    reader, source_object = opened(text + whole + "},\n nothing]")

    with pytest.raises(SourceError, match="is not valid JSON") as raised:
        reader.read(SourceSplit(source_object), SCHEMA)

    assert raised.value.place.line is None


def test_large_array_is_read_in_bounded_memory(tmp_path):
    row = json.dumps({"a": 1, "b": "x" * 1000})
    with (tmp_path / "a.json").open("w") as file:
        file.write("[" + row)
        for _ in range(100_000):
            file.write("," + row)
        file.write("]")
    script = (
        "import resource, sys; from pipeline.core.errors import Place; from pipeline.connectors.files.json import layout as json_layout\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "with json_layout.in_lines(sys.argv[1], Place('a')) as path: print(sum(1 for _ in open(path)))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )

    process = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.json")], capture_output=True, text=True, check=True
    )

    lines, grown_kb = map(int, process.stdout.split())
    assert lines == 100_001
    assert grown_kb < 70_000  # for a file of 100 MB
