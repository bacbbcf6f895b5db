"""Replay of rejected rows from their stored text, when the source file no longer exists."""

from __future__ import annotations

import pytest

from pipeline import files
from pipeline.core.schema import Schema
from pipeline.core.splits import SourceSplit

NARROW, WIDE = Schema.of({"a": "BIGINT", "b": "VARCHAR"}), Schema.of({"a": "VARCHAR", "b": "VARCHAR"})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", 'a,b\none,x\n2,y\nthree,"p\nq"\nfour,"z, z"\n'),
        (
            "t.ndjson",
            '{"a": "one", "b": "x"}\n{"a": 2, "b": "y"}\n{"a": "three", "b": "p\\nq"}\n{"a": "four", "b": "z, z"}\n',
        ),
    ],
)
def test_rejected_text_is_valid_under_a_wider_contract(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    reader = files(path)
    rejected = reader.read(SourceSplit(reader.source_objects()[0]), NARROW).rejected
    assert rejected.num_rows == 3

    again = reader.parse(rejected.column("row").to_pylist(), WIDE)
    assert again.rows.to_pylist() == [
        {"a": "one", "b": "x", "_position": 1},
        {"a": "three", "b": "p\nq", "_position": 2},
        {"a": "four", "b": "z, z", "_position": 3},
    ]
    still = reader.parse(rejected.column("row").to_pylist(), NARROW)
    assert (still.rows.num_rows, still.rejected.column("_position").to_pylist()) == (0, [1, 2, 3])
