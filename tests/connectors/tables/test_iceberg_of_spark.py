"""Tables that Iceberg 1.12 on Spark 4.1 wrote, with the rows that Spark reads; see tests/rigs/record_iceberg_tables.py."""

from __future__ import annotations

import json
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline import iceberg_table
from pipeline.connectors.tables.versions import VersionProgress
from tests.rigs.as_spark_writes import ordered, plain
from tests.rigs.record_iceberg_tables import LOCATION, TABLES

pytest.importorskip("pyiceberg", reason="the extra headwater[iceberg] is not installed")
RECORDED = Path(__file__).parent / "spark_iceberg.zip"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spark")
    with zipfile.ZipFile(RECORDED) as archive:
        archive.extractall(folder)
    return folder


def recorded(folder, name):
    files = {"py-io-impl": "tests.rigs.relocated_files.RelocatedFiles", "relocated-to": str(folder)}
    return iceberg_table(f"{LOCATION}/db/{name}", catalog=files)


def rows_of(reader, cursor=None) -> list[dict[str, Any]]:
    rows = []
    for split in reader.plan(cursor).splits:
        result = reader.read(split, reader.schema(split.source_object))
        assert result.rejected.num_rows == 0
        rows += result.rows.drop_columns(["_position"]).to_pylist()
    return rows


@pytest.mark.parametrize("name", TABLES)
def test_rows_are_those_that_spark_reads(folder, name):
    expected = [json.loads(line, parse_float=Decimal) for line in json.loads((folder / f"{name}.json").read_text())]

    assert ordered([plain(row) for row in rows_of(recorded(folder, name))]) == ordered(expected)


def test_rewritten_files_are_not_new_rows(folder):
    reader = recorded(folder, "rewritten")
    table = reader.location.load()
    first = table.snapshots()[0].snapshot_id
    cursor = VersionProgress(str(table.metadata.table_uuid), first).cursor("iceberg")

    assert sorted(row["id"] for row in rows_of(reader, cursor)) == [3, 4, 5]


def test_deletes_make_it_read_again(folder):
    reader = recorded(folder, "deletion_vectors")
    table = reader.location.load()
    first = table.snapshots()[0].snapshot_id
    cursor = VersionProgress(str(table.metadata.table_uuid), first).cursor("iceberg")

    assert "deleted or updated rows (" in reader.plan(cursor).changed
