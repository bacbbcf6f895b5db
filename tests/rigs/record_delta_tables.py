"""Records the Delta tables of tests/connectors/tables/spark_tables.zip: written by Delta on Spark, with the rows that Spark reads.

pip install pyspark==4.2.0
# jars of io.delta 4.4.0: delta-spark_4.2_2.13, delta-storage, delta-kernel-api, delta-kernel-defaults
python tests/rigs/record_delta_tables.py JARS_FOLDER
"""

from __future__ import annotations

import json
import sys
import tempfile
import zipfile
from pathlib import Path

TARGET = Path(__file__).parents[1] / "connectors" / "tables" / "spark_tables.zip"
_TIMES = "map('timestampFormat', 'yyyy-MM-dd HH:mm:ss.SSSSSS', 'timestampNTZFormat', 'yyyy-MM-dd HH:mm:ss.SSSSSS')"
_FEED = "delta.enableDeletionVectors=true, delta.enableChangeDataFeed=true"
_MAPPED = "delta.minReaderVersion=2, delta.minWriterVersion=5"
TABLES = {
    "deletion_vectors": [
        f"create table $T (id bigint, name string, v decimal(10,2)) using delta tblproperties ({_FEED})",
        "insert into $T select id, concat('n', id) name, id * 1.5 v from range(0, 20, 1, 1)",
        "delete from $T where id % 3 = 0",
        "update $T set name = 'u' where id = 4",
        (
            "merge into $T t using (select 5 id, 'm' name union all select 50, 'new') s on t.id = s.id "
            "when matched then update set name = s.name when not matched then insert (id, name) values (s.id, s.name)"
        ),
        "optimize $T",
        "restore table $T to version as of 3",
    ],
    "column_mapping": [
        (
            "create table $T (id bigint, `a b` string, s struct<x: int, y: string>, gone int, p date) using delta "
            f"partitioned by (p) tblproperties (delta.columnMapping.mode='name', {_MAPPED})"
        ),
        "insert into $T values (1, 'x', named_struct('x', 1, 'y', 'z'), 7, date'2024-01-01'), (2, null, null, 8, null)",
        "alter table $T rename column `a b` to `c d`",
        "alter table $T rename column s.x to x2",
        "alter table $T drop column gone",
        "alter table $T rename column p to day",
        "alter table $T add column added double",
        (
            "insert into $T (id, `c d`, s, day, added) "
            "values (3, 'w', named_struct('x2', 3, 'y', 'v'), date'2024-02-29', 0.5)"
        ),
    ],
    "id_mapping": [
        (
            "create table $T (id bigint, m map<string, struct<a: int>>, l array<struct<b: string>>) using delta "
            f"tblproperties (delta.columnMapping.mode='id', {_MAPPED})"
        ),
        (
            "insert into $T values (1, map('k', named_struct('a', 1)), array(named_struct('b', 'x'), null)), "
            "(2, null, array())"
        ),
        "alter table $T rename column m to mm",
    ],
    "type_widening": [
        (
            "create table $T (i int, s smallint, d decimal(4,1), day date) using delta "
            "tblproperties (delta.enableTypeWidening=true)"
        ),
        "insert into $T values (1, 2, 3.5, date'2024-01-01'), (-2147483648, -32768, -999.9, date'0001-01-01')",
        "alter table $T alter column i type bigint",
        "alter table $T alter column s type int",
        "alter table $T alter column d type decimal(12,3)",
        "insert into $T values (9223372036854775807, 70000, 123456789.125, date'9999-12-31')",
    ],
    "times": [
        "create table $T (id int, at timestamp, naive timestamp_ntz, p timestamp) using delta partitioned by (p)",
        (
            "insert into $T values "
            "(1, timestamp'0001-01-01 00:00:00Z', timestamp_ntz'1582-10-04 12:00:00', timestamp'2024-03-31 01:30:00.123456Z'), "
            "(2, timestamp'9999-12-31 23:59:59.999999Z', timestamp_ntz'2024-03-31 02:30:00', null), "
            "(3, timestamp'1900-01-01 00:00:00Z', null, timestamp'1969-12-31 23:59:59.999999Z')"
        ),
    ],
    "int96": [
        "set spark.sql.parquet.outputTimestampType = INT96",
        "create table $T (id int, at timestamp) using delta",
        "insert into $T values (1, timestamp'2024-01-01 00:00:00.123456Z'), (2, timestamp'0001-01-01 00:00:00Z')",
        "set spark.sql.parquet.outputTimestampType = TIMESTAMP_MICROS",
    ],
    "checkpoints": [
        (
            "create table $T (id bigint) using delta tblproperties (delta.checkpointPolicy='v2', "
            "delta.checkpointInterval=3, delta.enableInCommitTimestamps=true, delta.enableRowTracking=true)"
        ),
        *(f"insert into $T values ({number})" for number in range(5)),
    ],
    "clustered": [
        "create table $T (id bigint, k string) using delta cluster by (k)",
        "insert into $T select id, cast(id % 3 as string) from range(0, 10, 1, 1)",
        "optimize $T",
    ],
    "variant": ["create table $T (v variant) using delta", "insert into $T select parse_json('{\"a\":1}')"],
}


def main(jars: Path) -> None:
    from pyspark.sql import SparkSession  # noqa: PLC0415 - not installed with the tests

    settings = {
        "spark.jars": ",".join(map(str, jars.glob("*.jar"))),
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "1",
        "spark.databricks.delta.snapshotPartitions": "1",
        "spark.ui.enabled": "false",
    }
    builder = SparkSession.builder.master("local[1]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    with tempfile.TemporaryDirectory() as folder:
        for name, statements in TABLES.items():
            for statement in statements:
                spark.sql(statement.replace("$T", f"delta.`{folder}/{name}`"))
            table = spark.read.format("delta").load(f"{folder}/{name}")
            rows = [row[0] for row in table.selectExpr(f"to_json(struct(*), {_TIMES})").collect()]
            changes = []
            if name == "deletion_vectors":
                feed = spark.read.format("delta").option("readChangeFeed", "true").option("startingVersion", 1)
                changes = feed.load(f"{folder}/{name}").drop("_commit_timestamp").toJSON().collect()
            Path(folder, f"{name}.json").write_text(json.dumps({"rows": rows, "changes": changes}))
        with zipfile.ZipFile(TARGET, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file() and path.suffix != ".crc":
                    archive.write(path, path.relative_to(folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
