"""Avro files: every type by both decoders, splits between blocks, damaged and hostile files."""

from __future__ import annotations

import datetime as dt
import io
import random
from decimal import Decimal
from uuid import UUID

import fastavro
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import files
from pipeline.connectors.files import avro_decoders
from pipeline.connectors.files.avro_types import AvroFileColumns, is_columnar
from pipeline.core.errors import SchemaError, SourceError
from pipeline.core.schema import Schema
from pipeline.core.sources import POSITION
from pipeline.core.splits import SourceSplit
from tests.rigs.proofs import examples

UTC = dt.UTC


def record(**types: object) -> dict[str, object]:
    return {"type": "record", "name": "r", "fields": [{"name": n, "type": t} for n, t in types.items()]}


def write(path, schema, rows, *, codec="null", block_bytes=16000) -> None:
    with path.open("wb") as file:
        fastavro.writer(file, fastavro.parse_schema(schema), rows, codec=codec, sync_interval=block_bytes)


def read(path, schema=None, **options):
    reader = files(path, **options)
    (listed,) = reader.source_objects()
    return reader.read(SourceSplit(listed), schema or reader.schema(listed))


def logical(kind: str, name: str, **more: object) -> dict[str, object]:
    return {"type": kind, "logicalType": name, **more}


MOMENT = dt.datetime(2026, 1, 31, 12, 30, 0, 123000, UTC)
CASES: dict[str, tuple[object, list[object], str]] = {
    "boolean": ("boolean", [True, False], "BOOLEAN"),
    "int": ("int", [2**31 - 1, -(2**31)], "INTEGER"),
    "long": ("long", [2**63 - 1, -(2**63)], "BIGINT"),
    "float": ("float", [1.5, float("-inf")], "FLOAT"),
    "double": ("double", [0.1, -0.0], "DOUBLE"),
    "string": ("string", ["", "ü\n"], "VARCHAR"),
    "bytes": ("bytes", [b"", b"\xff\x00"], "BLOB"),
    "fixed": ({"type": "fixed", "name": "f", "size": 2}, [b"ab", b"\x00\xff"], "BLOB"),
    "enum": ({"type": "enum", "name": "e", "symbols": ["A", "B"]}, ["A", "B"], "VARCHAR"),
    "date": (logical("int", "date"), [dt.date(1, 1, 1), dt.date(9999, 12, 31)], "DATE"),
    "timestamp-millis": (logical("long", "timestamp-millis"), [MOMENT], "TIMESTAMPTZ"),
    "timestamp-micros": (logical("long", "timestamp-micros"), [MOMENT.replace(microsecond=1)], "TIMESTAMPTZ"),
    "local-timestamp-millis": (logical("long", "local-timestamp-millis"), [MOMENT.replace(tzinfo=None)], "TIMESTAMP"),
    "local-timestamp-micros": (
        logical("long", "local-timestamp-micros"),
        [dt.datetime(1, 1, 1, 0, 0, 0, 7)],  # noqa: DTZ001
        "TIMESTAMP",
    ),
    "time-millis": (logical("int", "time-millis"), [dt.time(23, 59, 59, 999000)], "VARCHAR"),
    "time-micros": (logical("long", "time-micros"), [dt.time(0, 0, 0, 1)], "VARCHAR"),
    "decimal": (
        logical("bytes", "decimal", precision=38, scale=2),
        [Decimal("-1.25"), Decimal("9" * 36 + ".99")],
        "DECIMAL(38,2)",
    ),
    "fixed decimal": (
        {"type": "fixed", "name": "d", "size": 8, "logicalType": "decimal", "precision": 10, "scale": 3},
        [Decimal("-0.125")],
        "DECIMAL(10,3)",
    ),
    "uuid": (logical("string", "uuid"), [UUID(int=7)], "VARCHAR"),
    "array": ({"type": "array", "items": ["null", "long"]}, [[], [1, None]], "BIGINT[]"),
    "map": ({"type": "map", "values": "int"}, [{}, {"a": 1, "b": 2}], "MAP(VARCHAR, INTEGER)"),
    "record": (
        record(a="int", b=["null", "string"]) | {"name": "q"},
        [{"a": 1, "b": None}, {"a": 2, "b": "x"}],
        "STRUCT(a INTEGER, b VARCHAR)",
    ),
    "map of records": (
        {"type": "map", "values": record(t=logical("long", "timestamp-millis")) | {"name": "q"}},
        [{"a": {"t": MOMENT}}],
        "MAP(VARCHAR, STRUCT(t TIMESTAMPTZ))",
    ),
}


