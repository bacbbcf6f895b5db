from __future__ import annotations

import datetime as dt
import decimal
import pickle
import uuid
from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema as IcebergSchema
from pyiceberg.transforms import IdentityTransform
from pyiceberg.typedef import Record
from pyiceberg.types import LongType, NestedField, StringType

from pipeline import iceberg_table
from pipeline.core.cursors import Bound
from pipeline.core.errors import DefinitionError, SettingsError, SourceError
from pipeline.core.schema import Schema
from tests.rigs.iceberg import IcebergCatalog, delete_equal, delete_positions
from tests.rigs.weed import S3, TableBucket

ID = pa.schema([("id", pa.int64()), ("v", pa.string())])


@pytest.fixture
def shop(tmp_path):
    catalog = IcebergCatalog(tmp_path)
    yield catalog
    catalog.close()


def numbers(*values, v="a"):
    return pa.table({"id": pa.array(values, pa.int64()), "v": [v] * len(values)})


def read(reader, cursor=None, bound=None):
    plan = reader.plan(cursor, bound or Bound())
    taken = []
    for split in plan.splits:
        result = reader.read(split, reader.schema(split.source_object))
        assert result.rejected.num_rows == 0
        taken += result.rows.drop_columns(["_position"]).to_pylist()
    return taken, plan


def ids(rows):
    return sorted(row["id"] for row in rows)


class TestSnapshots:
    def test_values_of_every_type_are_exact(self, shop):
        rows = pa.table(
            {
                "b": pa.array([True, None]),
                "i": pa.array([2**31 - 1, None], pa.int32()),
                "l": pa.array([2**63 - 1, None], pa.int64()),
                "f": pa.array([1.5, float("nan")], pa.float32()),
                "d": pa.array(
                    [decimal.Decimal("-99999999999999999999.999999999999999999"), None], pa.decimal128(38, 18)
                ),
                "s": pa.array(["ä\0x", ""]),
                "y": pa.array([b"\x00\xff", None], pa.binary()),
                "fixed": pa.array([b"ab", None], pa.binary(2)),
                "day": pa.array([dt.date(1, 1, 1), dt.date(9999, 12, 31)]),
                "at": pa.array([dt.datetime(1, 1, 1, tzinfo=dt.UTC), None], pa.timestamp("us", "UTC")),
                "naive": pa.array([253402300799999999, None], pa.timestamp("us")),
                "items": pa.array([[1, None], None], pa.list_(pa.int32())),
                "pair": pa.array([{"a": 1, "b": None}, None], pa.struct([("a", pa.int64()), ("b", pa.string())])),
                "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
            }
        )
        shop.create("t", rows.schema).append(rows)

        taken, _ = read(iceberg_table("shop.t", catalog=shop.properties))

        assert str(taken) == str(rows.to_pylist())

    def test_appended_files_are_read_and_a_pinned_snapshot_is_read_once(self, shop):
        table = shop.create("t", ID)
        reader = iceberg_table("shop.t", catalog=shop.properties)
        assert reader.plan(None).splits == ()
        empty = reader.plan(None).cursor
        assert reader.plan(empty).splits == ()
        table.append(numbers(1, 2))
        rows, first = read(reader, empty)
        table.append(numbers(3))
        later, second = read(reader, first.cursor)
        pinned = iceberg_table("shop.t", catalog=shop.properties, snapshot=table.snapshots()[0].snapshot_id)
        old, plan = read(pinned)

        assert (ids(rows), ids(later), ids(old)) == ([1, 2], [3], [1, 2])
        assert second.new == "1 data file"
        assert pinned.plan(plan.cursor).splits == ()

    def test_updated_rows_make_it_read_again(self, shop):
        table = shop.create("t", ID)
        table.append(numbers(1, 2))
        reader = iceberg_table("shop.t", catalog=shop.properties)
        cursor = reader.plan(None).cursor
        table.delete("id = 1")

        plan = reader.plan(cursor)

        number = table.current_snapshot().snapshot_id
        assert plan.changed == f"snapshot {number} of the Iceberg table deleted or updated rows (overwrite)"

    def test_a_table_that_was_rolled_back_or_created_again_is_read_again(self, shop):
        table = shop.create("t", ID)
        table.append(numbers(1))
        table.append(numbers(2))
        reader = iceberg_table("shop.t", catalog=shop.properties)
        cursor = reader.plan(None).cursor
        shop.catalog.load_table("shop.t").manage_snapshots().rollback_to_snapshot(
            table.snapshots()[0].snapshot_id
        ).commit()

        assert "was rolled back" in reader.plan(cursor).changed

        shop.catalog.drop_table("shop.t")
        shop.create("t", ID).append(numbers(1))
        assert reader.plan(cursor).changed == "the Iceberg table was created again"

    @pytest.mark.parametrize("bound", [Bound(rows=1), Bound(size_bytes=1)])
    def test_a_bound_divides_a_snapshot_and_what_follows(self, shop, bound):
        table = shop.create("t", ID)
        reader = iceberg_table("shop.t", catalog=shop.properties)
        for number in range(3):
            table.append(numbers(number))
        taken, cursor = [], None
        for round_number in range(7):
            rows, plan = read(reader, cursor, bound)
            taken, cursor = taken + rows, plan.cursor
            if round_number == 0:
                table.append(numbers(3))
                table.append(numbers(4))
        assert ids(taken) == [0, 1, 2, 3, 4]

    def test_until_reads_an_earlier_snapshot(self, shop):
        table = shop.create("t", ID)
        table.append(numbers(1))
        between = dt.datetime.fromtimestamp((table.current_snapshot().timestamp_ms + 1) / 1000, dt.UTC)
        while dt.datetime.now(dt.UTC) <= between:
            pass
        table.append(numbers(2))
        reader = iceberg_table("shop.t", catalog=shop.properties)

        assert ids(read(reader, bound=Bound(until=between))[0]) == [1]

    def test_columns_that_were_renamed_added_and_widened(self, shop):
        table = shop.create("t", pa.schema([("id", pa.int32()), ("v", pa.string())]))
        table.append(numbers(1).cast(pa.schema([("id", pa.int32()), ("v", pa.string())])))
        with table.update_schema() as update:
            update.rename_column("v", "w").update_column("id", LongType()).add_column("new", LongType())

        assert read(iceberg_table("shop.t", catalog=shop.properties))[0] == [{"id": 1, "w": "a", "new": None}]

    def test_a_table_is_read_by_the_location_of_its_metadata(self, shop, tmp_path):
        table = shop.create("t", ID)
        table.append(numbers(1))
        hint = Path(table.location().removeprefix("file://")) / "metadata" / "version-hint.text"
        hint.write_text(Path(table.metadata_location).name)

        assert ids(read(iceberg_table(table.metadata_location))[0]) == [1]
        relative = Path(table.location().removeprefix("file://")).relative_to(tmp_path)
        assert ids(read(iceberg_table(relative).within(tmp_path))[0]) == [1]
        assert iceberg_table("shop.t", catalog=shop.properties).within(tmp_path).location.table == "shop.t"


