from __future__ import annotations

import datetime as dt
import decimal
import pickle
from contextlib import ExitStack
from operator import itemgetter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from pipeline import delta_table
from pipeline.core.cursors import Bound
from pipeline.core.errors import DefinitionError, SchemaError, SettingsError, SourceError
from pipeline.core.schema import Schema
from pipeline.core.splits import SourceSplit
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.pool import Limits
from tests.rigs.delta_log import WrittenLog, deletion_vector, field, removal
from tests.rigs.weed import S3, credentials

FEED = {"delta.enableChangeDataFeed": "true"}


def read(reader, cursor=None, bound=None, schema=None):
    """Return the rows of the next plan, and the plan."""
    plan = reader.plan(cursor, bound or Bound())
    taken = []
    for split in plan.splits:
        contract = schema or reader.schema(split.source_object)
        result = reader.read(split, contract)
        assert result.rejected.num_rows == 0
        taken += result.rows.drop_columns(["_position"]).to_pylist()
    return taken, plan


def ids(rows):
    return sorted(row["id"] for row in rows)


def numbers(*values):
    return pa.table({"id": pa.array(values, pa.int64())})


@pytest.fixture
def uri(tmp_path) -> str:
    return str(tmp_path / "t")


class TestVersions:
    def test_values_of_every_type_are_exact(self, uri):
        rows = pa.table(
            {
                "b": pa.array([True, None]),
                "i8": pa.array([-128, None], pa.int8()),
                "i64": pa.array([2**63 - 1, None], pa.int64()),
                "f": pa.array([1.5, float("nan")], pa.float32()),
                "d": pa.array(
                    [decimal.Decimal("-99999999999999999999.999999999999999999"), None], pa.decimal128(38, 18)
                ),
                "s": pa.array(["ä\0x", ""]),
                "y": pa.array([b"\x00\xff", None], pa.binary()),
                "day": pa.array([dt.date(1, 1, 1), dt.date(9999, 12, 31)]),
                "at": pa.array([dt.datetime(1, 1, 1, tzinfo=dt.UTC), None], pa.timestamp("us", "UTC")),
                "naive": pa.array([253402300799999999, None], pa.timestamp("us")),
                "items": pa.array([[1, None], None], pa.list_(pa.int32())),
                "pair": pa.array([{"a": 1, "b": None}, None], pa.struct([("a", pa.int64()), ("b", pa.string())])),
                "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
            }
        )
        write_deltalake(uri, rows)

        taken, _ = read(delta_table(uri))

        assert str(taken) == str(rows.to_pylist())

    def test_partition_values_have_the_type_of_their_column(self, uri):
        columns = {
            "p": pa.array([dt.date(2024, 1, 1), None, dt.date(2024, 1, 2)]),
            "q": pa.array(["a/b=c %20", "ä", None]),
            "n": pa.array([decimal.Decimal("1.50"), None, decimal.Decimal("-2.00")], pa.decimal128(9, 2)),
            "t": pa.array([dt.datetime(2024, 1, 1, 1, 2, 3, 4, dt.UTC), None, None], pa.timestamp("us", "UTC")),
            "id": pa.array([1, 2, 3], pa.int64()),
        }
        write_deltalake(uri, pa.table(columns), partition_by=["p", "q", "n", "t"])
        before = delta_table(uri).plan(None)
        write_deltalake(uri, pa.table(columns), mode="append")

        for rows in (read(delta_table(uri, version=0))[0], read(delta_table(uri), before.cursor)[0]):
            assert sorted(rows, key=itemgetter("id")) == pa.table(columns).to_pylist()

    def test_appended_files_are_read_and_a_pinned_version_is_read_once(self, uri):
        write_deltalake(uri, numbers(1, 2))
        rows, first = read(delta_table(uri))
        write_deltalake(uri, numbers(3), mode="append")
        later, second = read(delta_table(uri), first.cursor)
        pinned, plan = read(delta_table(uri, version=0))

        assert (ids(rows), ids(later), ids(pinned)) == ([1, 2], [3], [1, 2])
        assert second.new == "1 data file up to version 1"
        assert delta_table(uri, version=0).plan(plan.cursor).splits == ()

    def test_compaction_is_not_new_data(self, uri):
        for number in range(3):
            write_deltalake(uri, numbers(number), mode="append")
        cursor = delta_table(uri).plan(None).cursor
        write_deltalake(uri, numbers(7), mode="append")
        DeltaTable(uri).optimize.compact()

        rows, plan = read(delta_table(uri), cursor)

        assert (ids(rows), plan.changed) == ([7], "")

    def test_deleted_rows_make_it_read_again(self, uri):
        write_deltalake(uri, numbers(1, 2))
        cursor = delta_table(uri).plan(None).cursor
        DeltaTable(uri).delete("id = 1")

        plan = delta_table(uri).plan(cursor)

        assert (
            plan.changed == "version 1 of the Delta table deleted or updated rows; changes=True reads them as changes"
        )

    def test_a_table_that_was_created_again_is_read_again(self, uri, tmp_path):
        write_deltalake(uri, numbers(1))
        write_deltalake(uri, numbers(2), mode="append")
        cursor = delta_table(uri).plan(None).cursor
        write_deltalake(str(tmp_path / "other"), numbers(5))

        assert delta_table(tmp_path / "other").plan(cursor).changed == "the Delta table was created again"

    def test_a_table_that_is_behind_is_read_again(self, uri):
        write_deltalake(uri, numbers(1))
        write_deltalake(uri, numbers(2), mode="append")
        cursor = delta_table(uri).plan(None).cursor
        Path(uri, "_delta_log", f"{1:020}.json").unlink()

        assert (
            delta_table(uri).plan(cursor).changed
            == "version 1 of the Delta table was read, and its newest version is 0"
        )

    def test_a_log_without_a_version_is_read_again(self, uri):
        write_deltalake(uri, numbers(1))
        cursor = delta_table(uri).plan(None).cursor
        for number in range(2):
            write_deltalake(uri, numbers(number), mode="append")
        DeltaTable(uri).create_checkpoint()
        Path(uri, "_delta_log", f"{1:020}.json").unlink()

        assert delta_table(uri).plan(cursor).changed == "the log of the Delta table no longer has version 1"

    def test_a_vacuumed_file_is_named(self, uri):
        write_deltalake(uri, numbers(1))
        reader = delta_table(uri)
        (split,) = reader.plan(None).splits
        DeltaTable(uri).delete("id = 1")
        DeltaTable(uri).vacuum(0, dry_run=False, enforce_retention_duration=False)

        with pytest.raises(SourceError, match=r"data file .*parquet cannot be read; if VACUUM has removed it.*--full"):
            reader.read(split, Schema.of({"id": "bigint"}))

    def test_a_version_that_is_gone_is_named(self, uri):
        write_deltalake(uri, numbers(1))

        with pytest.raises(
            SourceError, match="has no version 7, or no longer has it; read the newest version: headwater run --full"
        ):
            delta_table(uri, version=7).plan(None)

    def test_a_new_column_is_null_in_older_files_and_a_widened_type_is_cast(self, tmp_path):
        inner = {"type": "struct", "fields": [field("a", "long"), field("b", "string")]}
        log = WrittenLog(tmp_path / "t", [field("id", "long"), field("s", inner), field("new", "double")])
        old = pa.table({"id": pa.array([1], pa.int32()), "s": pa.array([{"a": 1}], pa.struct([("a", pa.int16())]))})
        log.commit({"add": log.write("a.parquet", old)})

        rows, _ = read(delta_table(tmp_path / "t"))

        assert rows == [{"id": 1, "s": {"a": 1, "b": None}, "new": None}]

    def test_a_value_that_does_not_fit_the_type_of_the_table_is_an_error(self, tmp_path):
        log = WrittenLog(tmp_path / "t", [field("id", "integer")])
        log.commit({"add": log.write("a.parquet", numbers(2**40))})

        with pytest.raises(SourceError, match="column 'id' of the data file is not int32"):
            read(delta_table(tmp_path / "t"))

    @pytest.mark.parametrize("bound", [Bound(rows=1), Bound(size_bytes=1)])
    def test_a_bound_divides_a_snapshot_and_it_is_continued_after_later_commits(self, uri, bound):
        for number in range(3):
            write_deltalake(uri, numbers(number), mode="append")
        taken, cursor = [], None
        for round_number in range(6):
            rows, plan = read(delta_table(uri), cursor, bound)
            taken, cursor = taken + rows, plan.cursor
            if round_number == 0:
                write_deltalake(uri, numbers(3), mode="append")
                DeltaTable(uri).optimize.compact()
        assert ids(taken) == [0, 1, 2, 3]

    def test_until_reads_an_earlier_version(self, uri):
        write_deltalake(uri, numbers(1))
        between = dt.datetime.now(dt.UTC)
        write_deltalake(uri, numbers(2), mode="append")

        assert ids(read(delta_table(uri), bound=Bound(until=between))[0]) == [1]
        with pytest.raises(SourceError, match=r"did not exist at this time: got 1990.*use a later --until"):
            delta_table(uri).plan(None, Bound(until=dt.datetime(1990, 1, 1, tzinfo=dt.UTC)))

    def test_a_large_file_is_split_between_row_groups(self, tmp_path):
        log = WrittenLog(tmp_path / "t", [field("id", "long")])
        add = log.write("a.parquet", numbers(0))
        pq.write_table(
            numbers(*range(50_000)), tmp_path / "t" / "a.parquet", row_group_size=10_000, use_dictionary=False
        )
        size = (tmp_path / "t" / "a.parquet").stat().st_size
        log.commit({"add": {**add, "size": size, "stats": None}})
        reader = delta_table(tmp_path / "t")
        (split,) = reader.plan(None).splits

        splits = reader.splits(split.source_object, size // 4)
        tables = [reader.read(each, Schema.of({"id": "bigint"})).rows for each in splits]

        assert len(splits) > 2
        assert pa.concat_tables(tables).column("id").to_pylist() == list(range(50_000))
        assert pa.concat_tables(tables).column("_position").to_pylist() == list(range(1, 50_001))


class TestScans:
    """Rows with the types of the contract are scanned as they are; all others are read and cast."""

    def scanned(self, uri, **kinds):
        reader = delta_table(uri)
        with connect(Limits(threads=1)) as con, ExitStack() as until:
            queries = [
                until.enter_context(reader.scan(con, split, Schema.of(kinds))) for split in reader.plan(None).splits
            ]
            return [None if each is None else arrow(con, each.query).to_pylist() for each in queries]

    def test_several_scans_are_open_on_one_connection(self, uri):
        write_deltalake(uri, numbers(1, 2))
        write_deltalake(uri, numbers(3), mode="append")
        rows = sorted(self.scanned(uri, id="bigint"), key=len)
        assert rows == [
            [{"id": 3, "_position": 1, "_misfit": False}],
            [{"id": 1, "_position": 1, "_misfit": False}, {"id": 2, "_position": 2, "_misfit": False}],
        ]

    def test_other_types_are_not_scanned(self, uri):
        write_deltalake(uri, numbers(1, 2))
        assert self.scanned(uri, id="integer") == [None]
        assert self.scanned(uri, id="varchar") == [None]

    def test_times_outside_of_the_years_of_the_lake_are_not_scanned(self, tmp_path):
        log = WrittenLog(tmp_path / "t", [field("at", "timestamp_ntz")], features=["timestampNtz"])
        log.commit({"add": log.write("a.parquet", pa.table({"at": pa.array([2**60, 0], pa.timestamp("us"))}))})
        assert self.scanned(str(tmp_path / "t"), at="timestamp") == [None]
        (split,) = delta_table(tmp_path / "t").plan(None).splits
        result = delta_table(tmp_path / "t").read(split, Schema.of({"at": "timestamp"}))
        assert (result.rows.num_rows, result.rejected.num_rows) == (1, 1)

    def test_other_columns_are_refused(self, uri):
        write_deltalake(uri, numbers(1))
        with pytest.raises(SchemaError, match="new column 'id'"):
            self.scanned(uri)


class TestFeatures:
    def test_rows_of_a_deletion_vector_are_left_out(self, tmp_path):
        log = WrittenLog(tmp_path / "t", [field("id", "long")], features=["deletionVectors"])
        add = log.write("a b.parquet", numbers(*range(10)))
        log.commit({"add": {**add, "path": "a%20b.parquet"}})
        changed = {**add, "path": "a%20b.parquet", "deletionVector": deletion_vector([0, 3, 9])}
        log.commit({"remove": removal({**add, "path": "a%20b.parquet"})}, {"add": changed})

        assert ids(read(delta_table(tmp_path / "t"))[0]) == [1, 2, 4, 5, 6, 7, 8]
        assert ids(read(delta_table(tmp_path / "t", version=1))[0]) == list(range(10))

    @pytest.mark.parametrize("mode", ["name", "id"])
    def test_mapped_columns_are_found_under_their_names_in_the_file(self, tmp_path, mode):
        inner = {"type": "struct", "fields": [field("x", "integer", 4, "c4")]}
        fields = [field("id", "long", 1, "c1"), field("s", inner, 2, "c2"), field("p", "date", 3, "c3")]
        log = WrittenLog(
            tmp_path / "t",
            fields,
            features=["columnMapping"],
            partition_by=["p"],
            configuration={"delta.columnMapping.mode": mode},
        )
        is_named = mode == "name"
        (c1, m1), (c2, m2), (c4, m4) = (
            (f"c{n}", {}) if is_named else (f"f{n}", {"PARQUET:field_id": str(n)}) for n in (1, 2, 4)
        )
        struct = pa.struct([pa.field(c4, pa.int32(), metadata=m4)])
        schema = pa.schema([pa.field(c1, pa.int64(), metadata=m1), pa.field(c2, struct, metadata=m2)])
        add = log.write("a.parquet", pa.table([[1], [{c4: 5}]], schema=schema), {"c3": "2024-01-01"})
        log.commit({"add": add})

        assert read(delta_table(tmp_path / "t"))[0] == [{"id": 1, "s": {"x": 5}, "p": dt.date(2024, 1, 1)}]

    @pytest.mark.parametrize("feature", ["variantType", "futureFeature"])
    def test_an_unknown_feature_is_refused(self, tmp_path, feature):
        WrittenLog(tmp_path / "t", [field("id", "long")], features=[feature])

        with pytest.raises(SourceError, match=f"features that cannot be read: got variantType; remove|{feature}"):
            delta_table(tmp_path / "t").plan(None)

    def test_a_shallow_clone_is_refused(self, tmp_path):
        log = WrittenLog(tmp_path / "t", [field("id", "long")])
        log.commit({"add": {**log.write("a.parquet", numbers(1)), "path": "s3://other/a.parquet"}})

        with pytest.raises(SourceError, match=r"data files of another table"):
            delta_table(tmp_path / "t").plan(None)

    def test_names_that_differ_only_in_case_are_refused(self, tmp_path):
        WrittenLog(tmp_path / "t", [field("id", "long"), field("ID", "long")])

        with pytest.raises(SourceError, match=r"Duplicate field name .case-insensitive.: 'ID' "):
            delta_table(tmp_path / "t").plan(None)

    def test_a_column_with_the_name_of_a_column_of_changes_is_refused(self, tmp_path):
        WrittenLog(tmp_path / "t", [field("_Change_type", "string")], configuration=FEED)

        with pytest.raises(SourceError, match="equal, or differ only in case: got '_Change_type' and '_change_type'"):
            delta_table(tmp_path / "t", changes=True).plan(None)


def as_changes(rows):
    return sorted((r["id"], r["v"], r["_change_type"], r["_commit_version"]) for r in rows)


class TestChanges:
    def test_changes_are_those_of_delta_rs(self, uri):
        write_deltalake(uri, pa.table({"id": [1, 2, 3, 4], "v": ["a"] * 4}), configuration=FEED)
        rows, first = read(delta_table(uri, changes=True))
        DeltaTable(uri).update(predicate="id = 2", updates={"v": "'b'"})
        DeltaTable(uri).delete("id = 3")
        write_deltalake(uri, pa.table({"id": [9], "v": ["new"]}), mode="append")
        merged = pa.table({"id": [1, 7], "v": ["m", "m"]})
        merge = DeltaTable(uri).merge(merged, "t.id = s.id", source_alias="s", target_alias="t")
        merge.when_matched_update_all().when_not_matched_insert_all().execute()
        DeltaTable(uri).optimize.compact()
        write_deltalake(uri, pa.table({"id": [100], "v": ["o"]}), mode="overwrite")

        later, plan = read(delta_table(uri, changes=True), first.cursor)

        feed = pa.RecordBatchReader.from_stream(DeltaTable(uri).load_cdf(1)).read_all().to_pylist()
        assert as_changes(rows) == [(n, "a", "insert", 0) for n in (1, 2, 3, 4)]
        assert as_changes(later) == as_changes(feed)
        assert {row["_commit_timestamp"].tzinfo is not None for row in later} == {True}
        assert not plan.changed

    def test_a_deletion_vector_without_recorded_changes_is_a_delete_of_its_rows(self, tmp_path):
        log = WrittenLog(tmp_path / "t", [field("id", "long"), field("v", "string")], features=["deletionVectors"], configuration=FEED)  # fmt: skip
        add = log.write("a.parquet", pa.table({"id": [0, 1, 2, 3], "v": ["a"] * 4}))
        log.commit({"add": add})
        reader = delta_table(tmp_path / "t", changes=True)
        _, plan = read(reader)
        once = {**add, "deletionVector": deletion_vector([1])}
        twice = {**add, "deletionVector": deletion_vector([1, 2])}
        log.commit({"remove": removal(add)}, {"add": once})
        log.commit({"remove": removal(once)}, {"add": twice})
        log.commit({"remove": removal(twice)}, {"add": add})
        log.commit({"remove": removal(add)})

        rows, _ = read(reader, plan.cursor)

        restored = [(1, "a", "insert", 4), (2, "a", "insert", 4)]
        removed = [(n, "a", "delete", 5) for n in range(4)]
        assert as_changes(rows) == sorted([(1, "a", "delete", 2), (2, "a", "delete", 3), *restored, *removed])

    def test_a_table_without_the_feed_is_refused(self, uri):
        write_deltalake(uri, numbers(1))

        with pytest.raises(SourceError, match="no change data feed; set its property"):
            delta_table(uri, changes=True).plan(None)

    def test_a_feed_that_was_off_is_read_again(self, uri):
        write_deltalake(uri, numbers(1), configuration=FEED)
        cursor = delta_table(uri, changes=True).plan(None).cursor
        for value in ("false", "true"):
            DeltaTable(uri).alter.set_table_properties({"delta.enableChangeDataFeed": value})

        plan = delta_table(uri, changes=True).plan(cursor)

        assert plan.changed == "the change data feed was turned off in version 1"


class TestOptions:
    def test_a_version_and_changes_contradict_each_other(self):
        with pytest.raises(DefinitionError, match="changes=True reads all versions"):
            delta_table("t", version=1, changes=True)

    @pytest.mark.parametrize(
        "name",
        [
            "aws_secret_access_key",
            "azure_storage_access_key",
            "adls.connection-string",
            "header.Authorization",
            "sas_token",
            "google_service_account_key",
        ],
    )
    def test_a_credential_that_is_written_out_is_refused(self, name):
        with pytest.raises(DefinitionError, match="contains a credential") as raised:
            delta_table("s3://b/t", options={name: "hunter2"})
        assert "hunter2" not in str(raised.value)

    @pytest.mark.parametrize("name", ["aws_access_key_id", "s3.access-key-id", "aws_region", "s3.connect-timeout"])
    def test_other_options_may_be_written_out(self, name):
        assert delta_table("s3://b/t", options={name: "x"}).location.options == ((name, "x"),)

    def test_there_is_no_table(self, tmp_path):
        with pytest.raises(SourceError, match="there is no Delta table; check the location"):
            delta_table(tmp_path).plan(None)
        (tmp_path / "_delta_log").mkdir()
        with pytest.raises(SourceError, match="there is no Delta table; check the location"):
            delta_table(tmp_path).plan(None)

    def test_a_table_that_is_created_again_while_it_is_read(self, uri, tmp_path):
        write_deltalake(uri, numbers(1))
        reader = delta_table(uri)
        (split,) = reader.plan(None).splits
        Path(uri).rename(tmp_path / "old")
        write_deltalake(uri, numbers(1))

        with pytest.raises(SourceError, match="was created again while it was read; run again"):
            reader.read(split, Schema.of({"id": "bigint"}))

    def test_a_damaged_file_is_an_error(self, uri):
        write_deltalake(uri, numbers(1))
        (split,) = delta_table(uri).plan(None).splits
        Path(uri, next(Path(uri).glob("*.parquet")).name).write_bytes(b"nothing")

        with pytest.raises(SourceError, match=r"data file .* cannot be read"):
            delta_table(uri).read(split, Schema.of({"id": "bigint"}))
        assert delta_table(uri).splits(split.source_object, 1) == (SourceSplit(split.source_object),)

    def test_it_is_checked(self, uri):
        write_deltalake(uri, numbers(1))

        (finding,) = delta_table(uri).check()

        assert finding.detail == "version 0, 1 data file"


def test_a_table_on_s3(s3: S3, monkeypatch):
    options = credentials(s3.endpoint)
    monkeypatch.setenv("LAKE_SECRET", options["AWS_SECRET_ACCESS_KEY"])
    uri = "s3://lake/foreign/orders"
    write_deltalake(uri, numbers(1, 2), storage_options=options, partition_by=None)
    reader = delta_table(uri, options={**options, "AWS_SECRET_ACCESS_KEY": "env:LAKE_SECRET"})
    reader = pickle.loads(pickle.dumps(reader))  # noqa: S301 - our own
    rows, plan = read(reader)
    write_deltalake(uri, numbers(3), mode="append", storage_options=options)
    assert (ids(rows), ids(read(reader, plan.cursor)[0])) == ([1, 2], [3])
    assert "secret" not in repr(reader).lower()
    monkeypatch.delenv("LAKE_SECRET")
    with pytest.raises(SettingsError, match="LAKE_SECRET"):
        reader.plan(None)