@pytest.mark.parametrize("is_optional", [False, True], ids=["required", "optional"])
@pytest.mark.parametrize("has_polars", [True, False], ids=["by column", "by record"])
@pytest.mark.parametrize("name", CASES)
def test_types_are_kept(name, has_polars, is_optional, tmp_path, monkeypatch):
    kind, values, expected = CASES[name]
    if not has_polars:
        monkeypatch.setattr(avro_decoders, "find_spec", lambda _: None)
    values = [*values, None] if is_optional else values
    write(tmp_path / "a.avro", record(x=["null", kind] if is_optional else kind), [{"x": each} for each in values])
    shown = [str(each) if isinstance(each, UUID | dt.time) else each for each in values]

    reader = files(tmp_path / "a.avro")
    (listed,) = reader.source_objects()
    schema = reader.schema(listed)
    rows = reader.read(SourceSplit(listed), Schema.of(schema.as_dict()))

    assert schema.as_dict()["x"].replace('"', "") == expected if "time-m" not in name else True
    assert rows.rejected.num_rows == 0
    found = rows.rows["x"].to_pylist()
    if "map" in name:
        found = [each if each is None else dict(each) for each in found]
    assert [str(each) if isinstance(each, dt.time) else each for each in found] == shown
    assert rows.rows[POSITION].to_pylist() == list(range(1, len(values) + 1))


def test_types_without_an_arrow_type_are_json_text(tmp_path):
    tree = record(value="int", next=["null", "r"])
    schema = record(
        u=["null", "int", "string"],
        t=tree
        | {"name": "r2", "fields": [{"name": "value", "type": "bytes"}, {"name": "next", "type": ["null", "r2"]}]},
        d=logical("bytes", "decimal", precision=40),
        n="null",
        w=["int", logical("long", "timestamp-millis")],
    )
    rows = [
        {"u": 1, "t": {"value": b"a", "next": None}, "d": Decimal(10**39), "n": None, "w": 3},
        {"u": "1", "t": {"value": b"", "next": {"value": b"b", "next": None}}, "d": Decimal(0), "n": None, "w": MOMENT},
    ]
    write(tmp_path / "a.avro", schema, rows)

    found = read(tmp_path / "a.avro", Schema.of(dict.fromkeys("utdnw", "varchar"))).rows.to_pylist()

    assert [row["u"] for row in found] == ["1", '"1"']
    assert [row["t"] for row in found] == [
        '{"value": "YQ==", "next": null}',
        '{"value": "", "next": {"value": "Yg==", "next": null}}',
    ]
    assert [row["d"] for row in found] == [f'"{10**39}"', '"0"']
    assert [row["n"] for row in found] == [None, None]
    assert [row["w"] for row in found] == ["3", f'"{MOMENT.isoformat()}"']


@pytest.mark.parametrize("has_polars", [True, False])
def test_times_beyond_the_years_of_a_lake_are_rejected_alone(has_polars, tmp_path, monkeypatch):
    if not has_polars:
        monkeypatch.setattr(avro_decoders, "find_spec", lambda _: None)
    kinds = {
        "d": logical("int", "date"),
        "ms": logical("long", "timestamp-millis"),
        "us": logical("long", "timestamp-micros"),
    }
    plain = record(d="int", ms="long", us="long")
    rows = [
        {"d": 0, "ms": 0, "us": 0},
        {"d": 2**31 - 1, "ms": 0, "us": 0},
        {"d": 0, "ms": -(2**62), "us": 0},
        {"d": 0, "ms": 0, "us": 2**62},
    ]
    write(tmp_path / "a.avro", plain, rows)
    content = (tmp_path / "a.avro").read_bytes()
    stream = io.BytesIO()
    fastavro.writer(stream, fastavro.parse_schema(record(**kinds)), [], sync_marker=content[-16:])
    block = content[content.index(content[-16:]) + 16 :]
    (tmp_path / "a.avro").write_bytes(stream.getvalue() + block)

    found = read(tmp_path / "a.avro", Schema.of({"d": "date", "ms": "timestamptz", "us": "timestamptz"}))

    assert found.rows[POSITION].to_pylist() == [1]
    assert found.rejected["position" if "position" in found.rejected.column_names else POSITION].to_pylist() == [
        2,
        3,
        4,
    ]


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2", "xz", "snappy", "zstandard"])
def test_codecs(codec, tmp_path):
    rows = [{"x": number, "y": f"n{number}"} for number in range(1000)]
    try:
        write(tmp_path / "a.avro", record(x="long", y="string"), rows, codec=codec, block_bytes=1000)
    except ValueError as error:
        pytest.skip(str(error))
    found = read(tmp_path / "a.avro", Schema.of({"x": "bigint", "y": "varchar"})).rows
    assert found["x"].to_pylist() == list(range(1000))