class TestDeletes:
    def test_deleted_positions_are_left_out(self, shop):
        table = shop.create("t", ID)
        table.append(numbers(1, 2, 3))
        (file,) = table.inspect.files().column("file_path").to_pylist()
        delete_positions(table, file, [0, 2])

        assert ids(read(iceberg_table("shop.t", catalog=shop.properties))[0]) == [2]

    def test_equal_rows_of_older_files_are_left_out(self, shop):
        table = shop.create("t", ID)
        table.append(numbers(1, 2, 3, 3))
        table.append(pa.table({"id": pa.array([None, None], pa.int64()), "v": ["a", None]}))
        delete_equal(table, pa.table({"id": pa.array([3], pa.int64())}))
        delete_equal(table, pa.table({"v": pa.array([None], pa.string()), "id": pa.array([None], pa.int64())}))
        table.append(numbers(3, v="again"))

        rows, _ = read(iceberg_table("shop.t", catalog=shop.properties))

        expected = [(1, "a"), (2, "a"), (3, "again"), (None, "a")]
        assert sorted(((r["id"], r["v"]) for r in rows), key=str) == sorted(expected, key=str)

    def test_equality_deletes_apply_to_their_partition(self, shop):
        spec = PartitionSpec(PartitionField(source_id=2, field_id=1000, transform=IdentityTransform(), name="v"))
        schema = IcebergSchema(NestedField(1, "id", LongType()), NestedField(2, "v", StringType()))
        table = shop.create("t", schema, partition_spec=spec)
        table.append(numbers(1, 2, v="a"))
        table.append(numbers(1, 2, v="b"))
        delete_equal(table, pa.table({"id": pa.array([1], pa.int64())}), Record("b"))

        rows, _ = read(iceberg_table("shop.t", catalog=shop.properties))

        assert sorted((r["v"], r["id"]) for r in rows) == [("a", 1), ("a", 2), ("b", 2)]

    def test_equality_deletes_of_another_format_are_refused(self, shop):
        table = shop.create("t", ID)
        table.append(numbers(1))
        delete_equal(table, pa.table({"id": pa.array([1], pa.int64())}), suffix="avro")

        with pytest.raises(SourceError, match=r"equality deletes of the Iceberg table cannot be applied.*compact"):
            read(iceberg_table("shop.t", catalog=shop.properties))


