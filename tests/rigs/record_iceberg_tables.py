"""Records the Iceberg tables of tests/connectors/tables/spark_iceberg.zip: written by Iceberg on Spark, with the rows that Spark reads.

    pip install pyspark==4.1.0
    # the jar org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.12.0
    python tests/rigs/record_iceberg_tables.py JARS_FOLDER

Metadata contains the locations of files, so the tables are written to a fixed one; tests/rigs/relocated_files.py maps it.
"""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from pathlib import Path

TARGET = Path(__file__).parents[1] / "connectors" / "tables" / "spark_iceberg.zip"
LOCATION = "/tmp/recorded-iceberg"  # noqa: S108 - a part of the recorded metadata
_TIMES = "map('timestampFormat', 'yyyy-MM-dd HH:mm:ss.SSSSSS', 'timestampNTZFormat', 'yyyy-MM-dd HH:mm:ss.SSSSSS')"
_MERGE_ON_READ = ", ".join(f"'write.{kind}.mode' = 'merge-on-read'" for kind in ("delete", "update", "merge"))
TABLES = {
    "position_deletes": [
        (
            "create table $T (id bigint, name string, v decimal(10,2)) using iceberg "
            f"tblproperties ('format-version' = '2', {_MERGE_ON_READ})"
        ),
        "insert into $T select id, concat('n', id), id * 1.5 from range(0, 20, 1, 1)",
        "delete from $T where id % 3 = 0",
        "update $T set name = 'u' where id = 4",
        (
            "merge into $T t using (select 5 id, 'm' name union all select 50, 'new') s on t.id = s.id "
            "when matched then update set name = s.name when not matched then insert (id, name, v) values (s.id, s.name, null)"
        ),
    ],
    "deletion_vectors": [
        f"create table $T (id bigint, name string) using iceberg tblproperties ('format-version' = '3', {_MERGE_ON_READ})",
        "insert into $T select id, concat('n', id) from range(0, 20, 1, 1)",
        "delete from $T where id % 3 = 0",
        "delete from $T where id = 4",
    ],
    "evolved": [
        (
            "create table $T (id int, `a b` string, s struct<x: int, y: string>, gone int, p timestamp) using iceberg "
            "partitioned by (days(p), bucket(4, id))"
        ),
        (
            "insert into $T values (1, 'x', named_struct('x', 1, 'y', 'z'), 7, timestamp'2024-01-01 00:00:00Z'), "
            "(2, null, null, 8, null)"
        ),
        "alter table $T rename column `a b` to `c d`",
        "alter table $T rename column s.x to x2",
        "alter table $T drop column gone",
        "alter table $T alter column id type bigint",
        "alter table $T add column added double",
        "alter table $T add partition field truncate(2, `c d`)",
        "insert into $T values (3000000000, 'w', named_struct('x2', 3, 'y', 'v'), timestamp'2024-02-29 12:00:00.123456Z', 0.5)",
    ],
    "times": [
        "create table $T (id int, at timestamp, naive timestamp_ntz, day date, l array<int>, m map<string, int>) using iceberg",
        (
            "insert into $T values (1, timestamp'0001-01-01 00:00:00Z', timestamp_ntz'1582-10-04 12:00:00', date'0001-01-01', "
            "array(1, null), map('k', 1)), (2, timestamp'9999-12-31 23:59:59.999999Z', null, date'9999-12-31', null, null)"
        ),
    ],
    "rewritten": [
        "create table $T (id int, k string) using iceberg partitioned by (k)",
        "insert into $T values (1, 'a'), (2, 'b')",
        "insert into $T values (3, 'a'), (4, null)",
        "call rec.system.rewrite_data_files(table => 'db.rewritten', options => map('rewrite-all', 'true'))",
        "insert into $T values (5, 'a')",
    ],
}


def main(jars: Path) -> None:
    from pyspark.sql import SparkSession  # noqa: PLC0415 - not installed with the tests

    settings = {
        "spark.jars": ",".join(map(str, jars.glob("*.jar"))),
        "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
        "spark.sql.catalog.rec": "org.apache.iceberg.spark.SparkCatalog",
        "spark.sql.catalog.rec.type": "hadoop",
        "spark.sql.catalog.rec.warehouse": LOCATION,
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "1",
        "spark.ui.enabled": "false",
    }
    shutil.rmtree(LOCATION, ignore_errors=True)
    builder = SparkSession.builder.master("local[1]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    for name, statements in TABLES.items():
        for statement in statements:
            spark.sql(statement.replace("$T", f"rec.db.{name}"))
        rows = spark.table(f"rec.db.{name}").selectExpr(f"to_json(struct(*), {_TIMES})").collect()
        Path(LOCATION, f"{name}.json").write_text(json.dumps([row[0] for row in rows]))
    with zipfile.ZipFile(TARGET, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(Path(LOCATION).rglob("*")):
            if path.is_file() and path.suffix != ".crc":
                archive.write(path, path.relative_to(LOCATION))
    shutil.rmtree(LOCATION)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