def test_splits_are_between_blocks_and_have_the_positions_of_the_file(tmp_path):
    rows = [{"x": number, "y": "x" * (number % 50)} for number in range(20_000)]
    write(tmp_path / "a.avro", record(x="long", y="string"), rows, codec="deflate", block_bytes=5000)
    reader, schema = files(tmp_path / "a.avro"), Schema.of({"x": "bigint", "y": "varchar"})
    (listed,) = reader.source_objects()
    whole = reader.read(SourceSplit(listed), schema).rows

    for target in (1000, 20_000):
        splits = reader.splits(listed, target)
        parts = [part for split in splits for part in reader.parts(split, target // 3)]
        assert 2 < len(splits) <= len(parts)
        for division in (splits, parts):
            assert pa.concat_tables(reader.read(each, schema).rows for each in division).equals(whole)


def test_names_and_rejected_rows(tmp_path):
    write(
        tmp_path / "a.avro",
        record(x="string", X="int", y="int"),
        [{"x": "1", "X": 1, "y": 5}, {"x": "q", "X": 2, "y": 6}],
    )

    with pytest.raises(SourceError, match="differ only in case"):
        read(tmp_path / "a.avro")
    found = read(tmp_path / "a.avro", Schema.of({"x": "bigint", "big": "int", "y": "smallint"}), rename={"X": "big"})
    assert [tuple(row.values()) for row in found.rows.to_pylist()] == [(1, 1, 5, 1)]
    assert found.rejected["reason"].to_pylist() == ["column 'x' is not BIGINT: q"]


GOOD = record(
    x="long", y=["null", "string"], z={"type": "array", "items": "double"}, m={"type": "map", "values": "int"}
)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"Obj\x02", "does not begin as an Avro file"),
        (b"garbage", "does not begin as an Avro file"),
        (b"Obj\x01", "a number is cut off"),
        (b"Obj\x01\x02\x16avro.schema\xff\xff\xff\xff\x0f", "the header is not complete"),
        (b"Obj\x01\x02\x16avro.schema\x02{\x00" + b"s" * 16, "the schema is not JSON"),
        (b'Obj\x01\x02\x16avro.schema\x0c"long"\x00' + b"s" * 16, "the schema is not a record with fields"),
        (b"Obj\x01\x02\x16avro.schema\x04{}\x00" + b"s" * 15, "the header is not complete"),
        (b"Obj\x01\x02\x14avro.codec\x06lzo\x00" + b"s" * 16, "the codec 'lzo' is not supported"),
    ],
)
def test_invalid_header_is_named(content, reason, tmp_path):
    (tmp_path / "a.avro").write_bytes(content)
    with pytest.raises(SourceError, match=f"cannot be read as AVRO: got .*{reason}"):
        read(tmp_path / "a.avro")


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (record(x={"type": "array", "items": "null"}), "an array has items without bytes"),
        (record(x={"kind": "array"}), "the schema is not valid: KeyError"),
    ],
)
def test_invalid_schema_is_named(schema, reason):
    with pytest.raises(ValueError, match=reason):
        AvroFileColumns.of(schema)


def test_a_block_with_more_records_than_bytes_is_named(tmp_path):
    write(tmp_path / "a.avro", record(x="long"), [{"x": 1}])
    content = (tmp_path / "a.avro").read_bytes()
    sync = content[-16:]
    begin = content.index(sync) + 16
    (tmp_path / "a.avro").write_bytes(content[:begin] + b"\xfe\xff\xff\xff\x0f" + content[begin + 1 :])

    with pytest.raises(SourceError, match=f"the block at byte {begin} has 2147483647 records in 1 bytes"):
        read(tmp_path / "a.avro", Schema.of({"x": "bigint"}))


