"""Extension types of Arrow: unknown ones are refused, and nothing that a file says about one is loaded."""

from __future__ import annotations

import pickle
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from pipeline import delta_sharing, delta_table, files
from pipeline.connectors.arrow import ArrowReader
from pipeline.connectors.extension_types import require_known_types
from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, ReadPlan
from pipeline.core.errors import Place, SourceError
from pipeline.core.schema import Schema
from pipeline.core.splits import SourceObject, SourceSplit
from pipeline.kernel.engine import connect
from tests.rigs.http_faults import http_server
from tests.rigs.sharing_server import SharingServer

UNKNOWN = "column 'amount' has an extension type that is not known: got acme.money, stored as int64"
ID = Schema.of({"amount": "bigint"})


def marked(kind: pa.DataType, name: str = "acme.money", content: bytes = b"") -> pa.Field:
    return pa.field("amount", kind, metadata={"ARROW:extension:name": name, "ARROW:extension:metadata": content})


def table(field: pa.Field) -> pa.Table:
    return pa.table([pa.nulls(1, field.type)], schema=pa.schema([field]))


def read(reader):
    return [reader.read(split, ID).rows for split in reader.plan(None).splits]


NESTED = {
    "plain": marked(pa.int64()),
    "list": pa.field("amount", pa.list_(marked(pa.int64()))),
    "struct": pa.field("amount", pa.struct([pa.field("a", pa.int8()), marked(pa.int64())])),
    "map": pa.field("amount", pa.map_(pa.string(), marked(pa.int64()))),
}


@pytest.mark.parametrize("name", NESTED)
def test_an_unknown_type_is_refused_wherever_it_is(name, tmp_path):
    pq.write_table(table(NESTED[name]), tmp_path / "a.parquet")
    reader = files(tmp_path / "a.parquet")

    with pytest.raises(SourceError, match=UNKNOWN):
        reader.schema(reader.source_objects()[0])
    with pytest.raises(SourceError, match=UNKNOWN):
        read(reader)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (pa.opaque(pa.string(), "geometry", "acme"), "arrow.opaque"),
        (pa.fixed_shape_tensor(pa.int32(), [2]), "arrow.fixed_shape_tensor"),
        (pa.bool8(), "arrow.bool8"),
        (pa.dictionary(pa.int8(), pa.opaque(pa.string(), "geometry", "acme")), "arrow.opaque"),
    ],
)
def test_types_whose_values_a_lake_does_not_store_exactly_are_refused(kind, name):
    with pytest.raises(SourceError, match=f"column 'amount' has .*: got {name}, stored as"):
        require_known_types(pa.schema([("amount", pa.list_(kind))]), Place("x"))


def test_small_files_that_are_scanned_together_are_refused_too(tmp_path):
    pq.write_table(table(pa.field("amount", pa.int64())), tmp_path / "a.parquet")
    pq.write_table(table(marked(pa.int64())), tmp_path / "b.parquet")
    reader = files(tmp_path / "*.parquet")

    with (
        connect() as con,
        pytest.raises(SourceError, match=r"got acme\.money, stored as int64; .*b\.parquet"),
        reader.scan_together(con, reader.plan(None).splits, ID),
    ):
        pass


def test_uuid_and_json_are_read_exactly(tmp_path):
    number, text = uuid.uuid4(), '{"a": [1.10]}'
    rows = {
        "amount": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([number.bytes], pa.binary(16))),
        "json": pa.ExtensionArray.from_storage(pa.json_(), pa.array([text])),
    }
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    reader = files(tmp_path / "a.parquet")
    split = reader.plan(None).splits[0]

    taken = reader.read(split, Schema.of({"amount": "varchar", "json": "varchar"})).rows.to_pylist()

    assert [(row["amount"], row["json"]) for row in taken] == [(str(number), text)]


class Loaded:
    """Raises when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return exec, ("raise SystemExit('a pickled type was loaded')",)


def test_a_pickled_class_is_never_loaded(tmp_path):
    pickled = marked(pa.int64(), "arrow.py_extension_type", pickle.dumps(Loaded()))
    pq.write_table(table(pickled), tmp_path / "a.parquet")

    with pytest.raises(SourceError, match=r"got arrow\.py_extension_type, stored as int64"):
        read(files(tmp_path / "a.parquet"))


class TestTables:
    def test_in_the_columns_of_a_delta_table(self, tmp_path):
        write_deltalake(str(tmp_path / "t"), table(marked(pa.int64())))

        with pytest.raises(SourceError, match=UNKNOWN):
            delta_table(tmp_path / "t").plan(None)

    def test_in_a_data_file_of_a_delta_table(self, tmp_path):
        write_deltalake(str(tmp_path / "t"), table(pa.field("amount", pa.int64())))
        (data,) = DeltaTable(str(tmp_path / "t")).file_uris()
        pq.write_table(table(marked(pa.int64())), data)

        with pytest.raises(SourceError, match=UNKNOWN):
            read(delta_table(tmp_path / "t"))

    def test_in_a_shared_table(self, tmp_path):
        write_deltalake(str(tmp_path / "t"), table(marked(pa.int64())))
        profile = tmp_path / "profile.share"
        with http_server() as running:
            profile.write_text(SharingServer(running, tmp_path / "t").profile)
            with pytest.raises(SourceError, match=UNKNOWN):
                delta_sharing(profile, "market", "public", "trades", allowed_hosts=("localhost",)).plan(None)


@dataclass(frozen=True)
class Foreign(ArrowReader):
    """A connector that yields a column with a foreign type."""

    fingerprint = "foreign"

    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        del cursor, bound
        return ReadPlan((SourceSplit(SourceObject("foreign:1", 0, "")),), Cursor("foreign", {}))

    def batches(self, split: SourceSplit) -> Iterator[pa.RecordBatch]:
        del split
        yield from table(marked(pa.int64())).to_batches()


def test_batches_of_a_connector_are_refused():
    reader = Foreign()
    split = reader.plan(None).splits[0]

    for call in (
        lambda: reader.read(split, ID),
        lambda: reader.schema(split.source_object),
        lambda: reader.beyond(split, ID),
    ):
        with pytest.raises(SourceError, match=UNKNOWN):
            call()
