"""Other encodings: decoded, rejected if invalid, and suggested if not specified."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import files
from pipeline.connectors.files import encoding
from pipeline.core.errors import SourceError
from pipeline.core.schema import Schema
from pipeline.core.sources import POSITION
from pipeline.core.splits import SourceSplit
from tests.rigs.proofs import examples

ENCODINGS = ["latin-1", "windows-1252", "cp1252", "utf-16", "utf-16-le", "utf-32", "utf-8-sig", "utf-8", "shift_jis"]
TEXTS = {"shift_jis": "漢字", "latin-1": "café ÿ"}
SCHEMA = Schema.of({"id": "bigint", "name": "varchar"})


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("format", ["csv", "json"])
@pytest.mark.parametrize("name", ENCODINGS)
def test_read_text_in_any_encoding(tmp_path, name, format, packed):  # noqa: A002 - the usual name of the option
    text = TEXTS.get(name, "café")
    csv = f'id,name\n1,{text}\nq,"{text}\n"\n3,{text}\n'
    json = f'{{"id": 1, "name": "{text}"}}\n{{"id": "q", "name": "{text}\\n"}}\n\n{{"id": 3, "name": "{text}"}}\n'
    content = (csv if format == "csv" else json).encode(name)
    path = tmp_path / (f"a.{format}" + ".gz" * packed)
    path.write_bytes(gzip.compress(content) if packed else content)
    reader = files(path, encoding=name)

    (source_object,) = reader.source_objects()
    reading = reader.read(SourceSplit(source_object), SCHEMA)

    first = 2 if format == "csv" else 1
    assert reader.splits(source_object, 1) == (SourceSplit(source_object),) or (name.startswith("utf-8") and not packed)
    assert reading.rows.to_pylist() == [
        {"id": 1, "name": text, POSITION: first},
        {"id": 3, "name": text, POSITION: first + 3},
    ]
    assert reading.rejected[POSITION].to_pylist() == [first + 1]
    assert text in reading.rejected["row"][0].as_py()
    assert reader.schema(source_object).as_dict()["name"] == "VARCHAR"


@pytest.mark.parametrize("format", ["csv", "json"])
@pytest.mark.parametrize(
    ("name", "bad"), [("windows-1252", b"\x81"), ("utf-16-le", b"\x00\xd8"), ("shift_jis", b"\x80")]
)
def test_only_the_undecodable_record_is_rejected(tmp_path, format, name, bad):  # noqa: A002 - the usual name of the option
    lines = ["id,name\n", "1,a\n", "2,", "\n", "3,c\n"]
    if format == "json":
        lines = ["", '{"id": 1, "name": "a"}\n', '{"id": 2, "name": "', '"}\n', '{"id": 3, "name": "c"}\n']
    encoded = [line.encode(name) for line in lines]
    (tmp_path / f"a.{format}").write_bytes(b"".join([*encoded[:3], bad, *encoded[3:]]))
    reader = files(tmp_path / f"a.{format}", encoding=name)

    reading = reader.read(SourceSplit(reader.source_objects()[0]), SCHEMA)

    assert reading.rows["id"].to_pylist() == [1, 3]
    shown = {"windows-1252": "cp1252"}.get(name, name)
    assert reading.rejected["reason"].to_pylist() == [f"not {shown}"]


@pytest.mark.parametrize("name", ["latin-1", "windows-1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("format", ["csv", "json"])
def test_error_suggests_an_encoding_that_works(tmp_path, name, format):  # noqa: A002 - the usual name of the option
    text = "café" if name != "windows-1252" else "„café“"
    content = f"id,{text}\n1,{text}\n" if format == "csv" else f'{{"{text}": "{text}"}}\n'
    (tmp_path / f"a.{format}").write_bytes(content.encode(name))
    reader = files(tmp_path / f"a.{format}")

    with pytest.raises(SourceError, match=f'encoding="{name}"'):
        reader.schema(reader.source_objects()[0])

    advised = files(tmp_path / f"a.{format}", encoding=name)
    assert text in advised.schema(advised.source_objects()[0]).names


@pytest.mark.parametrize("name", ["rot13", "hex", "nope", ""])
def test_codec_that_is_not_a_text_encoding_is_rejected(name):
    with pytest.raises(SourceError, match=r"is not a text encoding of Python.*use an encoding such as 'latin-1'"):
        files("a.csv", encoding=name)


@given(
    text=st.text(st.characters(codec="utf-8")),
    name=st.sampled_from(["utf-16", "utf-16-be", "utf-32", "utf-7"]),
    size=st.integers(1, 7),
)
@settings(max_examples=examples(40, 400), deadline=None)
def test_decoding_in_chunks_of_any_size(text, name, size):
    """Chunks may end inside a character."""
    content = text.encode(name)

    class Slow:
        at = 0

        def read(self, _):
            self.at += size
            return content[self.at - size : self.at]

    assert b"".join(encoding.recoded(Slow(), name)).decode() == text