@settings(max_examples=examples(60, 2000), deadline=None)
@given(seed=st.integers(0, 10**9), codec=st.sampled_from(["null", "deflate"]), by_column=st.booleans())
def test_garbage_is_an_error_or_rows_but_never_a_crash(tmp_path_factory, seed, codec, by_column):
    drawn = random.Random(seed)  # noqa: S311 - a reproducible seed
    path = tmp_path_factory.mktemp("avro") / "a.avro"
    schema = record(**{f["name"]: f["type"] for f in GOOD["fields"] if f["name"] != "m" or not by_column})
    rows = [{"x": n, "y": None if n % 3 else "é" * n, "z": [1.5] * (n % 4), "m": {"k": n}} for n in range(30)]
    write(path, schema, rows, codec=codec, block_bytes=100)
    content = bytearray(path.read_bytes())
    for _ in range(drawn.randint(1, 4)):
        match drawn.randint(0, 2):
            case 0:
                content[drawn.randrange(len(content))] = drawn.randrange(256)
            case 1:
                del content[drawn.randrange(len(content)) :]
            case _:
                at = drawn.randrange(len(content))
                content[at:at] = drawn.randbytes(drawn.randint(1, 20))
        if not content:
            return
    path.write_bytes(content)
    columns = {"x": "bigint", "y": "varchar", "z": "double[]"} | ({} if by_column else {"m": "map(varchar, integer)"})
    try:
        found = read(path, Schema.of(columns))
    except (SourceError, SchemaError):  # the second: a name in the header changed
        return
    assert found.rows.num_rows + found.rejected.num_rows <= 30 + 30


SCALARS = {
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "double": st.floats(allow_nan=False),
    "string": st.text(st.characters(codec="utf-8"), max_size=8),
    "bytes": st.binary(max_size=8),
    "boolean": st.booleans(),
}


@st.composite
def typed_values(draw, depth=2):
    """A schema, and a strategy of its values."""
    choices = ["scalar", "optional"] + (["array", "map", "record"] if depth else [])
    match draw(st.sampled_from(choices)):
        case "optional":
            kind, values = draw(typed_values(depth=depth - 1)) if depth else (None, None)
            if kind is None or isinstance(kind, list):
                kind = draw(st.sampled_from(sorted(SCALARS)))
                values = SCALARS[kind]
            return ["null", kind], st.none() | values
        case "array":
            kind, values = draw(typed_values(depth=depth - 1))
            return {"type": "array", "items": kind}, st.lists(values, max_size=3)
        case "map":
            kind, values = draw(typed_values(depth=depth - 1))
            return {"type": "map", "values": kind}, st.dictionaries(SCALARS["string"], values, max_size=3)
        case "record":
            parts = [draw(typed_values(depth=depth - 1)) for _ in range(draw(st.integers(1, 2)))]
            name = f"n{draw(st.uuids()).hex}"
            fields = [{"name": f"f{n}", "type": kind} for n, (kind, _) in enumerate(parts)]
            return {"type": "record", "name": name, "fields": fields}, st.fixed_dictionaries(
                {f"f{n}": v for n, (_, v) in enumerate(parts)}
            )
        case _:
            kind = draw(st.sampled_from(sorted(SCALARS)))
            return kind, SCALARS[kind]


@settings(max_examples=examples(40, 1500), deadline=None)
@given(data=st.data(), codec=st.sampled_from(["null", "deflate"]))
def test_any_records_survive_by_both_decoders(tmp_path_factory, data, codec):
    columns = [data.draw(typed_values()) for _ in range(data.draw(st.integers(1, 3)))]
    schema = record(**{f"c{n}": kind for n, (kind, _) in enumerate(columns)})
    rows = data.draw(
        st.lists(st.fixed_dictionaries({f"c{n}": v for n, (_, v) in enumerate(columns)}), min_size=1, max_size=5)
    )
    path = tmp_path_factory.mktemp("avro") / "a.avro"
    write(path, schema, rows, codec=codec, block_bytes=40)
    expected = AvroFileColumns.of(schema).types

    def decoded() -> pa.Table:
        reader = files(path)
        (listed,) = reader.source_objects()
        found = reader.read(SourceSplit(listed), Schema.of(reader.schema(listed).as_dict()))
        assert found.rejected.num_rows == 0, found.rejected.to_pylist()
        return found.rows

    first = decoded()
    assert [_plain(row, expected) for row in first.drop_columns([POSITION]).to_pylist()] == rows
    if is_columnar(schema):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(avro_decoders, "find_spec", lambda _: None)
            assert decoded().equals(first)


def _plain(value: object, kind: pa.DataType | pa.Schema) -> object:
    if value is None:
        return None
    if isinstance(kind, pa.Schema):
        return {field.name: _plain(value[field.name], field.type) for field in kind}
    if pa.types.is_map(kind):
        return {key: _plain(item, kind.item_type) for key, item in value}
    if pa.types.is_list(kind):
        return [_plain(item, kind.value_type) for item in value]
    if pa.types.is_struct(kind):
        return {field.name: _plain(value[field.name], field.type) for field in kind}
    return value