class TestErrors:
    def test_there_is_no_table(self, shop, tmp_path):
        with pytest.raises(SourceError, match=r"the Iceberg table cannot be loaded: got Table does not exist: shop.x"):
            iceberg_table("shop.x", catalog=shop.properties).plan(None)
        with pytest.raises(SourceError, match="the Iceberg table cannot be loaded"):
            iceberg_table(tmp_path / "none").plan(None)

    def test_there_is_no_such_snapshot(self, shop):
        shop.create("t", ID)
        with pytest.raises(SourceError, match="has no snapshot 7, or no longer has it"):
            iceberg_table("shop.t", catalog=shop.properties, snapshot=7).plan(None)

    def test_names_that_differ_only_in_case_are_refused(self, shop):
        shop.create("t", pa.schema([("id", pa.int64()), ("ID", pa.int64())]))
        with pytest.raises(SourceError, match="equal, or differ only in case: got 'id' and 'ID'"):
            iceberg_table("shop.t", catalog=shop.properties).plan(None)

    def test_a_table_that_is_created_again_while_it_is_read(self, shop):
        shop.create("t", ID).append(numbers(1))
        reader = iceberg_table("shop.t", catalog=shop.properties)
        (split,) = reader.plan(None).splits
        shop.catalog.drop_table("shop.t")
        shop.create("t", ID).append(numbers(1))

        with pytest.raises(SourceError, match="was created again while it was read; run again"):
            reader.read(split, Schema.of({"id": "bigint", "v": "varchar"}))

    def test_a_data_file_that_is_gone_is_an_error(self, shop):
        shop.create("t", ID).append(numbers(1))
        reader = iceberg_table("shop.t", catalog=shop.properties)
        (split,) = reader.plan(None).splits
        Path(split.source_object.uri.removeprefix("file://")).unlink()

        with pytest.raises(SourceError, match="a data file of the Iceberg table cannot be read"):
            reader.read(split, Schema.of({"id": "bigint", "v": "varchar"}))

    def test_a_snapshot_that_expires_between_plan_and_read(self, shop):
        table = shop.create("t", ID)
        table.append(numbers(1))
        reader = iceberg_table("shop.t", catalog=shop.properties)
        (split,) = reader.plan(None).splits
        table.append(numbers(2))
        number = table.snapshots()[0].snapshot_id
        table.maintenance.expire_snapshots().by_id(number).commit()

        with pytest.raises(SourceError, match="no longer has a data file that was planned; run again"):
            reader.read(split, Schema.of({"id": "bigint", "v": "varchar"}))

    def test_a_credential_that_is_written_out_is_refused(self):
        for properties in ({"credential": "id:hunter2"}, {"uri": "postgresql://u:hunter2@h/c"}):
            with pytest.raises(DefinitionError, match="contains a credential") as raised:
                iceberg_table("shop.t", catalog=properties)
            assert "hunter2" not in str(raised.value)

    def test_it_is_checked(self, shop):
        table = shop.create("t", ID)
        reader = iceberg_table("shop.t", catalog=shop.properties)
        assert [finding.detail for finding in reader.check()] == ["empty"]
        table.append(numbers(1))
        assert [finding.detail for finding in reader.check()] == [f"snapshot {table.current_snapshot().snapshot_id}"]


def test_a_table_of_a_rest_catalog(s3: S3, monkeypatch):
    bucket: TableBucket = s3.table_bucket(f"tables-{uuid.uuid4().hex[:8]}")
    bucket.catalog().create_namespace("shop")
    table = bucket.catalog().create_table("shop.orders", schema=ID)
    table.append(numbers(1, 2))
    monkeypatch.setenv("CATALOG_CREDENTIAL", bucket.properties["credential"])
    monkeypatch.setenv("STORE_SECRET", bucket.properties["s3.secret-access-key"])
    references = {"credential": "env:CATALOG_CREDENTIAL", "s3.secret-access-key": "env:STORE_SECRET"}
    reader = pickle.loads(pickle.dumps(iceberg_table("shop.orders", catalog={**bucket.properties, **references})))  # noqa: S301 - our own

    rows, plan = read(reader)
    bucket.catalog().load_table("shop.orders").append(numbers(3))

    assert (ids(rows), ids(read(reader, plan.cursor)[0])) == ([1, 2], [3])
    assert "secret" not in repr(reader).lower()
    monkeypatch.setenv("CATALOG_CREDENTIAL", "id:hunter2")
    with pytest.raises(SourceError, match="cannot be loaded") as raised:
        reader.plan(None)
    assert "hunter2" not in str(raised.value)
    monkeypatch.delenv("CATALOG_CREDENTIAL")
    with pytest.raises(SettingsError, match="CATALOG_CREDENTIAL"):
        reader.plan(None)
